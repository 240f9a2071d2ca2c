"""What the sweeps worker has instead of keys: the agent's socket, asked for each signature (R20)."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from custody.destinations.keys.authorizations import AskedAuthorizations
from custody.destinations.keys.messages import (
    AuthorizationsRequest,
    BatchRequest,
    IdentityRequest,
    MessageMalformed,
    Reply,
    Request,
    SignatureRequest,
    as_bytes,
    read_reply,
    receive,
)
from custody.destinations.keys.set_code import PayerTransaction
from custody.destinations.keys.shapes import Shape, ShapeRefused
from custody.trezor import Signature, SignatureError, UnsignedTransaction

ANSWER_SECONDS: Final = 10.0  # a signature takes milliseconds; longer and the agent hangs


class KeysAgentAway(Exception):
    """The agent does not answer. The message names the socket and says what to do."""


class SigningPostponed(Exception):
    """The agent signs this later; the message says what it waits for."""


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The deposit accounts' BIP-32 fingerprints (0x and 8 hex digits), newest first, the gas payers' addresses, what binds."""

    accounts: tuple[str, ...]
    gas_payers: tuple[str, ...]
    binding: str


class KeysAgent:
    """The agent behind one Unix socket. Every method raises KeysAgentAway."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def identity(self) -> AgentIdentity:
        """Who the agent is now; it may be started again with other keys."""
        found = self._ask(IdentityRequest(ask="identity")).identity
        if found is None:
            raise KeysAgentAway(f"the process at {self._path} is no keys agent: it does not say who it is")
        return AgentIdentity(tuple(found.accounts), tuple(found.gas_payers), found.binding)

    def check(
        self,
        shape: Shape,
        transaction: UnsignedTransaction,
        *,
        treasury: str,
        account: str | None = None,
        index: int | None = None,
        payer: str | None = None,
    ) -> None:
        """Raise ShapeRefused or SigningPostponed if ``sign`` would, whatever the nonce."""
        self._ask(_request("check", shape, transaction, treasury, account, index, payer))

    def sign(
        self,
        shape: Shape,
        transaction: UnsignedTransaction,
        *,
        treasury: str,
        signer: str,
        account: str | None = None,
        index: int | None = None,
        payer: str | None = None,
    ) -> Signature:
        """The signature of ``signer``, which is recovered and compared here. A gas payer that signs is named by ``payer``.

        Raises ShapeRefused or SigningPostponed with the agent's sentence.
        """
        request = _request("sign", shape, transaction, treasury, account, index, payer)
        return self._signature(transaction, request, signer)

    def authorize(self, asked: AskedAuthorizations) -> list[Signature]:
        """The deposit keys' signatures, one an item, in order; the caller compares each signer with its address.

        Raises ShapeRefused with the agent's sentence.
        """
        domain = asked.domain
        request = AuthorizationsRequest.model_validate(
            {
                "ask": "authorize",
                "method": asked.method,
                "chain_id": asked.chain_id,
                "treasury": asked.treasury,
                "account": asked.account,
                "items": [
                    {
                        "index": item.index,
                        "nonce": hex(item.nonce),
                        "value": hex(item.value),
                        "valid_before": item.valid_before,
                    }
                    for item in asked.items
                ],
                "delegate": asked.delegate,
                "token": asked.token,
                "domain_name": None if domain is None else domain.name,
                "domain_version": None if domain is None else domain.version,
            }
        )
        found = self._ask(request).signatures
        if found is None or len(found) != len(asked.items):
            raise KeysAgentAway(f"the process at {self._path} is no keys agent: it gives no signatures")
        try:
            return [Signature(each.y_parity, int(each.r, 16), int(each.s, 16)) for each in found]
        except SignatureError as error:
            raise ShapeRefused(f"the agent's signature: {error}") from None

    def check_batch(self, transaction: PayerTransaction, *, payer: str, treasury: str) -> None:
        """Raise ShapeRefused or SigningPostponed if ``sign_batch`` would, whatever the nonce."""
        self._ask(_batch_request("check_batch", transaction, payer, treasury))

    def sign_batch(self, transaction: PayerTransaction, *, payer: str, treasury: str) -> Signature:
        """The named gas payer's signature of a batch. Raises as ``sign``."""
        return self._signature(transaction, _batch_request("sign_batch", transaction, payer, treasury), payer)

    def _signature(self, transaction: PayerTransaction, request: Request, signer: str) -> Signature:
        found = self._ask(request).signature
        if found is None:
            raise KeysAgentAway(f"the process at {self._path} is no keys agent: it gives no signature")
        try:
            signature = Signature(found.y_parity, int(found.r, 16), int(found.s, 16))
            recovered = transaction.recover(signature)
        except SignatureError as error:
            raise ShapeRefused(f"the agent's signature: {error}") from None
        if recovered != signer:
            raise ShapeRefused(f"signer: expected {signer}, the agent signs as {recovered}")
        return signature

    def _ask(self, request: Request) -> Reply:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(self._path))
                connection.sendall(as_bytes(request))
                raw = receive(connection)
            reply = None if raw is None else read_reply(raw)
        except (BrokenPipeError, ConnectionResetError):
            reply = None
        except (OSError, MessageMalformed) as error:
            raise KeysAgentAway(self._away(f"{type(error).__name__}: {error}")) from None
        if reply is None:
            raise KeysAgentAway(self._away("it closed the connection; it serves its own user alone"))
        if reply.refused is not None:
            raise ShapeRefused(reply.refused)
        if reply.later is not None:
            raise SigningPostponed(reply.later)
        return reply

    def _away(self, why: str) -> str:
        return f"the keys agent at {self._path} does not answer ({why}); see whether the process keys-agent runs"


def _batch_request(ask: str, transaction: PayerTransaction, payer: str, treasury: str) -> BatchRequest:
    return BatchRequest.model_validate(
        {"ask": ask, "payer": payer, "treasury": treasury, "unsigned": "0x" + transaction.signing_bytes().hex()}
    )


def _request(
    ask: str,
    shape: Shape,
    transaction: UnsignedTransaction,
    treasury: str,
    account: str | None,
    index: int | None,
    payer: str | None,
) -> SignatureRequest:
    return SignatureRequest.model_validate(
        {
            "ask": ask,
            "shape": shape,
            "account": account,
            "index": index,
            "payer": payer,
            "treasury": treasury,
            "unsigned": "0x" + transaction.signing_bytes().hex(),
        }
    )

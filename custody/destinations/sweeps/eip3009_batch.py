"""EIP-3009: destinations sign a transfer to the treasury, and Multicall3 carries many of them, each of which may fail alone.

For tokens such as USDC, on chains without EIP-7702. No contract of ours, no native coin at the address. It moves the
signed value: what comes later stays. A signature that somebody else sends first moves the same coins to the same
treasury; ours then fails alone, and the sweep is booked from the transaction that did it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from custody.chain import CallRequest, ChainClient, ExecutionReverted
from custody.chain.erc20 import selector
from custody.chain.lanes import LaneTransaction
from custody.destinations.contracts.multicall3 import MULTICALL3, MULTICALL3_CODE_HASH
from custody.destinations.keys.authorizations import AskedAuthorizations, Domain, transfer_digest
from custody.destinations.keys.authorizations import Item as AskedItem
from custody.destinations.keys.payer_calls import (
    AGGREGATE3,
    AGGREGATE3_TYPES,
    TRANSFER_TYPES,
    TRANSFER_WITH_AUTHORIZATION,
)
from custody.destinations.sweeps.batch_method import Unfit, signed_by_accounts
from custody.destinations.sweeps.batches import Batch, Item, random_nonce
from custody.destinations.sweeps.finality import Outgoing, exact_transfer
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.signing import BatchCall
from custody.destinations.sweeps.strategy import EIP3009_BATCH, Reach

BATCH_LIMIT: Final = 50
VALID_SECONDS: Final = 86_400  # a day: longer than any batch waits for a block, short enough to try again the next day

_NAME: Final = selector("name()")
_VERSION: Final = selector("version()")
_DOMAIN_SEPARATOR: Final = selector("DOMAIN_SEPARATOR()")
_AUTHORIZATION_STATE: Final = selector("authorizationState(address,bytes32)")
_REVERT: Final = selector("Error(string)")


class DomainUnknown(ValueError):
    """The token does not say which EIP-712 domain it is, or is none of EIP-3009. The message says what it answered."""


class Eip3009Batch:
    """The method; see BatchMethod."""

    name = EIP3009_BATCH
    lifetime = "eip3009"
    limit = BATCH_LIMIT

    def why_not(self, reach: Reach) -> str | None:
        """Multicall3 is genuine on most chains, and not on all: its code hash says so."""
        code = reach.client.code(MULTICALL3)
        if "0x" + keccak(code).hex() != MULTICALL3_CODE_HASH:
            return f"multicall3_differs: the code at {MULTICALL3} is not Multicall3's"
        return None

    def look(self, reach: Reach, members: Sequence[SweepJob]) -> list[Item | Unfit]:
        """A fresh nonce each. With code at the address the token asks the code, not the key (ERC-1271)."""
        codes = reach.client.codes([job.address for job in members])
        until = time.time_ns() // 1_000_000_000 + VALID_SECONDS
        return [
            Unfit(f"address_has_code: 0x{codes[job.address][:23].hex()} signs for no token", is_final=True)
            if codes[job.address]
            else Item(authorization_nonce=random_nonce(), valid_before=until)
            for job in members
        ]

    def stands(self, stored: Item, fresh: Item) -> bool:
        """More than half of its time is left."""
        return (stored.valid_before or 0) > (fresh.valid_before or 0) - VALID_SECONDS // 2

    def compose(self, reach: Reach, batch: Batch) -> BatchCall:
        """aggregate3 of one signed transfer a destination."""
        domain = domain_of(reach.client, reach.chain.id, batch.token)
        separator = domain.separator(reach.chain.id, batch.token)
        members = [
            (
                job,
                AskedItem(
                    job.derivation_index,
                    int.from_bytes(item.authorization_nonce or b""),
                    job.amount_units,
                    item.valid_before or 0,
                ),
            )
            for job, item in zip(batch.jobs, batch.items, strict=True)
        ]
        signatures = signed_by_accounts(
            reach,
            members,
            lambda account, items: AskedAuthorizations(
                "eip3009", reach.chain.id, reach.chain.treasury, account, items, token=batch.token, domain=domain
            ),
            lambda job, item: transfer_digest(
                separator,
                sender=job.address,
                treasury=job.treasury,
                value=item.value,
                valid_before=item.valid_before,
                nonce=item.nonce,
            ),
        )
        calls = [
            (
                batch.token,
                True,
                TRANSFER_WITH_AUTHORIZATION
                + encode(
                    TRANSFER_TYPES,
                    [
                        job.address,
                        job.treasury,
                        item.value,
                        0,
                        item.valid_before,
                        item.nonce.to_bytes(32),
                        27 + signature.y_parity,
                        signature.r.to_bytes(32),
                        signature.s.to_bytes(32),
                    ],
                ),
            )
            for (job, item), signature in zip(members, signatures, strict=True)
        ]
        return BatchCall(MULTICALL3, AGGREGATE3 + encode(AGGREGATE3_TYPES, [calls]))

    def recompose(self, reach: Reach, batch: Batch, intent: LaneTransaction) -> BatchCall:
        """The stored calldata has the signatures."""
        return BatchCall(intent.recipient, intent.data)

    def failures(self, reach: Reach, batch: Batch, call: BatchCall, payer: str) -> Mapping[UUID, str]:
        """What Multicall3's own simulation says of each transfer."""
        answer = reach.client.call(call.request(payer))
        try:
            [results] = decode(["(bool,bytes)[]"], answer)
        except DecodingError as error:
            raise ValueError(f"Multicall3's answer cannot be read: {error}") from None
        return {
            job.id: f"transfer_reverts: {_words(said)}"
            for job, (succeeded, said) in zip(batch.jobs, results, strict=True)
            if not succeeded
        }

    def estimate(self, reach: Reach, call: BatchCall, payer: str) -> int:
        """Of the same calls where none may fail: a node finds too little gas enough where a call may run out of it."""
        [calls] = decode(AGGREGATE3_TYPES, call.data[4:])
        strict = AGGREGATE3 + encode(AGGREGATE3_TYPES, [[(token, False, inner) for token, _, inner in calls]])
        return reach.client.estimate_gas(CallRequest(call.to, strict, sender=payer))

    def accepts(self, job: SweepJob, transfers: Sequence[Outgoing]) -> bool:
        """Exactly the signed value went to the treasury."""
        return exact_transfer(transfers, job)


def domain_of(client: ChainClient, chain_id: int, token: str) -> Domain:
    """The token's EIP-712 domain, as it says and as its own separator proves. Raises DomainUnknown for another token."""
    try:
        name, version = (_text(client.call(CallRequest(token, asked))) for asked in (_NAME, _VERSION))
        separator = client.call(CallRequest(token, _DOMAIN_SEPARATOR))
        unused = client.call(CallRequest(token, _AUTHORIZATION_STATE + bytes(64)))
    except (ExecutionReverted, DecodingError, UnicodeDecodeError) as error:
        raise DomainUnknown(f"{token} is no token of EIP-3009: {error}") from None
    domain = Domain(name, version)
    if separator != domain.separator(chain_id, token) or unused != bytes(32):
        raise DomainUnknown(f"{token}: its separator is not that of name {name!r} and version {version!r}")
    return domain


def _text(answer: bytes) -> str:
    found: Any = decode(["string"], answer)
    return found[0]


def _words(said: bytes) -> str:
    """A revert's words, or its bytes."""
    if said[:4] == _REVERT:
        try:
            return _text(said[4:])
        except (DecodingError, UnicodeDecodeError):
            pass
    return f"0x{said[:36].hex()}"

"""What passes the keys agent's socket: one JSON object a message, after its length as four bytes, big-endian.

Strict and bounded in both directions: another field, another type or a longer message is refused. Bytes are hex with 0x,
wei and r, s are hex as well: nothing passes through a float.
"""

import json
import socket
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from custody.destinations.derivation import INDEX_LIMIT
from custody.destinations.keys.authorizations import (
    DOMAIN_CHARACTERS_MAXIMUM,
    AskedAuthorizations,
    Domain,
    Item,
    Method,
)
from custody.destinations.keys.set_code import AUTHORIZATIONS_MAXIMUM, PayerTransaction, read_payer_transaction
from custody.destinations.keys.shapes import ACCOUNTS_MAXIMUM, PAYERS_MAXIMUM, Asked, Shape, ShapeRefused
from custody.trezor import TransactionError, UnsignedTransaction

LENGTH_BYTES: Final = 4
MESSAGE_MAXIMUM_BYTES: Final = (
    300_000  # the longest request, a full batch, is as long as a transaction may be in a pool
)
UNSIGNED_MAXIMUM_BYTES: Final = 512  # the longest shape has 68 bytes of data and under 130 of fields
BATCH_MAXIMUM_BYTES: Final = 131_072  # of a batch's transaction: what pools take
_HEX_NUMBER: Final = r"^0x[0-9a-f]{1,64}$"


class MessageMalformed(Exception):
    """Not a message of this protocol. The message says what was expected."""


_Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
_Fingerprint = Annotated[str, Field(pattern=r"^0x[0-9a-f]{8}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class IdentityRequest(_Strict):
    """Asks who the agent is."""

    ask: Literal["identity"]


class SignatureRequest(_Strict):
    """Asks for a signature (``sign``), or whether it would be given (``check``, whose nonce does not count)."""

    ask: Literal["sign", "check"]
    shape: Shape
    account: _Fingerprint | None = None
    index: Annotated[int, Field(ge=0, lt=INDEX_LIMIT)] | None = None
    payer: _Address | None = None
    treasury: _Address
    unsigned: Annotated[str, Field(pattern=r"^0x([0-9a-f]{2})+$", max_length=2 + 2 * UNSIGNED_MAXIMUM_BYTES)]

    def asked(self) -> Asked:
        """The request with its transaction decoded. Raises ShapeRefused for bytes that are none of ours."""
        try:
            transaction = UnsignedTransaction.from_signing_bytes(bytes.fromhex(self.unsigned[2:]))
        except TransactionError as error:
            raise ShapeRefused(str(error)) from None
        return Asked(self.shape, self.account, self.index, self.treasury, transaction, self.payer)


class BatchRequest(_Strict):
    """Asks for a gas payer's signature of a batch (``sign_batch``), or whether it would be given (``check_batch``)."""

    ask: Literal["sign_batch", "check_batch"]
    payer: _Address
    treasury: _Address
    unsigned: Annotated[str, Field(pattern=r"^0x([0-9a-f]{2})+$", max_length=2 + 2 * BATCH_MAXIMUM_BYTES)]

    def transaction(self) -> PayerTransaction:
        """The transaction. Raises ShapeRefused for bytes that are none of ours."""
        try:
            return read_payer_transaction(bytes.fromhex(self.unsigned[2:]))
        except TransactionError as error:
            raise ShapeRefused(str(error)) from None


class AuthorizationItem(_Strict):
    """One address of an AuthorizationsRequest; numbers that may be large are hex."""

    index: Annotated[int, Field(ge=0, lt=INDEX_LIMIT)]
    nonce: Annotated[str, Field(pattern=_HEX_NUMBER)]
    value: Annotated[str, Field(pattern=_HEX_NUMBER)] = "0x0"
    valid_before: Annotated[int, Field(ge=0, lt=1 << 40)] = 0


class AuthorizationsRequest(_Strict):
    """Asks deposit keys of one account for authorizations of one method, all or none."""

    ask: Literal["authorize"]
    method: Method
    chain_id: Annotated[int, Field(ge=0, lt=1 << 64)]
    treasury: _Address
    account: _Fingerprint
    items: Annotated[list[AuthorizationItem], Field(min_length=1, max_length=AUTHORIZATIONS_MAXIMUM)]
    delegate: _Address | None = None
    token: _Address | None = None
    domain_name: Annotated[str, Field(max_length=DOMAIN_CHARACTERS_MAXIMUM)] | None = None
    domain_version: Annotated[str, Field(max_length=DOMAIN_CHARACTERS_MAXIMUM)] | None = None

    def asked(self) -> AskedAuthorizations:
        """The request with its numbers read."""
        has_domain = self.domain_name is not None and self.domain_version is not None
        return AskedAuthorizations(
            method=self.method,
            chain_id=self.chain_id,
            treasury=self.treasury,
            account=self.account,
            items=[
                Item(each.index, int(each.nonce, 16), int(each.value, 16), each.valid_before) for each in self.items
            ],
            delegate=self.delegate,
            token=self.token,
            domain=Domain(self.domain_name or "", self.domain_version or "") if has_domain else None,
        )


Request = IdentityRequest | SignatureRequest | BatchRequest | AuthorizationsRequest
_REQUEST: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="ask")])


class IdentityReply(_Strict):
    """Public data: the deposit accounts' BIP-32 fingerprints, newest first, the gas payers' addresses, what binds."""

    accounts: Annotated[list[_Fingerprint], Field(min_length=1, max_length=ACCOUNTS_MAXIMUM)]
    gas_payers: Annotated[list[_Address], Field(min_length=1, max_length=PAYERS_MAXIMUM)]
    binding: Annotated[str, Field(max_length=200)]


class SignatureReply(_Strict):
    """(y_parity, r, s)."""

    y_parity: Annotated[int, Field(ge=0, le=1)]
    r: Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]
    s: Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]


class Reply(_Strict):
    """One of: what was asked for, ``refused`` for ever, or ``later`` with what it waits for."""

    identity: IdentityReply | None = None
    signature: SignatureReply | None = None
    signatures: Annotated[list[SignatureReply], Field(max_length=AUTHORIZATIONS_MAXIMUM)] | None = None
    checked: Literal[True] | None = None
    refused: Annotated[str, Field(max_length=1_000)] | None = None
    later: Annotated[str, Field(max_length=1_000)] | None = None


def read_request(raw: bytes) -> Request:
    """A request from a message's bytes. Raises MessageMalformed, never quoting what was sent."""
    try:
        return _REQUEST.validate_python(_object(raw))
    except ValidationError as error:
        raise MessageMalformed(f"the request is malformed: {_fields(error)}") from None


def read_reply(raw: bytes) -> Reply:
    """A reply from a message's bytes. Raises MessageMalformed."""
    try:
        return Reply.model_validate(_object(raw))
    except ValidationError as error:
        raise MessageMalformed(f"the reply is malformed: {_fields(error)}") from None


def as_bytes(message: BaseModel) -> bytes:
    """A message as it is sent, with its length before it."""
    raw = message.model_dump_json(exclude_none=True).encode()
    return len(raw).to_bytes(LENGTH_BYTES) + raw


def receive(connection: socket.socket) -> bytes | None:
    """The next message's bytes; None when the other side closed between two.

    Raises MessageMalformed for a length out of bounds or an end in the middle, OSError as the socket does.
    """
    head = _exactly(connection, LENGTH_BYTES)
    if head is None:
        return None
    length = int.from_bytes(head)
    if not 0 < length <= MESSAGE_MAXIMUM_BYTES:
        raise MessageMalformed(f"expected a message of 1 to {MESSAGE_MAXIMUM_BYTES} bytes, got {length}")
    body = _exactly(connection, length)
    if body is None:
        raise MessageMalformed("the message ended after its length")
    return body


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    raw = bytearray()
    while len(raw) < count:
        more = connection.recv(count - len(raw))
        if not more:
            if raw:
                raise MessageMalformed("the message ended early")
            return None
        raw += more
    return bytes(raw)


def _object(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise MessageMalformed("expected one JSON object") from None


def _fields(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'object'}: {item['msg']}" for item in found)[:500]

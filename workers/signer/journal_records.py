"""The lines of a signer's journal: what each kind says, and the chain of hashes that joins them."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from custody.safe import SafeTransaction
from custody.settings.chains import Address, Hash32
from custody.trezor.transaction import Signature, UnsignedTransaction
from workers.signer.coverage import Promise

NO_LINE: Final = "0" * 64
"""What the first line follows."""

_Hex = Annotated[str, Field(pattern=r"^0x([0-9a-f]{2})*$")]
_Digits = Annotated[str, Field(pattern=r"^[0-9]{1,78}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str
    previous: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SweptUnits(BaseModel):
    """A Transfer into the treasury that stood behind an intent; ``units`` smallest, as digits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transaction_hash: Hash32
    log_index: int
    units: _Digits


class PaidShare(BaseModel):
    """One payment of a group (R23) and its share; ``units`` smallest, as digits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    payment: str
    units: _Digits


class Asked(_Record):
    """Written before the device is asked: from here on a signature of these bytes is assumed to exist (R1)."""

    kind: Literal["asked"] = "asked"
    chain_id: int
    genesis_hash: Hash32
    treasury: Address
    unsigned_kind: Literal["transaction", "safe_transaction"] = "transaction"
    unsigned_bytes: _Hex
    signing_hash: Hash32
    instruction: str
    payment: str | None
    shares: tuple[PaidShare, ...] = ()
    """Of a group, whose ``payment`` is None."""
    purpose: str
    token: str
    units: _Digits
    destinations: tuple[str, ...]
    swept: tuple[SweptUnits, ...]
    owner: Address | None = None
    """Whose device was asked, of a Safe's owners."""
    safe_block: int | None = None
    safe_nonce: int | None = None
    """The Safe's own nonce after ``safe_block``, as this machine's nodes showed it then."""

    @property
    def is_safe(self) -> bool:
        """Whether it is a Safe's: others may hold signatures of it that this machine never saw."""
        return self.unsigned_kind == "safe_transaction"

    @property
    def transaction(self) -> UnsignedTransaction | SafeTransaction:
        """The exact transaction. Raises TransactionError or SafeTransactionError for bytes that are none."""
        raw = bytes.fromhex(self.unsigned_bytes[2:])
        return SafeTransaction.from_stored_bytes(raw) if self.is_safe else UnsignedTransaction.from_signing_bytes(raw)

    @property
    def digest(self) -> bytes:
        """The 32 bytes that were to be signed."""
        return bytes.fromhex(self.signing_hash[2:])

    @property
    def promise(self) -> Promise:
        """What it takes from the treasury, and what was swept for it."""
        swept = {(each.transaction_hash, each.log_index): int(each.units) for each in self.swept}
        shares = {each.payment: int(each.units) for each in self.shares}
        if self.payment is not None:
            shares[self.payment] = int(self.units)
        return Promise(self.token, shares, frozenset(self.destinations), swept)


class Signed(_Record):
    """The device's answer, written before it is handed in."""

    kind: Literal["signed"] = "signed"
    signing_hash: Hash32
    y_parity: Annotated[int, Field(ge=0, le=1)]
    r: _Digits
    s: _Digits
    owner: Address | None = None

    @property
    def signature(self) -> Signature:
        """The signature. Raises SignatureError for numbers that are none."""
        return Signature(self.y_parity, int(self.r), int(self.s))


class Rejected(_Record):
    """The person said no on the device."""

    kind: Literal["rejected"] = "rejected"
    signing_hash: Hash32


class HandedIn(_Record):
    """The API took the signature."""

    kind: Literal["handed_in"] = "handed_in"
    signing_hash: Hash32
    owner: Address | None = None


class SealSeen(_Record):
    """The newest seal of a fleet's ledger that this machine has checked."""

    kind: Literal["seal"] = "seal"
    environment: str
    seal: dict[str, Any]


Line = Asked | Signed | Rejected | HandedIn | SealSeen
_LINES: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


def write_line(previous: str, kind: str, said: dict[str, Any]) -> tuple[bytes, Line]:
    """The next line with its end, and what it says. Raises ValueError for a kind or field that is none."""
    values = {"kind": kind, "at": datetime.now(UTC).isoformat(), "previous": previous, **said}
    values["hash"] = _hash(values)
    line = _LINES.validate_python(values)
    return _json(values) + b"\n", line


def read_line(raw: bytes, previous: str) -> Line:
    """A line that follows ``previous``. Raises ValueError saying what is wrong with it."""
    values: Any = json.loads(raw)
    line = _LINES.validate_python(values)
    if line.previous != previous:
        raise ValueError("it does not follow the line before it")
    if line.hash != _hash({key: value for key, value in values.items() if key != "hash"}):
        raise ValueError("its hash is not that of its content")
    return line


def _hash(values: dict[str, Any]) -> str:
    return sha256(_json(values)).hexdigest()


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

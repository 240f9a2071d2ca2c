"""What the API says stands behind an instruction, field by field. Claims all of it, until an own node confirms it."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from custody.releases.refund_proof import ProofRefused, require_proof
from custody.settings.chains import Address, Hash32
from custody.trezor.transaction import Signature, SignatureError
from workers.signer.checks import InstructionRefused
from workers.signer.client import ApiInstruction

ROWS_MAXIMUM: Final = 2_500  # of one kind, for a group of 50 payments; the API sends no more

Units = Annotated[int, Field(ge=0, lt=2**256)]
"""Smallest units of the token; the API writes them as decimal digits."""
Token = Annotated[str, Field(pattern=r"^(0x[0-9a-fA-F]{40}|native)$")]
Block = Annotated[int, Field(ge=0, lt=2**63)]

MAY_PAY: Final = frozenset({"handed_out", "signed", "broadcast", "cancelling", "final"})
"""States of another instruction that has paid or still can (R1)."""


class _Claim(BaseModel):
    model_config = ConfigDict(frozen=True)


class Destination(_Claim):
    """An address that buyers paid to, and how it derives from a deposit account."""

    address: Address
    derivation_path: Annotated[str, Field(max_length=64)]
    derivation_index: Annotated[int, Field(ge=0, lt=2**31)]
    deposit_account: Annotated[str, Field(max_length=16)] | None = None
    """Fingerprint of the account; only for messages, the pinned accounts decide."""


class Deposit(_Claim):
    """A Transfer that brought coins of this payment to a destination."""

    payment_id: str | None = None
    """Whose it is, where an instruction pays for several payments (R23)."""
    block_number: Block
    block_hash: Hash32
    transaction_hash: Annotated[
        str, Field(pattern=r"^(0x[0-9a-f]{64}|native:[0-9]{1,19}:0x[0-9a-fA-F]{40}:0x[0-9a-f]{64})$")
    ]
    """Where only a balance told of native coin: ``native:chain:address:block hash`` (L8)."""
    log_index: int
    token: Token
    sender: str
    recipient: Address
    amount_units: Units
    judged_at: str | None


class Sweep(_Claim):
    """A Transfer that brought coins from a destination to the treasury."""

    transaction_hash: Hash32
    log_index: int | None
    block_number: Block | None
    token_address: Token
    from_address: Address
    to_address: Address
    amount_units: Units


class Payout(_Claim):
    """Another instruction of the same payment; of one that is paid with others, the group."""

    id: Annotated[str, Field(max_length=36)]
    payment_id: str | None = None
    purpose: Literal["release", "refund", "drain", "platform_fee", "provider_fee"]
    state: Annotated[str, Field(max_length=20)]
    token: Token
    recipient: str
    amount_units: Units
    nonce: int | None

    @property
    def may_pay(self) -> bool:
        """It has paid or still can."""
        return self.state in MAY_PAY


class RefundProof(_Claim):
    """The buyer's signature over where a refund may go, and the fields of its text (R21)."""

    payment_id: UUID
    chain_id: Annotated[int, Field(ge=1)]
    address: Address
    signed_at: AwareDatetime
    y_parity: Annotated[int, Field(ge=0, le=1)]
    r: Units
    s: Units

    def is_of(self, payment_id: UUID, chain_id: int, recipient: str) -> bool:
        """Whether the key of ``recipient`` signed that this payment may go back to it."""
        if (self.payment_id, self.chain_id, self.address) != (payment_id, chain_id, recipient):
            return False
        try:
            require_proof(payment_id, chain_id, recipient, self.signed_at, Signature(self.y_parity, self.r, self.s))
        except (ProofRefused, SignatureError):
            return False
        return True


class Evidence(_Claim):
    """All of it. ``seals``, ``address_book`` and ``approvals`` stay raw: their own modules read them."""

    destinations: Annotated[tuple[Destination, ...], Field(max_length=ROWS_MAXIMUM)] = ()
    deposits: Annotated[tuple[Deposit, ...], Field(max_length=ROWS_MAXIMUM)] = ()
    sweeps: Annotated[tuple[Sweep, ...], Field(max_length=ROWS_MAXIMUM)] = ()
    payouts: Annotated[tuple[Payout, ...], Field(max_length=ROWS_MAXIMUM)] = ()
    seals: tuple[dict[str, Any], ...] = ()
    address_book: Annotated[tuple[dict[str, Any], ...], Field(max_length=ROWS_MAXIMUM)] = ()
    refund_proofs: Annotated[tuple[RefundProof, ...], Field(max_length=ROWS_MAXIMUM)] = ()
    approvals: Annotated[tuple[dict[str, Any], ...], Field(max_length=ROWS_MAXIMUM)] = ()


_READER: Final = TypeAdapter(Evidence)


def read_evidence(claimed: ApiInstruction) -> Evidence:
    """The instruction's evidence, typed. Raises InstructionRefused naming the fields that are wrong."""
    try:
        return _READER.validate_python(claimed.evidence or {})
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False)[:5])
        raise InstructionRefused(
            f"Instruction {claimed.id} is refused: its evidence is malformed ({fields}). Nothing was shown or signed."
        ) from None

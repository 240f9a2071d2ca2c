"""What the engine is asked, and what it answers. All of it is given; nothing here looks anything up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import Field

from custody.policy.address_book import Role
from custody.policy.break_glass import BreakGlass
from custody.policy.documents import Address, ChainId, Document, Moment
from custody.policy.rules import Purpose

FEE_PURPOSES: Final = frozenset({"platform_fee", "provider_fee"})
"""Instructions that pay out what the house kept (L7)."""


def policy_purpose(purpose: str) -> str:
    """What a policy calls an instruction's purpose: both kinds of fees are one to it."""
    return "fee_payout" if purpose in FEE_PURPOSES else purpose


def role_paid(purpose: str) -> Role:
    """The role that a recipient has in the address book, by an instruction's or a request's purpose."""
    if purpose == "gas_funding":
        return "gas_payer"
    return "fee_payee" if policy_purpose(purpose) == "fee_payout" else "payee"


class Request(Document):
    """Money that somebody wants moved. One type for releases, refunds, sweeps, adjustments and gas funding.

    ``amount_units`` in the token's smallest unit. ``recipient`` is None for an adjustment, which moves books alone.
    ``intent`` is the hash that approvers sign (R18); it covers every field here and the policy's version.
    """

    intent: Annotated[str, Field(min_length=1, max_length=64)]
    purpose: Purpose
    chain_id: ChainId
    token: Address | Literal["native"]
    recipient: Address | None = None
    treasury: Address | None = None
    """Where the coins lie, for what leaves a treasury."""
    amount_units: Annotated[int, Field(ge=1, lt=2**256, strict=True)]
    requested_by: Annotated[str, Field(min_length=1, max_length=64)]
    """The person who asked for it, or the process."""
    beneficiary: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The marketplace user who is to be paid."""
    buyer_signed_recipient: bool = False
    """Whether the buyer's signature over ``recipient`` was verified (R21)."""
    raw_units: bool = False
    """Whether the treasury's device shows its amount in smallest units: that takes one more approval (R2)."""


class Approval(Document):
    """One approval whose signature was verified over the text of ``intent``."""

    approver: Address
    intent: Annotated[str, Field(min_length=1, max_length=64)]


class HandOut(Document):
    """Something handed to a signer: from then on it counts as spent (R1, R24), until a cancel is final."""

    intent: Annotated[str, Field(min_length=1, max_length=64)]
    """A request is never counted against itself when it is judged again before broadcast."""
    at: Moment
    purpose: Purpose
    chain_id: ChainId
    token: Address | Literal["native"]
    recipient: Address | None = None
    amount_units: Annotated[int, Field(ge=1, lt=2**256, strict=True)]


@dataclass(frozen=True, slots=True)
class Situation:
    """The moment of a decision: the clock (UTC), what was handed out in the last 24 hours, the approvals there are, and
    every break-glass of the last days (R15).

    ``handed_out`` must be read under the lock that the hand-out itself takes, or parallel requests pass together (R24).
    """

    now: datetime
    handed_out: Sequence[HandOut] = ()
    approvals: Sequence[Approval] = ()
    break_glasses: Sequence[BreakGlass] = ()


Outcome = Literal["allowed", "needs_approvals", "denied"]
Verdict = Literal["passes", "allows", "needs_approvals", "denies", "not_concerned"]


@dataclass(frozen=True, slots=True)
class Word:
    """What one rule says of a request, with its sentence."""

    rule: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The judgement: its outcome, the rule that decides, what each rule said, under which policy (hash, version)."""

    outcome: Outcome
    rule: str
    sentence: str
    approvals_required: int
    approved_by: tuple[str, ...]
    words: tuple[Word, ...]
    policy_hash: str
    policy_version: int
    amount: Decimal = field(default=Decimal(0))
    """Whole tokens, 0 when the token is unknown."""

    @property
    def is_allowed(self) -> bool:
        """Whether it may go now."""
        return self.outcome == "allowed"

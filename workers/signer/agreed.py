"""A payout must have been approved by enough of the pinned approvers, over exactly what is signed now (R4, R18, R19).

The text is built here from the trust file's names and the instruction's own fields, so signatures over anything else fit
nothing.
"""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from pydantic import ValidationError

from custody.chain.assets import NATIVE
from custody.policy.signatures import ApproverSignature
from custody.releases.approval_text import Names, approval_text
from custody.releases.intent import Intent, Share
from custody.trezor.text_rows import TextNotShowable
from custody.trezor.transaction import SignatureError
from workers.signer.client import ApiApproval, ApiInstruction
from workers.signer.evidence import Evidence
from workers.signer.recipients import persons_who_signed
from workers.signer.safe_checks import Checked
from workers.signer.trust import Trust, TrustedChain

NOBODY: Final = "nobody approves: development only"


def require_agreed(
    checked: Checked,
    evidence: Evidence,
    trust: Trust,
    pinned: TrustedChain,
    label: str,
    now: datetime,
) -> str:
    """Who approved it, in words; ``label`` is what the recipient is called in the text. Raises InstructionRefused when too few did, or over something else."""
    asked = checked.claimed.approval
    if trust.approvals == 0 and asked is None:
        return NOBODY
    if asked is None:
        raise checked.refusal(f"nobody was asked to approve it, and {trust.approvals} persons must have")
    _require_policy(checked, asked, trust)
    fee = int(checked.claimed.max_total_fee_wei or 0)  # which was compared with the bytes
    if fee > int(asked.fee_ceiling_wei):
        raise checked.refusal(f"its fee may reach {fee} wei, its approvers agreed to {asked.fee_ceiling_wei}")
    if asked.expires_at <= now:
        raise checked.refusal(f"its approval expired {asked.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    text = _text(checked, asked, pinned, label)
    try:
        given = [
            ApproverSignature.model_validate({name: each.get(name) for name in ApproverSignature.model_fields})
            for each in evidence.approvals
        ]
        persons = persons_who_signed(text, given, trust)
    except (ValidationError, SignatureError):
        raise checked.refusal("an approval's signature is malformed") from None
    needed = trust.approvals + checked.claimed.raw_units  # one more where smallest units are read (R2)
    if len(persons) < needed:
        raise checked.refusal(
            f"{', '.join(sorted(persons)) or 'nobody'} of the pinned approvers approved exactly this, "
            f"{needed} must have"
        )
    return f"{', '.join(sorted(persons))}, policy version {asked.policy_version}"


def _require_policy(checked: Checked, asked: ApiApproval, trust: Trust) -> None:
    if asked.environment != trust.environment:
        raise checked.refusal(f"it is of environment {asked.environment}, this machine's is {trust.environment}")
    if trust.policy.hash is not None and asked.policy_hash != trust.policy.hash:
        raise checked.refusal(
            f"it was judged by policy {asked.policy_hash[:16]}, pinned is {trust.policy.hash[:16]}; compare the new policy "
            "with its signatures and pin it, or tell the custody team"
        )
    if asked.policy_version < (trust.policy.minimum_version or 1):
        raise checked.refusal(
            f"it was judged by policy version {asked.policy_version}, the least is {trust.policy.minimum_version}"
        )


def _text(checked: Checked, asked: ApiApproval, pinned: TrustedChain, label: str) -> str:
    claimed, native = checked.claimed, pinned.token(NATIVE)
    assert native is not None
    try:
        intent = claimed_intent(claimed, asked)
        names = Names(pinned.name, checked.symbol, checked.decimals, native.symbol, label)
        return approval_text(intent, names)
    except (TextNotShowable, ValueError) as error:
        raise checked.refusal(f"its approval text cannot be made: {error}") from None


def claimed_intent(claimed: ApiInstruction, asked: ApiApproval) -> Intent:
    """The intent of an instruction's own fields as the API claims them (R18); its hash shows whether they were approved."""
    return Intent(
        environment=asked.environment,
        instruction_id=UUID(claimed.id),
        purpose=claimed.purpose,
        chain_id=claimed.chain_id,
        treasury=claimed.treasury,
        token=claimed.token,
        recipient=claimed.recipient,
        amount_units=int(claimed.amount_units),
        payments=tuple(map(UUID, claimed.shares)),
        release_epoch=claimed.release_epoch,
        shares=tuple(Share(int(each.amount_units), each.release_epoch) for each in claimed.payments),
        policy_version=asked.policy_version,
        max_total_fee_wei=int(asked.fee_ceiling_wei),
        expires_at=asked.expires_at.astimezone(UTC),
        raw_units=claimed.raw_units,
    )

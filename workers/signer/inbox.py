"""A signer's day (R23): what waits, how long already, what it takes, and who else must act first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from custody.safe import SafeTransaction, SafeTransactionError
from custody.trezor.preview import device_screens
from custody.trezor.transaction import TransactionError, UnsignedTransaction
from workers.signer.checks import InstructionRefused
from workers.signer.client import ApiInstruction
from workers.signer.journal import Journal
from workers.signer.journal_records import Asked
from workers.signer.safe_checks import safe_screens

_COUNTED_ON: Final = ("T1B1", "1.14.2")  # the model whose screens are known; others show about as many
_BEFORE_HAND_OUT: Final = frozenset({"drafted", "awaiting_approval", "ready"})


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the inbox. ``age_seconds`` since it was handed out, or made; ``presses`` None before hand-out."""

    instruction: ApiInstruction
    age_seconds: int
    presses: int | None
    who_acts: str
    is_resumed: bool
    """This machine began it: the device was asked, or has answered, and nothing was handed in."""

    def as_json(self) -> dict[str, Any]:
        return {
            **self.instruction.model_dump(mode="json", exclude={"evidence"}),
            "age_seconds": self.age_seconds,
            "presses": self.presses,
            "who_acts": self.who_acts,
            "resumed": self.is_resumed,
        }


def items(found: Sequence[ApiInstruction], journal: Journal | None, now: datetime) -> list[Item]:
    """The inbox: interrupted ones first, then those that wait for a signer, then the others in the API's order."""
    begun = _begun(journal)
    made = [
        Item(
            each,
            _age(each, now),
            _presses(each),
            who_acts(each, found),
            each.waits_for_signature and each.id in begun,
        )
        for each in found
    ]
    return sorted(made, key=lambda item: (not item.is_resumed, not item.instruction.waits_for_signer))


def next_item(found: Sequence[Item]) -> Item:
    """The one to sign now. Raises InstructionRefused that says why there is none."""
    own = [item for item in found if not item.instruction.of_another_device]
    for item in own:
        if item.is_resumed or item.instruction.waits_for_signer:
            return item
    rejected = [each.instruction for each in own if each.instruction.waits_for_signature]
    if rejected:
        last = rejected[0].rejected_reason or (
            "its signature is being judged" if rejected[0].last_submission is not None else "it was answered"
        )
        raise InstructionRefused(
            f"Instruction {rejected[0].id} is handed out and was answered already ({last}). To sign it all the same: "
            f"fleet signer sign {rejected[0].id}"
        )
    if found:
        raise InstructionRefused(
            f"No instruction is handed out; {(own or found)[0].who_acts}. See `fleet signer inbox`."
        )
    raise InstructionRefused("No instruction is handed out; see `fleet signer inbox`.")


def who_acts(each: ApiInstruction, every: Sequence[ApiInstruction]) -> str:  # noqa: PLR0911  (one line a state)
    """Who must do something before this instruction goes on, in a few words."""
    if each.state == "awaiting_approval":
        by = ", ".join(each.approval.approved_by) if each.approval is not None else ""
        return f"approvers, {by} did" if by else each.held_reason or "approvers: fleet signer approve"
    if each.state in _BEFORE_HAND_OUT:
        before = next((other for other in every if other.state == "handed_out" and _same_lane(other, each)), None)
        if before is not None and each.state == "ready":
            return f"the signer of {before.id} first"
        return each.held_reason or "the releases worker"
    if not each.waits_for_signature:
        return each.held_reason or "the releases worker"
    if each.of_another_device:
        return f"the signer of {each.treasury}, whose device it is"
    if each.unsigned_kind == "safe_transaction":
        return _who_signs(each)
    if each.lease is not None:
        return f"{each.lease.signer} is signing it"
    if each.rejected_reason is not None:
        return f"the custody team: {each.rejected_reason}"
    if not each.waits_for_signer:
        return "the releases worker judges the answer"
    return "you"


def _who_signs(each: ApiInstruction) -> str:
    """Of a Safe: which owners have signed, who is at it, and that another one must."""
    said = [f"{lease.signer} is signing it" for lease in each.leases]
    said += [f"signed by {', '.join(each.signed_by)}"] if each.signed_by else []
    said += [f"refused: {each.rejected_reason}"] if each.rejected_reason is not None else []
    if not each.waits_for_signer and each.rejected_reason is None:
        return "; ".join(["the releases worker judges the answer", *said])
    return "; ".join([f"{'another' if each.signed_by else 'an'} owner of the Safe", *said])


def _same_lane(one: ApiInstruction, other: ApiInstruction) -> bool:
    return (one.chain_id, one.treasury) == (other.chain_id, other.treasury)


def _begun(journal: Journal | None) -> set[str]:
    """Instructions that this machine asked its device about and never handed in."""
    if journal is None:
        return set()
    return {
        each.instruction
        for each in journal.lines
        if isinstance(each, Asked)
        and not journal.was_handed_in(each.signing_hash)
        and (journal.signature_of(each.signing_hash) is not None or not journal.is_settled(each))
    }


def _age(each: ApiInstruction, now: datetime) -> int:
    since = datetime.fromisoformat(each.handed_out_at or each.created_at)
    since = since if since.tzinfo is not None else since.replace(tzinfo=UTC)
    return max(0, int((now - since).total_seconds()))


def _presses(each: ApiInstruction) -> int | None:
    """How often the person presses. None for what is not handed out, or is no transaction at all."""
    if each.unsigned_bytes is None:
        return None
    try:
        if each.unsigned_kind == "safe_transaction":
            payout = SafeTransaction.from_stored_bytes(bytes.fromhex(each.unsigned_bytes[2:]))
            return len(safe_screens(payout.rejection() if each.signs == "cancel" else payout))
        transaction = UnsignedTransaction.from_signing_bytes(bytes.fromhex(each.unsigned_bytes[2:]))
    except (TransactionError, SafeTransactionError):
        return None
    return len(device_screens(transaction, *_COUNTED_ON))

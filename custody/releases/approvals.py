"""Approvals of an instruction: what is agreed to, which signatures count, and what the policy says then (R18, R19).

Nothing is believed from before: each time an instruction could go on, its signatures are verified again over the text
that the signed files give now, and the policy is asked again (R8, R9).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Connection, text

from custody.chain.assets import NATIVE
from custody.policy import AddressBook, Approval, Decision, Genesis, HandOut, InForce, Situation
from custody.policy.break_glass_actions import read_break_glasses
from custody.policy.release_requests import handed_out_of_a_day, instruction_request
from custody.policy.requests import role_paid
from custody.policy.signatures import signer_of
from custody.releases.approval_text import OUR_TREASURY, Names, approval_text
from custody.releases.intent import Intent, Share
from custody.releases.refund_proof import BUYER_SIGNED
from custody.releases.refunds import is_proved
from custody.releases.rows import Instruction
from custody.trezor.text_rows import TextNotShowable
from custody.trezor.transaction import SignatureError

SUBJECT: Final = "release_instruction"
Moment = Literal["approval", "hand_out", "broadcast"]
"""When the policy is asked."""
_HAND_OUT_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtext('fleet.hand_out'))")
_KEEP: Final = text(
    """
    INSERT INTO fleet.policy_decisions (subject_kind, subject_id, moment, outcome, rule, sentence, approvals_required,
        approved_by, policy_version, policy_hash)
    SELECT :kind, :id, :moment, :outcome, :rule, :sentence, :required, :approved_by, :version, :hash
    WHERE NOT EXISTS (
        SELECT FROM (SELECT d.* FROM fleet.policy_decisions d WHERE d.subject_kind = :kind AND d.subject_id = :id
                     ORDER BY d.id DESC LIMIT 1) AS last
        WHERE (last.moment, last.outcome, last.rule, last.sentence, last.policy_hash)
            = (:moment, :outcome, :rule, :sentence, :hash))
    """
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What an instruction's approvers agree to beyond its own fields. ``fee_ceiling_wei`` bounds the whole fee, in wei."""

    environment: str
    policy_version: int
    policy_hash: str
    fee_ceiling_wei: int
    expires_at: datetime


class NothingAgreed(Exception):
    """The instruction waits for no approval: it has no intent. The message is a sentence."""


def agreement_now(in_force: InForce, now: datetime, *, fee_ceiling_wei: int, lifetime_seconds: int) -> Agreement:
    """What approvers are asked to agree to from now on, for ``lifetime_seconds``; whole minutes, as a device shows them."""
    expires_at = (now + timedelta(seconds=lifetime_seconds)).replace(second=0, microsecond=0)
    return Agreement(
        in_force.genesis.genesis.environment,
        in_force.newest.policy.version,
        in_force.newest.hash,
        fee_ceiling_wei,
        expires_at,
    )


def intent_of(instruction: Instruction, agreement: Agreement) -> Intent:
    """The intent that approvers sign (R18): a group's covers each of its payments, with its share and its epoch (R23)."""
    return Intent(
        environment=agreement.environment,
        instruction_id=instruction.id,
        purpose=instruction.purpose,
        chain_id=instruction.chain_id,
        treasury=instruction.treasury,
        token=instruction.token,
        recipient=instruction.recipient,
        amount_units=instruction.amount_units,
        payments=(instruction.house_id,) if instruction.house_id is not None else instruction.payment_ids,
        release_epoch=instruction.release_epoch,
        shares=tuple(Share(each.amount_units, each.release_epoch) for each in instruction.members),
        policy_version=agreement.policy_version,
        max_total_fee_wei=agreement.fee_ceiling_wei,
        expires_at=agreement.expires_at,
        raw_units=instruction.raw_units,
    )


def agreement_of(instruction: Instruction) -> Agreement:
    """What an instruction's approvers were asked to agree to. Raises NothingAgreed."""
    if (
        instruction.environment is None
        or instruction.policy_version is None
        or instruction.policy_hash is None
        or instruction.fee_ceiling_wei is None
        or instruction.expires_at is None
    ):
        raise NothingAgreed(f"instruction {instruction.id} was never put before approvers")
    return Agreement(
        instruction.environment,
        instruction.policy_version,
        instruction.policy_hash,
        instruction.fee_ceiling_wei,
        instruction.expires_at,
    )


def names_of(instruction: Instruction, genesis: Genesis, book: AddressBook) -> Names:
    """What genesis and address book call the things of an instruction. Raises TextNotShowable for what they do not name."""
    chain = genesis.chain(instruction.chain_id)
    token = None if chain is None else chain.token(instruction.token)
    native = None if chain is None else chain.token(NATIVE)
    if chain is not None and token is not None and native is not None and instruction.is_drain:
        return Names(chain.name, token.symbol, token.decimals, native.symbol, OUR_TREASURY)
    entry = book.entry(instruction.chain_id, instruction.recipient, role_paid(instruction.purpose))
    if chain is None or token is None or native is None:
        raise TextNotShowable(f"chain {instruction.chain_id} or token {instruction.token} is not in the genesis")
    label = (
        BUYER_SIGNED if entry is None and instruction.purpose == "refund" else None if entry is None else entry.label
    )
    if label is None:
        raise TextNotShowable(f"recipient {instruction.recipient} is not in the signed address book")
    return Names(chain.name, token.symbol, token.decimals, native.symbol, label)


def signed_text(instruction: Instruction, in_force: InForce) -> str:
    """The text that approvers of an instruction sign. Raises NothingAgreed, TextNotShowable."""
    intent = intent_of(instruction, agreement_of(instruction))
    return approval_text(intent, names_of(instruction, in_force.genesis.genesis, in_force.book))


def counting_approvals(connection: Connection, instruction: Instruction, in_force: InForce) -> list[Approval]:
    """Approvals whose signature holds over the text as it is now. The engine then says whose count (R3)."""
    if instruction.intent_hash is None:
        return []
    wanted = intent_of(instruction, agreement_of(instruction)).hash()
    try:
        text_now = signed_text(instruction, in_force)
    except TextNotShowable:
        return []
    rows = connection.execute(
        text(
            "SELECT approver, signature FROM fleet.approvals WHERE subject_kind = :kind AND subject_id = :id "
            "AND digest = :digest AND state = 'accepted' ORDER BY id"
        ),
        {"kind": SUBJECT, "id": instruction.id, "digest": wanted},
    )
    found: list[Approval] = []
    for row in rows:
        try:
            is_theirs = signer_of(text_now, f"0x{bytes(row.signature).hex()}") == row.approver
        except SignatureError:
            is_theirs = False
        if is_theirs:
            found.append(Approval(approver=row.approver, intent=wanted.hex()))
    return found


def judge_instruction(connection: Connection, instruction: Instruction, in_force: InForce, now: datetime) -> Decision:
    """What the policy says of an instruction now, with its approvals. Locks and keeps nothing."""
    request = instruction_request(connection, instruction.id)
    if instruction.purpose == "refund":
        request = request.model_copy(update={"buyer_signed_recipient": is_proved(connection, instruction)})
    handed_out: list[HandOut] = handed_out_of_a_day(connection, now)
    approvals = counting_approvals(connection, instruction, in_force)
    glasses = read_break_glasses(connection, in_force.genesis.genesis, now)
    return in_force.judge(request, Situation(now, handed_out, approvals, glasses))


def decide(
    connection: Connection, instruction: Instruction, in_force: InForce, now: datetime, *, moment: Moment
) -> Decision:
    """What the policy says of an instruction now, with its approvals; kept where it differs from what it said last.

    Takes the lock of hand-outs until the transaction ends: two requests never pass one daily limit together (R24).
    """
    connection.execute(_HAND_OUT_LOCK)
    decision = judge_instruction(connection, instruction, in_force, now)
    connection.execute(
        _KEEP,
        {
            "kind": SUBJECT,
            "id": instruction.id,
            "moment": moment,
            "outcome": decision.outcome,
            "rule": decision.rule,
            "sentence": decision.sentence,
            "required": decision.approvals_required,
            "approved_by": list(decision.approved_by),
            "version": decision.policy_version,
            "hash": decision.policy_hash,
        },
    )
    return decision


def why_outdated(instruction: Instruction, in_force: InForce) -> str | None:
    """Why the instruction's approvers must be asked again, as a sentence; None while what they agree to still is so."""
    try:
        agreement = agreement_of(instruction)
    except NothingAgreed as error:
        return f"{error}."
    newest = in_force.newest
    if (agreement.policy_version, agreement.policy_hash) != (newest.policy.version, newest.hash):
        return (
            f"policy version {newest.policy.version} came after what was approved (version {agreement.policy_version})."
        )
    if agreement.environment != in_force.genesis.genesis.environment:
        return f"it was approved for environment {agreement.environment}."
    if intent_of(instruction, agreement).hash() != instruction.intent_hash:
        return "its row says something else than what was approved."
    return None

"""Approvals as they come in, and instructions that wait for them: awaiting_approval -> ready, or expired (R18, R19, R24).

What approvers hand in is judged here and never made here (R9, R24).
"""

from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.policy import InForce, PolicyRefused, SignedFolder, read_in_force
from custody.policy.genesis import power_for
from custody.policy.operator_actions import ActionNotShowable, SignableAction
from custody.policy.requests import policy_purpose
from custody.policy.signatures import signer_of
from custody.policy.signed_entries import entry_hash, read_entry
from custody.policy.texts import entry_text
from custody.releases import rows
from custody.releases.approvals import (
    SUBJECT,
    NothingAgreed,
    agreement_now,
    agreement_of,
    decide,
    intent_of,
    signed_text,
    why_outdated,
)
from custody.releases.grouping import is_denied_for_its_sum, take_apart
from custody.releases.rows import Instruction
from custody.releases.voiding import void_before_hand_out
from custody.store.engine import transaction
from custody.trezor.text_rows import TextNotShowable
from custody.trezor.transaction import SignatureError

log = structlog.get_logger(__name__)

_CLAIM: Final = text(
    """
    SELECT id, subject_kind, subject_id, digest, person, approver, signature FROM fleet.approvals
    WHERE state = 'received' ORDER BY received_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    """
)
_JUDGED: Final = text("UPDATE fleet.approvals SET state = :state, refused_reason = :reason WHERE id = :id")


class _Refused(Exception):
    """The approval does not count; the message is its refused_reason."""


def judge_approvals(engine: Engine, signed: SignedFolder, limit: int) -> int:
    """Judge at most ``limit`` approvals that came in, one transaction each, oldest first; how many were judged.

    Raises PolicyRefused: without files that hold, nothing is judged.
    """
    for judged in range(limit):
        with transaction(engine) as connection:
            row = connection.execute(_CLAIM).one_or_none()
            if row is None:
                return judged
            now = rows.now(connection)
            in_force = read_in_force(connection, signed, now)
            try:
                _judge(connection, row, in_force, now)
            except _Refused as error:
                connection.execute(_JUDGED, {"id": row.id, "state": "refused", "reason": str(error)})
                log.warning("approval_refused", subject_id=str(row.subject_id), person=row.person, reason=str(error))
            else:
                connection.execute(_JUDGED, {"id": row.id, "state": "accepted", "reason": None})
                log.info("approval_accepted", subject_id=str(row.subject_id), person=row.person)
    return limit


def _judge(connection: Connection, row: Any, in_force: InForce, now: datetime) -> None:
    power: Any = "policy"
    instruction = None
    if row.subject_kind == SUBJECT:
        instruction = rows.lock(connection, row.subject_id)
        shown, digest = _shown_of_instruction(instruction, in_force)
        power = power_for(policy_purpose(instruction.purpose))
    elif row.subject_kind == "address_book_entry":
        shown, digest = _shown_of_entry(connection, row.subject_id)
    else:
        action = _open_action(connection, row.subject_id)
        power, digest = action.power, action.hash()
        try:
            shown = action.text(in_force.genesis.genesis.environment)
        except (ActionNotShowable, PolicyRefused) as error:
            raise _Refused(f"not_showable: {error}.") from error
    approver = next(
        (each for each in in_force.genesis.genesis.active_approvers(power, now) if each.address == row.approver), None
    )
    if approver is None or approver.person != row.person:
        raise _Refused(
            f"not_an_approver: {row.approver} is no active approver named {row.person} with the power {power}."
        )
    if bytes(row.digest) != digest:
        raise _Refused("outdated: it was made over something else than what waits now; look again and approve anew.")
    try:
        signer = signer_of(shown, f"0x{bytes(row.signature).hex()}")
    except SignatureError as error:
        raise _Refused(f"malformed_signature: {error}.") from error
    if signer != row.approver:
        raise _Refused(f"wrong_signer: over this text it recovers to {signer}, not to {row.approver}.")
    if instruction is not None:
        connection.execute(
            text("UPDATE fleet.release_instructions SET run_after = clock_timestamp() WHERE id = :id"),
            {"id": instruction.id},
        )


def _shown_of_instruction(instruction: Instruction, in_force: InForce) -> tuple[str, bytes]:
    if instruction.group_id is not None:
        raise _Refused(f"grouped: it is paid together with others now; approve its group {instruction.group_id}.")
    if instruction.state != "awaiting_approval":
        raise _Refused(f"not_awaiting: the instruction is {instruction.state}; it takes no approval.")
    try:
        return signed_text(instruction, in_force), intent_of(instruction, agreement_of(instruction)).hash()
    except (NothingAgreed, TextNotShowable) as error:
        raise _Refused(f"not_showable: {error}.") from error


def _shown_of_entry(connection: Connection, entry_id: Any) -> tuple[str, bytes]:
    row = connection.execute(
        text("SELECT * FROM fleet.address_book WHERE id = :id AND number IS NOT NULL"), {"id": entry_id}
    ).one_or_none()
    if row is None:
        raise _Refused("unknown_entry: there is no such address book entry.")
    try:
        entry = read_entry(row)
        found = entry_hash(entry)
        return entry_text(entry, found), bytes.fromhex(found)
    except PolicyRefused as error:
        raise _Refused(f"not_showable: {error}") from error


def _open_action(connection: Connection, action_id: Any) -> SignableAction:
    row = connection.execute(
        text("SELECT id, kind, chain_id, parameters::text AS said, state FROM fleet.operator_actions WHERE id = :id"),
        {"id": action_id},
    ).one_or_none()
    if row is None or row.state != "proposed":
        raise _Refused(f"not_open: the action is {'unknown' if row is None else row.state}; it takes no signature.")
    return SignableAction(str(row.id), row.kind, row.chain_id, row.said)


def put_before_approvers(
    connection: Connection, instruction: Instruction, in_force: InForce, *, fee_ceiling_wei: int, lifetime_seconds: int
) -> None:
    """Say what the approvers of an instruction that awaits them agree to from now on; earlier approvals end with it."""
    now = rows.now(connection)
    agreement = agreement_now(in_force, now, fee_ceiling_wei=fee_ceiling_wei, lifetime_seconds=lifetime_seconds)
    connection.execute(
        text(
            """
            UPDATE fleet.release_instructions
            SET environment = :environment, policy_version = :version, policy_hash = :hash, fee_ceiling_wei = :ceiling,
                expires_at = :expires, intent_hash = :intent, run_after = clock_timestamp(), updated_at = clock_timestamp()
            WHERE id = :id AND state = 'awaiting_approval'
            """
        ),
        {
            "id": instruction.id,
            "environment": agreement.environment,
            "version": agreement.policy_version,
            "hash": agreement.policy_hash,
            "ceiling": agreement.fee_ceiling_wei,
            "expires": agreement.expires_at,
            "intent": intent_of(instruction, agreement).hash(),
        },
    )
    log.info("release_awaits_approval", instruction_id=str(instruction.id), policy_version=agreement.policy_version)


def approve_due(
    engine: Engine, signed: SignedFolder, limit: int, *, fee_ceiling_wei: int, lifetime_seconds: int
) -> int:
    """Look at what awaits approval and is due: ready, expired, or held with who is missing; how many moved.

    Raises PolicyRefused.
    """
    with transaction(engine) as connection:
        leased = rows.lease(connection, "w.state = 'awaiting_approval'", {}, limit)
    moved = 0
    for each in leased:
        with transaction(engine) as connection:
            instruction = rows.lock_leased(connection, each)
            if instruction is None:
                continue
            now = rows.now(connection)
            in_force = read_in_force(connection, signed, now)
            if instruction.expires_at is not None and instruction.expires_at <= now:
                void_before_hand_out(
                    connection,
                    instruction,
                    f"expired: approvals were asked for until {instruction.expires_at:%Y-%m-%d %H:%M} UTC",
                )
                moved += 1
                continue
            if (why := why_outdated(instruction, in_force)) is not None:
                put_before_approvers(
                    connection,
                    instruction,
                    in_force,
                    fee_ceiling_wei=fee_ceiling_wei,
                    lifetime_seconds=lifetime_seconds,
                )
                if instruction.intent_hash is not None:
                    log.info("release_asked_again", instruction_id=str(instruction.id), reason=why)
                instruction = rows.lock(connection, instruction.id)
            decision = decide(connection, instruction, in_force, now, moment="approval")
            if (
                decision.outcome == "denied"
                and instruction.is_group
                and is_denied_for_its_sum(connection, instruction, in_force, now)
            ):
                take_apart(connection, instruction, f"policy_denied: {decision.sentence} (rule {decision.rule})")
                moved += 1
                continue
            if not decision.is_allowed:
                prefix = "needs_approvals" if decision.outcome == "needs_approvals" else "policy_denied"
                rows.hold(connection, instruction, f"{prefix}: {decision.sentence} (rule {decision.rule}).")
                continue
            rows.move(connection, instruction, "ready")
            moved += 1
            log.info("release_approved", instruction_id=str(instruction.id), approved_by=list(decision.approved_by))
    return moved

"""Paying several payments of one recipient by one transfer (R23): groups are made, added to, and taken apart.

Only what nobody has approved yet is grouped, so no approval is ever lost by it. A group is judged, approved, handed out
and signed as one instruction for the sum; in the books each payment keeps its own promise and its own keys. Before
hand-out a group can be taken apart, and its payments go on by themselves; from hand-out on it ends as a whole (R1).

Refunds are not grouped: the address of each is proved for its own payment alone (R21).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.policy import InForce, SignedFolder, Situation, read_in_force
from custody.policy.release_requests import handed_out_of_a_day, instruction_request
from custody.releases import rows
from custody.releases.rows import Instruction
from custody.releases.states import InstructionState, MoveRefused
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

GROUP_MAXIMUM: Final = 20  # payments: what a person still reads through, and what one cancel gives back
FEES_GROUP_MAXIMUM: Final = (
    50  # payments whose fees go together, whatever the setting: what one answer's evidence holds
)
GROUP_SECONDS: Final = 3_600  # others may join for an hour: approvers then have a text that stays
GROUP: Final = "group"
"""The request key of a group."""

_LEAVING: Final = frozenset[InstructionState]({"awaiting_approval", "ready"})
_MAY_JOIN: Final = """
    i.state = :state AND i.group_id IS NULL AND NOT i.alone AND i.purpose IN ('release', 'platform_fee', 'provider_fee')
    AND (NOT :only_fees OR i.purpose <> 'release')
    AND (i.lease_until IS NULL OR i.lease_until <= clock_timestamp())
    AND (i.intent_hash IS NULL OR i.created_at > clock_timestamp() - make_interval(secs => :seconds))
    AND NOT EXISTS (SELECT FROM fleet.approvals a WHERE a.subject_kind = 'release_instruction' AND a.subject_id = i.id
                    AND a.digest = i.intent_hash AND a.state <> 'refused')
    AND NOT EXISTS (SELECT FROM fleet.release_requests r WHERE r.instruction_id = i.id AND r.state = 'received')
"""
# One seller's: the address book says whose a recipient is, and the policy asks for one.
_ALIKE: Final = text(
    f"""
    SELECT i.chain_id, i.treasury, i.token, i.recipient, i.purpose, i.raw_units,
        CASE i.purpose WHEN 'release' THEN (
            SELECT p.seller_id FROM fleet.release_instructions m JOIN public.payments p ON p.id = m.payment_id
            WHERE m.id = i.id OR m.group_id = i.id LIMIT 1) END AS seller
    FROM fleet.release_instructions i WHERE {_MAY_JOIN}
    GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING count(*) > 1 ORDER BY min(i.created_at) LIMIT :limit
    """  # noqa: S608 - the condition is the constant above
)


_ASKED_ANEW: Final = (
    "fee_ceiling_wei = NULL, environment = NULL, policy_version = NULL, policy_hash = NULL, expires_at = NULL, "
    "intent_hash = NULL, held_reason = NULL, run_after = clock_timestamp(), updated_at = clock_timestamp()"
)
_GROW: Final = text(
    f"UPDATE fleet.release_instructions SET amount = :amount, amount_units = :units, {_ASKED_ANEW} WHERE id = :id"  # noqa: S608
)
_TAKE_IN: Final = text(
    f"UPDATE fleet.release_instructions SET group_id = :group, {_ASKED_ANEW} WHERE id = ANY (:ids)"  # noqa: S608
)


@dataclass(frozen=True, slots=True)
class Grouping:
    """When payments are paid together. ``maximum`` payments a group, 1: never but for fees; ``seconds`` that a group which approvers
    see already still takes others, as long as none of them has approved it.
    """

    maximum: int = GROUP_MAXIMUM
    seconds: int = GROUP_SECONDS


AS_USUAL: Final = Grouping()


def group_waiting(engine: Engine, signed: SignedFolder | None, limit: int, grouping: Grouping) -> int:
    """Put what waits for the same recipient together, at most ``limit`` recipients a round; how many payments were.

    ``signed``: where the signed files lie, whose policy must not deny the sum; None where no approvals are required.
    Raises PolicyRefused.
    """
    state: InstructionState = "ready" if signed is None else "awaiting_approval"
    given = {"state": state, "seconds": grouping.seconds, "only_fees": grouping.maximum == 1}
    with transaction(engine) as connection:
        alike = connection.execute(_ALIKE, {**given, "limit": limit}).all()
    grouped = 0
    for kind in alike:
        with transaction(engine) as connection:
            found = rows.select(
                connection,
                f"""
                {_MAY_JOIN} AND (i.chain_id, i.treasury, i.token, i.recipient, i.purpose, i.raw_units)
                    = (:chain_id, :treasury, :token, :recipient, :purpose, :raw_units)
                AND (CAST(:seller AS uuid) IS NULL OR :seller = (
                    SELECT p.seller_id FROM fleet.release_instructions m JOIN public.payments p ON p.id = m.payment_id
                    WHERE m.id = i.id OR m.group_id = i.id LIMIT 1))
                """,  # noqa: S608 - the condition is the constant above
                {**given, **kind._mapping},
                suffix="ORDER BY i.payment_id IS NOT NULL, i.created_at, i.id FOR UPDATE OF i SKIP LOCKED",
            )
            in_force = None if signed is None else read_in_force(connection, signed, rows.now(connection))
            maximum = grouping.maximum if kind.purpose == "release" else FEES_GROUP_MAXIMUM
            grouped += _join(connection, found, in_force, maximum)
    return grouped


def take_apart(connection: Connection, group: Instruction, reason: str, *, alone: Collection[UUID] = ()) -> None:
    """End a group that was not handed out: each member goes on by itself, with what is reserved for it.

    ``alone``: members (instruction ids) that are not grouped again. The caller holds the group's lock. Raises
    MoveRefused once it is handed out: a signature of the whole may exist then (R1).
    """
    if group.state not in _LEAVING:
        raise MoveRefused(f"group {group.id} is {group.state}: it ends as a whole (R1)")
    members = rows.lock_paid(connection, group)
    connection.execute(
        text(
            """
            UPDATE fleet.release_instructions
            SET group_id = NULL, alone = alone OR id = ANY (:alone), held_reason = NULL, run_after = clock_timestamp(),
                state = CASE WHEN :asked THEN 'awaiting_approval' ELSE state END, updated_at = clock_timestamp()
            WHERE group_id = :group
            """
        ),
        # What was approved is the group; where approvals are required each member is asked for anew.
        {"group": group.id, "alone": list(alone), "asked": group.intent_hash is not None},
    )
    rows.move(connection, group, "expired")
    named = ", ".join(str(each.payment_id) for each in members)
    rows.note(connection, group.id, f"taken_apart: {reason}. Its payments go on by themselves: {named}")
    log.info("release_group_taken_apart", group_id=str(group.id), payments=len(members), reason=reason)


def leave_group(connection: Connection, member: Instruction, reason: str) -> None:
    """Take apart the group that an instruction is in, if it is in one; its group's lock is held. Raises MoveRefused."""
    if member.group_id is not None:
        take_apart(connection, rows.lock(connection, member.group_id), reason)


def _join(connection: Connection, found: Sequence[Instruction], in_force: InForce | None, maximum: int) -> int:
    """Add the singles among ``found``, the oldest first, to the first group that has room, or to a new one."""
    group = next((each for each in found if each.is_group and len(each.members) < maximum), None)
    singles = [each for each in found if not each.is_group]
    taken: list[Instruction] = []
    total, count = (0, 0) if group is None else (group.amount_units, len(group.members))
    now = rows.now(connection)
    for each in singles:
        if count == maximum:
            break
        if in_force is None or not _is_denied(connection, each, total + each.amount_units, in_force, now):
            taken.append(each)
            total, count = total + each.amount_units, count + 1
    if not taken or (group is None and len(taken) == 1):
        return 0
    members = taken if group is None else [*rows.lock_paid(connection, group), *taken]
    sums = {"amount": sum(each.amount for each in members), "units": total}
    group_id = _make(connection, taken[0], sums) if group is None else group.id
    if group is not None:
        connection.execute(_GROW, {**sums, "id": group_id})
    connection.execute(_TAKE_IN, {"group": group_id, "ids": [each.id for each in taken]})
    log.info("release_grouped", group_id=str(group_id), payments=len(members), added=len(taken))
    return len(taken)


def _make(connection: Connection, like: Instruction, sums: Mapping[str, object]) -> UUID:
    return connection.execute(
        text(
            """
            INSERT INTO fleet.release_instructions
                (purpose, request_key, chain_id, treasury, token, recipient, amount, amount_units, release_epoch, state, source,
                raw_units)
            VALUES (:purpose, :key, :chain, :treasury, :token, :recipient, :amount, :units, 0, :state, :source, :raw)
            RETURNING id
            """
        ),
        {
            **sums,
            "purpose": like.purpose,
            "key": GROUP,
            "chain": like.chain_id,
            "treasury": like.treasury,
            "token": like.token,
            "recipient": like.recipient,
            "state": like.state,
            "source": like.source,
            "raw": like.raw_units,
        },
    ).scalar_one()


def _is_denied(connection: Connection, like: Instruction, units: int, in_force: InForce, now: datetime) -> bool:
    """Whether the policy would deny ``units`` at once to that recipient, however many approve: grouping never blocks."""
    request = instruction_request(connection, like.id).model_copy(update={"amount_units": units})
    situation = Situation(now, handed_out_of_a_day(connection, now))
    return in_force.judge(request, situation).outcome == "denied"


def is_denied_for_its_sum(connection: Connection, group: Instruction, in_force: InForce, now: datetime) -> bool:
    """Whether a group that the policy denies would be allowed payment by payment: then it is better taken apart."""
    largest = max(rows.lock_paid(connection, group), key=lambda each: each.amount_units)
    return not _is_denied(connection, largest, largest.amount_units, in_force, now)

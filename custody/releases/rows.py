"""Rows of fleet.release_instructions: read, leased, moved and held back.

Steps with I/O lease their row, commit, do the I/O, and apply ``WHERE lease_token`` (L15). A group (R23) is a row without
a payment: its members are rows of their own that move with it, and are leased by nobody.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from custody.releases.states import InstructionState, MoveRefused, require_move
from custody.store.work import backoff_seconds
from custody.trezor.transaction import UnsignedTransaction

LEASE_SECONDS: Final = 60  # the slowest step: two nodes that each use up their time, then a bounded MongoDB read
HOLD_MAXIMUM_SECONDS: Final = 15  # a seller waits at most this long once a dispute closed or MongoDB is back
SAFE_TRANSACTION: Final = "safe_transaction"
DRAIN: Final = "drain"
"""The purpose of an instruction that moves a payment's coins from a former treasury to the active one (R22)."""
REASON_CHARACTERS: Final = 1_000  # a node's own words are inside; a person reads it in a line or two
_TIMES: Final = frozenset({"handed_out_at", "signed_at", "final_at"})  # that a group's members have in common with it


@dataclass(frozen=True, slots=True)
class Part:
    """What one payment gives to a payout: its own instruction, its share in smallest units, its book's epoch (R12)."""

    instruction_id: UUID
    payment_id: UUID
    amount_units: int
    release_epoch: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One release instruction. ``amount`` in whole tokens, ``amount_units`` in the smallest unit, fees in wei.

    ``source``: the account that the amount is reserved from. ``cause``: what orders it, None for the buyer's
    word. The fees are whole tokens that the house keeps beside the amount.
    ``fee_ceiling_wei`` to ``intent_hash`` are what its approvers agree to; None until it is put before them, and where
    none are required. ``payment_id`` None: a group, whose amounts are the sums of its ``members``, or a drain of the
    house's own coins (``house_id``: their book, R22). ``group_id``: the group that it is paid with; ``alone``: it is not
    to be grouped again.
    """

    id: UUID
    payment_id: UUID | None
    purpose: str
    request_key: str
    chain_id: int
    treasury: str
    token: str
    recipient: str
    amount: Decimal
    amount_units: int
    release_epoch: int
    state: InstructionState
    held_reason: str | None
    rejected_reason: str | None
    nonce: int | None
    unsigned_bytes: bytes | None
    signing_hash: bytes | None
    max_total_fee_wei: int | None
    attempts: int
    lease_token: UUID | None
    handed_out_at: datetime | None
    fee_ceiling_wei: int | None = None
    environment: str | None = None
    policy_version: int | None = None
    policy_hash: str | None = None
    expires_at: datetime | None = None
    intent_hash: bytes | None = None
    source: str = "held"
    cause: str | None = None
    platform_fee: Decimal = Decimal(0)
    provider_fee: Decimal = Decimal(0)
    unsigned_kind: str = "transaction"
    safe_block: int | None = None
    safe_block_nonce: int | None = None
    rejection_hash: bytes | None = None
    raw_units: bool = False
    """Its amount is read in smallest units on the device, and one more person approves it (R2)."""
    group_id: UUID | None = None
    alone: bool = False
    members: tuple[Part, ...] = ()
    house_id: UUID | None = None

    @property
    def is_group(self) -> bool:
        """Whether it pays for several payments at once (R23)."""
        return self.payment_id is None and self.house_id is None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What each payment gives to it, by payment id: a group's members, or itself; nothing to a drain of the house's."""
        if self.payment_id is None:
            return self.members
        return (Part(self.id, self.payment_id, self.amount_units, self.release_epoch),)

    @property
    def payment_ids(self) -> tuple[UUID, ...]:
        """The payments that it pays for, in their order."""
        return tuple(each.payment_id for each in self.parts)

    @property
    def book_id(self) -> UUID:
        """The one book that it promises from: its payment's or the house's. A group has none, its members have."""
        found = self.payment_id or self.house_id
        assert found is not None, f"instruction {self.id} is a group"
        return found

    @property
    def named(self) -> str:
        """Its payment, or how many there are, for a log line or a sentence."""
        if self.house_id is not None:
            return f"the house at {self.treasury}"
        return f"{len(self.members)} payments" if self.payment_id is None else str(self.payment_id)

    @property
    def is_safe(self) -> bool:
        """Whether its bytes are a SafeTx (R16); ``nonce`` is the Safe's own then."""
        return self.unsigned_kind == SAFE_TRANSACTION

    @property
    def is_drain(self) -> bool:
        """Whether it pays nobody, and only moves coins between two treasuries of ours (R22)."""
        return self.purpose == DRAIN


_COLUMNS: Final = (
    "i.id, i.payment_id, i.purpose, i.request_key, i.chain_id, i.treasury, i.token, i.recipient, i.amount, "
    "i.amount_units, i.release_epoch, i.state, i.held_reason, i.rejected_reason, i.nonce, i.unsigned_bytes, "
    "i.signing_hash, i.max_total_fee_wei, i.attempts, i.lease_token, i.handed_out_at, i.fee_ceiling_wei, i.environment, "
    "i.policy_version, i.policy_hash, i.expires_at, i.intent_hash, i.source, i.cause, i.platform_fee, i.provider_fee, "
    "i.unsigned_kind, i.safe_block, i.safe_block_nonce, i.rejection_hash, i.raw_units, i.group_id, i.alone, i.house_id, "
    "CASE WHEN i.payment_id IS NULL THEN (SELECT array_agg(ROW(m.id, m.payment_id, m.amount_units, m.release_epoch)::text "
    "ORDER BY m.payment_id) FROM fleet.release_instructions m WHERE m.group_id = i.id) END AS members"
)


def read_row(row: Any) -> Instruction:
    """The instruction in a row that holds its columns."""
    return Instruction(
        id=row.id,
        payment_id=row.payment_id,
        purpose=row.purpose,
        request_key=row.request_key,
        chain_id=row.chain_id,
        treasury=row.treasury,
        token=row.token,
        recipient=row.recipient,
        amount=row.amount,
        amount_units=int(row.amount_units),
        release_epoch=row.release_epoch,
        state=cast(InstructionState, row.state),
        held_reason=row.held_reason,
        rejected_reason=row.rejected_reason,
        nonce=row.nonce,
        unsigned_bytes=None if row.unsigned_bytes is None else bytes(row.unsigned_bytes),
        signing_hash=None if row.signing_hash is None else bytes(row.signing_hash),
        max_total_fee_wei=None if row.max_total_fee_wei is None else int(row.max_total_fee_wei),
        attempts=row.attempts,
        lease_token=row.lease_token,
        handed_out_at=row.handed_out_at,
        fee_ceiling_wei=None if row.fee_ceiling_wei is None else int(row.fee_ceiling_wei),
        environment=row.environment,
        policy_version=row.policy_version,
        policy_hash=row.policy_hash,
        expires_at=row.expires_at,
        intent_hash=None if row.intent_hash is None else bytes(row.intent_hash),
        source=row.source,
        cause=row.cause,
        platform_fee=row.platform_fee,
        provider_fee=row.provider_fee,
        unsigned_kind=row.unsigned_kind,
        safe_block=row.safe_block,
        safe_block_nonce=row.safe_block_nonce,
        rejection_hash=None if row.rejection_hash is None else bytes(row.rejection_hash),
        raw_units=row.raw_units,
        group_id=row.group_id,
        alone=row.alone,
        members=tuple(map(_read_part, row.members or ())),
        house_id=row.house_id,
    )


def _read_part(row: str) -> Part:
    """From ``(id,payment,units,epoch)``, as PostgreSQL writes a row of them."""
    instruction_id, payment_id, units, epoch = row.strip("()").split(",")
    return Part(UUID(instruction_id), UUID(payment_id), int(units), int(epoch))


def select(connection: Connection, where: str, parameters: dict[str, Any], *, suffix: str = "") -> list[Instruction]:
    """Instructions that satisfy ``where``, a condition written in this package, never from outside."""
    statement = f"SELECT {_COLUMNS} FROM fleet.release_instructions i WHERE {where} {suffix}"  # noqa: S608
    return [read_row(row) for row in connection.execute(text(statement), parameters)]


def find(connection: Connection, payment_id: UUID, purpose: str, request_key: str) -> Instruction | None:
    """The instruction of (payment, purpose, request key), or None (L19: there is at most one)."""
    found = select(
        connection,
        "i.payment_id = :payment AND i.purpose = :purpose AND i.request_key = :key",
        {"payment": payment_id, "purpose": purpose, "key": request_key},
    )
    return found[0] if found else None


def lock(connection: Connection, instruction_id: UUID) -> Instruction:
    """Lock one instruction (L17: work rows first; a group before its members). Raises LookupError."""
    found = select(
        connection,
        "i.id = :id OR i.id = (SELECT m.group_id FROM fleet.release_instructions m WHERE m.id = :id)",
        {"id": instruction_id},
        suffix="ORDER BY i.payment_id IS NOT NULL, i.id FOR UPDATE",
    )
    if not found or found[-1].id != instruction_id:
        raise LookupError(f"there is no release instruction {instruction_id}")
    if found[-1].is_group:  # who its members are is only known once its lock is held
        return select(connection, "i.id = :id", {"id": instruction_id})[0]
    return found[-1]


def lock_paid(connection: Connection, instruction: Instruction) -> list[Instruction]:
    """The instructions whose amounts it pays, by payment id: a group's members, locked, or itself.

    The caller holds the lock of ``instruction``.
    """
    if not instruction.is_group:
        return [instruction]
    return select(
        connection, "i.group_id = :id", {"id": instruction.id}, suffix="ORDER BY i.payment_id, i.id FOR UPDATE"
    )


def lock_leased(connection: Connection, leased: Instruction) -> Instruction | None:
    """Lock an instruction again after its I/O; None if the lease ran out and another process has it (L15)."""
    now = lock(connection, leased.id)
    return now if now.lease_token == leased.lease_token and now.state == leased.state else None


def lease(connection: Connection, where: str, parameters: dict[str, Any], limit: int) -> list[Instruction]:
    """Lease at most ``limit`` due instructions that satisfy ``where``, the longest due first."""
    rows = connection.execute(
        text(
            f"""
            WITH due AS (
                SELECT w.id FROM fleet.release_instructions w
                WHERE w.run_after <= clock_timestamp()
                  AND (w.lease_until IS NULL OR w.lease_until <= clock_timestamp())
                  AND w.group_id IS NULL AND {where}
                ORDER BY w.run_after, w.id LIMIT :limit FOR UPDATE SKIP LOCKED
            )
            UPDATE fleet.release_instructions i
            SET lease_token = :token, lease_until = clock_timestamp() + make_interval(secs => :seconds)
            FROM due WHERE i.id = due.id RETURNING {_COLUMNS}
            """  # noqa: S608
        ),
        {**parameters, "limit": limit, "token": uuid4(), "seconds": LEASE_SECONDS},
    )
    return [read_row(row) for row in rows]


def move(connection: Connection, instruction: Instruction, target: InstructionState, **columns: Any) -> None:
    """Move an instruction, a group with its members, end its lease and its waiting, set ``columns``. Raises MoveRefused."""
    require_move(instruction.state, target)
    settings = "".join(f", {name} = :{name}" for name in columns)
    changed = connection.execute(
        text(
            f"""
            UPDATE fleet.release_instructions
            SET state = :target, held_reason = NULL, attempts = 0, run_after = clock_timestamp(),
                lease_token = NULL, lease_until = NULL, updated_at = clock_timestamp(){settings}
            WHERE id = :id AND state = :source
            """  # noqa: S608
        ),
        {**columns, "target": target, "id": instruction.id, "source": instruction.state},
    )
    if changed.rowcount != 1:
        raise MoveRefused(f"instruction {instruction.id} is no longer {instruction.state}")
    if instruction.is_group:
        times = {name: value for name, value in columns.items() if name in _TIMES}
        connection.execute(
            text(
                f"""
                UPDATE fleet.release_instructions
                SET state = :target, updated_at = clock_timestamp(){"".join(f", {name} = :{name}" for name in times)}
                WHERE group_id = :id
                """  # noqa: S608
            ),
            {**times, "target": target, "id": instruction.id},
        )


def hold(connection: Connection, instruction: Instruction, reason: str) -> None:
    """Leave an instruction in its state with the reason why it waits, look again later, and end the lease."""
    connection.execute(
        text(
            """
            UPDATE fleet.release_instructions
            SET held_reason = :reason, attempts = attempts + 1, lease_token = NULL, lease_until = NULL,
                run_after = clock_timestamp() + make_interval(secs => :seconds), updated_at = clock_timestamp()
            WHERE id = :id AND state = :state AND lease_token IS NOT DISTINCT FROM :token
            """
        ),
        {
            "id": instruction.id,
            "state": instruction.state,
            "token": instruction.lease_token,
            "reason": reason[:REASON_CHARACTERS],
            "seconds": min(HOLD_MAXIMUM_SECONDS, backoff_seconds(instruction.attempts + 1)),
        },
    )


def set_epoch(connection: Connection, instruction_id: UUID, epoch: int) -> None:
    """The epoch of its book that an instruction is judged at from now on (R12)."""
    connection.execute(
        text("UPDATE fleet.release_instructions SET release_epoch = :epoch WHERE id = :id"),
        {"id": instruction_id, "epoch": epoch},
    )


def note(connection: Connection, instruction_id: UUID, reason: str) -> None:
    """Say for people what an instruction waits for, whatever is being done with it."""
    connection.execute(
        text("UPDATE fleet.release_instructions SET held_reason = :reason WHERE id = :id"),
        {"id": instruction_id, "reason": reason[:REASON_CHARACTERS]},
    )


def replace_bytes(connection: Connection, instruction: Instruction, unsigned: UnsignedTransaction) -> None:
    """The payout's newest transaction, of the same intent, which its digests keep beside the older ones (R1)."""
    connection.execute(
        text(
            """
            UPDATE fleet.release_instructions
            SET unsigned_bytes = :bytes, signing_hash = :hash, max_total_fee_wei = :fee, rejected_reason = NULL,
                updated_at = clock_timestamp()
            WHERE id = :id
            """
        ),
        {
            "id": instruction.id,
            "bytes": unsigned.signing_bytes(),
            "hash": unsigned.signing_hash(),
            "fee": unsigned.max_total_fee_wei,
        },
    )


def pay_from(connection: Connection, instruction: Instruction, treasury: str) -> Instruction:
    """Let a drafted instruction, which has promised nothing yet, pay from where its coins lie now (R22)."""
    if instruction.treasury == treasury:
        return instruction
    connection.execute(
        text("UPDATE fleet.release_instructions SET treasury = :treasury WHERE id = :id AND state = 'drafted'"),
        {"id": instruction.id, "treasury": treasury},
    )
    return replace(instruction, treasury=treasury)


def due_now(connection: Connection, instruction_id: UUID) -> None:
    """Let an instruction be looked at by the next round, whatever it waited for."""
    connection.execute(
        text("UPDATE fleet.release_instructions SET run_after = clock_timestamp(), attempts = 0 WHERE id = :id"),
        {"id": instruction_id},
    )


def let_go(connection: Connection, instruction: Instruction) -> None:
    """End a lease and its waiting; the instruction is due as before."""
    connection.execute(
        text(
            "UPDATE fleet.release_instructions "
            "SET lease_token = NULL, lease_until = NULL, held_reason = NULL, attempts = 0 "
            "WHERE id = :id AND lease_token = :token"
        ),
        {"id": instruction.id, "token": instruction.lease_token},
    )


def now(connection: Connection) -> datetime:
    """The database's clock: the only one that instruction times are taken from."""
    return connection.execute(text("SELECT clock_timestamp()")).scalar_one()

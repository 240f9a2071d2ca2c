"""Looks: which transactions the watcher has to read from the chain, and what came of each.

A look is a hint (design §5): it says where to look and nothing about money. One row a transaction.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.store.work import backoff_seconds, bury

LookState = Literal["seen", "nothing_of_ours"]

QUEUE: Final = "watcher"
"""The name under which an operator finds the watcher's dead work."""

MISSING_ATTEMPTS: Final = 300
"""Tries until a transaction that no block holds is given up: about 24 hours with backoff_seconds."""

HASH: Final = re.compile(r"0x[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Look:
    """One transaction to look at. ``version`` changes with every write to its row."""

    id: UUID
    transaction_hash: str
    payment_id: UUID | None
    attempts: int
    version: str

    @property
    def is_well_formed(self) -> bool:
        """Whether the hash can be asked for at all; one that cannot would spoil a whole batched request."""
        return HASH.fullmatch(self.transaction_hash) is not None


def request_look(
    connection: Connection,
    chain_id: int,
    transaction_hash: str,
    *,
    requested_by: str,
    payment_id: UUID | None = None,
) -> None:
    """Ask the watcher to read a transaction, now, also if it has read it before."""
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_looks (chain_id, transaction_hash, payment_id, requested_by)
            VALUES (:chain_id, :hash, :payment_id, :by)
            ON CONFLICT (chain_id, transaction_hash) DO UPDATE SET
                state = 'due', run_after = clock_timestamp(), updated_at = clock_timestamp(),
                attempts = CASE fleet.chain_looks.state WHEN 'due' THEN fleet.chain_looks.attempts ELSE 0 END,
                payment_id = coalesce(fleet.chain_looks.payment_id, excluded.payment_id)
            """
        ),
        {
            "chain_id": chain_id,
            "hash": transaction_hash.lower(),
            "payment_id": payment_id,
            "by": requested_by,
        },
    )


def request_looks(
    connection: Connection, chain_id: int, wanted: Mapping[str, UUID | None], *, requested_by: str
) -> None:
    """The same for many transactions at once, each hash with the payment it may be for; answered in this order."""
    if not wanted:
        return
    hashes = list(wanted)
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_looks AS l (chain_id, transaction_hash, payment_id, requested_by)
            SELECT :chain_id, w.hash, w.payment_id, :by
            FROM unnest(CAST(:hashes AS text[]), CAST(:payments AS uuid[])) AS w (hash, payment_id)
            ON CONFLICT (chain_id, transaction_hash) DO UPDATE SET
                state = 'due', run_after = clock_timestamp(), updated_at = clock_timestamp(),
                attempts = CASE l.state WHEN 'due' THEN l.attempts ELSE 0 END,
                payment_id = coalesce(l.payment_id, excluded.payment_id)
            """
        ),
        {"chain_id": chain_id, "by": requested_by, "hashes": hashes, "payments": [wanted[each] for each in hashes]},
    )


def due_looks(connection: Connection, chain_id: int, limit: int) -> list[Look]:
    """The looks that are due, oldest first. Not locked: a chain has one watcher."""
    rows = connection.execute(
        text(
            """
            SELECT id, lower(transaction_hash) AS transaction_hash, payment_id, attempts,
                xmin::text AS version
            FROM fleet.chain_looks
            WHERE state = 'due' AND run_after <= clock_timestamp() AND chain_id = :chain_id
            ORDER BY run_after, id LIMIT :limit
            """
        ),
        {"chain_id": chain_id, "limit": limit},
    )
    return [Look(row.id, row.transaction_hash, row.payment_id, row.attempts, row.version) for row in rows]


def lock_looks(connection: Connection, looks: Sequence[Look]) -> set[UUID]:
    """Lock the looks' rows by id (L17: work rows first); return the ids of those that nobody asked for again since.

    Of the others, what was read from the chain may be older than the question: they are still due.
    """
    rows = connection.execute(
        text(
            """
            SELECT l.id FROM fleet.chain_looks l
            JOIN unnest(CAST(:ids AS uuid[]), CAST(:versions AS text[])) AS w (id, version) ON w.id = l.id
            WHERE l.state = 'due' AND l.xmin::text = w.version ORDER BY l.id FOR UPDATE OF l
            """
        ),
        {"ids": [look.id for look in looks], "versions": [look.version for look in looks]},
    )
    return {*rows.scalars()}


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the chain answered to a look; ``outcome`` says it in words for an operator."""

    look: Look
    state: LookState
    outcome: str


def conclude(connection: Connection, conclusions: Sequence[Conclusion]) -> None:
    """Write what the chain has answered, and take what an operator was shown about these looks back."""
    if not conclusions:
        return
    connection.execute(
        text(
            """
            UPDATE fleet.chain_looks l
            SET state = c.state, outcome = c.outcome, last_error = NULL, updated_at = clock_timestamp()
            FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[]), CAST(:outcomes AS text[])) AS c (id, state, outcome)
            WHERE l.id = c.id
            """
        ),
        {
            "ids": [each.look.id for each in conclusions],
            "states": [each.state for each in conclusions],
            "outcomes": [each.outcome for each in conclusions],
        },
    )
    tried = [str(each.look.id) for each in conclusions if each.look.attempts]
    if tried:
        connection.execute(
            text(
                """
                UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = 'watcher'
                WHERE queue = :queue AND subject_kind = 'chain_look' AND subject_id = ANY(:ids)
                    AND resolved_at IS NULL
                """
            ),
            {"queue": QUEUE, "ids": tried},
        )


def try_later(connection: Connection, look: Look, why: str, *, start_over: bool = False) -> None:
    """The chain has no answer yet: look again later, and give up after MISSING_ATTEMPTS.

    ``start_over``: the transaction was seen before and a reorganisation took it; it gets all the time again.
    """
    attempts = 1 if start_over else look.attempts + 1
    if attempts >= MISSING_ATTEMPTS:
        give_up(connection, look, why)
        return
    connection.execute(
        text(
            """
            UPDATE fleet.chain_looks
            SET attempts = :attempts, last_error = :why, updated_at = clock_timestamp(),
                run_after = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id = :id AND state = 'due'
            """
        ),
        {"id": look.id, "attempts": attempts, "why": why[:2000], "seconds": backoff_seconds(attempts)},
    )


def give_up(connection: Connection, look: Look, why: str) -> None:
    """Stop looking and show it to an operator. A new request starts it again."""
    connection.execute(
        text(
            """
            UPDATE fleet.chain_looks SET state = 'missing', outcome = :why, last_error = :why,
                attempts = attempts + 1, updated_at = clock_timestamp()
            WHERE id = :id
            """
        ),
        {"id": look.id, "why": why[:2000]},
    )
    bury(
        connection,
        queue=QUEUE,
        subject_kind="chain_look",
        subject_id=look.id,
        payment_id=look.payment_id,
        reason=f"transaction {look.transaction_hash[:80]}: {why}",
        unblocks="find the transaction in a block explorer; once it is mined, ask for a look at it again",
        attempts=look.attempts + 1,
    )

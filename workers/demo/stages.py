"""How far a demo's payments have come, counted in the database, and what stands in the way of those that wait."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final
from uuid import UUID

from sqlalchemy import Engine, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from custody.payments.story import tell

STAGES: Final = ("detected", "held", "swept", "approved", "signed", "released", "mirrored")

_COUNTS = text(
    """
    SELECT
      (SELECT count(DISTINCT payment_id) FROM public.funds_ledger_entries
       WHERE payment_id = ANY(:ids) AND entry_type = 'payment_detected') AS detected,
      (SELECT count(*) FROM public.payments
       WHERE id = ANY(:ids) AND escrow_state IN ('funded', 'releasable', 'releasing', 'released')) AS held,
      (SELECT count(DISTINCT payment_id) FROM public.funds_ledger_entries
       WHERE payment_id = ANY(:ids) AND entry_type = 'adjustment' AND reason = 'sweep') AS swept,
      (SELECT count(DISTINCT payment_id) FROM fleet.release_instructions
       WHERE payment_id = ANY(:ids) AND state IN ('ready', 'handed_out', 'signed', 'broadcast', 'final')) AS approved,
      (SELECT count(DISTINCT payment_id) FROM fleet.release_instructions
       WHERE payment_id = ANY(:ids) AND state IN ('signed', 'broadcast', 'final')) AS signed,
      (SELECT count(*) FROM public.payments WHERE id = ANY(:ids) AND escrow_state = 'released') AS released,
      (SELECT count(*) FROM public.payments p WHERE id = ANY(:ids) AND escrow_state = 'released' AND NOT EXISTS (
          SELECT FROM fleet.outbox o WHERE o.queue = 'mirror' AND (o.document_id = p.id OR o.document_id IN (
              SELECT e.id FROM public.funds_ledger_entries e WHERE e.payment_id = p.id)))) AS mirrored
    """
).bindparams(bindparam("ids", type_=ARRAY(PG_UUID)))


class DemoStalled(Exception):
    """No payment came any further within the stall limit. The message tells what the first waiting one waits for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """``poll_seconds`` between counts; given up after ``stall_seconds`` in which no count rose."""

    poll_seconds: float = 0.25
    stall_seconds: float = 120.0


def count_stages(engine: Engine, payments: Collection[UUID]) -> Mapping[str, int]:
    """How many of ``payments`` have reached each stage."""
    with engine.connect() as connection:
        row = connection.execute(_COUNTS, {"ids": list(payments)}).one()
    return {stage: getattr(row, stage) for stage in STAGES}


def watch(
    engine: Engine,
    payments: Collection[UUID],
    until: str,
    report: Callable[[Mapping[str, int]], None],
    pause: Callable[[float], None],
    pace: Pace = Pace(),
) -> None:
    """Report the counts until every payment has reached stage ``until``. Raises DemoStalled."""
    best: Mapping[str, int] = {}
    moved = monotonic()
    while True:
        counts = count_stages(engine, payments)
        report(counts)
        if counts[until] >= len(payments):
            return
        if counts != best:
            best, moved = counts, monotonic()
        elif monotonic() - moved > pace.stall_seconds:
            raise DemoStalled(_first_wait(engine, payments, pace.stall_seconds))
        pause(pace.poll_seconds)


def _first_wait(engine: Engine, payments: Collection[UUID], seconds: float) -> str:
    with engine.connect() as connection:
        for payment in payments:
            story = tell(connection, payment)
            if story.waits:
                wait = story.waits[0]
                return (
                    f"nothing moved for {seconds:.0f} s. Payment {payment} waits for {wait.what}; "
                    f"unblocked by {wait.unblocks}. See: fleet explain {payment}"
                )
    return f"nothing moved for {seconds:.0f} s, though no payment waits; see the logs in the state folder"

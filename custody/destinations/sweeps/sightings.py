"""What a round's one look at the chain says of transactions of ours."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, text

from custody.chain import Receipt, ReceiptsAndHeaders
from custody.chain.lanes import LaneTransaction
from custody.destinations.sweeps import sending
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.strategy import SweepRound

OPEN_TRANSACTIONS: Final = frozenset({"intent", "signed", "broadcast"})


def receipt_of(row: LaneTransaction, seen: ReceiptsAndHeaders) -> Receipt | None:
    """The receipt of the intent itself, at whichever fees; a cancel of its nonce is its lane's to settle."""
    return next((found for each in row.hashes if each not in row.cancels and (found := seen.canonical(each))), None)


def came_to_nothing(row: LaneTransaction) -> bool:
    """Cancelled, or its nonce was taken: it brought nothing."""
    return row.state == "failed" or row.transaction_hash in row.cancels


def stale_before_of(work: SweepRound, seen: ReceiptsAndHeaders) -> datetime | None:
    """What a destination sent before this moment, and is in no block, is sent again."""
    number = seen.head.number - sending.REBROADCAST_AFTER_BLOCKS
    header = work.client.header(number) if number > 0 else None
    return None if header is None else datetime.fromtimestamp(header.timestamp, UTC)


def is_quarantined(connection: Connection, job: SweepJob) -> bool:
    """Whether people hold the job's destination back; its row is locked."""
    status = connection.execute(
        text("SELECT status::text FROM public.derived_destinations WHERE id = :id FOR UPDATE"),
        {"id": job.destination_id},
    ).scalar_one()
    return status == "quarantined"

"""What new rows need that their documents do not say, and documents that must not make one."""

from typing import Any, Final

from sqlalchemy import Connection, text

from custody.ledger.seals import hold_sealer_back
from custody.mirror.backfill.targets import Target
from custody.mirror.collections.document import Rows, Unmappable
from custody.store import models

LEDGER: Final = "fundsledgerentries"
_POSTED: Final = ("bookSeq", "entryHash", "bookKind")
_STAMP: Final = text(
    """
    UPDATE public.derived_destinations d SET updated_at = n.updated_at
    FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS n(id, updated_at) WHERE d.id = n.id
    """
)


class MoneyChanged(Unmappable):
    """What only the fleet writes stands otherwise in MongoDB (R7)."""


def is_ledger_closed(connection: Connection, target: Target) -> bool:
    """Whether older entries can join the ledger no more; until this transaction ends, no seal is made.

    Entries of before the fleet have no transaction number and stand under the first seal: one that comes later would
    make that seal false.
    """
    return target.collection == LEDGER and not hold_sealer_back(connection)


def complete(target: Target, rows: Rows) -> Rows:
    """The rows of a document that has none yet, ready to be inserted. Raises Unmappable."""
    if target.table == "public.derived_destinations":
        _refuse_other_totals(rows)
        # Its triggers add the sweeps up as they are inserted.
        rows.columns |= {"sweep_count": 0, "total_swept": 0}
        if rows.columns["status"] == "quarantined":
            rows.columns["quarantine_reason"] = "quarantined in MongoDB, before it was brought over"
    return rows


EXTRA: Final = {"deriveddestinations": ("quarantine_reason",)}
"""Columns of new rows that no field reaches."""


def restore_stamps(connection: Connection, target: Target, made: list[tuple[Any, Rows]]) -> None:
    """The trigger that adds sweeps up says when it did; the document says when it was changed. ``made``: (id, rows) each."""
    if target.table != "public.derived_destinations":
        return
    swept = [(row_id, rows) for row_id, rows in made if rows.children.get(models.DerivedDestinationSweep)]
    if swept:
        times = [rows.columns["updated_at"] for _, rows in swept]
        connection.execute(_STAMP, {"ids": [row_id for row_id, _ in swept], "times": times})


def refuse_entry(raw: dict[str, Any], *, ledger_closed: bool) -> None:
    """Refuse a ledger entry that has no row yet and may not have one any more. Raises MoneyChanged, Unmappable."""
    for name in _POSTED:
        if raw.get(name) is not None:
            raise MoneyChanged(
                name, "expected an entry of before the fleet; this says post_entry() made it, and Postgres has none"
            )
    if ledger_closed:
        raise Unmappable(
            "_id", "expected it before the ledger's first seal, which covers all entries of before the fleet; book it by an "
            "adjustment (fleet ledger adjust)"
        )  # fmt: skip


def _refuse_other_totals(rows: Rows) -> None:
    sweeps = rows.children.get(models.DerivedDestinationSweep, [])
    total = sum(int(sweep["amount"]) for sweep in sweeps)
    for field, column, expected in (("sweepCount", "sweep_count", len(sweeps)), ("totalSwept", "total_swept", total)):
        if int(rows.columns[column]) != expected:
            raise Unmappable(field, f"expected {expected}, as its sweeps add up to, got {int(rows.columns[column])}")

"""The ledger as a file: every entry once, streamed, amounts as exact decimal text.

Rows come in the order (tx_id, id), as the seals take them: an export of the same entries is the same bytes.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

Format = Literal["csv", "jsonl"]

ROWS_AT_ONCE: Final = 1_000  # of the server-side cursor: what one export holds in memory, some 2 MB
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")

COLUMNS: Final = (
    "id", "created_at", "book_kind", "book_id", "payment_id", "book_seq", "entry_type", "reason", "debit", "credit",
    "amount", "currency", "chain_id", "token", "debit_address", "credit_address", "poster_role", "fact_id",
    "transaction_hash", "instruction_id", "reverses_entry_id", "idempotency_key", "tx_id", "entry_hash", "evidence",
)  # fmt: skip

_WHICH: Final = """
    FROM public.funds_ledger_entries e LEFT JOIN fleet.chain_facts f ON f.id = e.fact_id
    WHERE e.book_id IS NOT NULL
      AND (CAST(:since AS timestamptz) IS NULL OR e.created_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR e.created_at < :until)
      AND (CAST(:chain AS bigint) IS NULL OR e.chain_id = :chain)
"""
# Everything as text: no driver turns a number into something inexact on its way.
_ROWS = text(
    f"""
    SELECT e.id::text, to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
        e.book_kind, e.book_id::text, e.payment_id::text, e.book_seq, e.entry_type::text, e.reason, e.debit, e.credit,
        trim_scale(e.amount)::text AS amount, e.currency, e.chain_id, e.token, e.debit_address, e.credit_address,
        e.poster_role, e.fact_id::text, f.transaction_hash, e.instruction_id::text, e.reverses_entry_id::text,
        e.idempotency_key, e.tx_id, encode(e.entry_hash, 'hex') AS entry_hash, e.metadata::text AS evidence
    {_WHICH} ORDER BY e.tx_id, e.id
    """
)
_COUNT = text(f"SELECT count(*) {_WHICH}")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: made at or after ``since`` and before ``until``, on one chain; None for no limit."""

    since: datetime | None = None
    until: datetime | None = None
    chain_id: int | None = None

    def _values(self) -> dict[str, Any]:
        return {"since": self.since, "until": self.until, "chain": self.chain_id}


def count(connection: Connection, selection: Selection) -> int:
    """How many entries an export of ``selection`` has."""
    return connection.execute(_COUNT, selection._values()).scalar_one()


def export(connection: Connection, selection: Selection, format_: Format) -> Iterator[str]:
    """The lines of the file, each with its line end; CSV begins with the names of the columns (RFC 4180).

    At most ROWS_AT_ONCE rows are held, however many there are.
    """
    line = _csv_line if format_ == "csv" else _json_line
    if format_ == "csv":
        yield _csv_line(COLUMNS)
    options = {"stream_results": True, "yield_per": ROWS_AT_ONCE}
    with connection.execute(_ROWS, selection._values(), execution_options=options) as rows:
        for row in rows:
            yield line(tuple(row))


def safe_cell(value: object) -> str:
    """``value`` as a cell that no spreadsheet runs: what begins like a formula gets an apostrophe before it."""
    cell = "" if value is None else str(value)
    return "'" + cell if cell.startswith(FORMULA_STARTS) else cell


def _csv_line(values: tuple[object, ...]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written).writerow([safe_cell(value) for value in values])
    return written.getvalue()


def _json_line(values: tuple[object, ...]) -> str:
    row = dict(zip(COLUMNS, values, strict=True))
    row["evidence"] = json.loads(str(row["evidence"] or "{}"), parse_float=str)
    return json.dumps(row, ensure_ascii=False) + "\n"

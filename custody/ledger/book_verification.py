"""Every book recomputed from its entries: hashes, links, sequence, balances (design §4).

Books are read in the order of their key, a few hundred balance rows at a time, with the entries between them: memory is
bounded whatever the ledger's size, and entries of a book without a balance row are seen too.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import sql
from sqlalchemy import Connection, text

from custody.ledger.accounts import ACCOUNTS, DEBIT_ACCOUNTS
from custody.ledger.canonical import NO_HASH, PLACE, EntryRow, read_entries
from custody.ledger.verification_report import PROGRESS_EVERY, Problem, Progress, Report

_BOOKS_AT_ONCE: Final = 500
_DECIMALS: Final = 18  # numeric(38, 18)

_BALANCES: Final = """
    SELECT b.book_kind, b.book_id, b.chain_id, b.token, b.is_primary, b.release_epoch, b.seq,
           encode(b.head_hash, 'hex') AS head_hash,
           CASE WHEN isfinite(b.updated_at) THEN (extract(epoch FROM b.updated_at) * 1000000)::bigint ELSE -1 END
               AS updated_at,
           b.book_kind = 'house' OR EXISTS (
               SELECT FROM fleet.payment_routes r
               WHERE r.payment_id = b.book_id AND r.chain_id = b.chain_id AND r.token = b.token) AS should_be_primary,
           {amounts}
    FROM fleet.ledger_balances b WHERE num_nulls(b.book_id, b.chain_id, b.token) = 0 AND {after} AND {touched}
    ORDER BY b.book_id, b.chain_id, b.token LIMIT :limit
""".replace("{amounts}", ", ".join(f"trim_scale(b.{account})::text AS {account}" for account in ACCOUNTS))
_AFTER: Final = "(b.book_id, b.chain_id, b.token) > (CAST(:book_id AS uuid), CAST(:chain_id AS bigint), :token)"
_TOUCHED: Final = """EXISTS (
    SELECT FROM public.funds_ledger_entries n
    WHERE (n.book_id, n.chain_id, n.token) = (b.book_id, b.chain_id, b.token) AND n.tx_id >= :since_tx)"""
_TOUCHED_ENTRIES: Final = """EXISTS (
    SELECT FROM public.funds_ledger_entries n
    WHERE (n.book_id, n.chain_id, n.token) = (e.book_id, e.chain_id, e.token) AND n.tx_id >= {})"""
_KEY: Final = sql.SQL("(e.book_id, e.chain_id, e.token)")


class BookKey(NamedTuple):
    """A book and its asset, as text."""

    book_id: str
    chain_id: str
    token: str

    def __str__(self) -> str:
        return f"{self.book_id} (chain {self.chain_id}, token {self.token})"


def verify_books(connection: Connection, report: Report, progress: Progress, since_tx: int | None) -> None:
    """Recompute every book, or with ``since_tx`` every book that has an entry of that transaction or a later one."""
    lower: BookKey | None = None
    while True:
        balances = _balances(connection, lower, since_tx)
        keys = list(balances)
        upper = keys[-1] if len(keys) == _BOOKS_AT_ONCE else None
        for key, book in _books(connection, lower, upper, since_tx, report, progress):
            book.compare(balances.pop(key, None), report)
        for key, row in balances.items():
            _Book(key).compare(row, report)
        if upper is None:
            return
        lower = upper


def _balances(connection: Connection, lower: BookKey | None, since_tx: int | None) -> dict[BookKey, Any]:
    statement = _BALANCES.replace("{after}", "true" if lower is None else _AFTER)
    statement = statement.replace("{touched}", "true" if since_tx is None else _TOUCHED)
    parameters: dict[str, Any] = {"limit": _BOOKS_AT_ONCE}
    if lower is not None:
        parameters |= lower._asdict()
    if since_tx is not None:
        parameters["since_tx"] = since_tx
    rows = connection.execute(text(statement), parameters)
    return {BookKey(str(row.book_id), str(row.chain_id), row.token): row for row in rows}


def _books(
    connection: Connection,
    lower: BookKey | None,
    upper: BookKey | None,
    since_tx: int | None,
    report: Report,
    progress: Progress,
) -> "Iterator[tuple[BookKey, _Book]]":
    """The books between two keys, each with all its entries added."""
    conditions: list[sql.Composable] = [sql.SQL("e.book_id IS NOT NULL")]
    for sign, key in ((sql.SQL(">"), lower), (sql.SQL("<="), upper)):
        if key is not None:
            bounds = sql.SQL("({}, {}, {})").format(
                sql.Literal(UUID(key.book_id)), sql.Literal(int(key.chain_id)), sql.Literal(key.token)
            )
            conditions.append(sql.SQL("{} {} {}").format(_KEY, sign, bounds))
    if since_tx is not None:
        conditions.append(sql.SQL(_TOUCHED_ENTRIES).format(sql.Literal(since_tx)))
    after_from = sql.SQL("WHERE {} ORDER BY e.book_id, e.chain_id, e.token, e.book_seq, e.id").format(
        sql.SQL(" AND ").join(conditions)
    )
    book: _Book | None = None
    told = report.entries
    for row in read_entries(connection, after_from):
        key = BookKey(*(row.text(name) or "" for name in BookKey._fields))
        if book is None or book.key != key:
            if book is not None:
                yield book.key, book
            book = _Book(key)
        book.add(row, report)
        report.entries += 1
        if report.entries - told >= PROGRESS_EVERY:
            progress(report.entries - told)
            told = report.entries
    if book is not None:
        yield book.key, book
    progress(report.entries - told)


def amount_units(amount: bytes | None) -> int | None:
    """An amount's text as a whole number of 10**-18, or None when it is no finite number."""
    whole, _, part = (amount or b"").partition(b".")
    try:
        return int(whole + part.ljust(_DECIMALS, b"0")) if len(part) <= _DECIMALS else None
    except ValueError:
        return None


def units_text(units: int) -> str:
    """The number as trim_scale() prints it: no trailing zeros."""
    whole, part = divmod(abs(units), 10**_DECIMALS)
    digits = f"{part:018d}".rstrip("0")
    return ("-" if units < 0 else "") + str(whole) + (f".{digits}" if digits else "")


_DEBIT_SIDE: Final = frozenset(account.encode() for account in DEBIT_ACCOUNTS)
_KNOWN: Final = frozenset(account.encode() for account in ACCOUNTS)
_MOVES_EPOCH: Final = frozenset({b"treasury", b"releasing", b"refunding"})
_SEQ, _DEBIT, _CREDIT, _AMOUNT, _KIND, _TYPE, _REVERSES, _CREATED_AT = (
    PLACE[name]
    for name in ("book_seq", "debit", "credit", "amount", "book_kind", "entry_type", "reverses_entry_id", "created_at")
)
_CONTENT_HASH, _PREV_HASH, _ENTRY_HASH = (PLACE[name] for name in ("content_hash", "prev_hash", "entry_hash"))


class _Book:
    """One book as its entries make it."""

    def __init__(self, key: BookKey) -> None:
        self.key = key
        self.kind: bytes | None = None
        self.seq = 0
        self.head = NO_HASH.hex().encode()
        self.units: Counter[bytes] = Counter()
        self.epoch = 0
        self.changed_at: bytes | None = None

    def add(self, row: EntryRow, report: Report) -> None:
        """Check the next entry against those before it."""
        fields = row.fields
        self._check_seq(row, report)
        if fields[_PREV_HASH] != self.head:
            self._say(report, row, "it does not link to the entry before it")
        content = row.content_hash()
        if fields[_CONTENT_HASH] != content.hex().encode():
            self._say(report, row, "its content was changed: the content hash does not fit")
        previous = fields[_PREV_HASH] or b""
        if fields[_ENTRY_HASH] != row.entry_hash(bytes.fromhex(previous.decode()), content).hex().encode():
            self._say(report, row, "it was changed: its hash does not fit")
        self.head = fields[_ENTRY_HASH] or b""
        self.changed_at = fields[_CREATED_AT]
        if self.kind is not None and fields[_KIND] != self.kind:
            self._say(report, row, "it is of another kind of book than the entry before it")
        self.kind = fields[_KIND]
        self._move(row, report)

    def _check_seq(self, row: EntryRow, report: Report) -> None:
        found = int(row.fields[_SEQ] or -1)
        if found > self.seq + 1:
            missing = f"{self.seq + 1}" if found == self.seq + 2 else f"{self.seq + 1} to {found - 1}"
            self._say(report, row, f"the entries before it are missing: seq {missing}")
        elif found <= self.seq:
            self._say(report, row, "its place in the book is taken")
        self.seq = found

    def _move(self, row: EntryRow, report: Report) -> None:
        debit, credit = row.fields[_DEBIT], row.fields[_CREDIT]
        units = amount_units(row.fields[_AMOUNT])
        if units is None or units <= 0:
            self._say(report, row, "its amount is no number above zero")
            return
        if debit is None or credit is None or debit == credit or not {debit, credit} <= _KNOWN:
            self._say(report, row, "its accounts are no two accounts of a book")
            return
        self.units[debit] += units if debit in _DEBIT_SIDE else -units
        self.units[credit] += -units if credit in _DEBIT_SIDE else units
        # L18, as post_entry() decides it.
        if (
            credit in _MOVES_EPOCH
            or debit == b"held"
            or row.fields[_TYPE] == b"dispute_hold"
            or row.fields[_REVERSES] is not None
        ):
            self.epoch += 1

    def compare(self, balance: Any, report: Report) -> None:
        """The balance row against what the entries add up to."""
        report.books += 1
        if balance is None:
            self._say(report, None, "it has entries and no balance row")
            return
        if self.kind is not None and str(balance.book_kind).encode() != self.kind:
            self._say(report, None, f"its balance row says that it is a {balance.book_kind} book")
        if balance.seq != self.seq:
            self._say(report, None, f"its balance row counts {balance.seq} entries, its last entry is {self.seq}")
        if (balance.head_hash or "").encode() != self.head:
            self._say(
                report, None, "its balance row's head is not its last entry's hash: the end was changed or cut off"
            )
        for account in ACCOUNTS:
            expected, found = units_text(self.units[account.encode()]), getattr(balance, account)
            if found != expected:
                self._say(report, None, f"its balance row says {account} {found}, its entries add up to {expected}")
        if balance.release_epoch != self.epoch:
            self._say(report, None, f"its balance row has release_epoch {balance.release_epoch}, not {self.epoch}")
        if balance.is_primary != balance.should_be_primary:
            self._say(report, None, "its balance row's is_primary does not fit the payment's route")
        if self.changed_at is not None and str(balance.updated_at).encode() != self.changed_at:
            self._say(report, None, "its balance row's updated_at is not its last entry's time")

    def _say(self, report: Report, row: EntryRow | None, what: str) -> None:
        if row is None:
            report.add(Problem(what, book=str(self.key)))
        else:
            report.add(Problem(what, row.text("id"), str(self.key), row.text("book_seq")))

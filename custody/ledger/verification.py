"""The whole ledger recomputed, from nothing but its rows and the public key (design §4, L22).

Hashes are made in Python: whoever can change rows can replace the database's functions too. What this finds: any changed,
added, removed, moved or swapped entry under a seal, any balance that its entries do not add up to, any changed, missing or
foreign seal. What it cannot find by itself is an end that was cut off together with its seals: for that, hold the newest
seal somewhere else and give it as ``held``. Of a balance row, ``dispute_open`` alone is not proven: no entry carries it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.ledger.book_verification import verify_books
from custody.ledger.canonical import EntryRow
from custody.ledger.merkle import root
from custody.ledger.seal_keys import PublicKeys
from custody.ledger.seals import Seal, leaves_bytes, read_window, seal_by_number, seals_after, split_leaves
from custody.ledger.verification_report import PROGRESS_EVERY, Problem, Progress, Report

_ENTRIES_AT_ONCE: Final = 20_000  # one query for the small seals of some minutes
_SEALS_AT_ONCE: Final = 500

_ONLY_BUILTIN: Final = text(
    "SELECT set_config('search_path', 'pg_catalog', true), set_config('client_encoding', 'UTF8', true)"
)
_LEAVES: Final = text("SELECT seal_no, leaves FROM fleet.ledger_seals WHERE seal_no = ANY(:numbers)")
_TAIL: Final = text(
    """
    SELECT count(*) FILTER (WHERE tx_id >= :sealed_to) AS unsealed,
           count(*) FILTER (WHERE book_id IS NULL) AS before_fleet
    FROM public.funds_ledger_entries
    """
)
_MALFORMED: Final = text(
    """
    SELECT id::text, book_id::text, book_seq::text FROM public.funds_ledger_entries
    WHERE num_nulls(book_id, book_kind, chain_id, token, reason, debit, credit, poster_role, book_seq, content_hash,
                    prev_hash, entry_hash, tx_id) NOT IN (0, 13)
    ORDER BY id LIMIT 1000
    """
)
_BALANCES_UNKEYED: Final = text(
    """
    SELECT book_id::text FROM fleet.ledger_balances GROUP BY book_id, chain_id, token
    HAVING count(*) > 1 OR num_nulls(book_id, chain_id, token) > 0 LIMIT 1000
    """
)
_FUTURE: Final = text(
    """
    SELECT id::text, book_id::text, book_seq::text FROM public.funds_ledger_entries
    WHERE tx_id >= greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                            coalesce(pg_current_xact_id_if_assigned()::text::bigint + 1, 0))
    ORDER BY tx_id LIMIT 1000
    """
)


class HeldSealRefused(Exception):
    """A seal that the caller holds is not signed by the caller's keys: there is nothing to compare with."""


def verify(
    connection: Connection,
    keys: PublicKeys,
    *,
    held: Sequence[Seal] = (),
    since: Seal | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Recompute the ledger as this transaction sees it (REPEATABLE READ, while the fleet runs).

    ``held``: seals kept outside the database, each of which must stand in it. ``since``: a seal up to which the ledger was
    verified before; then only later seals, and the books with a later entry, are read. Raises HeldSealRefused.
    """
    report = Report()
    connection.execute(_ONLY_BUILTIN)
    for seal in (*held, *(() if since is None else (since,))):
        if faults := seal.own_faults(keys):
            raise HeldSealRefused(f"the seal {seal.seal_no} that you hold: {'; '.join(faults)}")
        _compare_held(connection, seal, report)
    sealed_to = _verify_seals(connection, keys, since, report, progress)
    tail = connection.execute(_TAIL, {"sealed_to": sealed_to}).one()
    report.unsealed_entries, report.before_fleet = tail.unsealed, tail.before_fleet
    for book in connection.execute(_BALANCES_UNKEYED).scalars():
        report.add(Problem("it has a balance row too many, or one without a whole key", book=book))
    for statement, what in (
        (_MALFORMED, "it has some columns of the fleet's entries and lacks others"),
        (_FUTURE, "its transaction has not happened yet"),
    ):
        for row in connection.execute(statement):
            report.add(Problem(what, *row))
    verify_books(connection, report, progress, None if since is None else since.to_tx)
    return report


def _compare_held(connection: Connection, held: Seal, report: Report) -> None:
    found = seal_by_number(connection, held.seal_no)
    if found is None:
        report.add(Problem("you hold this seal and the database does not: an end was cut off", seal_no=held.seal_no))
    elif found != held:
        report.add(Problem("it is not the seal that you hold", seal_no=held.seal_no))


def _verify_seals(
    connection: Connection, keys: PublicKeys, since: Seal | None, report: Report, progress: Progress
) -> int:
    """Every seal after ``since``, and the entries of its window. Returns the end of the last window."""
    previous = since
    group: list[Seal] = []
    for seal in list_in_pages(connection, since):
        if seal.seal_no < 1:
            # Taken out of the chain: the number it had is missing further on.
            report.add(Problem("no seal has this number: it was changed", seal_no=seal.seal_no))
            continue
        for fault in seal.faults(previous, keys):
            report.add(Problem(fault, seal_no=seal.seal_no))
        report.seals += 1
        number, begins = (1, 0) if previous is None else (previous.seal_no + 1, previous.to_tx)
        if seal.seal_no > number:
            report.add(Problem(f"it is missing; the next one is {seal.seal_no}", seal_no=number))
        previous = seal
        if seal.from_tx != begins:
            _verify_windows(connection, group, report, progress)
            group = []
        if seal.from_tx < begins or seal.to_tx <= seal.from_tx:
            continue  # no window of its own that could be read
        group.append(seal)
        if sum(each.entries for each in group) >= _ENTRIES_AT_ONCE or len(group) >= _SEALS_AT_ONCE:
            _verify_windows(connection, group, report, progress)
            group = []
    _verify_windows(connection, group, report, progress)
    return 0 if previous is None else previous.to_tx


def list_in_pages(connection: Connection, since: Seal | None) -> Iterator[Seal]:
    """The seals after ``since``; with None every one, also of numbers that no seal should have."""
    return seals_after(connection, -(2**63) if since is None else since.seal_no)


def _verify_windows(connection: Connection, group: list[Seal], report: Report, progress: Progress) -> None:
    """The entries of neighbouring windows, read at once, each against its seal."""
    if not group:
        return
    numbers = [seal.seal_no for seal in group]
    stored: dict[int, Any] = {
        row.seal_no: bytes(row.leaves or b"") for row in connection.execute(_LEAVES, {"numbers": numbers})
    }
    at = 0
    found: list[tuple[EntryRow, bytes]] = []
    told = report.sealed_entries
    for row in read_window(connection, group[0].from_tx, group[-1].to_tx):
        while row.tx_id >= group[at].to_tx:
            _compare_window(group[at], found, stored[group[at].seal_no], report)
            found = []
            at += 1
        found.append((row, row.leaf()))
        report.sealed_entries += 1
        if report.sealed_entries - told >= PROGRESS_EVERY:
            progress(report.sealed_entries - told)
            told = report.sealed_entries
    for seal in group[at:]:
        _compare_window(seal, found, stored[seal.seal_no], report)
        found = []
    progress(report.sealed_entries - told)


def _compare_window(seal: Seal, found: list[tuple[EntryRow, bytes]], stored: bytes, report: Report) -> None:
    rows_fit = len(found) == seal.entries and root([leaf for _, leaf in found]) == seal.merkle_root
    if rows_fit and leaves_bytes([(row.key, leaf) for row, leaf in found]) == stored:
        return
    listed = split_leaves(stored)
    list_fits = (
        listed is not None and len(listed) == seal.entries and root([leaf for _, leaf in listed]) == seal.merkle_root
    )
    if rows_fit or not list_fits:
        report.add(Problem("its list of leaves was changed", seal_no=seal.seal_no))
    if rows_fit:
        return
    report.add(
        Problem(f"its window's {len(found)} entries are not the {seal.entries} that were sealed", seal_no=seal.seal_no)
    )
    if list_fits:
        _name_rows(seal, found, dict(listed or ()), report)


def _name_rows(seal: Seal, found: list[tuple[EntryRow, bytes]], listed: dict[bytes, bytes], report: Report) -> None:
    """Which entries differ, by the seal's list of leaves."""
    for row, leaf in found:
        sealed = listed.pop(row.key, None)
        if sealed == leaf:
            continue
        what = "it was not there when its window was sealed" if sealed is None else "it was changed after it was sealed"
        report.add(Problem(what, row.text("id"), row.text("book_id"), row.text("book_seq"), seal.seal_no))
    for entry in listed:
        report.add(Problem("it was sealed and is gone", _uuid_text(entry), seal_no=seal.seal_no))


def _uuid_text(entry: bytes) -> str:
    return str(UUID(bytes=entry))

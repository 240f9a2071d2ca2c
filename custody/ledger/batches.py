"""Many entries, few transactions: one refused entry costs itself, never its neighbours (L17, L21).

One attempt is one transaction without savepoints. If it is refused, the entries go again in chunks of 50, a savepoint
each, and the entries of a refused chunk one by one: only what is poison by itself is left out.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from custody.ledger.entries import BATCH_MAXIMUM, Entry, LedgerRefusal, Posted, post, post_together
from custody.store.engine import attempts, is_retryable, transaction

CHUNK: Final = 50  # small enough that few good entries are posted one by one for a bad one's sake

Outcome = Posted | LedgerRefusal


def post_batch(engine: Engine, entries: Sequence[Entry]) -> list[Outcome]:
    """Post any number of entries; returns what became of each, in their order.

    Each BATCH_MAXIMUM of them are one transaction, run again at most 5 times on a deadlock or a serialization failure
    (L17). What stands already is Posted with is_new False, so a caller that lost its connection posts again. Raises
    the database's error when it is none of the ledger's.
    """
    # L17's order, so that chunks of one batch never wait for each other's books; entries of one book keep theirs.
    order = sorted(range(len(entries)), key=lambda place: _lock_order(entries[place]))
    outcomes: dict[int, Outcome] = {}
    for start in range(0, len(order), BATCH_MAXIMUM):
        places = order[start : start + BATCH_MAXIMUM]
        outcomes |= zip(places, _post_some(engine, [entries[place] for place in places]), strict=True)
    return [outcomes[place] for place in range(len(entries))]


def _lock_order(entry: Entry) -> tuple[bool, UUID, int, str]:
    return entry.book_kind == "house", entry.book_id, entry.chain_id, entry.token


def _post_some(engine: Engine, entries: Sequence[Entry]) -> list[Outcome]:
    is_split = False
    for attempt in attempts():
        try:
            with transaction(engine) as connection:
                return _in_chunks(connection, entries) if is_split else [*post_together(connection, entries)]
        except LedgerRefusal:
            is_split = True
        except DBAPIError as error:
            if not is_retryable(error) or attempt == max(attempts()):
                raise
    # The last attempt was the first refusal: deadlocks took the others.
    with transaction(engine) as connection:
        return _in_chunks(connection, entries)


def _in_chunks(connection: Connection, entries: Sequence[Entry]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for start in range(0, len(entries), CHUNK):
        chunk = entries[start : start + CHUNK]
        try:
            with connection.begin_nested():
                outcomes += post_together(connection, chunk)
        except LedgerRefusal:
            outcomes += [_one(connection, entry) for entry in chunk]
    return outcomes


def _one(connection: Connection, entry: Entry) -> Outcome:
    try:
        with connection.begin_nested():
            return post(connection, entry)
    except LedgerRefusal as refusal:
        return refusal

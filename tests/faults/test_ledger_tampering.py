"""Somebody who rules the database changes the ledger: ``verify`` names every row (L22).

FLEET_TEST_COUNTS=full runs the declared count (L23).
"""

import sys
from collections import Counter
from decimal import Decimal
from typing import Final

import pytest
from sqlalchemy import Connection, text

from custody.ledger.verification import verify
from tests.conftest import Database
from tests.counts import Counts, declared
from tests.ledger_attacks import ATTACKS, BALANCES, ENTRIES, SEALS, TAIL_ATTACKS, Attacker
from tests.ledger_book import move
from tests.sealed_ledger import SealedLedger, sealed_ledger

MUTATIONS: Final = declared(10_000, 60)
TAIL_MUTATIONS: Final = MUTATIONS // 10
PAYMENTS: Final = 14

# An attacker takes away whatever would stop an attack: triggers, keys, checks, NOT NULL.
_UNGUARD: Final = f"""
DO $$
DECLARE found record;
BEGIN
    FOR found IN SELECT conrelid::regclass AS relation, conname FROM pg_constraint
                 WHERE contype IN ('c', 'f', 'u', 'p', 'n') AND (conrelid = ANY(ARRAY['{ENTRIES}', '{BALANCES}', '{SEALS}']::regclass[]))
                 ORDER BY array_position(ARRAY['f', 'c', 'u', 'p', 'n'], contype::text) LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', found.relation, found.conname);
    END LOOP;
    FOR found IN SELECT indexrelid::regclass AS relation FROM pg_index
                 WHERE indisunique AND indrelid = ANY(ARRAY['{ENTRIES}', '{BALANCES}', '{SEALS}']::regclass[]) LOOP
        EXECUTE format('DROP INDEX %s', found.relation);
    END LOOP;
END $$;
ALTER TABLE {ENTRIES} DISABLE TRIGGER ALL;
ALTER TABLE {BALANCES} DISABLE TRIGGER ALL;
ALTER TABLE {SEALS} DISABLE TRIGGER ALL;
"""


@pytest.fixture(scope="module")
def ledger(module_database: Database) -> SealedLedger:
    """A few hundred entries, all sealed, and a tail that is not; nothing guards the tables any more."""
    made = sealed_ledger(module_database, payments=PAYMENTS)
    for book in made.books:
        for amount in (3, 2):
            move(book, "seen", Decimal(amount), 0)
    with module_database.engine().begin() as connection:
        connection.execute(text(_UNGUARD))
    return made


def fingerprint(connection: Connection) -> list[str | None]:
    """All rows of the three tables, whatever their order."""
    return [
        connection.execute(
            text(f"SELECT md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM {table} AS t")
        ).scalar()
        for table in (ENTRIES, BALANCES, SEALS)
    ]


def drill(ledger: SealedLedger, count: int, *, sealed: bool) -> tuple[Counter[str], Counter[str], list[str]]:
    """``count`` attacks, each rolled back. Returns how many of each kind there were, were found, and the misses."""
    attacks = ATTACKS if sealed else TAIL_ATTACKS
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    missed: list[str] = []
    seed = 0
    with ledger.database.engine().connect() as connection:
        before = fingerprint(connection)
        connection.rollback()
        while tried.total() < count:
            seed += 1
            attack = attacks[seed % len(attacks)]
            with connection.begin() as transaction:
                targets = attack(Attacker(connection, seed, sealed=sealed))
                changed = fingerprint(connection) != before
                report = verify(connection, ledger.keys, held=ledger.seals[-1:])
                transaction.rollback()
            if not changed:
                continue
            tried[attack.__name__] += 1
            # Nobody has signed which entries the tail has: that it is wrong is all that can be said.
            if (targets and all(target.is_named(report) for target in targets)) if sealed else not report.ok:
                found[attack.__name__] += 1
            else:
                missed.append(
                    f"{attack.__name__} (seed {seed}): {targets} not in {list(map(str, report.problems[:5]))}"
                )
    return tried, found, missed


def test_untouched_it_is_whole(ledger: SealedLedger) -> None:
    with ledger.database.engine().connect() as connection:
        report = verify(connection, ledger.keys, held=ledger.seals)
    assert report.problems == []
    assert report.sealed_entries >= 150
    assert report.unsealed_entries == 2 * PAYMENTS
    assert report.entries == report.sealed_entries + report.unsealed_entries


def test_every_change_of_what_is_sealed_is_found_and_named(ledger: SealedLedger, counts: Counts) -> None:
    counts("changes of sealed rows, each found", MUTATIONS)
    tried, found, missed = drill(ledger, MUTATIONS, sealed=True)
    sys.stdout.write(f"tampering: {found.total()} of {tried.total()} found and named\n")
    assert missed == []
    assert set(tried) == {attack.__name__ for attack in ATTACKS}


@pytest.mark.parametrize("number", [1, 2])
def test_a_seal_with_a_number_below_the_first_is_missed_at_its_own(ledger: SealedLedger, number: int) -> None:
    with ledger.database.engine().connect() as connection:
        connection.execute(text(f"UPDATE {SEALS} SET seal_no = -999 WHERE seal_no = :n"), {"n": number})
        report = verify(connection, ledger.keys, held=ledger.seals[-1:])
        connection.rollback()
    assert {-999, number} <= {problem.seal_no for problem in report.problems}


def test_changes_of_the_unsealed_tail_are_counted_apart(ledger: SealedLedger) -> None:
    """Who recomputes every hash of an entry that is not signed yet is not found: the interval bounds how many there are."""
    tried, found, _ = drill(ledger, TAIL_MUTATIONS, sealed=False)
    sys.stdout.write(f"tampering with the unsealed tail: {found.total()} of {tried.total()} found\n")
    assert found["delete_an_entry"] == tried["delete_an_entry"] > 0

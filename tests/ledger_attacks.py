"""What somebody can do to a ledger who rules the database but does not have the sealer's key.

An attack runs on a superuser's connection with triggers and constraints gone, inside a transaction that is rolled back, and
says which rows a verification must name.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from custody.ledger.accounts import DEBIT_ACCOUNTS
from custody.ledger.merkle import root
from custody.ledger.seals import leaves_bytes, newest_seal, read_window, seal_by_number
from custody.ledger.verification_report import Report
from tests.sealed_ledger import new_key

ENTRIES: Final = "public.funds_ledger_entries"
BALANCES: Final = "fleet.ledger_balances"
SEALS: Final = "fleet.ledger_seals"
NOT_PROVEN: Final = {(BALANCES, "dispute_open")}
"""The one column of a balance row that no entry carries."""


@dataclass(frozen=True)
class Target:
    """A row that must be named: an entry's id, a book's id or a seal's number."""

    kind: str
    value: Any

    def is_named(self, report: Report) -> bool:
        for problem in report.problems:
            if self.kind == "entry" and problem.entry_id == str(self.value):
                return True
            if self.kind == "book" and problem.book is not None and problem.book.startswith(str(self.value)):
                return True
            if self.kind == "seal" and problem.seal_no == self.value:
                return True
        return False


Attack = Callable[["Attacker"], list[Target]]


class Attacker:
    """One attack's chances and hands."""

    def __init__(self, connection: Connection, seed: int, *, sealed: bool = True) -> None:
        self.connection = connection
        self.random = random.Random(seed)
        newest = newest_seal(connection)
        assert newest is not None
        self.newest = newest
        self.where = f"tx_id {'<' if sealed else '>='} {newest.to_tx}"

    def run(self, statement: str, **parameters: Any) -> list[Any]:
        result = self.connection.execute(text(statement), parameters)
        return list(result.all()) if result.returns_rows else []

    def entry(self, condition: str = "true") -> Any:
        """A random entry of the part that is attacked."""
        rows = self.run(f"SELECT * FROM {ENTRIES} WHERE {self.where} AND {condition} ORDER BY tx_id, id")
        return self.random.choice(rows)

    def two_entries(self, *, of_two_books: bool = False) -> tuple[Any, Any]:
        first = self.entry()
        return first, self.entry(f"id <> '{first.id}'" + (f" AND book_id <> '{first.book_id}'" if of_two_books else ""))

    def other_value(self, kind: str, old: Any) -> Any:
        """Another value of that type; sometimes the least that differs, sometimes nonsense, sometimes NULL."""
        choose = self.random
        if old is not None and choose.random() < 0.1:
            return None
        if kind.startswith("numeric"):
            step = choose.choice([Decimal(1), Decimal(-1), Decimal("1e-18"), Decimal("0.000001"), Decimal(1000)])
            return (
                choose.choice([(old or Decimal(0)) + step, Decimal("NaN")])
                if choose.random() < 0.1
                else (old or 0) + step
            )
        if kind in {"bigint", "integer"}:
            return (old or 0) + choose.choice([1, -1, 2, 1000, -1000])
        if kind == "bytea":
            return self._other_bytes(bytes(old or b""))
        if kind == "uuid":
            return uuid4()
        if kind == "boolean":
            return not old
        if kind == "timestamp with time zone":
            return (old or datetime.now(UTC)) + choose.choice([1, -1]) * timedelta(
                microseconds=choose.choice([1, 10**6])
            )
        if kind == "jsonb":
            return choose.choice(['{"forged": 1}', "{}", "[]", '{"threshold": "1"}'])
        if kind == "funds_ledger_entry_type":
            return choose.choice([name for name in ("hold", "release", "refund", "adjustment") if name != old])
        if kind == "ref_kind":
            return choose.choice([name for name in ("entity", "template") if name != old])
        assert kind == "text", kind
        return choose.choice([(old or "") + " ", (old or "") + "x", (old or "").swapcase() + "'", "", (old or "")[:-1]])

    def _other_bytes(self, old: bytes) -> bytes:
        if not old or self.random.random() < 0.2:
            return old[:-1] if old else b"\x00"
        at = self.random.randrange(len(old))
        return old[:at] + bytes([old[at] ^ (1 << self.random.randrange(8))]) + old[at + 1 :]

    def edit(self, table: str, key: str, key_value: Any, column: str | None = None) -> str:
        """Change one column of one row. Returns its name."""
        columns = {
            row.name: row.kind
            for row in self.run(
                "SELECT attname AS name, format_type(atttypid, NULL) AS kind FROM pg_attribute "
                "WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped",
                table=table,
            )
            if (table, row.name) not in NOT_PROVEN
        }
        chosen = column or self.random.choice(sorted(columns))
        old = self.run(f"SELECT {chosen} AS old FROM {table} WHERE {key} = :key", key=key_value)[0].old
        kind = columns[chosen].removeprefix("public.")
        new = self.other_value(kind, old)
        self.run(
            f"UPDATE {table} SET {chosen} = CAST(:new AS {columns[chosen]}) WHERE {key} = :key", new=new, key=key_value
        )
        return chosen

    def rehash(self, book: UUID) -> None:
        """Make the book consistent again: sequence, hashes, links, and a balance row that agrees."""
        units: Counter[str] = Counter()
        head, epoch, number, changed_at = bytes(32), 0, 0, None
        for row in self.run(f"SELECT * FROM {ENTRIES} WHERE book_id = :b ORDER BY book_seq, tx_id, id", b=book):
            number += 1
            head = self.run(
                f"""
                UPDATE {ENTRIES} SET book_seq = :n, prev_hash = :prev, content_hash = c.hash,
                    entry_hash = fleet.entry_hash(:prev, :n, id, c.hash, metadata, poster_role, created_at, tx_id)
                FROM (SELECT fleet.entry_content_hash(book_kind, book_id, chain_id, token, entry_type::text, reason, debit,
                        credit, amount, debit_address, credit_address, fact_id, instruction_id, reverses_entry_id,
                        idempotency_key) AS hash
                      FROM {ENTRIES} WHERE id = :id) AS c
                WHERE id = :id RETURNING entry_hash
                """,
                n=number, prev=head, id=row.id,
            )[0].entry_hash  # fmt: skip
            units[row.debit] += row.amount if row.debit in DEBIT_ACCOUNTS else -row.amount
            units[row.credit] += -row.amount if row.credit in DEBIT_ACCOUNTS else row.amount
            epoch += row.credit in {"treasury", "releasing", "refunding"} or row.debit == "held" or (
                row.entry_type == "dispute_hold" or row.reverses_entry_id is not None
            )  # fmt: skip
            changed_at = row.created_at
        accounts = ", ".join(f"{name} = :{name}" for name in units)
        self.run(
            f"UPDATE {BALANCES} SET seq = :seq, head_hash = :head, release_epoch = :epoch, updated_at = :at"
            f"{', ' + accounts if accounts else ''} WHERE book_id = :b",
            seq=number, head=head, epoch=epoch, at=changed_at or datetime.now(UTC), b=book, **units,
        )  # fmt: skip

    def reseal(self, number: int) -> None:
        """Make the seal fit its window as it is now, and the following fit it; signed by a key of the attacker's."""
        key = new_key()
        previous = seal_by_number(self.connection, number - 1)
        before = bytes(32) if previous is None else previous.seal_hash
        for at in range(number, self.newest.seal_no + 1):
            seal = seal_by_number(self.connection, at)
            assert seal is not None
            leaves = [(row.key, row.leaf()) for row in read_window(self.connection, seal.from_tx, seal.to_tx)]
            forged: Any = type(seal)(
                seal.seal_no, seal.from_tx, seal.to_tx, len(leaves), root([leaf for _, leaf in leaves]), before,
                seal.sealed_at, seal.key_id, b"", b"",
            )  # fmt: skip
            before = forged.computed_hash()
            self.run(
                f"UPDATE {SEALS} SET entries = :n, merkle_root = :root, prev_seal_hash = :prev, seal_hash = :hash, "
                "signature = :signature, leaves = :leaves WHERE seal_no = :no",
                n=len(leaves), root=forged.merkle_root, prev=forged.prev_seal_hash, hash=before,
                signature=key.sign(before), leaves=leaves_bytes(leaves), no=at,
            )  # fmt: skip

    def seal_of(self, tx_id: int) -> int:
        return self.run(f"SELECT seal_no FROM {SEALS} WHERE to_tx > :tx ORDER BY to_tx LIMIT 1", tx=tx_id)[0].seal_no


# Attacks -------------------------------------------------------------------------------------------------------------


def edit_an_entry(by: Attacker) -> list[Target]:
    row = by.entry()
    by.edit(ENTRIES, "id", row.id)
    return [Target("entry", row.id)]


def edit_an_amount_and_rehash_the_book(by: Attacker) -> list[Target]:
    row = by.entry()
    by.run(f"UPDATE {ENTRIES} SET amount = amount + 0.000001 WHERE id = :id", id=row.id)
    by.rehash(row.book_id)
    return [Target("entry", row.id)]


def edit_and_rehash_and_reseal(by: Attacker) -> list[Target]:
    row = by.entry()
    column = by.random.choice(["amount", "metadata", "idempotency_key", "currency", "credit_address", "seller_id"])
    by.edit(ENTRIES, "id", row.id, column)
    by.run(f"UPDATE {ENTRIES} SET amount = 1 WHERE amount IS NULL OR amount = 'NaN' OR amount <= 0")
    by.rehash(row.book_id)
    number = by.seal_of(row.tx_id)
    by.reseal(number)
    return [Target("seal", number)]


def delete_an_entry(by: Attacker) -> list[Target]:
    row = by.entry()
    by.run(f"DELETE FROM {ENTRIES} WHERE id = :id", id=row.id)
    return [Target("entry", row.id)]


def delete_an_entry_and_close_the_gap(by: Attacker) -> list[Target]:
    targets = delete_an_entry(by)
    for row in by.run(f"SELECT DISTINCT book_id FROM {ENTRIES} WHERE book_id IS NOT NULL"):
        by.rehash(row.book_id)
    return targets


def insert_a_forged_entry(by: Attacker) -> list[Target]:
    like = by.entry()
    forged = uuid4()
    seq = like.book_seq if by.random.random() < 0.5 else 10_000
    columns: list[str] = [row.attname for row in by.run(
        f"SELECT attname FROM pg_attribute WHERE attrelid = CAST('{ENTRIES}' AS regclass) AND attnum > 0 AND NOT attisdropped"
    )]  # fmt: skip
    other: dict[str, str] = {"id": ":id", "amount": "1.5", "idempotency_key": ":key", "book_seq": ":seq"}
    by.run(
        f"INSERT INTO {ENTRIES} ({', '.join(columns)}) SELECT {', '.join(other.get(name, name) for name in columns)} "
        f"FROM {ENTRIES} WHERE id = :like",
        id=forged, key=f"forged:{forged}", seq=seq, like=like.id,
    )  # fmt: skip
    by.rehash(like.book_id)
    return [Target("entry", forged)]


def double_an_entry(by: Attacker) -> list[Target]:
    row = by.entry()
    by.run(f"INSERT INTO {ENTRIES} SELECT * FROM {ENTRIES} WHERE id = :id", id=row.id)
    return [Target("entry", row.id)]


def _swap(by: Attacker, first: Any, second: Any, *columns: str) -> list[Target]:
    for row, other in ((first, second), (second, first)):
        by.run(
            f"UPDATE {ENTRIES} SET {', '.join(f'{name} = :{name}' for name in columns)} WHERE id = :id",
            id=row.id, **{name: getattr(other, name) for name in columns},
        )  # fmt: skip
    return [Target("entry", first.id), Target("entry", second.id)]


def reorder_in_a_book(by: Attacker) -> list[Target]:
    first = by.entry()
    second = by.entry(f"id <> '{first.id}' AND book_id = '{first.book_id}'")
    columns = by.random.choice(
        [("book_seq",), ("created_at",), ("book_seq", "created_at"), ("tx_id",), ("amount", "debit")]
    )
    targets = _swap(by, first, second, *columns)
    if by.random.random() < 0.5:
        by.rehash(first.book_id)
    return targets


def reorder_between_transactions(by: Attacker) -> list[Target]:
    first, second = by.two_entries()
    return _swap(by, first, second, "tx_id")


def swap_between_payments(by: Attacker) -> list[Target]:
    first, second = by.two_entries(of_two_books=True)
    columns = by.random.choice(
        [("book_id",), ("book_id", "payment_id"), ("payment_id",), ("book_id", "payment_id", "book_seq", "prev_hash"),
         ("amount",), ("seller_id", "purchase_request_id")]
    )  # fmt: skip
    targets = _swap(by, first, second, *columns)
    if by.random.random() < 0.5:
        by.rehash(first.book_id)
        by.rehash(second.book_id)
    return targets


def cut_off_the_end(by: Attacker) -> list[Target]:
    rows = by.run(f"SELECT id, book_id, tx_id FROM {ENTRIES} WHERE {by.where} ORDER BY tx_id DESC, id DESC")
    gone = rows[: by.random.randint(1, min(40, len(rows) - 1))]
    by.run(f"DELETE FROM {ENTRIES} WHERE id = ANY(:ids)", ids=[row.id for row in gone])
    if by.random.random() < 0.5:
        for book in {row.book_id for row in gone}:
            by.rehash(book)
    if by.random.random() < 0.5:
        return [Target("entry", row.id) for row in gone]
    # With its seals, so that everything left agrees: the seal that is held outside is missing.
    by.run(f"DELETE FROM {SEALS} WHERE to_tx > :tx", tx=gone[-1].tx_id)
    return [Target("seal", by.newest.seal_no)]


def edit_a_balance(by: Attacker) -> list[Target]:
    row = by.random.choice(by.run(f"SELECT book_id FROM {BALANCES} ORDER BY book_id"))
    by.edit(BALANCES, "book_id", row.book_id)
    return [Target("book", row.book_id)]


def move_a_balance(by: Attacker) -> list[Target]:
    rows = by.random.sample(by.run(f"SELECT book_id FROM {BALANCES} ORDER BY book_id"), 2)
    how = by.random.choice(["steal", "delete", "double", "empty"])
    first, second = (row.book_id for row in rows)
    if how == "steal":
        by.run(
            f"UPDATE {BALANCES} SET destination = destination + 1, detected = detected + 1 WHERE book_id = :b", b=first
        )
        by.run(
            f"UPDATE {BALANCES} SET destination = destination - 1, detected = detected - 1 WHERE book_id = :b", b=second
        )
        return [Target("book", first), Target("book", second)]
    if how == "delete":
        by.run(f"DELETE FROM {BALANCES} WHERE book_id = :b", b=first)
    elif how == "double":
        by.run(f"INSERT INTO {BALANCES} SELECT * FROM {BALANCES} WHERE book_id = :b", b=first)
    else:
        first = uuid4()
        by.run(
            f"INSERT INTO {BALANCES} (book_kind, book_id, chain_id, token, is_primary, held, treasury) "
            f"SELECT 'house', :b, chain_id, token, true, 5, 5 FROM {BALANCES} LIMIT 1",
            b=first,
        )
    return [Target("book", first)]


def edit_a_seal(by: Attacker) -> list[Target]:
    number = by.random.randint(1, by.newest.seal_no)
    by.edit(SEALS, "seal_no", number)
    return [Target("seal", number)]


def delete_a_seal(by: Attacker) -> list[Target]:
    number = by.random.randint(1, by.newest.seal_no)
    by.run(f"DELETE FROM {SEALS} WHERE seal_no = :n", n=number)
    return [Target("seal", number)]


def swap_two_seals(by: Attacker) -> list[Target]:
    first, second = by.random.sample(range(1, by.newest.seal_no + 1), 2)
    for old, new in ((first, -1), (second, first), (-1, second)):
        by.run(f"UPDATE {SEALS} SET seal_no = :new WHERE seal_no = :old", old=old, new=new)
    return [Target("seal", first), Target("seal", second)]


def merge_two_seals(by: Attacker) -> list[Target]:
    number = by.random.randint(1, by.newest.seal_no - 1)
    by.run(
        f"UPDATE {SEALS} SET to_tx = (SELECT to_tx FROM {SEALS} WHERE seal_no = :n + 1) WHERE seal_no = :n", n=number
    )
    by.run(f"DELETE FROM {SEALS} WHERE seal_no = :n + 1", n=number)
    by.run(f"UPDATE {SEALS} SET seal_no = seal_no - 1 WHERE seal_no > :n", n=number)
    by.newest = newest_seal(by.connection) or by.newest
    by.reseal(number)
    return [Target("seal", number)]


ATTACKS: Final[tuple[Attack, ...]] = (
    edit_an_entry, edit_an_entry, edit_an_entry, edit_an_amount_and_rehash_the_book, edit_and_rehash_and_reseal,
    delete_an_entry, delete_an_entry_and_close_the_gap, insert_a_forged_entry, double_an_entry, reorder_in_a_book,
    reorder_between_transactions, swap_between_payments, cut_off_the_end, edit_a_balance, edit_a_balance, move_a_balance,
    edit_a_seal, edit_a_seal, delete_a_seal, swap_two_seals, merge_two_seals,
)  # fmt: skip
"""Attacks on what is sealed, and on balances and seals; those that have many forms more than once."""

TAIL_ATTACKS: Final[tuple[Attack, ...]] = (
    edit_an_entry, edit_an_amount_and_rehash_the_book, delete_an_entry, delete_an_entry_and_close_the_gap,
    insert_a_forged_entry, reorder_in_a_book, swap_between_payments,
)  # fmt: skip
"""The same hands on entries that nobody has signed yet."""

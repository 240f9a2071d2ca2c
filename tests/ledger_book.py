"""A payment's book beside a model of it, and the check that an outsider would make of its entries."""

import hashlib
import secrets
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest

from custody.ledger import (
    BookTooSmall,
    DisputeOpen,
    Entry,
    LedgerRefusal,
    MovementNotAllowed,
    post,
)
from custody.store.engine import transaction
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

DESTINATION, TREASURY = "0x" + "11" * 20, "0x" + "99" * 20

DEBIT_SIDE: Final = ("destination", "treasury", "transfer_cost", "loss", "in_transit", "payer_paid")
CREDIT_SIDE: Final = (
    "detected", "held", "disputed", "releasing", "refunding", "paying_fees", "platform_fees", "provider_fees",
    "suspense", "overdraft", "provider_received",
)  # fmt: skip
COINS_AT: Final = {"destination": DESTINATION, "treasury": TREASURY}


# What an outsider recomputes --------------------------------------------------------------------------------------


def field_bytes(*values: str | None) -> bytes:
    return b"".join(
        struct.pack(">i", -1) if value is None else struct.pack(">i", len(value.encode())) + value.encode()
        for value in values
    )


def plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def entry_hash(row: Any) -> bytes:
    """The link of an entry, from the row's fields alone (custody/ledger/sql/canonical.sql)."""
    content = hashlib.sha256(
        field_bytes(
            row.book_kind, str(row.book_id), str(row.chain_id), row.token, row.entry_type, row.reason, row.debit,
            row.credit, plain(row.amount), row.debit_address, row.credit_address,
            *(None if each is None else str(each) for each in (row.fact_id, row.instruction_id, row.reverses_entry_id)),
            row.idempotency_key,
        )
    ).digest()  # fmt: skip
    assert content == row.content_hash
    rest = field_bytes(
        str(row.book_seq), str(row.id), row.evidence, row.poster_role, str(row.microseconds), str(row.tx_id)
    )
    return hashlib.sha256(b"\x00" + row.prev_hash + content + rest).digest()


_ENTRIES = (
    "SELECT e.*, e.metadata::text AS evidence, (extract(epoch FROM e.created_at) * 1000000)::bigint AS microseconds "
    "FROM public.funds_ledger_entries e WHERE e.book_id = :id ORDER BY e.book_seq"
)


def check_book(market: Marketplace, book: UUID) -> Mapping[str, Decimal | int]:
    """Recompute the book from its entries and compare. Returns its balances."""
    entries = market.execute(_ENTRIES, id=book)
    balances: Counter[str] = Counter()
    previous = bytes(32)
    for number, row in enumerate(entries, start=1):
        assert row.book_seq == number
        assert row.prev_hash == previous
        assert entry_hash(row) == row.entry_hash
        previous = row.entry_hash
        for account, sign in ((row.debit, 1), (row.credit, -1)):
            balances[account] += row.amount * (sign if account in DEBIT_SIDE else -sign)
            assert balances[account] >= 0, (number, account)
        assert balances["releasing"] + balances["refunding"] + balances["paying_fees"] <= balances["treasury"]
    assert sum(balances[name] for name in DEBIT_SIDE) == sum(balances[name] for name in CREDIT_SIDE)
    found = market.execute("SELECT * FROM fleet.ledger_balances WHERE book_id = :id", id=book)
    assert len(found) == (1 if entries else 0)
    if found:
        row = found[0]._mapping
        assert {name: row[name] for name in (*DEBIT_SIDE, *CREDIT_SIDE)} == {
            name: balances[name] for name in (*DEBIT_SIDE, *CREDIT_SIDE)
        }
        assert (row["seq"], row["head_hash"]) == (len(entries), previous)
    return dict(balances)


# A book and what it should do --------------------------------------------------------------------------------------


@dataclass
class Book:
    """One payment's book, with a model of its balances that predicts each refusal."""

    market: Marketplace
    payment: UUID
    payout_fact: UUID
    instruction: UUID
    balances: Counter[str] = field(default_factory=Counter[str])
    dispute_open: int = 0
    inbound: list[UUID] = field(default_factory=list[UUID])
    posted: list[tuple[str, Entry, UUID]] = field(default_factory=list[tuple[str, Entry, UUID]])
    sweep_facts: set[UUID] = field(default_factory=set[UUID])
    taken_back: set[UUID] = field(default_factory=set[UUID])
    dead: set[UUID] = field(default_factory=set[UUID])
    outcomes: Counter[str] = field(default_factory=Counter[str])

    def entry(self, movement: str, amount: Decimal, **more: Any) -> tuple[str, Entry]:
        poster, entry_type, reason, debit, credit, needs = MOVEMENTS[movement]
        fact = more.pop("fact") if needs == "inbound" else self.payout_fact if needs == "payout" else None
        if needs == "sweep":  # each leg a sweep of its own, of that amount (L2)
            units = max(1, int(amount * 10**6)) if amount.is_finite() else 1
            fact = self.market.moved_fact(units, "sweep", TREASURY)
            self.sweep_facts.add(fact)
        if movement == "seen" and amount.is_finite() and amount >= Decimal("0.000001"):
            # The chain says what the test books of it (L2).
            self.market.execute(
                "UPDATE fleet.chain_facts SET amount_units = :u WHERE id = :id", u=int(amount * 10**6), id=fact
            )
        return poster, Entry(
            book_kind="payment", book_id=self.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type=entry_type,
            reason=reason, debit=debit, credit=credit, amount=amount, key=f"test:{secrets.token_hex(8)}", fact_id=fact,
            instruction_id=self.instruction if entry_type in {"release", "refund"} else None,
            debit_address=COINS_AT.get(debit), credit_address=COINS_AT.get(credit), **more,
        )  # fmt: skip

    def expected(self, entry: Entry) -> type[LedgerRefusal] | None:
        """The refusal that the rules ask for, in the order post_entry() asks."""
        if entry.fact_id is not None and (entry.fact_id in self.dead) != (entry.reason == "reorg"):
            return MovementNotAllowed
        if self.dispute_open and (
            entry.credit in {"releasing", "refunding"} or (entry.credit == "held" and entry.entry_type != "adjustment")
        ):
            return DisputeOpen
        after = self.after(entry)
        if min(after.values()) < 0 or after["releasing"] + after["refunding"] > after["treasury"]:
            return BookTooSmall
        return None

    def after(self, entry: Entry) -> Counter[str]:
        after = Counter(self.balances)
        for account, sign in ((entry.debit, 1), (entry.credit, -1)):
            after[account] += entry.amount * (sign if account in DEBIT_SIDE else -sign)  # pyright: ignore[reportArgumentType]
        return after

    def post(self, poster: str, entry: Entry) -> None:
        expected = self.expected(entry)
        engine = self.market.database.engine(poster)
        if expected is not None:
            with pytest.raises(expected), transaction(engine) as connection:
                post(connection, entry)
            self.outcomes[expected.__name__] += 1
            return
        with transaction(engine) as connection:
            done = post(connection, entry)
        assert done.is_new
        self.balances = self.after(entry)
        self.posted.append((poster, entry, done.entry_id))
        self.outcomes["posted"] += 1


# name: poster, type, reason, debit, credit, the fact it needs
MOVEMENTS: Final = {
    "seen": ("fleet_watcher", "payment_detected", "seen", "destination", "detected", "inbound"),
    "deep": ("fleet_confirmations", "hold", "deep", "detected", "held", "inbound"),
    "deep_disputed": ("fleet_confirmations", "hold", "deep", "detected", "disputed", "inbound"),
    "surplus": ("fleet_confirmations", "adjustment", "surplus", "detected", "suspense", "inbound"),
    "sweep": ("fleet_sweeps", "adjustment", "sweep", "treasury", "destination", "sweep"),
    "token_fee": ("fleet_sweeps", "adjustment", "token_fee", "transfer_cost", "destination", "sweep"),
    "reserve": ("fleet_releases", "release", "reserve", "held", "releasing", ""),
    "final": ("fleet_releases", "release", "final", "releasing", "treasury", "payout"),
    "void": ("fleet_releases", "release", "void", "releasing", "held", ""),
    "void_disputed": ("fleet_releases", "release", "void", "releasing", "disputed", ""),
    "refund": ("fleet_releases", "refund", "reserve", "suspense", "refunding", ""),
    "refund_final": ("fleet_releases", "refund", "final", "refunding", "treasury", "payout"),
    "dispute": ("fleet_releases", "dispute_hold", "opened", "held", "disputed", ""),
    "lifted": ("fleet_releases", "dispute_hold", "lifted", "disputed", "held", ""),
}  # fmt: skip


def book_of(market: Marketplace) -> Book:
    payment = market.payment(Decimal(1_000), status="confirmed", escrow="releasable")
    payout = market.moved_fact(1, "outbound", TREASURY)
    instruction = market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
        "amount_units, release_epoch) VALUES (:p, 'release', :c, :a, :t, :a, 1, 1, 0) RETURNING id",
        p=payment, c=CHAIN_ID, a=TREASURY, t=TOKEN,
    )[0].id  # fmt: skip
    return Book(market, payment, payout, instruction)


def move(book: Book, movement: str, amount: Decimal, pick: int) -> None:
    more: dict[str, Any] = {}
    if MOVEMENTS[movement][-1] == "inbound":
        if movement == "seen" or not book.inbound:
            book.inbound.append(book.market.fact(book.payment))
        more["fact"] = book.inbound[-1 if movement == "seen" else pick % len(book.inbound)]
    book.post(*book.entry(movement, amount, **more))

"""Many payments judged in one transaction: what one after the other would leave, all of it or nothing (L7, L17)."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from custody.chain import BlockHeader, to_amount
from custody.ledger import Entry, LedgerRefusal, post
from custody.payments import holding
from custody.payments.judging import Judgement, Seen, judge
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import FULL, declared
from tests.integration.chain_fixtures import Died, dying_at, snapshot
from tests.ledger_book import check_book
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

EXAMPLES: Final = declared(200, 5)
THRESHOLD: Final = 5
EXPECTED: Final = Decimal(100)
NOTHING: Final = Decimal(0)
OTHER_TOKEN: Final = "0x" + "EE" * 20
ADDRESS: Final = "0x" + "11" * 20


@dataclass(frozen=True)
class Came:
    """A transfer of a test: units of 6 decimals, mined at ``block``."""

    units: int
    block: int
    is_other_token: bool = False
    is_guess: bool = False


@dataclass(frozen=True)
class Case:
    """A payment of 100 tokens and what came for it."""

    transfers: tuple[Came, ...]
    status: str = "processing"
    disputes: int = 0


@dataclass(repr=False)
class Scene:
    """A marketplace whose chain is watched; nothing here asks a node."""

    market: Marketplace
    payments: dict[UUID, list[UUID]] = field(default_factory=dict[UUID, list[UUID]])

    def __post_init__(self) -> None:
        self.market.execute(
            "INSERT INTO fleet.tokens VALUES (:c, :t, 'OTHER', 6) ON CONFLICT DO NOTHING", c=CHAIN_ID, t=OTHER_TOKEN
        )
        self.market.execute(
            "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp, agreed_number) "
            "VALUES (:c, 1000, '0x', now(), 1000) ON CONFLICT DO NOTHING",
            c=CHAIN_ID,
        )
        with transaction(self.market.database.engine("fleet_operator")) as connection:
            set_threshold(connection, CHAIN_ID, THRESHOLD, floor_blocks=1, by="a person", reason="a test of batches")

    @property
    def engine(self) -> Engine:
        return self.market.database.engine("fleet_confirmations")

    def payment(self, case: Case) -> UUID:
        payment = self.market.payment(EXPECTED)
        self.payments[payment] = [self._seen(payment, came) for came in case.transfers]
        if case.status != "pending":
            self.market.put(payment, case.status, "cancelled" if case.status == "cancelled" else None)
        self.market.set_dispute(payment, case.disputes)
        return payment

    def _seen(self, payment: UUID, came: Came) -> UUID:
        """What the watcher would have booked of a transfer."""
        fact = self.market.fact(payment, came.units, block=came.block)
        token = OTHER_TOKEN if came.is_other_token else TOKEN
        self.market.execute("UPDATE fleet.chain_facts SET token = :t WHERE id = :id", t=token, id=fact)
        with transaction(self.market.database.engine("fleet_watcher")) as connection:
            post(
                connection,
                Entry(
                    book_kind="payment", book_id=payment, chain_id=CHAIN_ID, token=token, entry_type="payment_detected",
                    reason="seen", debit="destination", credit="detected", amount=to_amount(came.units, 6),
                    key=f"fact:{fact}:detected", fact_id=fact, debit_address=ADDRESS,
                    evidence={"attribution": "newest" if came.is_guess else "reference"},
                ),
            )  # fmt: skip
        return fact

    def judge(self, payments: Sequence[UUID], head: int) -> Sequence[Judgement]:
        with transaction(self.engine) as connection:
            return judge(connection, CHAIN_ID, self.seen(payments, head))

    def seen(self, payments: Sequence[UUID], head: int = 500) -> dict[UUID, Seen]:
        header = BlockHeader(head, f"0x{head:064x}", "0x", 1)
        return {fact: Seen(header, 2) for payment in payments for fact in self.payments[payment]}

    def left(self, payment: UUID) -> dict[str, Any]:
        """Everything that judging leaves of a payment, without what differs by chance."""
        entries = self.market.execute(
            "SELECT token, entry_type::text, reason, debit, credit, amount, metadata - 'block_hash' AS metadata "
            "FROM public.funds_ledger_entries WHERE payment_id = :id ORDER BY token, book_seq",
            id=payment,
        )
        facts = self.market.execute(
            "SELECT block_number, judged_at IS NULL AS waits FROM fleet.chain_facts WHERE payment_id = :id ORDER BY 1",
            id=payment,
        )
        [shown] = self.market.execute("SELECT confirmations FROM public.payments WHERE id = :id", id=payment)
        return {
            "entries": [tuple(row) for row in entries],
            "facts": [tuple(row) for row in facts],
            "confirmations": shown.confirmations,
            "state": self.market.state(payment),
        }


@pytest.fixture(scope="module")
def shared(module_database: Database) -> Scene:
    return Scene(Marketplace(module_database))


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(Marketplace(database))


def expected(case: Case, *heads: int) -> tuple[list[tuple[str, str, str, Decimal]], tuple[str, str | None]]:
    """L7 in plain words: the movements of each head, and the state they end in."""
    moved: list[tuple[str, str, str, Decimal]] = []
    due = EXPECTED
    state: tuple[str, str | None] = (case.status, "cancelled" if case.status == "cancelled" else None)
    judged = set[Came]()
    for head in heads:
        for came in case.transfers:
            if came in judged or head - came.block + 1 < THRESHOLD:
                continue
            judged.add(came)
            amount = to_amount(came.units, 6)
            is_closed = state[0] not in {"pending", "processing", "confirmed"}
            counts = not (came.is_other_token or came.is_guess or is_closed)
            share = min(amount, Decimal(due)) if counts else NOTHING
            if share:
                moved.append(("deep", "disputed" if case.disputes else "held", TOKEN, share))
            if amount > share:
                reason = "wrong_token" if came.is_other_token else "late" if is_closed else "surplus"
                moved.append((reason, "suspense", OTHER_TOKEN if came.is_other_token else TOKEN, amount - share))
            due -= share
        if due <= 0:
            state = ("confirmed", "funded")
        elif due < EXPECTED:
            state = ("processing", "partial")
    return moved, state


TRANSFERS = st.lists(
    st.builds(
        Came,
        units=st.sampled_from([1, 40_000_000, 99_999_999, 100_000_000, 130_000_000]) | st.integers(1, 200_000_000),
        block=st.integers(10, 60),
        is_other_token=st.sampled_from([False, False, False, True]),
        is_guess=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda came: came.block,
)
CASES = st.lists(
    st.builds(
        Case,
        transfers=TRANSFERS.map(lambda found: tuple(sorted(found, key=lambda came: came.block))),
        status=st.sampled_from(["pending", "processing", "processing", "cancelled"]),
        disputes=st.sampled_from([0, 0, 1, 2]),
    ),
    min_size=2,
    max_size=5,
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cases=CASES)
def test_a_batch_leaves_what_one_after_the_other_does(shared: Scene, cases: list[Case]) -> None:
    """L7: two heads, so that some transfers are judged later than others of their payment."""
    together = [shared.payment(case) for case in cases]
    alone = [shared.payment(case) for case in cases]
    for head in (40, 70):
        judged = shared.judge(together, head)
        assert len(judged) == sum(len(shared.judge([payment], head)) for payment in alone)
    assert shared.judge(together, 70) == []
    for case, one, other in zip(cases, together, alone, strict=True):
        assert shared.left(one) == shared.left(other)
        moved, state = expected(case, 40, 70)
        found = shared.market.execute(
            "SELECT reason, credit, token, amount FROM public.funds_ledger_entries "
            "WHERE payment_id = :id AND debit = 'detected'",
            id=one,
        )
        assert sorted(map(tuple, found)) == sorted(moved)
        assert shared.market.state(one) == state
        if not any(came.is_other_token for came in case.transfers):
            check_book(shared.market, one)


def some_payments(scene: Scene) -> list[UUID]:
    """One of each kind: exact, a part, too much in two transfers, disputed, closed, another token, not yet seen by it."""
    return [
        scene.payment(case)
        for case in (
            Case((Came(100_000_000, 10),)),
            Case((Came(40_000_000, 11),)),
            Case((Came(70_000_000, 12), Came(70_000_000, 13))),
            Case((Came(100_000_000, 14),), disputes=1),
            Case((Came(100_000_000, 15),), status="cancelled"),
            Case((Came(100_000_000, 16, is_other_token=True), Came(100_000_000, 17))),
            Case((Came(100_000_000, 18),), status="pending"),
        )
    ]


def test_a_crash_between_any_two_statements_leaves_nothing_of_the_batch(scene: Scene) -> None:
    payments = some_payments(scene)
    before = snapshot(scene.market.database)
    number = 0
    while True:
        number += 1
        try:
            with dying_at(scene.engine, number):
                scene.judge(payments, 500)
        except Died:
            assert snapshot(scene.market.database) == before
            continue
        break
    assert number > 10
    assert scene.market.execute("SELECT count(*) AS n FROM fleet.chain_facts WHERE judged_at IS NULL")[0].n == 0
    assert {scene.market.state(payment) for payment in payments} == {
        ("confirmed", "funded"),
        ("processing", "partial"),
        ("cancelled", "cancelled"),
    }


@contextmanager
def statements(engine: Engine) -> Generator[list[str]]:
    """What is sent to the database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(" ".join(statement.split()))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def test_a_batch_costs_no_more_statements_than_one_payment_and_locks_in_order(scene: Scene) -> None:
    """L17: facts, then destinations, then payments, each by id, then the books, which post_entries() locks by id."""
    exact = Case((Came(100_000_000, 10),))
    one, many = scene.payment(exact), [scene.payment(exact) for _ in range(12)]
    with statements(scene.engine) as alone:
        assert len(scene.judge([one], 500)) == 1
    with statements(scene.engine) as together:
        assert len(scene.judge(many, 500)) == 12
    assert together == alone
    locks = [statement for statement in together if " FOR " in statement or "post_entries" in statement]
    assert [statement.rpartition("ORDER BY")[2].strip() for statement in locks] == [
        "f.id FOR UPDATE OF f",
        "id FOR NO KEY UPDATE",
        "id FOR NO KEY UPDATE",
        "place",
    ]


def test_the_cursor_that_fell_back_meanwhile_holds_nothing_above_it(scene: Scene) -> None:
    """L13"""
    payment = scene.payment(Case((Came(100_000_000, 10),)))
    scene.market.execute("UPDATE fleet.chain_cursors SET agreed_number = 499")
    assert scene.judge([payment], 500) == []
    assert len(scene.judge([payment], 499)) == 1


def batches_of(scene: Scene, payments: Sequence[UUID]) -> list[Any]:
    rows = scene.market.execute(
        "SELECT id, payment_id, chain_id, block_number, 0 AS log_index FROM fleet.chain_facts "
        "WHERE payment_id = ANY(:ids)",
        ids=list(payments),
    )
    return list(holding._batches(rows, ()))


def test_payments_that_fail_are_shown_and_stop_none_of_their_batch(scene: Scene) -> None:
    payments = some_payments(scene) + [scene.payment(Case((Came(100_000_000, 20 + n),))) for n in range(5)]
    broken = {payments[2], payments[9]}
    for payment in broken:
        scene.market.execute(
            "UPDATE fleet.ledger_balances SET detected = 1, destination = 1 WHERE book_id = :id", id=payment
        )
    [batch] = batches_of(scene, payments)
    judged = holding._judge_batch(scene.engine, batch, scene.seen(payments))
    assert judged == sum(len(scene.payments[payment]) for payment in payments if payment not in broken)
    dead = scene.market.execute("SELECT payment_id, reason FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert {row.payment_id for row in dead} == broken
    assert all("BookTooSmall" in row.reason for row in dead)
    waits = scene.market.execute("SELECT payment_id FROM fleet.chain_facts WHERE judged_at IS NULL")
    assert {row.payment_id for row in waits} == broken
    # Each is judged alone from now on, and what is repaired is held and resolved.
    rows = scene.market.execute("SELECT * FROM fleet.chain_facts WHERE payment_id = ANY(:ids)", ids=payments)
    cut = list(holding._batches(rows, broken))
    assert [{fact.payment_id for fact in batch} for batch in cut] == [
        {*payments} - broken,
        *({one} for one in sorted(broken)),
    ]
    for payment in broken:
        scene.market.execute(
            "UPDATE fleet.ledger_balances SET detected = :n, destination = :n WHERE book_id = :id",
            id=payment,
            n=140 if payment == payments[2] else 100,
        )
    assert sum(holding._judge_batch(scene.engine, batch, scene.seen(payments)) for batch in cut[1:]) == 3
    assert scene.market.execute("SELECT FROM fleet.dead_work WHERE resolved_at IS NULL") == []


def test_a_batch_is_cut_between_payments_at_its_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "BATCH_PAYMENTS", 3)
    payments = some_payments(scene)
    cut = batches_of(scene, payments)
    found = [list(dict.fromkeys(fact.payment_id for fact in batch)) for batch in cut]
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert [payment for batch in found for payment in batch] == sorted(payments)
    monkeypatch.setattr(holding, "FACTS_MAXIMUM", 1)
    assert [len(batch) for batch in batches_of(scene, payments)] == [1] * 9


@pytest.mark.parametrize("count", [1, 3])
def test_a_dispute_that_opens_in_between_is_seen_by_the_second_look(scene: Scene, count: int) -> None:
    """L4: the books refuse the hold, the batch is judged anew, and that payment's money goes to disputed."""
    payments = [scene.payment(Case((Came(100_000_000, 10 + n),))) for n in range(count)]
    opened = list[str]()

    def open_dispute(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "post_entries" in statement and not opened:
            opened.append(statement)
            scene.market.set_dispute(payments[-1], 1)

    event.listen(scene.engine, "before_cursor_execute", open_dispute)
    [batch] = batches_of(scene, payments)
    assert holding._judge_batch(scene.engine, batch, scene.seen(payments)) == count
    event.remove(scene.engine, "before_cursor_execute", open_dispute)
    assert [scene.market.balance(payment)["disputed"] for payment in payments] == [0] * (count - 1) + [100]
    assert scene.market.execute("SELECT FROM fleet.dead_work") == []


def test_what_is_refused_of_a_payment_is_refused_whole(scene: Scene) -> None:
    """A payment whose book refuses one of its transfers keeps none of them judged."""
    payment = scene.payment(Case((Came(70_000_000, 10), Came(70_000_000, 11))))
    scene.market.execute(
        "UPDATE fleet.ledger_balances SET detected = 130, destination = 130 WHERE book_id = :id", id=payment
    )
    before = snapshot(scene.market.database)
    with pytest.raises(LedgerRefusal):
        scene.judge([payment], 500)
    assert snapshot(scene.market.database) == before

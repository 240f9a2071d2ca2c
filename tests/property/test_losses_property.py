"""L5, L22: after any sequence of deposits, sweeps, payouts, thefts and what the chain takes back or gives again, every book
is balanced and each address has in the books what a model of the chain has there.

FLEET_TEST_COUNTS=full runs the declared count (L23).
"""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from custody.chain.blocks import BlockHeader, ScannedBlock
from custody.chain.detection import Sighting, detect
from custody.chain.logs import TRANSFER_TOPIC, Log
from custody.chain.outflows import watch_outflows
from custody.chain.receipts import Receipt
from custody.destinations.sweeps.booked import facts_at
from custody.ledger import BookTooSmall, Entry, post
from custody.ledger.adjustments import execute, open_actions, propose_cover
from custody.ledger.positions import asset_positions
from custody.ledger.reports.balances import account_totals
from custody.payments.judging import Seen, judge
from custody.settings.chains import Chain
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import FULL, Counts, declared
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

EXAMPLES: Final = declared(1_000, 20)
BUYER, THIEF = to_checksum_address("0x" + "b1" * 20), to_checksum_address("0x" + "7f" * 20)
UNIT = 10**6


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


def hash32() -> str:
    return "0x" + secrets.token_hex(32)


def word(address: str) -> str:
    return "0x" + "00" * 12 + address[2:].lower()


@dataclass
class Deposit:
    """One transaction to a payment's address. ``taken_from``: which address lost it when it left the chain."""

    payment: int
    units: int
    transaction_hash: str = field(default_factory=hash32)
    header: BlockHeader | None = None
    taken_from: str | None = None
    is_mixed: bool = False
    """Came back in part against a loss, in part as new money."""


class Model:
    """A treasury and two payments of its own, and what the chain really has at each address (smallest units)."""

    def __init__(self, market: Marketplace) -> None:
        self.market = market
        self.treasury = to_checksum_address("0x" + secrets.token_hex(20))
        self.chain = Chain.model_validate(
            {
                "id": CHAIN_ID, "name": "anvil", "genesis_hash": hash32(), "rpc_urls": ["http://127.0.0.1:1"],
                "treasury": self.treasury, "fee_proxy": to_checksum_address("0x" + "fe" * 20),
                "tokens": [
                    {"symbol": "PAID", "address": TOKEN, "decimals": 6},
                    {"symbol": "ETH", "address": "native", "decimals": 18},
                ],
            }
        )  # fmt: skip
        self.payments = [market.payment(Decimal(60)) for _ in range(2)]
        self.addresses = [self._address(each) for each in self.payments]
        self.house = market.execute(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:c, :a, 'treasury') RETURNING id",
            c=CHAIN_ID, a=self.treasury,
        )[0].id  # fmt: skip
        market.execute(
            "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) "
            "VALUES (:c, 1, '0x', now()) ON CONFLICT DO NOTHING",
            c=CHAIN_ID,
        )
        self.height = 1000 * secrets.randbelow(10**9)  # heights of its own: the database is the module's
        self.coins: Counter[str] = Counter()
        self.lost: Counter[int] = Counter()  # at the treasury, by payment
        self.deposits: list[Deposit] = []
        self.theft: tuple[BlockHeader, int] | None = None
        self.outcomes: Counter[str] = Counter()

    def header(self) -> BlockHeader:
        self.height += 1
        return BlockHeader(self.height, hash32(), hash32(), 1)

    def transaction(self, role: str) -> Any:
        return transaction(self.market.database.engine(role))

    def post(self, role: str, kind: Any, book: UUID, movement: str, amount: int, **more: Any) -> None:
        entry_type, reason, debit, credit = movement.split()
        with self.transaction(role) as connection:
            post(
                connection,
                Entry(
                    book_kind=kind, book_id=book, chain_id=CHAIN_ID, token=TOKEN, entry_type=entry_type, reason=reason,
                    debit=debit, credit=credit, amount=Decimal(amount) / UNIT, key=f"model:{secrets.token_hex(8)}", **more,
                ),
            )  # fmt: skip

    def log(self, header: BlockHeader, transaction_hash: str, sender: str, recipient: str, units: int) -> Log:
        topics = (TRANSFER_TOPIC, word(sender), word(recipient))
        data = units.to_bytes(32, "big")
        return Log(CHAIN_ID, header.number, header.hash, transaction_hash, 0, 0, TOKEN, topics, data)  # pyright: ignore[reportArgumentType]

    def look(self, deposit: Deposit, *replaced: BlockHeader) -> None:
        """The watcher looks at the deposit's transaction; ``replaced``: what stands at heights that it stood at."""
        head = self.header()
        headers = {each.number: each for each in (head, *replaced)}
        receipt = None
        if deposit.header is not None:
            here = deposit.header
            headers[here.number] = here
            log = self.log(here, deposit.transaction_hash, BUYER, self.addresses[deposit.payment], deposit.units)
            receipt = Receipt(
                CHAIN_ID, deposit.transaction_hash, 0, here.number, here.hash, 1, BUYER, TOKEN, None, 1, 1, 0, (log,)
            )  # pyright: ignore[reportArgumentType]
        with self.transaction("fleet_watcher") as connection:
            detect(connection, self.chain, Sighting(deposit.transaction_hash, receipt, head, headers))

    def go_on(self) -> None:
        self.market.execute("UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL")

    def check(self) -> None:
        with self.market.database.engine().connect() as connection:
            positions = {
                one.address: int(one.amount * UNIT)
                for one in asset_positions(connection, CHAIN_ID)
                if one.token == TOKEN and one.address in {self.treasury, *self.addresses}
            }
            for book in (*self.payments, self.house):
                sides: Counter[str] = Counter()
                for total in account_totals(connection, payment_id=book):
                    sides[total.side] += total.amount  # pyright: ignore[reportArgumentType]
                assert sides["debit"] == sides["credit"], book
        assert {address: units for address, units in positions.items() if units} == dict(+self.coins)
        assert min(self.coins.values(), default=0) >= 0

    def _address(self, payment: UUID) -> str:
        return self.market.execute(
            "SELECT d.address FROM fleet.payment_routes r JOIN public.derived_destinations d ON d.id = r.destination_id "
            "WHERE r.payment_id = :id",
            id=payment,
        )[0].address


# Steps -------------------------------------------------------------------------------------------------------------


def deposit(model: Model, units: int, pick: int) -> None:
    made = Deposit(pick % 2, units, header=model.header())
    model.deposits.append(made)
    model.look(made)
    model.coins[model.addresses[made.payment]] += units


def hold(model: Model, units: int, pick: int) -> None:
    payment = model.payments[pick % 2]
    facts = model.market.execute(
        "SELECT id FROM fleet.chain_facts WHERE payment_id = :p AND live AND judged_at IS NULL", p=payment
    )
    model.go_on()
    with model.transaction("fleet_confirmations") as connection:
        judge(connection, CHAIN_ID, {fact.id: Seen(model.header(), 1) for fact in facts})


def sweep(model: Model, units: int, pick: int) -> None:
    """What the sweeps worker would take is there to be taken (L11)."""
    payment, address = model.payments[pick % 2], model.addresses[pick % 2]
    with model.transaction("fleet_sweeps") as connection:
        destination = connection.execute(
            text("SELECT id FROM public.derived_destinations WHERE address = :a"), {"a": address}
        ).scalar_one()
        found = facts_at(
            connection, destination_id=destination, chain_id=CHAIN_ID, token=TOKEN, address=address, decimals=6
        )
    taken = sum(fact.units for fact in found if fact.is_judged)
    assert taken <= model.coins[address]
    if not taken:
        return
    fact = model.market.moved_fact(taken, "sweep", model.treasury)
    model.post(
        "fleet_sweeps", "payment", payment, "adjustment sweep treasury destination", taken, fact_id=fact,
        debit_address=model.treasury, credit_address=address,
    )  # fmt: skip
    model.coins[address] -= taken
    model.coins[model.treasury] += taken
    model.outcomes["swept"] += 1


def pay(model: Model, units: int, pick: int) -> None:
    payment = model.payments[pick % 2]
    if model.coins[model.treasury] < units:
        return
    instruction = model.market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, request_key, chain_id, treasury, token, recipient, "
        "amount, amount_units, release_epoch) VALUES (:p, 'refund', :k, :c, :a, :t, :a, 1, 1, 0) RETURNING id",
        p=payment, k=secrets.token_hex(8), c=CHAIN_ID, a=model.treasury, t=TOKEN,
    )[0].id  # fmt: skip
    try:
        model.post(
            "fleet_releases", "payment", payment, "refund reserve held refunding", units, instruction_id=instruction
        )
    except BookTooSmall:
        model.outcomes["not promised"] += 1
        return
    fact = model.market.moved_fact(units, "outbound", model.treasury)
    model.post(
        "fleet_releases", "payment", payment, "refund final refunding treasury", units, instruction_id=instruction,
        fact_id=fact, credit_address=model.treasury,
    )  # fmt: skip
    model.coins[model.treasury] -= units
    model.outcomes["paid"] += 1


def vanish(model: Model, units: int, pick: int) -> None:
    """A block is replaced: the address has fewer coins, or the sweep that took them cannot be mined again."""
    live = [one for one in model.deposits if one.header is not None and not one.is_mixed]
    if not live:
        return
    gone = live[pick % len(live)]
    address = model.addresses[gone.payment]
    short = address if model.coins[address] >= gone.units else model.treasury
    if model.coins[short] < gone.units:
        return
    assert gone.header is not None
    replacement = BlockHeader(gone.header.number, hash32(), hash32(), 1)
    gone.header, gone.taken_from = None, short
    model.look(gone, replacement)
    model.coins[short] -= gone.units
    model.lost[gone.payment] += gone.units if short == model.treasury else 0
    model.outcomes["lost at the treasury" if short == model.treasury else "lost at its address"] += 1


def come_back(model: Model, units: int, pick: int) -> None:
    """With its sweep, or, once the loss of that was covered, to its own address as new money."""
    gone = [one for one in model.deposits if one.header is None]
    if not gone:
        return
    back = gone[pick % len(gone)]
    back.header = model.header()
    model.look(back)
    found = min(back.units, model.lost[back.payment]) if back.taken_from == model.treasury else 0
    model.lost[back.payment] -= found
    model.coins[model.treasury] += found
    model.coins[model.addresses[back.payment]] += back.units - found
    back.is_mixed = 0 < found < back.units
    model.outcomes["came back"] += 1


def steal(model: Model, units: int, pick: int) -> None:
    if model.theft is not None or model.coins[model.treasury] < units:
        return
    header = model.header()
    _watch(model, header, (model.log(header, hash32(), model.treasury, THIEF, units),))
    model.theft = (header, units)
    model.coins[model.treasury] -= units
    model.outcomes["stolen"] += 1


def undo_theft(model: Model, units: int, pick: int) -> None:
    if model.theft is None:
        return
    header, stolen = model.theft
    _watch(model, BlockHeader(header.number, hash32(), hash32(), 1), ())
    model.theft = None
    model.coins[model.treasury] += stolen


def _watch(model: Model, header: BlockHeader, logs: tuple[Log, ...]) -> None:
    with model.transaction("fleet_watcher") as connection:
        assert watch_outflows(connection, model.chain, ScannedBlock(header, (), logs, None, None)) == 1


def cover(model: Model, units: int, pick: int) -> None:
    """The house brings coins of its own, and covers what a payment lost at the treasury with them."""
    payment, units = model.payments[pick % 2], model.lost[pick % 2]
    with model.transaction("fleet_operator") as connection:
        try:
            action = propose_cover(connection, payment, Decimal(units or 1) / UNIT, reason="insured", by="mina")
        except LookupError:
            return
        agreed = next(one.hash for one in open_actions(connection) if one.id == action)
    model.post(
        "fleet_watcher", "house", model.house, "adjustment funding treasury_house gas_funding", units,
        debit_address=model.treasury,
    )  # fmt: skip
    with model.transaction("fleet_operator") as connection:
        execute(connection, action, agreed_hash=agreed, by="omid")
    model.coins[model.treasury] += units
    model.lost[pick % 2] = 0
    model.outcomes["covered"] += 1


STEPS: Final[dict[str, Callable[[Model, int, int], None]]] = {
    "deposit": deposit,
    "hold": hold,
    "sweep": sweep,
    "pay": pay,
    "vanish": vanish,
    "come_back": come_back,
    "steal": steal,
    "undo_theft": undo_theft,
    "cover": cover,
}
# Into the rooms that a random walk seldom finds; each step with whose payment, or which deposit.
SWEPT = (("deposit", 0), ("hold", 0), ("sweep", 0))
OTHER = (("deposit", 1), ("hold", 1), ("sweep", 1))
OPENINGS: Final[tuple[tuple[tuple[str, int], ...], ...]] = (
    (),
    SWEPT,
    (*SWEPT, ("vanish", 0)),
    (*SWEPT, *OTHER, ("pay", 0), ("vanish", 0)),
    (*SWEPT, *OTHER, ("vanish", 0), ("pay", 0), ("cover", 0), ("come_back", 0)),
)
WALK = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(1, 100), st.integers(0, 15)), max_size=14)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(opening=st.sampled_from(OPENINGS), walk=WALK)
def test_the_books_equal_the_chain_through_any_loss(
    market: Marketplace, counts: Counts, opening: Sequence[tuple[str, int]], walk: Sequence[tuple[str, int, int]]
) -> None:
    counts("random sequences of losses", EXAMPLES)
    model = Model(market)
    for name, pick in opening:
        STEPS[name](model, 40 * UNIT, pick)
        model.check()
    for name, tokens, pick in walk:
        STEPS[name](model, tokens * UNIT, pick)
        model.check()
    TOTAL.update(model.outcomes)


TOTAL: Final[Counter[str]] = Counter()


def test_the_walks_found_every_room() -> None:
    """Runs after the walks: a property over steps that all do nothing would prove nothing."""
    assert set(TOTAL) >= {
        "swept", "paid", "not promised", "lost at the treasury", "lost at its address", "came back", "stolen", "covered",
    }  # fmt: skip

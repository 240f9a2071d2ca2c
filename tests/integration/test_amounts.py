"""What a payment's amount can be, from the chain to the books: real contracts, detect, hold (L2, L7, L10, L11, R13)."""

from collections.abc import Sequence
from decimal import Decimal

import pytest
from eth_account import Account

from custody.chain import erc20
from custody.payments.late_money import is_dust
from tests.integration.chain_fixtures import MILLION, ChainWorld, Expected, WatchingFleet, units
from workers.demo.contracts import approve, mint, pay_through_proxy
from workers.demo.wallet import Wallet

FUNDED = ("confirmed", "funded")
UNPAID = ("pending", None)
ACTIVE = ("active", None)
HUNDRED = {"PAID": {"destination": Decimal(100), "held": Decimal(100)}}


def settle(fleet: WatchingFleet, *sent: str) -> None:
    fleet.watch(*sent)
    fleet.hold()
    assert fleet.books_equal_chain()


def claim(
    fleet: WatchingFleet,
    to: Expected,
    amount: int,
    *,
    token: str | None = None,
    reference: bytes | None = None,
    fee: int = 0,
) -> str:
    """Call the proxy with exactly these values, the fee for nobody (the zero address)."""
    sent = pay_through_proxy(
        fleet.world.buyer,
        fleet.world.contracts,
        token=token or fleet.token,
        recipient=to.destination,
        amount=amount,
        reference=to.reference if reference is None else reference,
        fee_amount=fee,
    )
    fleet.world.buyer.wait(sent)
    return sent


@pytest.mark.parametrize(
    ("parts", "held", "suspense", "state"),
    [
        (["100"], "100", "0", FUNDED),
        (["40"], "40", "0", ("processing", "partial")),
        (["40", "35", "25"], "100", "0", FUNDED),
        (["100.000001"], "100", "0.000001", FUNDED),
        (["60", "60"], "100", "20", FUNDED),
    ],
    ids=["exact", "partial", "parts-add-up", "over", "over-by-parts"],
)
def test_what_is_due_is_held_and_the_rest_waits(
    fleet: WatchingFleet, parts: Sequence[str], held: str, suspense: str, state: tuple[str, str | None]
) -> None:
    """L7: one payment in one or more transactions."""
    payment = fleet.payment(100)
    settle(fleet, *(fleet.pay_units(payment, units(Decimal(part))) for part in parts))
    wanted = {"destination": sum(map(Decimal, parts)), "held": Decimal(held), "suspense": Decimal(suspense)}
    assert fleet.books(payment.payment) == {"PAID": {name: value for name, value in wanted.items() if value}}
    assert fleet.market.state(payment.payment) == state
    assert fleet.standing_of(payment.destination) == ACTIVE
    reasons = [entry[1] for entry in fleet.entries(payment.payment) if entry[3] == "suspense"]
    assert set(reasons) == ({"surplus"} if Decimal(suspense) else set())


def test_one_payment_in_two_transactions_of_one_block(fleet: WatchingFleet) -> None:
    payment, world = fleet.payment(100), fleet.world
    world.chain.set_automine(enabled=False)
    try:
        sent = [
            pay_through_proxy(
                world.buyer,
                world.contracts,
                token=fleet.token,
                recipient=payment.destination,
                amount=units(amount),
                reference=payment.reference,
            )
            for amount in (30, 70)
        ]
    finally:
        world.chain.set_automine(enabled=True)
    world.chain.mine()
    assert len({receipt.block_hash for receipt in world.buyer.wait_all(sent)}) == 1
    settle(fleet, *sent)
    assert fleet.books(payment.payment) == HUNDRED
    assert fleet.market.state(payment.payment) == FUNDED


def test_two_payments_in_one_transaction_are_each_held_in_full(fleet: WatchingFleet) -> None:
    """L11: attribution is the log's, never the transaction's."""
    usdt = WatchingFleet(fleet.world, fleet.database, fleet.world.contracts.usdt)
    first, second = usdt.payment(30), usdt.payment(70)
    parts = [
        (first.destination, units(10), first.reference),
        (second.destination, units(70), second.reference),
        (first.destination, units(20), first.reference),
    ]
    settle(usdt, usdt.world.pay_batch(usdt.token, parts).transaction_hash)
    for payment, amount in ((first, 30), (second, 70)):
        [account] = usdt.books(payment.payment).values()
        assert account == {"destination": amount, "held": amount}
        assert usdt.market.state(payment.payment) == FUNDED


@pytest.mark.parametrize(
    ("status", "escrow"), [("cancelled", "cancelled"), ("failed", "failed"), ("completed", "released")]
)
def test_late_money_is_in_suspense_and_its_address_waits_for_people(
    fleet: WatchingFleet, status: str, escrow: str
) -> None:
    """L7: detected in full, then suspense with its reason; the payment stays closed, the coins have an owner."""
    payment = fleet.payment(100)
    fleet.market.put(payment.payment, status, escrow)
    sent = fleet.pay(payment)
    settle(fleet, sent)
    assert fleet.books(payment.payment) == {"PAID": {"destination": 100, "suspense": 100}}
    assert fleet.entries(payment.payment)[-1][:2] == ("adjustment", "late")
    assert fleet.market.state(payment.payment) == (status, escrow)
    assert [fact.payment_id for fact in fleet.facts(sent)] == [payment.payment]
    assert fleet.standing_of(payment.destination) == (
        "quarantined",
        f"late: 100 of {fleet.token} came for payment {payment.payment}, which is {status}",
    )
    mirrored = fleet.market.execute(
        "SELECT count(*) AS n FROM fleet.outbox o JOIN public.derived_destinations d ON d.id = o.document_id "
        "WHERE d.address = :a AND o.collection = 'deriveddestinations'",
        a=payment.destination,
    )
    assert mirrored[0].n == 2  # its balance, then its quarantine


def test_late_dust_keeps_nobody_back(fleet: WatchingFleet) -> None:
    """R13: less than one unit, or than 1 % of what was expected."""
    payment = fleet.payment(1000)
    fleet.market.put(payment.payment, "cancelled", "cancelled")
    settle(fleet, fleet.pay_units(payment, units(Decimal("9.999999"))))
    assert fleet.standing_of(payment.destination) == ACTIVE
    settle(fleet, fleet.pay_units(payment, units(10)))
    assert fleet.standing_of(payment.destination)[0] == "quarantined"
    assert fleet.books(payment.payment)["PAID"]["suspense"] == Decimal("19.999999")


@pytest.mark.parametrize(
    ("token", "amount", "expected", "dust"),
    [
        ("0xToken", "0.999999", "1", True),
        ("0xToken", "1", "1", False),
        ("0xToken", "9.99", "1000", True),
        ("0xToken", "10", "1000", False),
        ("native", "0.0099", "1", True),
        ("native", "0.01", "1", False),
    ],
)
def test_what_is_dust(token: str, amount: str, expected: str, *, dust: bool) -> None:
    assert is_dust(token, Decimal(amount), Decimal(expected)) is dust


@pytest.mark.parametrize("held", [False, True], ids=["open", "holding"])
def test_late_money_does_not_freeze_another_payment_at_the_address(fleet: WatchingFleet, *, held: bool) -> None:
    """R13: the buyer's second payment is honest, whatever came late for the first."""
    first = fleet.payment()
    fleet.market.put(first.payment, "cancelled", "cancelled")
    second = fleet.another_on(first)
    if held:
        settle(fleet, fleet.pay(second))
        assert fleet.market.state(second.payment) == FUNDED
    settle(fleet, fleet.pay(first))
    assert fleet.books(first.payment) == {"PAID": {"destination": 100, "suspense": 100}}
    assert fleet.standing_of(first.destination) == ACTIVE


def test_the_wrong_token_waits_beside_the_right_one(fleet: WatchingFleet) -> None:
    """L10: a non-primary row; nothing of it pays, and nothing of it keeps the right one back (R13)."""
    payment, usdt = fleet.payment(), fleet.world.contracts.usdt
    settle(fleet, claim(fleet, payment, units(250), token=usdt))
    assert fleet.market.state(payment.payment) == UNPAID
    settle(fleet, fleet.pay(payment))
    books = fleet.books(payment.payment)
    assert books.pop("PAID") == HUNDRED["PAID"]
    assert list(books.values()) == [{"destination": 250, "suspense": 250}]
    assert fleet.market.state(payment.payment) == FUNDED
    assert fleet.standing_of(payment.destination) == ACTIVE


def test_a_zero_transfer_and_a_lookalike_token_are_nothing(fleet: WatchingFleet) -> None:
    """Address poisoning: a log that names our address proves no money."""
    payment, world = fleet.payment(), fleet.world
    poison = [
        world.buyer.send(fleet.token, erc20.encode_transfer(payment.destination, 0)),
        claim(fleet, payment, units(100), token=world.lookalike()),
    ]
    world.buyer.wait_all(poison)
    assert fleet.watch(*poison) == 2
    assert [fleet.look(one).state for one in poison] == ["nothing_of_ours"] * 2
    assert fleet.count("fleet.chain_facts") == fleet.count("public.funds_ledger_entries") == 0
    settle(fleet, fleet.pay(payment))
    assert fleet.books(payment.payment) == HUNDRED
    assert fleet.standing_of(payment.destination) == ACTIVE


def test_dust_and_several_senders_freeze_nobody(fleet: WatchingFleet) -> None:
    """R13: strangers' dust of any token before, between and after; two wallets pay one payment."""
    payment, world = fleet.payment(), fleet.world
    stranger = Wallet(world.client, world.chain.new_account())
    tokens = (fleet.token, world.contracts.usdt)
    world.deployer.wait_all([mint(world.deployer, world.contracts, one, stranger.address, MILLION) for one in tokens])
    dust = [stranger.send(one, erc20.encode_transfer(payment.destination, 1)) for one in tokens]
    dust += [world.buyer.send(world.lookalike(), erc20.encode_transfer(payment.destination, 1))]
    stranger.wait_all(dust)
    settle(fleet, *dust)
    half = stranger.send(fleet.token, erc20.encode_transfer(payment.destination, units(60)))
    stranger.wait(half)
    settle(fleet, half, fleet.pay(payment, 40))
    books = fleet.books(payment.payment)
    assert books.pop("PAID") == {
        "destination": Decimal("100.000001"),
        "held": Decimal(100),
        "suspense": Decimal("0.000001"),
    }
    assert list(books.values()) == [{"destination": Decimal("0.000001"), "suspense": Decimal("0.000001")}]
    assert fleet.market.state(payment.payment) == FUNDED
    assert fleet.standing_of(payment.destination) == ACTIVE


def test_lie_1_a_worthless_token(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    settle(fleet, claim(fleet, payment, 10**30, token=fleet.world.worthless()))
    assert fleet.books(payment.payment) == {}
    assert fleet.market.state(payment.payment) == UNPAID


def test_lie_2_a_token_that_keeps_a_fee(watched_world: ChainWorld, fleet: WatchingFleet) -> None:
    """The event says 1,000, the log 998.1: the log is booked (L2)."""
    fees = WatchingFleet(watched_world, fleet.database, watched_world.fee_token)
    payment = fees.payment(1000)
    settle(fees, claim(fees, payment, units(1000)))
    [account] = fees.books(payment.payment).values()
    assert account == {"destination": Decimal("998.1"), "held": Decimal("998.1")}
    assert fees.market.state(payment.payment) == ("processing", "partial")


def test_lie_3_a_fee_that_nobody_paid(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    settle(fleet, claim(fleet, payment, units(100), fee=5 * 10**18))
    assert fleet.books(payment.payment) == HUNDRED


def test_lie_4_zero_amounts_and_odd_references(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    settle(fleet, claim(fleet, payment, 0))
    assert fleet.books(payment.payment) == {}
    settle(fleet, *(claim(fleet, payment, units(50), reference=odd) for odd in (b"", bytes(32))))
    assert fleet.books(payment.payment) == HUNDRED  # nobody's reference: the one open payment's (L11)


def test_lie_5_two_events_of_one_reference_in_one_transaction(fleet: WatchingFleet) -> None:
    """Equal amounts too: each log is a fact of its own (L1)."""
    usdt = WatchingFleet(fleet.world, fleet.database, fleet.world.contracts.usdt)
    payment = usdt.payment(100)
    sent = usdt.world.pay_batch(usdt.token, [(payment.destination, units(50), payment.reference)] * 2)
    settle(usdt, sent.transaction_hash)
    settle(usdt, sent.transaction_hash)
    [account] = usdt.books(payment.payment).values()
    assert account == {"destination": 100, "held": 100}
    assert len({fact.tx_ordinal for fact in usdt.facts(sent.transaction_hash)}) == 2


def test_lie_6_a_payment_to_oneself(watched_world: ChainWorld, fleet: WatchingFleet) -> None:
    """The address pays itself what it holds: an event and a log, and nothing came."""
    key = watched_world.chain.new_account()
    payment, owner = fleet.payment(destination=key.address), Wallet(watched_world.client, key)
    settle(fleet, fleet.pay(payment))
    owner.wait(approve(owner, fleet.token, watched_world.contracts.fee_proxy, MILLION))
    sent = pay_through_proxy(
        owner,
        watched_world.contracts,
        token=fleet.token,
        recipient=payment.destination,
        amount=units(100),
        reference=payment.reference,
    )
    owner.wait(sent)
    settle(fleet, sent)
    assert fleet.look(sent).state == "nothing_of_ours"
    assert fleet.books(payment.payment) == HUNDRED


def test_money_at_an_address_of_ours_for_another_payments_reference(fleet: WatchingFleet) -> None:
    """L11: a reference counts only at its own address."""
    owner, other = fleet.payment(), fleet.payment()
    settle(fleet, claim(fleet, owner, units(100), reference=other.reference))
    assert fleet.books(owner.payment) == HUNDRED
    assert fleet.books(other.payment) == {}


def test_a_transfer_to_a_strangers_address_is_nothing(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    stranger = Expected(payment.payment, Account.create().address, payment.reference, 100)
    settle(fleet, claim(fleet, stranger, units(100)))
    assert fleet.books(payment.payment) == {}

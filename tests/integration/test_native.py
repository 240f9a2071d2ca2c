"""Native coin as a pay-in: top-level transfers, and the proxy's event that the balance proves (L8; L1, L7, L11, L15)."""

from decimal import Decimal

import pytest

from custody.chain import native_proof
from custody.chain.detection import Sighting, detect
from custody.chain.logs import NATIVE_FEE_PROXY_TOPIC
from custody.chain.native import TOP_LEVEL, Unproved
from custody.store.engine import transaction
from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, Died, dying_at, snapshot
from tests.integration.native_fixtures import NativeFleet, wei
from tests.marketplace import CHAIN_ID
from workers.demo.contract_packages import REQUEST_NETWORK_PACKAGE, request_network_contract
from workers.demo.contracts import deploy_build, pay_native_through_proxy

FUNDED = ("confirmed", "funded")
THREE = {"ETH": {"destination": Decimal(3), "held": Decimal(3)}}
SEEN = ("payment_detected", "seen", "destination", "detected")
UNSEEN = ("adjustment", "reorg", "detected", "destination")


@pytest.fixture
def native(watched_world: ChainWorld, database: Database) -> NativeFleet:
    return NativeFleet(watched_world, database)


def test_a_plain_transfer_is_a_fact_without_a_log(native: NativeFleet) -> None:
    payment = native.payment(3)
    sent = native.plain(payment, 3)
    for _ in range(3):
        native.settle(sent)
    assert native.books(payment.payment) == THREE
    assert native.market.state(payment.payment) == FUNDED
    [fact] = native.facts(sent)
    assert (fact.token, fact.log_index, fact.tx_ordinal, fact.amount_units, fact.sender) == (
        "native",
        TOP_LEVEL,
        TOP_LEVEL,
        wei(3),
        native.world.buyer.address,
    )
    [shown] = native.market.execute(
        "SELECT balance FROM public.derived_destinations WHERE address = :a", a=payment.destination
    )
    assert shown.balance == wei(3)


def test_a_payment_through_the_proxy_is_attributed_and_proved(native: NativeFleet) -> None:
    first = native.payment(3)
    second = native.another_on(first, 3)
    by_reference = native.proxied(second, 3, fee="0.5", fee_address=native.world.deployer.address)
    native.settle(by_reference)
    native.settle(by_reference)
    assert native.books(second.payment) == THREE
    assert native.books(first.payment) == {}
    [fact] = native.facts(by_reference)
    receipt = native.world.client.receipt(by_reference)
    assert receipt is not None
    [log] = [log for log in receipt.logs if log.event == NATIVE_FEE_PROXY_TOPIC]
    assert (fact.log_index, fact.tx_ordinal, fact.reference_topic) == (log.log_index, 0, log.topics[1])
    native.settle(native.plain(first, 3))  # without a reference: the one that is still open (L11)
    assert native.books(first.payment) == THREE


def test_what_is_due_is_held_and_the_rest_waits(native: NativeFleet) -> None:
    """L7 with 18 decimals: parts by either way, and one wei too much."""
    payment = native.payment(3)
    native.settle(native.plain(payment, "1.5"))
    assert native.market.state(payment.payment) == ("processing", "partial")
    native.settle(native.proxied(payment, 1), native.plain(payment, "0.500000000000000001"))
    assert native.books(payment.payment) == {
        "ETH": {"destination": Decimal("3.000000000000000001"), "held": 3, "suspense": Decimal("1e-18")}
    }
    assert native.market.state(payment.payment) == FUNDED
    assert native.standing_of(payment.destination) == ("active", None)


def test_late_and_unexpected_native_coin_is_in_suspense(native: NativeFleet) -> None:
    late, token_payment = native.payment(3), native.payment(3)
    native.market.put(late.payment, "cancelled", "cancelled")
    native.settle(native.proxied(late, 3))
    assert native.books(late.payment) == {"ETH": {"destination": 3, "suspense": 3}}
    assert native.standing_of(late.destination)[0] == "quarantined"
    native.market.execute(
        "UPDATE fleet.payment_routes SET token = :t WHERE payment_id = :p",
        t=native.world.contracts.usdc,
        p=token_payment.payment,
    )
    native.settle(native.plain(token_payment, 3))
    assert native.books(token_payment.payment) == {"ETH": {"destination": 3, "suspense": 3}}
    assert native.entries(token_payment.payment)[-1][1] == "wrong_token"
    assert native.standing_of(token_payment.destination) == ("active", None)


def test_one_payment_in_two_transactions_of_one_block(native: NativeFleet) -> None:
    payment, world = native.payment(3), native.world
    with native.one_block():
        sent = [
            world.buyer.send(payment.destination, value=wei(1)),
            pay_native_through_proxy(
                world.buyer,
                world.contracts,
                recipient=payment.destination,
                amount=wei(2),
                reference=payment.reference,
            ),
        ]
    assert len({receipt.block_hash for receipt in world.buyer.wait_all(sent)}) == 1
    native.settle(*reversed(sent))
    assert native.books(payment.payment) == THREE


def test_two_payments_in_one_transaction_by_a_contract(native: NativeFleet) -> None:
    """Three events in one transaction, two of one reference and one amount: each is a fact (L1)."""
    first, second = native.payment(3), native.payment(2)
    receipt = native.batched([(first, "1.5"), (second, 2), (first, "1.5")])
    native.settle(receipt.transaction_hash)
    native.settle(receipt.transaction_hash)
    assert native.books(first.payment) == THREE
    assert native.books(second.payment) == {"ETH": {"destination": 2, "held": 2}}
    assert len(native.facts(receipt.transaction_hash)) == 3


def test_lies_of_the_native_proxy(native: NativeFleet) -> None:
    """Nothing paid, a fee for nobody, odd references, a copy of the proxy, a payment to oneself."""
    payment, world = native.payment(3), native.world
    nothing = native.proxied(payment, 0)
    build = request_network_contract(world.packages[REQUEST_NETWORK_PACKAGE], "EthereumFeeProxy")
    copy, _ = deploy_build(world.deployer, build)
    own, owner, key = native.own()
    world.chain.set_balance(key.address, wei(5))
    to_itself = pay_native_through_proxy(
        owner, world.contracts, recipient=own.destination, amount=wei(3), reference=own.reference
    )
    plain_to_itself = owner.send(own.destination, value=wei(3))
    owner.wait_all([to_itself, plain_to_itself])
    native.watch(nothing, to_itself, plain_to_itself)
    assert native.native_facts() == []
    # An event of another contract is an internal transfer to us: not believed, found by the balance.
    call = build.calldata("transferWithReferenceAndFee", payment.destination, payment.reference, 0, "0x" + "00" * 20)
    native.watch(native.sent(copy, call, value=wei("0.25")))
    assert native.native_facts() == []
    world.chain.set_balance(payment.destination, 0)
    native.settle(
        native.proxied(payment, 1, fee=7), native.proxied(payment, 1, reference=b""), native.proxied(payment, 1, reference=bytes(32))
    )  # fmt: skip
    assert native.books(payment.payment) == THREE


def test_a_reverted_transfer_brings_nothing(native: NativeFleet) -> None:
    """L8: status 1. The recipient has code by now that refuses coins."""
    payment, world = native.payment(3), native.world
    world.rpc("anvil_setCode", payment.destination, "0x5f5ffd")  # revert(0, 0)
    sent = world.buyer.send(payment.destination, value=wei(3))
    assert native.watch(sent) == 1
    assert (native.look(sent).state, native.look(sent).outcome) == ("nothing_of_ours", "the transaction was reverted")
    assert native.native_facts() == []


def liar(world: ChainWorld) -> str:
    """A contract that emits the native proxy's event with the caller's words and moves nothing.

    Calldata: topic1, then the four words of the event.
    """
    code = "608060205f375f357f" + NATIVE_FEE_PROXY_TOPIC[2:] + "60805fa200"
    initcode = bytes.fromhex(f"60{len(code) // 2:02x}600c60003960{len(code) // 2:02x}6000f3" + code)
    address, sent = world.deployer.deploy(initcode)
    world.deployer.wait(sent)
    return address


def test_an_event_that_the_balance_does_not_prove_credits_nothing(
    watched_world: ChainWorld, database: Database
) -> None:
    """The configured proxy itself lies: no credit, and the look says why until somebody decides."""
    contract = liar(watched_world)
    native = NativeFleet(watched_world, database, native_fee_proxy=contract)
    payment = native.payment(3)
    words = ["00" * 12 + payment.destination[2:], f"{wei(3):064x}", "00" * 32, "00" * 32]
    sent = native.sent(contract, bytes(32) + bytes.fromhex("".join(words)))
    assert native.watch(sent) == 0
    assert native.native_facts() == []
    assert native.count("public.funds_ledger_entries") == 0
    look = native.look(sent)
    assert look.state == "due"
    assert f"{wei(3)} wei came to {payment.destination}" in look.last_error
    assert "rose by 0 wei" in look.last_error
    # Coins that another transaction of the same block brought prove nothing for it: they are counted already.
    with native.one_block():
        lie = watched_world.buyer.send(contract, bytes(32) + bytes.fromhex("".join(words)))
        honest = watched_world.buyer.send(payment.destination, value=wei(3))
    native.watch(honest)
    assert native.watch(lie) == 0
    native.settle(honest)
    assert native.books(payment.payment) == THREE
    assert f"{wei(3)} of it by other transactions" in native.look(lie).last_error


def test_what_our_own_sweep_took_in_the_same_block_is_given_back(native: NativeFleet) -> None:
    """The address spends its gas float in the block that pays it: proved once the sweep's fee is known."""
    payment, owner, key = native.own()
    native.world.chain.set_balance(key.address, wei(1))
    with native.one_block():
        paid = pay_native_through_proxy(
            native.world.buyer,
            native.world.contracts,
            recipient=payment.destination,
            amount=wei(3),
            reference=payment.reference,
        )
        swept = owner.send(native.world.contracts.usdc, b"", gas=60_000)
    receipt = native.world.client.receipts_and_headers([swept]).receipts[swept]
    assert native.watch(paid) == 0
    assert f"rose by {wei(3) - receipt.fee} wei" in native.look(paid).last_error
    native.market.execute("INSERT INTO fleet.nonce_lanes VALUES (:c, :a, 'destination', 1)", c=CHAIN_ID, a=key.address)
    native.market.execute(
        "INSERT INTO fleet.chain_transactions (chain_id, sender, nonce, purpose, subject_id, recipient, value_wei, state, "
        "signed_bytes, transaction_hash, block_number, block_hash, succeeded, fee_wei) VALUES (:c, :a, 0, 'sweep', uuidv7(), "
        ":r, 0, 'final', '', :h, :n, :b, :s, :f)",
        c=CHAIN_ID,
        a=key.address,
        r=native.world.contracts.usdc,
        h=swept,
        n=receipt.block_number,
        b=receipt.block_hash,
        s=receipt.succeeded,
        f=receipt.fee,
    )
    native.make_due()
    assert native.watch() == 1
    assert native.market.balance(payment.payment)["detected"] == 3


def test_gas_that_the_house_sends_pays_nobodys_debt(native: NativeFleet) -> None:
    """L6: a top-up is the house's, whoever asks for a look at it."""
    payment = native.payment(3)
    native.market.execute(
        "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:c, :a, 'gas_payer')",
        c=CHAIN_ID,
        a=native.world.buyer.address,
    )
    sent = native.plain(payment, 3)
    assert native.watch(sent) == 1
    assert native.look(sent).state == "nothing_of_ours"
    assert native.native_facts() == []


@pytest.mark.parametrize("way", ["plain", "proxied"])
def test_a_reorganisation_takes_it_back_and_another_block_brings_it_again(native: NativeFleet, way: str) -> None:
    """L1: incarnations of a fact without a log, and of one with."""
    payment, world = native.payment(3), native.world
    sent = native.plain(payment, 3) if way == "plain" else native.proxied(payment, 3)
    raw = world.raw_transaction(sent)
    native.settle(sent)
    world.chain.reorganise(1)
    world.forget_nonces()
    native.watch()
    native.watch()
    assert native.books(payment.payment) == {"ETH": {}}
    assert native.market.state(payment.payment) == ("pending", None)
    assert native.entries(payment.payment)[-1] == (*UNSEEN, 3)
    world.buyer.wait(world.client.send_raw(raw))
    native.make_due()
    native.watch()
    native.hold()
    assert native.books(payment.payment) == THREE
    assert [(fact.incarnation, fact.live) for fact in native.facts(sent)] == [(1, False), (2, True)]
    assert native.books_equal_chain()


def test_nothing_is_read_inside_a_transaction_and_little_outside(
    native: NativeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L15, and the cost: one batch for receipts and values, one for headers; balances only where an event needs them."""
    payment = native.payment(3)
    native.watch()
    plain = native.plain(payment, 1)
    batches: list[list[str]] = []
    read = native.world.client._transport.read

    def counted(calls: list[tuple[str, list[object]]]) -> object:
        methods = [method for method, _ in calls]
        if "eth_getLogs" not in methods:  # the scan's own request, the same for every block
            batches.append(methods)
        return read(calls)

    monkeypatch.setattr(native.world.client._transport, "read", counted)
    native.watch(plain)
    assert [sorted(set(batch)) for batch in batches if "eth_getTransactionReceipt" in batch] == [
        ["eth_getBlockByNumber", "eth_getTransactionByHash", "eth_getTransactionReceipt"],
    ]
    assert "eth_getBalance" not in {method for batch in batches for method in batch}
    proxied = native.proxied(payment, 2)
    batches.clear()
    native.watch(proxied)
    assert [batch for batch in batches if "eth_getBalance" in batch] == [["eth_getBalance"] * 2]
    batches.clear()
    native.watch(proxied)  # proved once: not asked again
    assert "eth_getBalance" not in {method for batch in batches for method in batch}
    assert native.market.balance(payment.payment)["detected"] == 3


def test_without_the_value_or_the_balance_nothing_is_booked(native: NativeFleet) -> None:
    payment = native.payment(3)
    for sent, reason in (
        (native.plain(payment, 1), "not the transaction"),
        (native.proxied(payment, 2), "was not read"),
    ):
        found = native.world.client.receipts_and_headers([sent])
        sighting = Sighting(sent, found.canonical(sent), found.head, found.headers)
        with pytest.raises(Unproved, match=reason), transaction(native.watcher) as connection:
            detect(connection, native.chain, sighting)
    assert native.native_facts() == []


def test_a_crash_between_any_two_steps_leaves_nothing_half_done(native: NativeFleet) -> None:
    payment, client = native.payment(3), native.world.client
    sent = native.proxied(payment, 3)
    found = client.receipts_and_headers([sent], values=True)
    receipt = found.canonical(sent)
    assert receipt is not None
    rises = native_proof.read_rises(native.watcher, client, native.chain, [receipt], found.headers)
    assert rises == {sent: {payment.destination: wei(3)}}
    sighting = Sighting(sent, receipt, found.head, found.headers, rises=rises[sent])
    before, number = snapshot(native.database), 0
    while True:
        number += 1
        try:
            with dying_at(native.watcher, number), transaction(native.watcher) as connection:
                detect(connection, native.chain, sighting)
        except Died:
            assert snapshot(native.database) == before
            continue
        break
    assert number > 10
    assert native.entries(payment.payment) == [(*SEEN, 3)]
    assert native.books_equal_chain()

"""R4, L8, R11: releases of the chain's own coin under a trust file, where no log says what moved; and the proxy's, the balance's."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from custody.chain.native import BALANCE
from tests.conftest import STATE_DIR, Database
from tests.counts import ONLY_LONG, Counts
from tests.native_scene import NativeScene
from tests.signer_api_server import client_at, serving
from tests.signer_desk import Cli, said
from tests.signer_scene import random_hash, thief
from tests.superuser import rewritten
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.demo.contract_packages import REQUEST_NETWORK_PACKAGE, request_network_contract
from workers.demo.contracts import deploy_build
from workers.demo.development_chain import ETHER
from workers.embedded import npm_packages
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice
from workers.signer import load_trust
from workers.signer.case import Case
from workers.signer.evidence import read_evidence
from workers.signer.own_eyes import look
from workers.signer.safe_checks import check


@pytest.fixture(name="scene")
def _scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[NativeScene]:
    scene = NativeScene(token_chain, database, services.mongo_url, mongo_database, tmp_path, None)
    yield scene
    scene.close()


def test_coins_are_released_once_their_way_is_confirmed_and_the_books_equal_the_chain(
    scene: NativeScene, cli: Cli, device: SoftwareDevice
) -> None:
    payment = scene.handed_out_payment()
    assert "3 ETH, confirmed at depth by 1 of your own nodes" in said(cli("show", str(scene.instruction(payment).id)))
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert (device.signatures, scene.paid_to(payment)) == (1, 3 * ETHER)
    assert scene.coins_in_books() * ETHER == scene.chain.deployer.client.balance(scene.treasury)


@ONLY_LONG
def test_two_native_payments_of_one_seller_are_one_transaction_with_a_pair_of_entries_each(
    scene: NativeScene, cli: Cli, device: SoftwareDevice
) -> None:
    """R23: coins are grouped like tokens; one value, one signature, and each payment's own way is confirmed."""
    blocking = scene.handed_out_payment()
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    group = scene.group(first)
    assert (group.id, group.amount_units, group.token) == (scene.group(second).id, 2 * scene.units, "native")
    scene.seal()
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    scene.run()
    assert scene.instruction_row(group.id).state == "handed_out"
    scene.seal()
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    assert "2, together 6 ETH" in said(done)
    assert "6 ETH, confirmed at depth by 1 of your own nodes" in said(done)
    scene.run()
    assert [scene.instruction(each).state for each in (blocking, first, second)] == ["final"] * 3
    assert (device.signatures, scene.paid_to(first)) == (2, 2 * scene.units)
    final = scene.market.execute(
        "SELECT e.payment_id, e.amount, e.fact_id FROM public.funds_ledger_entries e WHERE e.reason = 'final' "
        "AND e.payment_id = ANY (:ids)",
        ids=[first, second],
    )
    assert {(row.payment_id, row.amount) for row in final} == {(first, scene.amount), (second, scene.amount)}
    assert len({row.fact_id for row in final}) == 1
    [sent] = scene.market.execute(
        "SELECT value_wei, data FROM fleet.chain_transactions WHERE subject_id = :g", g=group.id
    )
    assert (int(sent.value_wei), bytes(sent.data)) == (2 * scene.units, b"")
    assert scene.coins_in_books() * ETHER == scene.chain.deployer.client.balance(scene.treasury)


def test_a_group_of_native_payments_pays_no_more_than_their_deposits(
    scene: NativeScene, cli: Cli, device: SoftwareDevice
) -> None:
    """R4: a share that a superuser raised, with the sum and the bytes that go with it, is paid out of nothing."""
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    group = scene.group(first)
    assert group.state == "handed_out"
    scene.seal()
    scene.rule()
    raw, digest = scene.forged(bytes(group.unsigned_bytes), group.recipient, 3 * scene.units)
    for row, units in ((group.id, 3 * scene.units), (scene.instruction(second).id, 2 * scene.units)):
        scene.market.execute(
            "UPDATE fleet.release_instructions SET amount = :amount, amount_units = :units WHERE id = :id",
            amount=units // ETHER, units=units, id=row,
        )  # fmt: skip
    scene.market.execute(
        "UPDATE fleet.release_instructions SET unsigned_bytes = :raw, signing_hash = :hash WHERE id = :id",
        raw=raw, hash=digest, id=group.id,
    )  # fmt: skip
    scene.market.execute(
        "UPDATE fleet.nonce_digests SET unsigned_bytes = :raw, signing_hash = :hash WHERE instruction_id = :id",
        raw=raw, hash=digest, id=group.id,
    )  # fmt: skip
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "would be paid out of 6 ETH that were swept" in said(refused)
    assert device.signatures == 0


# A superuser's lies, each told consistently


def _recipient(scene: NativeScene) -> None:
    crook = thief()
    scene.rewrite_bytes(scene.payments[0], crook, scene.units)
    scene.market.execute("UPDATE fleet.address_book SET address = :crook", crook=crook)


def _times_two(scene: NativeScene) -> None:
    scene.rewrite_bytes(scene.payments[0], scene.instruction(scene.payments[0]).recipient, 2 * scene.units)
    scene.market.execute("UPDATE fleet.chain_facts SET amount_units = amount_units * 2")
    scene.market.execute("UPDATE public.derived_destination_sweeps SET amount = amount * 2")


def _one_wei_more(scene: NativeScene) -> None:
    scene.rewrite_bytes(scene.payments[0], scene.instruction(scene.payments[0]).recipient, scene.units + 1)


def _sweep_of_the_house(scene: NativeScene) -> None:
    """Somebody else's coins for the treasury are shown as this payment's sweep."""
    sent = scene.chain.deployer.send(scene.treasury, value=scene.units)
    scene.chain.deployer.wait(sent)
    scene.market.execute("UPDATE public.derived_destination_sweeps SET transaction_hash = :hash", hash=sent)


def _sweep_twice(scene: NativeScene) -> None:
    """The same transaction once as itself and once as a log of it."""
    _one_wei_more(scene)
    scene.market.execute(
        """
        INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address, transaction_hash,
            log_index, block_number, from_address, to_address, amount)
        SELECT derived_destination_id, chain_id, token_address, transaction_hash, 0, block_number, from_address,
            to_address, amount FROM public.derived_destination_sweeps RETURNING id
        """
    )


def _sweep_under_another_name(scene: NativeScene) -> None:
    """The same transaction twice, the second time without a log: one key, so it counts once."""
    scene.rewrite_bytes(scene.payments[0], scene.instruction(scene.payments[0]).recipient, 2 * scene.units)
    scene.market.execute(
        """
        INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address, transaction_hash,
            log_index, block_number, from_address, to_address, amount)
        SELECT derived_destination_id, chain_id, token_address, transaction_hash, NULL, block_number, from_address,
            to_address, amount FROM public.derived_destination_sweeps RETURNING id
        """
    )


def _deposit_is_a_log(scene: NativeScene) -> None:
    scene.market.execute("UPDATE fleet.chain_facts SET log_index = 0 WHERE direction = 'inbound'")


def _deposit_of_a_balance(scene: NativeScene) -> None:
    """Twice as much, said to have been found by the balance alone."""
    _times_two(scene)
    scene.market.execute("UPDATE public.derived_destination_sweeps SET amount = amount / 2")
    scene.market.execute(
        "UPDATE fleet.chain_facts SET log_index = :balance, "
        "transaction_hash = 'native:31337:' || recipient || ':' || block_hash WHERE direction = 'inbound'",
        balance=BALANCE,
    )


def _balance_of_another_block(scene: NativeScene) -> None:
    _deposit_of_a_balance(scene)
    scene.market.execute(
        "UPDATE fleet.chain_facts SET block_hash = :hash WHERE direction = 'inbound'", hash=random_hash()
    )


def _invented(scene: NativeScene) -> None:
    scene.market.execute("UPDATE fleet.chain_facts SET transaction_hash = :hash", hash=random_hash())
    scene.market.execute("UPDATE public.derived_destination_sweeps SET transaction_hash = :hash", hash=random_hash())


def _foreign_address(scene: NativeScene) -> None:
    crook = thief()
    scene.market.execute("UPDATE public.derived_destinations SET address = :crook", crook=crook)
    scene.market.execute("UPDATE fleet.chain_facts SET recipient = :crook WHERE direction = 'inbound'", crook=crook)
    scene.market.execute("UPDATE public.derived_destination_sweeps SET from_address = :crook", crook=crook)


LIES: dict[Callable[[NativeScene], None], str] = {
    _recipient: "is in no address book entry",
    _times_two: "the API says amount",
    _one_wei_more: "3.000000000000000001 ETH would be paid out of 3 ETH",
    _sweep_of_the_house: "the API says sender",
    _sweep_twice: "the API says log 0",
    _sweep_under_another_name: "6 ETH would be paid out of 3 ETH",
    _deposit_is_a_log: "is no event of the pinned native_fee_proxy",
    _deposit_of_a_balance: "6 ETH would be paid out of 3 ETH",
    _balance_of_another_block: "the API says name",
    _invented: "is in no canonical block",
    _foreign_address: "is not the one at m/44'/60'/0'/0/1 of a pinned deposit account",
}


def test_a_superuser_rewrites_the_coins_way_and_the_signer_refuses(
    scene: NativeScene, cli: Cli, device: SoftwareDevice, counts: Counts
) -> None:
    payment = scene.handed_out_payment()
    scene.rule()
    for lie, words in LIES.items():
        with rewritten(scene.market):
            lie(scene)
            refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED, (lie, refused.output)
        assert words in said(refused), (lie, said(refused))
        assert (device.signatures, device.screens) == (0, []), lie
    assert scene.submissions(payment) == []
    assert cli("sign", "--yes").exit_code == 0
    counts("rewritten databases, each refused", len(LIES))


def test_gas_is_never_taken_from_buyers_coins(scene: NativeScene, cli: Cli, device: SoftwareDevice) -> None:
    """R11: the books may say what they will, the treasury must hold the coins and the gas."""
    payment = scene.handed_out_payment()
    fee = int(scene.instruction(payment).max_total_fee_wei)
    scene.chain.development.set_balance(scene.treasury, scene.units + fee - 1)
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "for gas are needed (R11)" in said(refused)
    assert (device.signatures, device.screens) == (0, [])
    scene.chain.development.set_balance(scene.treasury, scene.units + fee)
    assert cli("sign", "--yes").exit_code == 0


# Where no transaction of its own brought the coins


def test_a_deposit_through_the_proxy_needs_the_pinned_proxy(
    scene: NativeScene, cli: Cli, device: SoftwareDevice
) -> None:
    package = npm_packages.fetch(REQUEST_NETWORK_PACKAGE, STATE_DIR.resolve())
    scene.proxy, _ = deploy_build(scene.chain.deployer, request_network_contract(package, "EthereumFeeProxy"))
    scene.handed_out_payment()
    [chain] = scene.trust_said()["chains"]
    for proxy in (None, thief()):
        scene.write_trust(chains=[{**chain, **({} if proxy is None else {"native_fee_proxy": proxy})}])
        refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED, refused.output
        assert "is no event of the pinned native_fee_proxy" in said(refused)
    scene.write_trust(chains=[{**chain, "native_fee_proxy": scene.proxy}])
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    assert device.signatures == 1


def test_what_only_a_balance_told_counts_as_far_as_the_address_held_it(scene: NativeScene) -> None:
    payment = scene.handed_out_payment()
    with serving(scene.database) as url, client_at(url) as client:
        claimed = client.instruction(str(scene.instruction(payment).id))
    trust = load_trust(scene.write_trust())
    pinned = trust.chain(31337)
    assert pinned is not None
    checked = check(claimed, scene.step.chains, fee_cap_wei=10**16)
    evidence = read_evidence(claimed)
    [deposit] = evidence.deposits
    for told, counted in ((2 * ETHER, 2 * ETHER), (10 * ETHER, scene.units + ETHER)):  # it was given a coin for gas
        name = f"native:31337:{deposit.recipient}:{deposit.block_hash}"
        changes = {"log_index": BALANCE, "transaction_hash": name, "amount_units": told}
        case = Case(
            checked, evidence.model_copy(update={"deposits": (deposit.model_copy(update=changes),)}), trust, pinned
        )
        assert look(case, [scene.chain.rpc_url]).deposited == {str(payment): counted}

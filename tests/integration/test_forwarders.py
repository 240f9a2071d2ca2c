"""Forwarders (ERC-1167 clones by CREATE2): no key at the address; deploy and flush at once; a Safe as treasury (R16, R20)."""

from collections.abc import Generator

import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from custody.chain import CallRequest
from custody.destinations.contracts import (
    CREATE2_DEPLOYER,
    Outcome,
    create2_address,
    deploy_and_sweep_many_call,
    set_operators_call,
    sweep_many_call,
)
from tests.conftest import STATE_DIR
from tests.sweep_contracts_scene import (
    BATCH_GAS,
    GAS_EACH,
    NATIVE,
    BatchWorld,
    batch_world,
    build_for_tests,
    own_build,
)
from workers.demo.contract_packages import SAFE_PACKAGE
from workers.demo.development_chain import ETHER
from workers.demo.safe_contracts import create_safe, deploy_safe_contracts, execute
from workers.demo.sweep_contracts import deploy_sweep_contracts
from workers.embedded import npm_packages

UNITS = 7_000_000


@pytest.fixture(scope="module")
def world() -> Generator[BatchWorld]:
    with batch_world() as made:
        yield made


def salts_of(name: str, count: int) -> list[bytes]:
    return [keccak(text=f"{name} {number}") for number in range(count)]


def test_many_are_made_and_flushed_in_one_transaction_and_again_later(world: BatchWorld) -> None:
    contracts, usdt = world.contracts, world.tokens.usdt
    salts = salts_of("many", 5)
    addresses = [contracts.forwarder(salt) for salt in salts]
    world.give(usdt, addresses, UNITS)  # before there is any code
    world.give(NATIVE, addresses[:1], ETHER)
    assert world.forwarder_outcomes(usdt, salts) == [Outcome.SWEPT] * 5

    call = deploy_and_sweep_many_call(usdt, salts, GAS_EACH)
    receipt = world.send(world.operator, contracts.batcher, call)
    assert world.swept(receipt, usdt) == dict.fromkeys(addresses, UNITS)
    assert [world.client.code(address) for address in addresses] == [contracts.forwarder_code] * 5

    world.give(usdt, addresses[:3], 1)
    receipt = world.send(world.operator, contracts.batcher, call)  # the same call: nothing is made twice
    assert world.swept(receipt, usdt) == dict.fromkeys(addresses[:3], 1)
    assert world.forwarder_outcomes(usdt, salts) == [Outcome.EMPTY] * 5

    world.give(usdt, addresses[:1], 2)
    receipt = world.sweep(usdt, addresses)  # those that are there need no salt
    assert world.swept(receipt, usdt) == {addresses[0]: 2}
    before = world.client.balance(world.treasury.address)
    assert world.sweep(NATIVE, addresses).succeeded
    assert world.client.balance(world.treasury.address) - before == ETHER


def test_one_bad_of_many_stops_no_other(world: BatchWorld) -> None:
    usdt, contracts = world.tokens.usdt, world.contracts
    salts = salts_of("bad", 4)
    addresses = [contracts.forwarder(salt) for salt in salts]
    world.give(usdt, addresses, UNITS)
    block = keccak(text="addBlackList(address)")[:4] + bytes(12) + bytes.fromhex(addresses[1][2:])
    world.deployer.wait(world.deployer.send(usdt, block))
    assert world.forwarder_outcomes(usdt, salts) == [Outcome.SWEPT, Outcome.REFUSED, Outcome.SWEPT, Outcome.SWEPT]
    receipt = world.send(world.operator, contracts.batcher, deploy_and_sweep_many_call(usdt, salts, GAS_EACH))
    assert world.swept(receipt, usdt) == {address: UNITS for address in addresses if address != addresses[1]}
    assert world.balances(usdt, addresses) == [0, UNITS, 0, 0]


def test_a_wrong_salt_makes_an_empty_forwarder_and_takes_nothing(world: BatchWorld) -> None:
    usdt, contracts = world.tokens.usdt, world.contracts
    [right, wrong] = salts_of("salt", 2)
    world.give(usdt, [contracts.forwarder(right)], UNITS)
    assert world.forwarder_outcomes(usdt, [wrong]) == [Outcome.EMPTY]
    receipt = world.send(world.operator, contracts.batcher, deploy_and_sweep_many_call(usdt, [wrong], GAS_EACH))
    assert receipt.succeeded
    assert world.swept(receipt, usdt) == {}
    assert world.balance(usdt, contracts.forwarder(right)) == UNITS


def test_an_outsider_flushes_nothing_and_makes_no_forwarder_of_ours(world: BatchWorld) -> None:
    """What lies at a forwarder leaves when an operator says so, and for the treasury alone: a quarantine is kept."""
    usdt, contracts = world.tokens.usdt, world.contracts
    [salt] = salts_of("outsider", 1)
    forwarder = contracts.forwarder(salt)
    world.give(usdt, [forwarder], UNITS)
    make = deploy_and_sweep_many_call(usdt, [salt], GAS_EACH)
    assert not world.send(world.outsider, contracts.batcher, make).succeeded
    assert world.client.code(forwarder) == b""

    # The same creation code by another factory is another address, with none of our coins.
    creation = bytes.fromhex("3d602d80600a3d3981f3") + contracts.forwarder_code
    elsewhere = create2_address(CREATE2_DEPLOYER, salt, creation)
    assert world.send(world.outsider, CREATE2_DEPLOYER, salt + creation).succeeded
    assert world.client.code(elsewhere) == contracts.forwarder_code
    assert elsewhere != forwarder

    assert world.send(world.operator, contracts.batcher, make).succeeded
    world.give(usdt, [forwarder], UNITS)
    for call in (
        own_build("SweepDelegate").calldata("sweep", usdt),
        own_build("SweepDelegate").calldata("sweepNative"),
    ):
        for stranger in (world.outsider, world.operator, world.treasury):
            assert not world.send(stranger, forwarder, call).succeeded
    assert world.balance(usdt, forwarder) == UNITS


def test_a_forwarder_that_is_there_takes_coins_but_not_with_the_old_stipend(world: BatchWorld) -> None:
    """A clone's way to its code costs more than 2,300 gas, a delegated account's does not. Before it is made it takes all."""
    contracts = world.contracts
    [salt] = salts_of("stipend", 1)
    forwarder = contracts.forwarder(salt)
    pay = build_for_tests("StipendSender").calldata("pay", forwarder)
    assert world.send(world.outsider, world.stipend_sender, pay, value=1).succeeded
    make = deploy_and_sweep_many_call(NATIVE, [salt], GAS_EACH)
    assert world.send(world.operator, contracts.batcher, make).succeeded
    assert world.client.balance(forwarder) == 0
    assert not world.send(world.outsider, world.stipend_sender, pay, value=1).succeeded
    assert world.send(world.outsider, forwarder, value=1).succeeded


def test_a_safe_is_the_treasury(world: BatchWorld) -> None:
    """Its owners name the operators, and it takes native coin, for which a Safe needs more than a stipend."""
    client, usdt = world.client, world.tokens.usdt
    owners = [Account.create() for _ in range(2)]
    safes = deploy_safe_contracts(world.deployer, npm_packages.fetch(SAFE_PACKAGE, STATE_DIR.resolve()))
    safe = create_safe(world.deployer, safes, [owner.address for owner in owners], 2)
    contracts = deploy_sweep_contracts(world.deployer, world.chain, safe)
    assert client.code(contracts.delegate) == contracts.delegate_code
    named = execute(world.deployer, safe, contracts.batcher, set_operators_call([world.operator.address]), owners)
    assert world.deployer.wait(named).succeeded

    salts = salts_of("safe", 2)
    addresses = [contracts.forwarder(salt) for salt in salts]
    world.give(usdt, addresses, UNITS)
    world.give(NATIVE, addresses, ETHER)
    for call in (deploy_and_sweep_many_call(usdt, salts, GAS_EACH), sweep_many_call(NATIVE, addresses, GAS_EACH)):
        assert world.send(world.operator, contracts.batcher, call, gas=BATCH_GAS).succeeded
    assert (world.balance(usdt, safe), client.balance(safe)) == (2 * UNITS, 2 * ETHER)
    # Two treasuries share nothing: the other batcher's operator finds foreign code here.
    request = CallRequest(
        to=world.contracts.batcher, data=sweep_many_call(usdt, addresses, GAS_EACH), sender=world.operator.address
    )
    assert client.call(request)[64:66] == bytes([Outcome.FOREIGN_CODE] * 2)

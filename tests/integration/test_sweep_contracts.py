"""Our contracts on a real EVM: who may call what, every way a token or an address can betray a batch (R20)."""

from collections.abc import Generator, Sequence
from typing import Final

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from custody.chain import CallRequest, ExecutionReverted, erc20
from custody.destinations.contracts import (
    Outcome,
    deploy_and_sweep_many_call,
    set_operators_call,
    sweep_many_call,
)
from tests.sweep_contracts_scene import (
    GAS_EACH,
    NATIVE,
    BatchWorld,
    batch_world,
    build_for_tests,
    own_build,
)
from workers.demo.development_chain import ETHER

UNITS: Final = 5_000_000
NATIVE_SWEPT: Final = "0x" + keccak(text="NativeSwept(address,uint256)").hex()

MODES: Final = {
    # what the holder makes the token do: what a simulation says, and how much reaches the treasury
    "Plain": (Outcome.SWEPT, UNITS),
    "AnswersNothing": (Outcome.SWEPT, UNITS),
    "AnswersFalse": (Outcome.REFUSED, 0),
    "AnswersTwo": (Outcome.REFUSED, 0),
    "AnswersOneByte": (Outcome.REFUSED, 0),
    "AnswersAtLength": (Outcome.SWEPT, UNITS),
    "Reverts": (Outcome.REFUSED, 0),
    "RevertsAtLength": (Outcome.REFUSED, 0),
    "BurnsGas": (Outcome.REFUSED, 0),
    "Lies": (Outcome.SWEPT, 0),
    "TakesFee": (Outcome.SWEPT, UNITS - UNITS // 100),
    "CallsBack": (Outcome.SWEPT, UNITS),
    "BalanceReverts": (Outcome.REFUSED, 0),
    "BalanceBurnsGas": (Outcome.REFUSED, 0),
    "BalanceAtLength": (Outcome.SWEPT, UNITS),
}
"""In the order of MischiefToken's Mode."""


@pytest.fixture(scope="module")
def world() -> Generator[BatchWorld]:
    with batch_world() as made:
        yield made


def addresses_of(accounts: Sequence[LocalAccount]) -> list[str]:
    return [account.address for account in accounts]


def test_what_is_deployed_is_what_was_computed(world: BatchWorld) -> None:
    contracts, client = world.contracts, world.client
    assert client.code(contracts.batcher) == contracts.batcher_code
    assert client.code(contracts.delegate) == contracts.delegate_code
    salt = keccak(text="a destination")
    asked = own_build("SweepBatcher").calldata("forwarderOf", salt)
    answer = client.call(CallRequest(to=contracts.batcher, data=asked))
    assert answer[12:].hex() == contracts.forwarder(salt)[2:].lower()


def test_an_outsider_can_call_nothing_that_moves(world: BatchWorld) -> None:
    """Each function that is no view, of both contracts, by everybody who is not the one it is for."""
    [destination] = world.delegated(1)
    world.give(world.tokens.usdt, [destination.address], UNITS)
    world.give(NATIVE, [destination.address], ETHER)
    batcher, delegate, usdt = world.contracts.batcher, world.contracts.delegate, world.tokens.usdt
    operator, outsider, treasury = world.operator.address, world.outsider.address, world.treasury.address
    guarded = {
        "sweepMany": (batcher, sweep_many_call(usdt, [destination.address], GAS_EACH), operator),
        "deployAndSweepMany": (batcher, deploy_and_sweep_many_call(usdt, [bytes(32)], GAS_EACH), operator),
        "setOperators": (batcher, set_operators_call([outsider]), treasury),
        "sweep": (destination.address, own_build("SweepDelegate").calldata("sweep", usdt), batcher),
        "sweepNative": (destination.address, own_build("SweepDelegate").calldata("sweepNative"), batcher),
    }
    changing = {
        entry["name"]
        for name in ("SweepBatcher", "SweepDelegate")
        for entry in own_build(name).abi
        if entry["type"] == "function" and entry["stateMutability"] not in {"view", "pure"}
    }
    assert changing == guarded.keys()
    everybody = {operator, outsider, treasury, batcher, delegate, destination.address, world.tokens.usdt}
    for name, (to, call, allowed) in guarded.items():
        for sender in everybody - {allowed}:
            assert world.refused(sender, to, call), f"{name} by {sender}"
        assert not world.refused(allowed, to, call), name
    # Not only in a simulation.
    assert not world.send(world.outsider, destination.address, guarded["sweep"][1]).succeeded
    assert not world.send(world.outsider, batcher, guarded["setOperators"][1]).succeeded
    assert world.balances(usdt, [destination.address]) == [UNITS]


def test_every_betrayal_of_a_token_stays_its_holders_own(world: BatchWorld) -> None:
    """One transaction, a holder a mode: all but those whose own transfer failed are swept, none reached anybody else."""
    token, mischief = world.mischief, build_for_tests("MischiefToken")
    accounts = world.delegated(len(MODES))
    addresses = addresses_of(accounts)
    world.give(token, addresses, UNITS)
    back = sweep_many_call(token, addresses, GAS_EACH)
    calls = [mischief.calldata("setMode", address, mode) for mode, address in enumerate(addresses)]
    calls.append(mischief.calldata("setCallBack", world.contracts.batcher, back))
    world.deployer.wait_all([world.deployer.send(token, call, gas=1_000_000) for call in calls])

    assert dict(zip(MODES, world.outcomes(token, addresses), strict=True)) == {
        mode: outcome for mode, (outcome, _) in MODES.items()
    }
    before = world.balance(token, world.treasury.address)
    receipt = world.sweep(token, addresses)
    assert receipt.succeeded
    moved = world.swept(receipt, token)
    assert {mode: moved.get(address, 0) for mode, address in zip(MODES, addresses, strict=True)} == {
        mode: units for mode, (_, units) in MODES.items()
    }
    assert world.balance(token, world.treasury.address) - before == sum(units for _, units in MODES.values())
    entered = world.client.call(CallRequest(to=token, data=mischief.calldata("entered")))
    assert erc20.decode_uint256(entered) == 0


def test_a_token_cannot_call_back_into_an_address(world: BatchWorld) -> None:
    """In the middle of one sweep the token asks another address to sweep: it is not the batcher."""
    token, mischief = world.mischief, build_for_tests("MischiefToken")
    first, second = addresses_of(world.delegated(2))
    world.give(token, [first, second], UNITS)
    calls = [
        mischief.calldata("setMode", first, list(MODES).index("CallsBack")),
        mischief.calldata("setCallBack", second, own_build("SweepDelegate").calldata("sweep", token)),
    ]
    world.deployer.wait_all([world.deployer.send(token, call) for call in calls])
    receipt = world.sweep(token, [first])
    assert world.swept(receipt, token) == {first: UNITS}
    assert world.balances(token, [first, second]) == [0, UNITS]


@pytest.mark.parametrize("bad", ["blacklisted", "foreign code", "no code", "drained", "no authorization"])
def test_one_bad_of_twenty_leaves_nineteen_swept(world: BatchWorld, bad: str) -> None:
    usdt = world.tokens.usdt
    accounts = [world.account() for _ in range(20)]
    addresses = addresses_of(accounts)
    world.give(usdt, addresses, UNITS)
    lent = [world.lend(account) for account in accounts]
    spoiled, place = accounts[7], 7
    expected, left = Outcome.FOREIGN_CODE, UNITS
    if bad == "blacklisted":
        block = erc20.selector("addBlackList(address)") + bytes(12) + bytes.fromhex(spoiled.address[2:])
        world.deployer.wait(world.deployer.send(usdt, block))
        expected = Outcome.REFUSED
    elif bad == "foreign code":
        lent[place] = world.lend(spoiled, world.mischief)
    elif bad == "no code":
        lent[place] = world.lend(spoiled, nonce=1)
    elif bad == "no authorization":
        del lent[place]
    else:
        world.give(NATIVE, [spoiled.address], ETHER)
        world.deployer.wait(_own_transfer(world, spoiled, usdt, world.outsider.address))
        lent[place] = world.lend(spoiled)
        expected, left = Outcome.EMPTY, 0
    receipt = world.sweep(usdt, addresses, authorizations=lent)
    assert receipt.succeeded
    good = [address for address in addresses if address != spoiled.address]
    assert world.swept(receipt, usdt) == dict.fromkeys(good, UNITS)
    assert world.balances(usdt, addresses) == [left if address == spoiled.address else 0 for address in addresses]
    assert world.outcomes(usdt, [spoiled.address]) == [expected]


def test_authorizations_that_do_not_count(world: BatchWorld) -> None:
    """Stale, of another chain, of a foreign key: each is skipped in silence, the batch succeeds and moves nothing."""
    usdt = world.tokens.usdt
    stale, elsewhere, forged = accounts = [world.account() for _ in range(3)]
    addresses = addresses_of(accounts)
    world.give(usdt, addresses, UNITS)
    lent = [
        world.lend(stale, nonce=1),
        world.lend(elsewhere, chain_id=1),
        world.lend(world.account()),  # it lends its own address, whatever address it was meant for
    ]
    receipt = world.sweep(usdt, addresses, authorizations=lent)
    assert receipt.succeeded
    assert world.swept(receipt, usdt) == {}
    assert [world.client.code(address) for address in addresses] == [b""] * 3
    assert world.outcomes(usdt, addresses) == [Outcome.FOREIGN_CODE] * 3
    assert world.client.nonce(forged.address) == 0


def test_an_authorization_for_chain_0_counts_everywhere(world: BatchWorld) -> None:
    """Why the keys agent never signs one: a chain that nobody chose takes it."""
    account = world.account()
    receipt = world.send(world.outsider, world.outsider.address, authorizations=[world.lend(account, chain_id=0)])
    assert receipt.succeeded
    assert world.client.code(account.address) == world.contracts.delegation


def test_a_copied_authorization_gains_nothing(world: BatchWorld) -> None:
    """It was read in the pool and sent first: the address is delegated to the same delegate, and our batch still sweeps."""
    usdt, account = world.tokens.usdt, world.account()
    world.give(usdt, [account.address], UNITS)
    lent = world.lend(account)
    call = own_build("SweepDelegate").calldata("sweep", usdt)
    assert not world.send(world.outsider, account.address, call, authorizations=[lent]).succeeded
    assert world.client.code(account.address) == world.contracts.delegation
    assert world.balance(usdt, account.address) == UNITS
    receipt = world.sweep(usdt, [account.address], authorizations=[lent])
    assert world.swept(receipt, usdt) == {account.address: UNITS}


def test_only_addresses_that_run_our_delegate_are_called(world: BatchWorld) -> None:
    token = world.mischief
    [good] = addresses_of(world.delegated(1))
    strangers = [
        Account.create().address,
        world.contracts.batcher,
        world.contracts.delegate,
        world.treasury.address,
        world.operator.address,
        token,
        world.tokens.usdc,
        "0x" + "00" * 20,
        "0x" + "00" * 19 + "04",
    ]
    world.give(token, [good], UNITS)
    assert world.outcomes(token, [*strangers, good, good]) == [
        *[Outcome.FOREIGN_CODE] * len(strangers),
        Outcome.SWEPT,
        Outcome.EMPTY,
    ]


def test_a_token_that_is_none(world: BatchWorld) -> None:
    [address] = addresses_of(world.delegated(1))
    for token in (Account.create().address, world.contracts.batcher, world.stipend_sender):
        assert world.outcomes(token, [address]) == [Outcome.REFUSED]


def test_too_little_gas_reverts_the_whole_batch(world: BatchWorld) -> None:
    """A batch that went on would say of its last addresses that they refused. The node's estimate holds enough."""
    usdt = world.tokens.usdt
    addresses = addresses_of(world.delegated(10))
    world.give(usdt, addresses, UNITS)
    call = sweep_many_call(usdt, addresses, GAS_EACH)
    request = CallRequest(to=world.contracts.batcher, data=call, sender=world.operator.address)
    estimate = world.client.estimate_gas(request)
    for gas_each in (2**64 - 1, 2**40):  # more than any transaction has
        assert world.refused(
            world.operator.address, world.contracts.batcher, sweep_many_call(usdt, addresses, gas_each)
        )
    receipt = world.send(world.operator, world.contracts.batcher, call, gas=estimate - GAS_EACH)
    assert not receipt.succeeded
    assert world.balances(usdt, addresses) == [UNITS] * 10
    receipt = world.send(world.operator, world.contracts.batcher, call, gas=estimate)
    assert world.swept(receipt, usdt) == dict.fromkeys(addresses, UNITS)


def test_native_coin_leaves_a_log_at_the_address(world: BatchWorld) -> None:
    addresses = addresses_of(world.delegated(3))
    world.give(NATIVE, addresses[:2], ETHER)
    before = world.client.balance(world.treasury.address)
    assert world.outcomes(NATIVE, addresses) == [Outcome.SWEPT, Outcome.SWEPT, Outcome.EMPTY]
    receipt = world.sweep(NATIVE, addresses)
    assert world.client.balance(world.treasury.address) - before == 2 * ETHER
    assert world.balances(NATIVE, addresses) == [0, 0, 0]
    logs = [(log.address, int.from_bytes(log.data)) for log in receipt.logs if log.event == NATIVE_SWEPT]
    assert logs == [(address, ETHER) for address in addresses[:2]]


def test_a_delegated_address_takes_plain_coins_and_its_key_still_rules(world: BatchWorld) -> None:
    [account] = world.delegated(1)
    pay = build_for_tests("StipendSender").calldata("pay", account.address)
    assert world.send(world.outsider, world.stipend_sender, pay, value=ETHER).succeeded
    assert world.client.balance(account.address) == ETHER
    # 21,000 is what an address without code needs; a wallet that does not estimate fails.
    assert not world.send(world.outsider, account.address, value=1, gas=21_000).succeeded
    assert world.send(world.outsider, account.address, value=1, gas=21_100).succeeded
    world.give(world.tokens.usdt, [account.address], UNITS)
    world.deployer.wait(_own_transfer(world, account, world.tokens.usdt, world.outsider.address))
    assert world.balance(world.tokens.usdt, account.address) == 0


def test_the_treasury_alone_names_operators(world: BatchWorld) -> None:
    batcher, old = world.contracts.batcher, world.operator.address
    [address] = addresses_of(world.delegated(1))
    new = sorted((Account.create().address for _ in range(2)), key=lambda each: int(each, 16))
    call = sweep_many_call(world.plain, [address], GAS_EACH)

    def set_to(operators: list[str]) -> bool:
        build = own_build("SweepBatcher")
        return world.send(world.treasury, batcher, build.calldata("setOperators", operators)).succeeded

    try:
        assert set_to(new)
        assert [world.refused(each, batcher, call) for each in (old, *new)] == [True, False, False]
        for wrong in ([new[1], new[0]], [new[0], new[0]], ["0x" + "00" * 20], _ascending(17)):
            assert not set_to(wrong)
        assert set_to(_ascending(16))
        assert world.refused(new[0], batcher, call)
        assert set_to([])
        assert world.refused(_ascending(1)[0], batcher, call)
    finally:
        assert set_to([old])
    assert not world.refused(old, batcher, call)


def test_a_delegated_usdc_holder_signs_no_transfers_any_more(world: BatchWorld) -> None:
    """One method an address for life: USDC asks a contract by ERC-1271, and the delegate answers none."""
    from tests.usdc_authorizations import transfer_with_authorization_call

    usdc, account = world.tokens.usdc, world.account()
    world.give(usdc, [account.address], UNITS)
    signed = transfer_with_authorization_call(world.client, usdc, account, world.treasury.address, UNITS)
    assert not world.refused(world.outsider.address, usdc, signed)
    world.send(world.outsider, world.outsider.address, authorizations=[world.lend(account)])
    with pytest.raises(ExecutionReverted, match="invalid signature"):
        world.client.call(CallRequest(to=usdc, data=signed, sender=world.outsider.address))
    receipt = world.sweep(usdc, [account.address])
    assert world.swept(receipt, usdc) == {account.address: UNITS}


def _own_transfer(world: BatchWorld, account: LocalAccount, token: str, recipient: str) -> str:
    from workers.demo.wallet import Wallet

    world.give(NATIVE, [account.address], ETHER)
    wallet = Wallet(world.client, account)
    return wallet.send(token, erc20.encode_transfer(recipient, UNITS))


def _ascending(count: int) -> list[str]:
    return [f"0x{number:040x}" for number in range(1, count + 1)]

"""The client and the decoders on a real chain, with the real contracts.

The six lies are those the proxy's event can tell about a payment; each yields only what really arrived.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.types import TransactionDictType

from custody.chain import (
    ZERO_ADDRESS,
    AlreadyKnown,
    CallRequest,
    ChainClient,
    ExecutionReverted,
    InboundTransfer,
    InsufficientFunds,
    NonceTooLow,
    Receipt,
    ReplacementUnderpriced,
    WrongChain,
    erc20,
    inbound_transfers,
    payment_reference,
    reference_topic,
)
from custody.chain.logs import FEE_PROXY_TOPIC, TRANSFER_TOPIC, decode_fee_proxy, decode_transfer
from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR
from workers.demo.contract_packages import (
    CIRCLE_PACKAGE,
    REQUEST_NETWORK_PACKAGE,
    ContractBuild,
    request_network_contract,
)
from workers.demo.contracts import (
    DeployedContracts,
    approve,
    deploy_build,
    deploy_contracts,
    mint,
    pay_through_proxy,
    tether_token,
)
from workers.demo.development_chain import DevelopmentChain, NotDevelopmentChain
from workers.demo.wallet import TransactionFailed, Wallet
from workers.embedded import npm_packages

MILLION = 10**12  # of a token with 6 decimals
REFERENCE = payment_reference("01" + "ab" * 32, "ea3bc7caf64110ca", "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")


@dataclass
class World:
    chain: DevelopmentChain
    client: ChainClient
    contracts: DeployedContracts
    packages: dict[str, Path]
    deployer: Wallet
    buyer: Wallet

    def build(self, name: str, folder: str = ".") -> ContractBuild:
        return request_network_contract(self.packages[REQUEST_NETWORK_PACKAGE], name, folder)

    def inbound(self, receipt: Receipt, *watched: str, tokens: set[str] | None = None) -> list[InboundTransfer]:
        return inbound_transfers(
            receipt,
            tokens=tokens or self.contracts.tokens,
            watched=watched,
            fee_proxies={self.contracts.fee_proxy},
        )

    def received(self, receipt: Receipt, token: str, recipient: str, **settings: set[str]) -> list[InboundTransfer]:
        """What the decoders find, checked against the token's own balances before and after."""
        found = self.inbound(receipt, recipient, **settings)
        before = self.client.token_balance(token, recipient, receipt.block_number - 1)
        after = self.client.token_balance(token, recipient, receipt.block_number)
        assert after - before == sum(one.transfer.amount for one in found if one.transfer.token == token)
        return found


def fresh_address() -> str:
    return Account.create().address


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    packages = {
        name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)
    }
    with running_anvil() as rpc_url:
        chain = DevelopmentChain(rpc_url)
        owner = chain.new_account()
        contracts = deploy_contracts(rpc_url, packages, owner)
        deployer, buyer = Wallet.open(rpc_url, owner), Wallet.open(rpc_url, chain.new_account())
        sent = [mint(deployer, contracts, token, buyer.address, MILLION) for token in contracts.tokens]
        sent += [approve(buyer, token, contracts.fee_proxy, MILLION) for token in contracts.tokens]
        deployer.wait_all(sent)
        yield World(chain, deployer.client, contracts, packages, deployer, buyer)
        chain.close()
        for wallet in (deployer, buyer):
            wallet.client.close()


@pytest.mark.parametrize("token_name", ["usdc", "usdt"])
def test_a_payment_through_the_proxy_is_found_and_attributed(world: World, token_name: str):
    token, destination, fee_address = getattr(world.contracts, token_name), fresh_address(), fresh_address()
    receipt = world.buyer.wait(
        pay_through_proxy(
            world.buyer,
            world.contracts,
            token=token,
            recipient=destination,
            amount=123_456_789,
            reference=REFERENCE,
            fee_amount=1_000,
            fee_address=fee_address,
        )
    )
    [found] = world.received(receipt, token, destination)
    assert (found.tx_ordinal, found.reference_topic) == (0, reference_topic(REFERENCE))
    assert (found.transfer.token, found.transfer.amount) == (token, 123_456_789)
    assert (found.transfer.sender, found.transfer.recipient) == (world.buyer.address, destination)
    assert world.client.token_balance(token, fee_address) == 1_000
    assert receipt.fee == receipt.gas_used * receipt.effective_gas_price > 0


def test_the_tokens_are_what_their_traits_say(world: World):
    for token, traits in world.contracts.tokens.items():
        request = CallRequest(to=token, data=erc20.DECIMALS)
        assert erc20.decode_uint256(world.client.call(request)) == traits.decimals


def test_a_transfer_that_returns_nothing_is_seen(world: World):
    destination = fresh_address()
    call = erc20.encode_transfer(destination, 5)
    request = CallRequest(to=world.contracts.usdt, data=call, sender=world.buyer.address)
    assert world.client.call(request) == b""
    usdc_request = CallRequest(to=world.contracts.usdc, data=call, sender=world.buyer.address)
    assert erc20.decode_uint256(world.client.call(usdc_request)) == 1
    receipt = world.buyer.wait(world.buyer.send(world.contracts.usdt, call))
    [found] = world.received(receipt, world.contracts.usdt, destination)
    assert (found.transfer.amount, found.reference_topic) == (5, None)


def test_lie_1_an_event_of_a_worthless_token(world: World):
    destination = fresh_address()
    worthless, _ = deploy_build(world.deployer, world.build("ERC20True", "TestERC20.sol"))
    receipt = world.buyer.wait(
        pay_through_proxy(
            world.buyer,
            world.contracts,
            token=worthless,
            recipient=destination,
            amount=10**30,
            reference=REFERENCE,
        )
    )
    [log] = receipt.logs
    assert decode_fee_proxy(log).amount == 10**30
    assert world.inbound(receipt, destination) == []
    assert world.inbound(receipt, destination, tokens={worthless}) == []


def test_lie_2_a_token_that_keeps_a_fee(world: World):
    destination = fresh_address()
    build = tether_token(world.packages[REQUEST_NETWORK_PACKAGE])
    token, _ = deploy_build(world.deployer, build, MILLION, "Fee USD", "FUSD", 6)
    world.deployer.wait_all(
        [
            world.deployer.send(token, build.calldata("setParams", 19, 49)),
            world.deployer.send(token, erc20.encode_transfer(world.buyer.address, 10_000_000_000)),
            approve(world.buyer, token, world.contracts.fee_proxy, MILLION),
        ]
    )
    receipt = world.buyer.wait(
        pay_through_proxy(
            world.buyer,
            world.contracts,
            token=token,
            recipient=destination,
            amount=1_000_000_000,
            reference=REFERENCE,
            fee_amount=1_000_000,
            fee_address=fresh_address(),
        )
    )
    [event] = [decode_fee_proxy(log) for log in receipt.logs if log.event == FEE_PROXY_TOPIC]
    assert event.amount == 1_000_000_000
    [found] = world.received(receipt, token, destination, tokens={token})
    assert (found.transfer.amount, found.reference_topic) == (998_100_000, reference_topic(REFERENCE))


def test_lie_3_a_fee_that_nobody_got(world: World):
    destination, token = fresh_address(), world.contracts.usdc
    before = world.client.token_balance(token, world.buyer.address)
    receipt = world.buyer.wait(
        pay_through_proxy(
            world.buyer,
            world.contracts,
            token=token,
            recipient=destination,
            amount=77,
            reference=REFERENCE,
            fee_amount=5 * 10**18,
        )
    )
    [event] = [decode_fee_proxy(log) for log in receipt.logs if log.event == FEE_PROXY_TOPIC]
    assert (event.fee_amount, event.fee_address) == (5 * 10**18, ZERO_ADDRESS)
    [found] = world.received(receipt, token, destination)
    assert found.transfer.amount == 77
    assert world.client.token_balance(token, world.buyer.address) == before - 77
    assert world.inbound(receipt, ZERO_ADDRESS) == []


def test_lie_4_nothing_paid_odd_references_and_payments_to_oneself(world: World):
    destination, token = fresh_address(), world.contracts.usdc

    def pay(recipient: str, amount: int, reference: bytes) -> Receipt:
        return world.buyer.wait(
            pay_through_proxy(
                world.buyer,
                world.contracts,
                token=token,
                recipient=recipient,
                amount=amount,
                reference=reference,
            )
        )

    assert world.received(pay(destination, 0, REFERENCE), token, destination) == []
    for reference in (b"", bytes(32)):
        [found] = world.received(pay(destination, 3, reference), token, destination)
        assert found.transfer.amount == 3
        assert found.reference_topic not in {None, reference_topic(REFERENCE)}
    to_oneself = pay(world.buyer.address, 9, REFERENCE)
    assert [log.event for log in to_oneself.logs] == [TRANSFER_TOPIC, FEE_PROXY_TOPIC]
    assert world.received(to_oneself, token, world.buyer.address) == []
    again = [world.received(pay(destination, 4, REFERENCE), token, destination) for _ in range(2)]
    assert [[found.transfer.amount for found in one] for one in again] == [[4], [4]]
    assert again[0][0].transfer.transaction_hash != again[1][0].transfer.transaction_hash


def test_lies_5_and_6_two_payments_in_one_transaction_by_a_stranger(world: World):
    destination, token = fresh_address(), world.contracts.usdt
    build = world.build("BatchPayments")
    batch, _ = deploy_build(world.deployer, build, world.contracts.fee_proxy, ZERO_ADDRESS, world.deployer.address)
    world.buyer.wait(approve(world.buyer, token, batch, MILLION))
    call = build.calldata(
        "batchERC20PaymentsWithReference",
        token,
        [destination, destination],
        [30, 70],
        [REFERENCE, REFERENCE],
        [0, 0],
        fresh_address(),
    )
    receipt = world.buyer.wait(world.buyer.send(batch, call, gas=600_000))
    first, second = world.received(receipt, token, destination)
    assert [first.transfer.amount, second.transfer.amount] == [30, 70]
    assert first.reference_topic == second.reference_topic == reference_topic(REFERENCE)
    assert first.transfer.transaction_hash == second.transfer.transaction_hash
    assert first.transfer.log_index < second.transfer.log_index
    assert first.tx_ordinal < second.tx_ordinal
    # The event names no payer, and the transfer names the batch contract: not the buyer who paid.
    assert first.transfer.sender == batch != receipt.sender == world.buyer.address


def test_a_copy_of_the_proxy_attributes_nothing(world: World):
    destination, token = fresh_address(), world.contracts.usdc
    copy, _ = deploy_build(world.deployer, world.build("ERC20FeeProxy"))
    world.buyer.wait(approve(world.buyer, token, copy, MILLION))
    call = erc20.encode_transfer_from_with_reference_and_fee(
        token=token,
        recipient=destination,
        amount=11,
        reference=REFERENCE,
        fee_amount=0,
        fee_address=ZERO_ADDRESS,
    )
    receipt = world.buyer.wait(world.buyer.send(copy, call))
    [found] = world.received(receipt, token, destination)
    assert (found.transfer.amount, found.reference_topic) == (11, None)


def test_a_blacklisted_payer_brings_nothing(world: World):
    token, build = world.contracts.usdt, tether_token(world.packages[REQUEST_NETWORK_PACKAGE])
    rogue, destination = Wallet(world.client, world.chain.new_account()), fresh_address()
    world.deployer.wait_all(
        [
            mint(world.deployer, world.contracts, token, rogue.address, 100),
            approve(rogue, token, world.contracts.fee_proxy, 100),
            world.deployer.send(token, build.calldata("addBlackList", rogue.address)),
        ]
    )
    sent = pay_through_proxy(
        rogue, world.contracts, token=token, recipient=destination, amount=100, reference=REFERENCE
    )
    with pytest.raises(TransactionFailed, match="reverted"):
        rogue.wait(sent)
    receipt = world.client.receipt(sent)
    assert receipt is not None
    assert not receipt.succeeded
    assert world.received(receipt, token, destination) == []


def test_a_reorganisation_makes_the_receipt_vanish(world: World):
    destination, token = fresh_address(), world.contracts.usdc
    sent = pay_through_proxy(
        world.buyer, world.contracts, token=token, recipient=destination, amount=5, reference=REFERENCE
    )
    receipt = world.buyer.wait(sent)
    assert world.client.receipts_and_headers([sent]).canonical(sent) == receipt
    logs = world.client.block_logs(receipt.block_hash, [token], [TRANSFER_TOPIC])
    assert [decode_transfer(log).amount for log in logs] == [5]
    world.chain.reorganise(1)
    assert world.client.receipt(sent) is None
    header = world.client.header(receipt.block_number)
    assert header is not None
    assert header.hash != receipt.block_hash
    found = world.client.receipts_and_headers([sent])
    assert found.receipts == {}
    assert found.head.number == receipt.block_number
    assert world.client.token_balance(token, destination) == 0


def test_the_chains_clock_is_right_after_a_reorganisation(world: World):
    """Anvil's own clock would go on from the block it went back to."""
    hour_ago = int(time.time()) - 3600
    world.chain._request("evm_setTime", [hour_ago])
    world.chain.mine(2)
    before = int(time.time())
    world.chain.reorganise(1)
    world.chain.mine()
    assert world.client.head().timestamp >= before


def test_a_node_refuses_in_words_that_are_understood(world: World):
    account = world.chain.new_account(10**18)
    base_fee, priority = world.client.fees()
    transaction: TransactionDictType = {
        "type": 2,
        "chainId": world.client.chain_id(),
        "nonce": 0,
        "to": bytes.fromhex(fresh_address()[2:]),
        "value": 1,
        "gas": 21_000,
        "maxFeePerGas": 4 * base_fee + priority,
        "maxPriorityFeePerGas": priority,
    }

    def signed(**changes: int) -> bytes:
        changed: TransactionDictType = {**transaction, **changes}
        return bytes(account.sign_transaction(changed).raw_transaction)

    world.chain.set_automine(enabled=False)
    try:
        sent = world.client.send_raw(signed())
        assert world.client.receipt(sent) is None
        assert (world.client.nonce(account.address), world.client.nonce(account.address, "pending")) == (0, 1)
        with pytest.raises(AlreadyKnown):
            world.client.send_raw(signed())
        with pytest.raises(ReplacementUnderpriced):
            world.client.send_raw(signed(value=2))
        with pytest.raises(InsufficientFunds):
            world.client.send_raw(signed(nonce=1, value=10**18))
    finally:
        world.chain.set_automine(enabled=True)
    world.chain.mine()
    assert world.client.receipt(sent) is not None
    with pytest.raises(NonceTooLow):
        world.client.send_raw(signed(value=3))
    assert 0 < world.client.balance(account.address) < 10**18


def test_estimates_and_calls_that_revert_say_so(world: World):
    call = erc20.encode_transfer(fresh_address(), 10 * MILLION)
    request = CallRequest(to=world.contracts.usdc, data=call, sender=world.buyer.address)
    with pytest.raises(ExecutionReverted, match="exceeds balance"):
        world.client.estimate_gas(request)
    with pytest.raises(ExecutionReverted, match="exceeds balance") as raised:
        world.client.call(request)
    assert raised.value.data[:4] == erc20.selector("Error(string)")
    affordable = CallRequest(
        to=world.contracts.usdc, data=erc20.encode_transfer(fresh_address(), 1), sender=world.buyer.address
    )
    assert 21_000 < world.client.estimate_gas(affordable) < 100_000


def test_the_chains_identity_is_checked(world: World):
    genesis = world.client.genesis_hash()
    world.client.require_identity(31337, genesis)
    with pytest.raises(WrongChain):
        world.client.require_identity(1, genesis)
    with pytest.raises(WrongChain):
        world.client.require_identity(31337, "0x" + os.urandom(32).hex())


def test_code_and_native_balance_are_read(world: World):
    assert len(world.client.code(world.contracts.usdc)) > 100
    assert world.client.code(fresh_address()) == b""
    head = world.client.head()
    parent = world.client.header(head.number - 1)
    assert parent is not None
    assert parent.hash == head.parent_hash
    assert world.client.header(head.number + 100) is None
    account = world.chain.new_account(12345)
    assert world.client.balance(account.address) == 12345


def test_another_chain_than_a_development_one_is_refused():
    with running_anvil("--chain-id", "56") as rpc_url, pytest.raises(NotDevelopmentChain, match="chain 56"):
        DevelopmentChain(rpc_url)
    with pytest.raises(NotDevelopmentChain, match=r"127\.0\.0\.1"):
        DevelopmentChain("http://rpc.example:8545")

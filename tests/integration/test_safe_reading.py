"""A real Safe read at one block and held against what is pinned of it (R16): whatever its owners change is said."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address

from custody.chain import CallRequest, ChainUnavailable
from custody.safe import NotASafe, SafeTransaction, read_safe, safe_differences
from custody.safe.contract import get_transaction_hash_call
from custody.safe.pins import version_of
from custody.trezor import encode_erc20_transfer
from tests.lying_node import Calls, LyingNode
from tests.safe_world import OTHER, OwnedSafe, nodes_of, state_of
from tests.token_chain import TokenChain
from workers.demo.contract_packages import safe_contract
from workers.demo.safe_contracts import SafeContracts


@pytest.fixture
def safe(token_chain: TokenChain, contracts: SafeContracts) -> Iterator[OwnedSafe]:
    made = OwnedSafe.make(token_chain.deployer, contracts, [Account.create() for _ in range(3)])
    yield made
    made.close()


def test_a_fresh_safe_is_read_whole(safe: OwnedSafe) -> None:
    found = state_of(safe)
    assert (found.version, found.threshold, found.nonce) == ("1.4.1", 2, 0)
    assert set(found.owners) == {owner.address for owner in safe.owners}
    assert (found.guard, found.modules) == (None, ())
    assert found.fallback_handler == safe.contracts.fallback_handler
    assert found.singleton == safe.contracts.singleton
    assert safe_differences(found, safe.pinned(found)) == ()


def test_its_hashes_are_those_of_the_safe_itself(safe: OwnedSafe, token_chain: TokenChain) -> None:
    transfer = encode_erc20_transfer(to_checksum_address(OTHER), 5)
    for transaction in (
        SafeTransaction(31337, safe.address, token_chain.token, 0, transfer, 7),
        SafeTransaction(31337, safe.address, to_checksum_address(OTHER), 10**18, b"", 0),
        SafeTransaction(31337, safe.address, to_checksum_address(OTHER), 1, b"", 2**63).rejection(),
    ):
        call = get_transaction_hash_call(transaction.call_fields(), transaction.nonce)
        assert safe.wallet.client.call(CallRequest(to=safe.address, data=call)) == transaction.hash()


def _swap_owner(safe: OwnedSafe) -> str:
    listed = state_of(safe).owners
    safe.change("swapOwner", listed[0], listed[1], OTHER)
    return f"{OTHER} can sign for it and is no pinned owner"


def _remove_owner(safe: OwnedSafe) -> str:
    listed = state_of(safe).owners
    safe.change("removeOwner", listed[0], listed[1], 2)
    return f"the pinned owner {listed[1]} is an owner no more"


def _lower_threshold(safe: OwnedSafe) -> str:
    safe.change("changeThreshold", 1)
    return "its threshold is 1, pinned is 2"


def _enable_module(safe: OwnedSafe) -> str:
    safe.change("enableModule", OTHER)
    return f"it has modules, which move coins without its owners: {OTHER}; none may be enabled"


def _enable_many_modules(safe: OwnedSafe) -> str:
    for _ in range(12):
        safe.change("enableModule", Account.create().address)
    assert len(state_of(safe).modules) == 10
    return "it has modules"


def _set_guard(safe: OwnedSafe) -> str:
    address, sent = safe.wallet.deploy(_guard(safe))
    safe.wallet.wait(sent)
    safe.change("setGuard", address)
    return f"its guard is {address}, pinned is none"


def _change_handler(safe: OwnedSafe) -> str:
    safe.change("setFallbackHandler", OTHER)
    return f"its fallback handler is {OTHER}, pinned is {safe.contracts.fallback_handler}"


def _change_singleton(safe: OwnedSafe) -> str:
    """A delegate call that writes slot 0, as an upgrade of a Safe does."""
    other, sent = safe.wallet.deploy(_singleton_of_another_version(safe))
    # PUSH20 address, PUSH1 0, SSTORE: what the Safe delegates to.
    writer, made = safe.wallet.deploy(_returning(b"\x73" + bytes.fromhex(other[2:]) + b"\x60\x00\x55\x00"))
    safe.wallet.wait_all([sent, made])
    safe.run(writer, operation=1)
    return f"its singleton {other} has code"


def _guard(safe: OwnedSafe) -> bytes:
    return safe_contract(safe.contracts.package, "DebugTransactionGuard", "examples/guards").initcode()


def _singleton_of_another_version(safe: OwnedSafe) -> bytes:
    return safe_contract(safe.contracts.package, "SafeL2").initcode()


def _returning(code: bytes) -> bytes:
    """Creation code that makes a contract of ``code``."""
    return bytes([0x60, len(code), 0x60, 0x0C, 0x60, 0x00, 0x39, 0x60, len(code), 0x60, 0x00, 0xF3]) + code


CHANGES: list[Callable[[OwnedSafe], str]] = [
    _swap_owner,
    _remove_owner,
    _lower_threshold,
    _enable_module,
    _enable_many_modules,
    _set_guard,
    _change_handler,
    _change_singleton,
]


@pytest.mark.parametrize("change", CHANGES, ids=[each.__name__ for each in CHANGES])
def test_each_change_is_a_sentence(safe: OwnedSafe, change: Callable[[OwnedSafe], str]) -> None:
    pinned = safe.pinned(state_of(safe))
    sentence = change(safe)
    found = safe_differences(state_of(safe), pinned)
    assert len(found) == 1 + (change is _swap_owner)
    assert any(sentence in each for each in found), found


def test_what_is_no_safe_is_said_so(safe: OwnedSafe, token_chain: TokenChain) -> None:
    nodes = nodes_of(safe)
    with pytest.raises(NotASafe, match="there is no contract"):
        read_safe(nodes, Account.create().address)
    for contract in (token_chain.token, safe.contracts.singleton):
        with pytest.raises(NotASafe, match="does not answer as a Safe does"):
            read_safe(nodes, contract)
    nodes.close()


def test_another_safe_is_not_the_pinned_one(safe: OwnedSafe) -> None:
    other = OwnedSafe.make(safe.wallet, safe.contracts, [Account.create() for _ in range(2)])
    said = "; ".join(safe_differences(state_of(other), safe.pinned(state_of(safe))))
    other.close()
    for words in ("can sign for it and is no pinned owner", "is an owner no more", f"it is {other.address}, pinned is"):
        assert words in said


def test_versions_before_1_3_0_are_refused(safe: OwnedSafe) -> None:
    state = state_of(safe)
    pinned = safe.pinned(state)
    for version, refused in (
        ("1.3.0", 0),
        ("1.4.1+L2", 0),
        ("2.0.0", 0),
        ("1.2.9", 1),
        ("1.1.1", 1),
        ("", 1),
        ("x", 1),
    ):
        assert len(safe_differences(replace(state, version=version), pinned)) == refused, version
    assert version_of("1.30.0") == (1, 30, 0)


def test_another_chains_domain_is_refused(safe: OwnedSafe) -> None:
    state = state_of(safe)
    assert safe_differences(replace(state, chain_id=1), safe.pinned(state)) == (
        "it hashes its transactions for another chain or address",
    )


def test_a_node_that_lies_about_owners_leaves_no_quorum(safe: OwnedSafe) -> None:
    with LyingNode(safe.wallet.client.chain.url).running() as liar:
        nodes = nodes_of(safe, liar.url)
        nodes.quorum = 2
        assert read_safe(nodes, safe.address).threshold == 2

        def lie(_node: LyingNode, calls: Calls, answers: list[dict[str, object]]) -> list[dict[str, object]]:
            for call, answer in zip(calls, answers, strict=True):
                if call["method"] == "eth_getStorageAt":
                    answer["result"] = "0x" + "00" * 12 + OTHER[2:]
            return answers

        liar.lie = lie
        with pytest.raises(ChainUnavailable, match="quorum"):
            read_safe(nodes, safe.address)
        nodes.close()

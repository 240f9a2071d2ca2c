"""Our contracts without a chain: the committed build, the addresses that follow from a treasury, calldata."""

import shutil
from pathlib import Path

import pytest
from eth_abi.abi import decode, encode
from eth_account import Account

from custody.destinations.contracts import (
    CREATE2_DEPLOYER,
    Outcome,
    create2_address,
    deploy_and_sweep_many_call,
    read_outcomes,
    set_operators_call,
    sweep_contracts,
    sweep_many_call,
)
from custody.destinations.contracts.addresses import build
from custody.destinations.contracts.calls import OPERATORS_MAXIMUM, OutcomesMalformed
from custody.destinations.contracts.deployment import (
    CREATE2_DEPLOYER_SENDER,
    CREATE2_DEPLOYER_TRANSACTION,
    is_create2_deployer,
)
from tests.conftest import STATE_DIR
from tests.counts import ONLY_LONG
from workers.demo.wallet import created_address
from workers.embedded import solidity

TREASURY = "0x" + "11" * 20
ADDRESSES = [f"0x{number:040x}" for number in (3, 1, 2)]


@ONLY_LONG  # and in make contracts-check
def test_the_committed_build_is_what_the_sources_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = solidity.build(STATE_DIR.resolve())
    solidity.check(files)

    monkeypatch.setattr(solidity, "BUILT", tmp_path)
    shutil.copytree(Path(solidity.__file__).parents[2].joinpath("contracts", "built"), tmp_path, dirs_exist_ok=True)
    solidity.check(files)
    edited = tmp_path / "SweepDelegate.json"
    edited.write_text(edited.read_text().replace("5af1", "5af4", 1))
    with pytest.raises(solidity.ContractsDiffer, match=r"SweepDelegate\.json differs"):
        solidity.check(files)
    (tmp_path / "SweepDelegate.json").unlink()
    (tmp_path / "Added.json").write_text("{}")
    with pytest.raises(solidity.ContractsDiffer, match=r"SweepDelegate\.json is missing, Added\.json has no source"):
        solidity.check(files)


def test_the_addresses_follow_from_the_treasury_alone() -> None:
    """The figures are a promise: a chain that is added in a year has its contracts at the same addresses."""
    contracts = sweep_contracts(TREASURY)
    assert (contracts.batcher, contracts.delegate, contracts.forwarder(bytes(32))) == (
        "0x88eDb502869109e0B900eF8C4D71eAa71d54F5dB",
        "0x1741a5C2661980430Fd3247aA6b3aD5A8A251342",
        "0xb4a1CB20f7979Cf7C6e852Bec5E1dD1728f93f83",
    )
    assert sweep_contracts(TREASURY.upper().replace("0X", "0x")) == contracts
    other = sweep_contracts("0x" + "12" * 20)
    assert {other.batcher, other.delegate, other.forwarder(bytes(32))}.isdisjoint(
        {contracts.batcher, contracts.delegate, contracts.forwarder(bytes(32))}
    )


def test_create2_is_eip_1014s() -> None:
    """The examples of the EIP itself."""
    assert create2_address("0x" + "00" * 20, bytes(32), b"\0") == "0x4D1A2e2bB4F88F0250f26Ffff098B0b30B26BF38"
    assert (
        create2_address("0xdeadbeef00000000000000000000000000000000", bytes(32), b"\0")
        == "0xB928f69Bb1D91Cd65274e3c79d8986362984fDA3"
    )
    with pytest.raises(ValueError, match="salt: expected 32 bytes, got 31"):
        create2_address(TREASURY, bytes(31), b"")


def test_the_create2_deployer_is_the_one_that_everybody_uses() -> None:
    sender = Account.recover_transaction(CREATE2_DEPLOYER_TRANSACTION)
    assert sender == CREATE2_DEPLOYER_SENDER
    assert created_address(sender, 0) == CREATE2_DEPLOYER
    assert not is_create2_deployer(b"")


def test_every_immutable_is_filled_and_nothing_else() -> None:
    made = build("SweepDelegate")
    code = made.code(TREASURY=b"\xaa" * 20, BATCHER=b"\xbb" * 20)
    assert code.count(b"\xaa" * 20) == len(made.immutables["TREASURY"])
    assert code.count(b"\xbb" * 20) == len(made.immutables["BATCHER"])
    assert code.replace(b"\xaa" * 20, bytes(20)).replace(b"\xbb" * 20, bytes(20)) == made.runtime
    with pytest.raises(ValueError, match="SweepDelegate has the immutables BATCHER, TREASURY"):
        made.code(TREASURY=b"")


def test_the_delegate_keeps_nothing_and_lends_itself_to_nobody() -> None:
    """No SSTORE, DELEGATECALL, CREATE or SELFDESTRUCT among its instructions; the batcher has no DELEGATECALL either."""
    assert _instructions(build("SweepDelegate").runtime).isdisjoint({0x54, 0x55, 0xF0, 0xF2, 0xF4, 0xF5, 0xFF})
    assert _instructions(build("SweepBatcher").runtime).isdisjoint({0xF0, 0xF2, 0xF4, 0xFF})


def test_calldata_says_what_was_asked() -> None:
    call = sweep_many_call("native", ADDRESSES, 90_000)
    assert decode(["address", "address[]", "uint64"], call[4:]) == ("0x" + "00" * 20, tuple(ADDRESSES), 90_000)
    call = deploy_and_sweep_many_call(TREASURY, [b"\1" * 32], 5)
    assert decode(["address", "bytes32[]", "uint64"], call[4:]) == (TREASURY, (b"\1" * 32,), 5)
    [operators] = decode(["address[]"], set_operators_call(ADDRESSES)[4:])
    assert list(operators) == sorted(ADDRESSES)
    with pytest.raises(ValueError, match="named twice"):
        set_operators_call([TREASURY, TREASURY])
    with pytest.raises(ValueError, match="at most 16, got 17"):
        set_operators_call([f"0x{number:040x}" for number in range(1, OPERATORS_MAXIMUM + 2)])
    with pytest.raises(ValueError, match="calldata"):
        sweep_many_call("USDT", ADDRESSES, 1)
    with pytest.raises(ValueError, match="calldata"):
        sweep_many_call("native", ADDRESSES, 2**64)


def test_an_answer_that_the_batcher_never_gives_is_refused() -> None:
    assert read_outcomes(encode(["bytes"], [bytes([1, 0, 3, 2])]), 4) == [
        Outcome.SWEPT,
        Outcome.EMPTY,
        Outcome.FOREIGN_CODE,
        Outcome.REFUSED,
    ]
    for answer in (b"", encode(["bytes"], [b"\1"]), encode(["bytes"], [b"\1\4"]), encode(["uint256"], [2**200])):
        with pytest.raises(OutcomesMalformed):
            read_outcomes(answer, 2)


def _instructions(code: bytes) -> set[int]:
    found: set[int] = set()
    place = 0
    while place < len(code):
        found.add(code[place])
        place += 1 + max(0, code[place] - 0x5F) * (code[place] <= 0x7F)
    return found

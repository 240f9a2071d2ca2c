"""What nodes say of a transaction, weighed: a quorum for one block, the least depth, and nobody blamed (L13, R17)."""

from dataclasses import replace
from typing import Any, Final

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from custody.chain import NATIVE, BlockHeader, Receipt, ReceiptsAndHeaders
from custody.chain.agreement import Agreed, Disagreement, carries, weigh
from custody.chain.logs import TRANSFER_TOPIC, Log

TX: Final = "0x" + "ab" * 32
BLOCK: Final = 100
TOKEN, RECIPIENT = (to_checksum_address("0x" + byte * 20) for byte in ("aa", "bb"))
WORD: Final = "0x" + RECIPIENT[2:].lower().rjust(64, "0")


def header(number: int, fork: str = "a") -> BlockHeader:
    return BlockHeader(number, f"0x{fork}{number:063x}", f"0x{fork}{number - 1:063x}", number)


def receipt(fork: str = "a", units: int = 7, *, number: int = BLOCK) -> Receipt:
    block_hash = header(number, fork).hash
    log = Log(1, number, block_hash, TX, 0, 4, TOKEN, (TRANSFER_TOPIC, WORD, WORD), units.to_bytes(32))
    return Receipt(1, TX, 0, number, block_hash, 1, RECIPIENT, TOKEN, None, 21_000, 1, 0, (log,))


def node(head: int, fork: str = "a", found: Receipt | None = None, *, highest: int = 200) -> ReceiptsAndHeaders:
    """A node on a fork; without ``found`` it shows the honest receipt, if its fork is the honest one."""
    shown = found or (receipt() if fork == "a" else None)
    headers = {number: header(number, fork) for number in (BLOCK, highest) if number <= head}
    return ReceiptsAndHeaders(header(head, fork), {} if shown is None else {TX: shown}, headers)


def judged(*answers: ReceiptsAndHeaders, quorum: int = 2, highest: int = 200) -> Agreed | Disagreement:
    return weigh(answers, quorum, TX, (BLOCK, header(BLOCK).hash), highest)


def test_a_quorum_agrees_and_the_least_depth_of_those_who_agree_counts() -> None:
    found = judged(node(110), node(104), node(190, "b"))
    assert found == Agreed(receipt(), header(104), 2)


def test_depth_never_counts_above_what_the_watcher_says_is_agreed() -> None:
    found = judged(node(110, highest=103), node(104, highest=103), highest=103)
    assert found == Agreed(receipt(), header(103), 2)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(node(110, "b"), id="another block"),
        pytest.param(replace(node(110), receipts={}), id="no receipt"),
        pytest.param(node(110, found=receipt(units=8)), id="another amount"),
        pytest.param(node(110, found=receipt(number=99)), id="mined elsewhere"),
        pytest.param(node(99), id="behind"),
        pytest.param(node(110, highest=300), id="no header where depth is capped"),
    ],
)
def test_two_nodes_that_differ_decide_nothing(other: ReceiptsAndHeaders) -> None:
    assert judged(node(110, highest=105), other, highest=105) is Disagreement.QUORUM
    assert judged(other, node(110, highest=105), highest=105) is Disagreement.QUORUM


def test_a_quorum_that_has_it_elsewhere_or_nowhere_says_that_it_is_gone() -> None:
    assert judged(node(110, "b"), node(110, "c", None)) is Disagreement.GONE
    assert judged(node(110), node(110, "b"), node(110, "b")) is Disagreement.GONE


def test_equal_quorums_leave_it_open() -> None:
    assert judged(node(110), node(110), node(110, "b"), node(110, "b")) is Disagreement.QUORUM
    assert judged(node(110), node(110), node(110), node(110, "b"), node(110, "b")) == Agreed(receipt(), header(110), 3)


def test_nobody_answered() -> None:
    assert judged() is Disagreement.QUORUM
    assert judged(node(110), quorum=1) == Agreed(receipt(), header(110), 1)


def says(head: int, lie: int) -> ReceiptsAndHeaders:
    """An honest node (0), one on another fork (1), or one that shows another amount."""
    return node(head, "b") if lie == 1 else node(head, found=receipt(units=lie or 7))


NODES = st.lists(st.builds(says, st.integers(95, 120), st.sampled_from([0, 0, 0, 1, 8, 9])), max_size=6)


@given(answers=NODES, quorum=st.integers(1, 3))
def test_whoever_agrees_are_a_quorum_and_more_than_any_other_and_none_of_them_is_shallower(
    answers: list[ReceiptsAndHeaders], quorum: int
) -> None:
    found = judged(*answers, quorum=quorum)
    if not isinstance(found, Agreed):
        return
    voices = [answer for answer in answers if answer.head.number >= BLOCK]
    same = [answer for answer in voices if answer.canonical(TX) == found.receipt]
    assert found.nodes == len(same) >= quorum
    assert len(same) > max(
        (sum(other.canonical(TX) == each.canonical(TX) for other in voices) for each in voices if each not in same),
        default=0,
    )
    assert found.head.number == min(answer.head.number for answer in same)
    assert found.receipt.block_hash == header(BLOCK).hash


def carried(found: Receipt, **changed: Any) -> bool:
    fact: dict[str, Any] = {"token": TOKEN, "log_index": 4, "recipient": RECIPIENT, "units": 7}
    return carries(found, **(fact | changed))


def test_only_the_very_transfer_is_carried() -> None:
    """L2: the fact is the token's log, not that some receipt exists."""
    assert carried(receipt())
    assert not carried(receipt(), token=RECIPIENT)
    assert not carried(receipt(), log_index=5)
    assert not carried(receipt(), recipient=TOKEN)
    assert not carried(receipt(), units=8)
    [log] = receipt().logs
    assert not carried(replace(receipt(), logs=(replace(log, topics=log.topics[:2]),)))
    assert carried(receipt(), token=NATIVE)
    assert not carried(replace(receipt(), status=0), token=NATIVE)

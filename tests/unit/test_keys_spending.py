"""The gas payer's day: counted on the disk before a signature leaves, whatever is killed or set back."""

from pathlib import Path

import pytest

from custody.destinations.keys.spending import (
    JOURNAL_SLACK_LINES,
    WINDOW_SECONDS,
    DaySpending,
    DaySpent,
    JournalDamaged,
)
from custody.policy import Accepted

NOW = 1_800_000_000
PAYER = "0x" + "11" * 20
OTHER = "0x" + "22" * 20


def test_a_day_has_its_limit_and_makes_room_again(tmp_path: Path):
    spending = DaySpending(tmp_path / "journal", 100)
    spending.take(1, (PAYER, 0), 60, NOW)
    spending.take(1, (PAYER, 1), 40, NOW + 10)
    with pytest.raises(DaySpent, match="may spend 100 wei a day on chain 1; 100 wei are spent and 1 wei more"):
        spending.take(1, (PAYER, 2), 1, NOW + 20)
    spending.take(2, (PAYER, 0), 100, NOW + 20)  # another chain's coin
    assert spending.spent_wei(1, NOW + WINDOW_SECONDS - 1) == 100
    assert spending.spent_wei(1, NOW + WINDOW_SECONDS) == 40
    spending.take(1, (PAYER, 2), 60, NOW + WINDOW_SECONDS)


def test_two_payers_share_a_chain_s_day_and_no_nonce(tmp_path: Path):
    spending = DaySpending(tmp_path / "journal", 100)
    spending.take(1, (PAYER, 0), 60, NOW)
    spending.take(1, (OTHER, 0), 40, NOW)
    for spent in (spending, DaySpending(tmp_path / "journal", 100)):
        assert spent.spent_wei(1, NOW) == 100
        with pytest.raises(DaySpent):
            spent.take(1, (OTHER, 1), 1, NOW)


def test_a_nonce_counts_once_and_as_its_dearest(tmp_path: Path):
    spending = DaySpending(tmp_path / "journal", 100)
    spending.take(1, (PAYER, 0), 60, NOW)
    spending.take(1, (PAYER, 0), 60, NOW)
    spending.take(1, (PAYER, 0), 50, NOW)
    assert spending.spent_wei(1, NOW) == 60
    spending.take(1, (PAYER, 0), 90, NOW)
    assert spending.spent_wei(1, NOW) == 90
    with pytest.raises(DaySpent):
        spending.take(1, (PAYER, 0), 101, NOW)


def test_a_restart_and_a_clock_set_back_give_nothing_anew(tmp_path: Path):
    path = tmp_path / "journal"
    DaySpending(path, 100).take(1, (PAYER, 0), 100, NOW)
    for now in (NOW, NOW - WINDOW_SECONDS, 0):
        with pytest.raises(DaySpent):
            DaySpending(path, 100).take(1, (PAYER, 1), 1, now)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_kill_in_the_middle_of_a_line_loses_that_line_alone(tmp_path: Path):
    path = tmp_path / "journal"
    DaySpending(path, 100).take(1, (PAYER, 0), 30, NOW)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert DaySpending(path, 100).spent_wei(1, NOW) == 30


@pytest.mark.parametrize(
    "line", ["not json", '{"at": 1}', "[]", '{"at": "x", "chain": 1, "payer": "0x1", "nonce": 2, "wei": "1"}']
)
def test_a_damaged_journal_is_refused_and_left_as_it_is(tmp_path: Path, line: str):
    path = tmp_path / "journal"
    path.write_text(f"{line}\n")
    with pytest.raises(JournalDamaged, match="line 1 is damaged"):
        DaySpending(path, 100)
    assert path.read_text() == f"{line}\n"


def test_a_check_counts_nothing(tmp_path: Path):
    spending = DaySpending(tmp_path / "journal", 100)
    for _ in range(3):
        assert spending.require(1, None, 100, NOW) == 100
    with pytest.raises(DaySpent):
        spending.require(1, None, 101, NOW)
    assert spending.spent_wei(1, NOW) == 0


def test_the_newest_genesis_is_remembered(tmp_path: Path):
    path = tmp_path / "journal"
    spending = DaySpending(path, 100)
    assert spending.accepted is None
    for version in (1, 2):
        spending.accept(Accepted(version, f"{version:064x}"))
    spending.take(1, (PAYER, 0), 10, NOW)
    again = DaySpending(path, 100)
    assert again.accepted == Accepted(2, f"{2:064x}")
    assert again.spent_wei(1, NOW) == 10


def test_the_file_does_not_grow_for_ever(tmp_path: Path):
    path = tmp_path / "journal"
    spending = DaySpending(path, 10**9)
    for wei in range(1, 2 * JOURNAL_SLACK_LINES):
        spending.take(1, (PAYER, 0), wei, NOW)  # ever dearer replacements of one nonce
    assert len(path.read_text().splitlines()) < 1.2 * JOURNAL_SLACK_LINES
    assert DaySpending(path, 10**9).spent_wei(1, NOW) == 2 * JOURNAL_SLACK_LINES - 1

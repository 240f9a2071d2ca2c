"""``fleet demo`` ends with 1 when a payment is not released or a book differs."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console

from custody.ledger.reports.escrow import AssetAt
from workers.cli import demo
from workers.demo.run import DemoResult

EQUAL = AssetAt("0x" + "cc" * 20, "USDC", 6, "0x" + "aa" * 20, booked=5, in_transit=0, found=5)
OFF = replace(EQUAL, found=4)
RIGHT = DemoResult(2, 2, 1.0, {"hold": 2}, 8, 7, (EQUAL,), True, {"treasury": "0x"}, "http://h", ("a", "b"))


def test_only_all_released_and_all_books_equal_is_success() -> None:
    assert RIGHT.succeeded
    assert not replace(RIGHT, released=1).succeeded
    assert not replace(RIGHT, books=(EQUAL, OFF)).succeeded
    assert not replace(RIGHT, books=()).succeeded
    assert not replace(RIGHT, in_balance=False).succeeded
    wanted = {"payments", "released", "seconds", "entries", "books_equal_chain", "addresses", "flower_url"}
    assert wanted <= set(RIGHT.as_json())
    assert replace(RIGHT, books=(OFF,)).as_json()["books_equal_chain"] is False


@pytest.mark.parametrize("result", [replace(RIGHT, released=1), replace(RIGHT, books=(OFF,))])
def test_the_command_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: DemoResult) -> None:
    stopped: list[Console] = []

    class Fleet:
        class provisioned:  # noqa: N801
            class secrets:  # noqa: N801
                flower = tmp_path / "flower"

    def bring_up(*_: object) -> type[Fleet]:
        return Fleet

    def run(*_: object, **_options: object) -> DemoResult:
        return result

    monkeypatch.setattr(demo, "bring_up", bring_up)
    monkeypatch.setattr(demo, "bring_down", stopped.append)
    monkeypatch.setattr(demo, "_run", run)
    with pytest.raises(typer.Exit) as ended:
        demo.demo(payments=2, keep=False, json_file=tmp_path / "demo.json")
    assert ended.value.exit_code == 1
    assert stopped
    assert (tmp_path / "demo.json").exists()


def test_a_fleet_that_cannot_start_is_brought_down(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Console] = []

    def bring_up(*_: object) -> None:
        raise RuntimeError("no port")

    monkeypatch.setattr(demo, "bring_up", bring_up)
    monkeypatch.setattr(demo, "bring_down", stopped.append)
    with pytest.raises(RuntimeError, match="no port"):
        demo.demo(payments=2, keep=False, json_file=None)
    assert len(stopped) == 1

"""The benchmarks' harness: runs alternate, figures are medians, a goal is judged on the ratio."""

from collections.abc import Callable

import pytest

from benchmarks.measure import RUNS_MINIMUM, Row, compare, exact, renewed


def figures(*values: float, calls: list[str], name: str) -> Callable[[], float]:
    left = iter(values)

    def run() -> float:
        calls.append(name)
        return next(left)

    return run


def measured(
    ours: tuple[float, ...], peer: tuple[float, ...], *, at_least: float | None = None, at_most: float | None = None
) -> Row:
    calls: list[str] = []
    row = compare(
        area="ledger",
        name="posts",
        ours=figures(*ours, calls=calls, name="ours"),
        peer=figures(*peer, calls=calls, name="peer"),
        peer_name="raw",
        unit="1/s",
        at_least=at_least,
        at_most=at_most,
    )
    assert calls == ["ours", "peer"] * RUNS_MINIMUM
    return row


def test_runs_alternate_and_the_ratio_is_of_the_medians() -> None:
    row = measured((1, 100, 30, 20, 40), (9, 11, 10, 1_000, 1))
    assert (row.ours, row.peer, row.ratio) == (30, 10, 3)
    assert (row.goal, row.met) == ("none, for information", True)
    assert row.as_json()["ratio"] == 3


@pytest.mark.parametrize(
    ("goal", "met", "said"),
    [
        ({"at_least": 3.0}, True, ">= 3 x"),
        ({"at_least": 3.01}, False, ">= 3.01 x"),
        ({"at_most": 3.0}, True, "<= 3 x"),
        ({"at_most": 2.99}, False, "<= 2.99 x"),
    ],
)
def test_a_goal_bounds_the_ratio(goal: dict[str, float], met: bool, said: str) -> None:
    row = measured((30,) * 5, (10,) * 5, **goal)
    assert (row.met, row.goal) == (met, said)


def test_both_goals_bind() -> None:
    assert not measured((30,) * 5, (10,) * 5, at_least=1.0, at_most=2.0).met
    assert measured((30,) * 5, (10,) * 5, at_least=1.0, at_most=4.0).goal == ">= 1 x, <= 4 x"


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match=f"at least {RUNS_MINIMUM}, got 4"):
        compare(area="a", name="n", ours=lambda: 1, peer=lambda: 1, peer_name="p", unit="u", runs=RUNS_MINIMUM - 1)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["ours", "peer"])
def test_a_figure_that_is_no_measure_is_refused_by_name(bad: float, side: str) -> None:
    values = {"ours": 1.0, "peer": 1.0, side: bad}
    with pytest.raises(ValueError, match=f"posts: {side}"):
        compare(
            area="a",
            name="posts",
            ours=lambda: values["ours"],
            peer=lambda: values["peer"],
            peer_name="p",
            unit="u",
        )


def test_progress_names_each_run() -> None:
    said: list[str] = []
    compare(area="a", name="n", ours=lambda: 1, peer=lambda: 1, peer_name="p", unit="u", runs=6, progress=said.append)
    assert said == [f"n: run {number} of 6" for number in range(1, 7)]


def test_one_benchmark_alone_replaces_its_own_rows_and_keeps_the_others() -> None:
    def row(area: str, ours: float) -> Row:
        return Row(area, "name", ours, 1, "peer", ours, "x/s", "none", True)

    before = renewed([], [row("ledger", 1), row("sweeps", 2)])
    assert renewed(before, [row("ledger", 3)]) == [row("sweeps", 2).as_json(), row("ledger", 3).as_json()]


def test_an_exact_figure_needs_no_second_run_and_is_judged_the_same() -> None:
    def row(ours: float) -> Row:
        return exact(area="sweeps", name="gas", ours=ours, peer=100, peer_name="top-up", unit="gas", at_most=0.6)

    assert (row(60).ratio, row(60).met, row(60).goal) == (0.6, True, "<= 0.6 x")
    assert not row(61).met
    with pytest.raises(ValueError, match="gas: ours: expected a figure above zero"):
        row(0)

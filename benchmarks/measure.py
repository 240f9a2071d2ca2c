"""One row of a benchmark: ours and a peer timed in turn, so that a slow minute of the machine hits both."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

RUNS_MINIMUM: Final = 5  # alternating runs a row; the median of fewer says little


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. ``ratio`` is ours / peer (higher is better unless the unit is a cost); ``goal`` bounds the ratio."""

    area: str
    name: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str
    goal: str
    met: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    *,
    area: str,
    name: str,
    ours: Callable[[], float],
    peer: Callable[[], float],
    peer_name: str,
    unit: str,
    at_least: float | None = None,
    at_most: float | None = None,
    runs: int = RUNS_MINIMUM,
    progress: Callable[[str], None] = lambda _: None,
) -> Row:
    """Run ``ours`` and ``peer`` alternately; each returns its figure in ``unit``. The ratio is of the medians.

    Raises ValueError for too few runs, and for a figure that is not a finite number above zero.
    """
    if runs < RUNS_MINIMUM:
        raise ValueError(f"runs: expected at least {RUNS_MINIMUM}, got {runs}")
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(runs):
        progress(f"{name}: run {number + 1} of {runs}")
        mine.append(_figure(f"{name}: ours", ours()))
        theirs.append(_figure(f"{name}: peer", peer()))
    ratio = statistics.median(mine) / statistics.median(theirs)
    goal, met = _judge(ratio, at_least, at_most)
    return Row(area, name, statistics.median(mine), statistics.median(theirs), peer_name, ratio, unit, goal, met)


def exact(
    *,
    area: str,
    name: str,
    ours: float,
    peer: float,
    peer_name: str,
    unit: str,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """The row of two figures that are the same in every run, such as gas.

    Raises ValueError for one that is not a finite number above zero.
    """
    ratio = _figure(f"{name}: ours", ours) / _figure(f"{name}: peer", peer)
    goal, met = _judge(ratio, at_least, at_most)
    return Row(area, name, ours, peer, peer_name, ratio, unit, goal, met)


def renewed(before: list[dict[str, Any]], rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What was measured before, but for the rows that were measured again: one benchmark alone forgets no other."""
    new = [row.as_json() for row in rows]
    again = {(row["area"], row["name"]) for row in new}
    return [row for row in before if (row["area"], row["name"]) not in again] + new


def _judge(ratio: float, at_least: float | None, at_most: float | None) -> tuple[str, bool]:
    goals: list[tuple[str, bool]] = []
    if at_least is not None:
        goals.append((f">= {at_least:g} x", ratio >= at_least))
    if at_most is not None:
        goals.append((f"<= {at_most:g} x", ratio <= at_most))
    if not goals:
        return "none, for information", True
    return ", ".join(said for said, _ in goals), all(met for _, met in goals)


def _figure(name: str, value: float) -> float:
    # Zero or nothing measured would give a ratio that means nothing, and meets a goal.
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a figure above zero, got {value}")
    return value


Benchmark = Callable[[Callable[[str], None]], Iterable[Row]]
"""Takes a progress callback, yields rows."""

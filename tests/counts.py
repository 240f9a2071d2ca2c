"""How often the fuzzing, racing and killing tests try (L23): a part of it in ``make test``, all of it in ``make test-long``.

A test says what it did through the fixture ``counts``. A run with FLEET_TEST_COUNTS=full writes the counts of the
tests that passed to benchmarks/counts.json, which is all that the README quotes.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

FULL: Final = os.environ.get("FLEET_TEST_COUNTS") == "full"
FILE: Final = Path(__file__).parents[1] / "benchmarks" / "counts.json"

ONLY_LONG: Final = pytest.mark.skipif(not FULL, reason="takes long, and quicker tests tell most of it: make test-long")
"""For tests of a running fleet's many processes, and of what quicker tests show in part; ``make test`` has its 15 minutes."""

ROUNDS_A_PART: Final = 100
"""Of a long race: each part has a chain and a database of its own, so that parts may run side by side, and the last rounds
read no more than the first."""

Case = TypeVar("Case")

Counts = Callable[[str, int], None]
"""``counts(what, how_many)``: the last number said of a thing is kept."""


def declared(full: int, quick: int) -> int:
    """The declared count in ``make test-long``, the quick one otherwise."""
    return full if FULL else quick


def parts(rounds: int) -> range:
    """The parts of ``rounds`` rounds in ``make test-long``, one part of ``declared(ROUNDS_A_PART, quick)`` rounds otherwise."""
    return range(declared(rounds // ROUNDS_A_PART, 1))


def sampled(cases: Iterable[Case]) -> list[Case]:
    """Cases of one kind, each with servers or a chain of its own: all in ``make test-long``, each third otherwise."""
    return list(cases)[:: declared(1, 3)]


def merged(before: list[dict[str, Any]], test: str, said: dict[str, int], seconds: float) -> list[dict[str, Any]]:
    """``before`` with this test's counts in place of its earlier ones, in the order of their tests."""
    rows = [row for row in before if row["test"] != test]
    rows += [{"test": test, "what": what, "count": count, "seconds": round(seconds, 1)} for what, count in said.items()]
    return sorted(rows, key=lambda row: (row["test"], row["what"]))


def write(path: Path, test: str, said: dict[str, int], seconds: float) -> None:
    """Bring the file up to date with one test that passed."""
    before: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    path.write_text(json.dumps(merged(before, test, said, seconds), indent=2) + "\n", encoding="utf-8")

"""What a verification of the ledger found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

PROBLEMS_KEPT: Final = 10_000  # a ledger that is wrong throughout must not fill the memory; all are counted

Progress = Callable[[int], None]
"""Told how many rows were read since it was last told."""

PROGRESS_EVERY: Final = 1_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with the row it is wrong in."""

    what: str
    entry_id: str | None = None
    book: str | None = None
    seq: str | None = None
    seal_no: int | None = None

    def __str__(self) -> str:
        where = [
            f"{name} {value}"
            for name, value in (
                ("seal", self.seal_no),
                ("entry", self.entry_id),
                ("book", self.book),
                ("seq", self.seq),
            )
            if value is not None
        ]
        return f"{', '.join(where) or 'ledger'}: {self.what}"


@dataclass
class Report:
    """Counts, and the first PROBLEMS_KEPT problems."""

    entries: int = 0
    """Entries read for their hashes, links and balances."""
    books: int = 0
    seals: int = 0
    sealed_entries: int = 0
    """Entries compared with the seal of their window."""
    unsealed_entries: int = 0
    """Entries newer than the newest seal: their chain is checked, but nobody has signed them yet (L22)."""
    before_fleet: int = 0
    """Entries of before the fleet: in no book, under the first seal."""
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    def add(self, problem: Problem) -> None:
        """Count the problem, and keep it while there is room."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)

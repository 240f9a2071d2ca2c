"""How a domain stands: its store, how far it was brought over, its gaps, its last comparison, its shadow reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from custody.cutovers.stores import Domain
from custody.settings.environment import Store


@dataclass(frozen=True, slots=True)
class CollectionStanding:
    """One collection. ``seen``: documents that the backfill has come past; the round is the last whole comparison."""

    name: str
    seen: int
    is_backfilled: bool
    open_gaps: Mapping[str, int]
    """By severity."""
    compared_at: datetime | None
    is_equal: bool


@dataclass(frozen=True, slots=True)
class DomainStanding:
    """One domain. ``store`` None: no releases worker has said where it reads. ``evidence`` is what a cutover is judged by."""

    domain: Domain
    store: Store | None
    since: datetime | None
    collections: tuple[CollectionStanding, ...]
    compared: int
    mismatched: int
    agreed: int
    """Answers of both stores that agreed since the last that differed."""
    next_store: Store
    refusals: tuple[str, ...]
    """What stands against cutting it over to ``next_store``, a sentence each."""
    evidence: Mapping[str, Any]

    @property
    def open_gaps(self) -> dict[str, int]:
        """Of all its collections, by severity."""
        total: dict[str, int] = {}
        for each in self.collections:
            for severity, count in each.open_gaps.items():
                total[severity] = total.get(severity, 0) + count
        return total

    @property
    def compared_at(self) -> datetime | None:
        """When the collection that was compared longest ago was; None while one never was."""
        times = [each.compared_at for each in self.collections]
        known = [at for at in times if at is not None]
        return min(known) if len(known) == len(times) else None

    @property
    def is_equal(self) -> bool:
        """Whether the last whole comparison of each collection found nothing that differs."""
        return all(each.is_equal for each in self.collections)

    def backfilled_percent(self, estimates: Mapping[str, int] | None) -> Decimal | None:
        """How much was brought over, 0 to 100; ``estimates``: documents of each collection in MongoDB. None: not known."""
        if all(each.is_backfilled for each in self.collections):
            return Decimal(100)
        if estimates is None or any(each.name not in estimates for each in self.collections):
            return None
        expected = sum(max(estimates[each.name], each.seen) for each in self.collections)
        done = sum(
            max(estimates[each.name], each.seen) if each.is_backfilled else each.seen for each in self.collections
        )
        if not expected:
            return Decimal(0)
        # Not before each is finished is it all of it.
        return min(Decimal("99.9"), Decimal(done * 1_000 // expected).scaleb(-1))


_NEXT: dict[Store | None, Store] = {None: "dual", "mongo": "dual", "dual": "pg", "pg": "dual"}


def standing_of(connection: Connection, domain: Domain) -> DomainStanding:
    """How a domain stands now, with what stands against its next cutover."""
    evidence: dict[str, Any] = connection.execute(
        text("SELECT fleet.cutover_evidence(:domain)"), {"domain": domain}
    ).scalar_one()
    store: Store | None = evidence["store"]
    to = _NEXT[store]
    refusals: list[str] = connection.execute(
        text("SELECT fleet.why_not_cut_over(:domain, :to, fleet.cutover_evidence(:domain))"),
        {"domain": domain, "to": to},
    ).scalar_one()
    reads: dict[str, Any] = evidence["shadow_reads"] or {}
    cutover: dict[str, Any] | None = evidence["cutover"]
    return DomainStanding(
        domain=domain,
        store=store,
        since=None if cutover is None else datetime.fromisoformat(cutover["executed_at"]),
        collections=tuple(_collection(each) for each in evidence["collections"]),
        compared=reads.get("compared", 0),
        mismatched=reads.get("mismatched", 0),
        agreed=reads.get("agreed", 0),
        next_store=to,
        refusals=tuple(refusals),
        evidence=evidence,
    )


def _collection(said: Mapping[str, Any]) -> CollectionStanding:
    last: dict[str, Any] | None = said["round"]
    return CollectionStanding(
        name=said["name"],
        seen=said["backfill"]["seen"] or 0,
        is_backfilled=said["backfill"]["is_finished"],
        open_gaps=said["open_gaps"],
        compared_at=None if last is None else datetime.fromisoformat(last["began_at"]),
        is_equal=last is not None and not (last["different"] + last["unreadable"] + said["open_differences"]),
    )

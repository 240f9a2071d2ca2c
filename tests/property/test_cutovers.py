"""R10: no sequence of requests, signatures and executions reads Postgres alone without two persons' signatures under it."""

import random
from pathlib import Path

from custody.cutovers import DOMAINS, Domain, cut_over_to
from custody.ledger.adjustments import Action, ActionRefused, withdraw
from custody.settings.environment import Store
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import Counts, declared
from tests.cutting_over import Cutting

MOVES = declared(2_000, 120)
PEOPLE = ("ada", "bob", "cyd")
STORES: tuple[Store, ...] = ("mongo", "dual", "pg")


class Model:
    """What must hold: a store is reached by an action whose two persons signed, executed by another than its proposer."""

    def __init__(self, cutting: Cutting, seed: int) -> None:
        self.cutting = cutting
        self.chance = random.Random(seed)
        self.open: list[Action] = []
        self.signed: dict[str, set[str]] = {}
        self.clean = dict.fromkeys(DOMAINS, False)
        self.store: dict[Domain, Store] = dict.fromkeys(DOMAINS, "dual")
        self.executed = 0
        self.refused = 0

    def move(self) -> None:
        domain = self.chance.choice(DOMAINS)
        match self.chance.randrange(6):
            case 0:
                self.cutting.clean(domain)
                self.clean[domain] = True
            case 1:
                self.cutting.market.execute("UPDATE fleet.mirror_agreements SET different = 1 WHERE collection = ANY (:c)",
                                            c=["disputes" if domain == "dispute" else "categories"])  # fmt: skip
                self.clean[domain] = False
            case 2:
                self._propose(domain, self.chance.choice(STORES))
            case 3 if self.open:
                self._sign(self.chance.choice(self.open))
            case 4 if self.open and not self.chance.randrange(4):
                chosen = self.open.pop(self.chance.randrange(len(self.open)))
                with transaction(self.cutting.database.engine("fleet_operator")) as connection:
                    withdraw(connection, chosen.id, by="omid")
            case _ if self.open:
                self._execute(self.chance.choice(self.open))
            case _:
                pass

    def _propose(self, domain: Domain, to: Store) -> None:
        try:
            action = self.cutting.propose(domain, to)
        except ActionRefused:
            assert to == self.store[domain] or "pg" in {to, self.store[domain]}
            return
        assert to != self.store[domain]
        assert "pg" not in {to, self.store[domain]} or self.clean[domain]
        self.open.append(action)
        self.signed[str(action.id)] = set()

    def _sign(self, action: Action) -> None:
        who = self.signed[str(action.id)]
        person = self.chance.choice(PEOPLE)
        if person not in who:
            self.cutting.sign(action.id, person)
            who.add(person)

    def _execute(self, action: Action) -> None:
        by = self.chance.choice(("mina", "omid"))
        said = action.parameters
        domain, to = said["domain"], said["to"]
        try:
            self.cutting.execute(action, by)
        except ActionRefused:
            self.refused += 1
            return
        assert len(self.signed[str(action.id)]) >= 2
        assert by == "omid"
        assert said["from"] == self.store[domain]
        assert "pg" not in {to, said["from"]} or self.clean[domain]
        if said["from"] == "pg" or to == "dual":
            self.clean[domain] = False  # what both stores said before it counts for nothing
        if to == "pg":
            self.clean[domain] = False  # both are to be compared anew before it goes back
        self.store[domain] = to
        self.open.remove(action)
        self.executed += 1


def test_no_sequence_of_requests_reads_postgres_alone_without_two_persons(
    database: Database, tmp_path: Path, counts: Counts
) -> None:
    cutting = Cutting(database, tmp_path)
    for domain in DOMAINS:
        cutting.begin(domain, "dual")
    model = Model(cutting, seed=7)
    for _ in range(MOVES):
        model.move()
        with transaction(database.engine("fleet_releases")) as connection:
            found = cut_over_to(connection)
        assert {domain: found.get(domain, "dual") for domain in DOMAINS} == model.store
    rows = cutting.market.execute(
        "SELECT cardinality(fleet.persons_who_signed(a.id, a.parameter_hash)) AS persons, a.state "
        "FROM fleet.cutovers c JOIN fleet.operator_actions a ON a.id = c.action_id"
    )
    assert len(rows) == model.executed > 0
    assert model.refused > 0
    assert all(row.persons >= 2 and row.state == "executed" for row in rows)
    counts("moves of persons who would cut a domain over", MOVES)

"""A domain that is clean to be cut over, and people who propose, sign and execute it where money is real."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from custody.cutovers import DOMAINS, KIND, Domain, execute_cutover, propose_cutover, standing_of
from custody.ledger.adjustments import Action, open_actions
from custody.policy import SignedFolder
from custody.policy.operator_actions import SignableAction
from custody.releases.approving import judge_approvals
from custody.settings.environment import Store
from custody.store.engine import transaction
from tests.approvals import hand_in_approval
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.policy_files import Fleet

REAL: Final = 56
RULES: Final = [{"name": "books", "kind": "allow", "purposes": ["adjustment"]}]
COLLECTIONS: Final[Mapping[Domain, tuple[str, ...]]] = {
    "marketplace": ("categories", "purchaserequests", "selleroffers", "requesttemplates"),
    "dispute": ("disputes",),
}


class Cutting:
    """A fleet on a chain with real money; ada, bob and cyd may sign."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.market = Marketplace(database, chain_id=REAL)
        self.signed = SignedFolder(folder, Fleet(rules=RULES).write_without_book(folder))

    def begin(self, domain: Domain, store: Store) -> None:
        """What a releases worker says it was set to."""
        self.market.execute(
            "INSERT INTO fleet.domain_beginnings (domain, store) VALUES (:d, :s) "
            "ON CONFLICT (domain) DO UPDATE SET store = excluded.store",
            d=domain,
            s=store,
        )

    def clean(self, domain: Domain, *, agreed: int = 1_000) -> None:
        """Everything brought over, compared and equal, and as many answers of both stores the same."""
        for name in COLLECTIONS[domain]:
            self.market.execute(
                "INSERT INTO fleet.backfill_progress (collection, stage, seen, finished_at) VALUES (:c, 'documents', 7, now()) "
                "ON CONFLICT (collection, stage) DO UPDATE SET finished_at = now()",
                c=name,
            )
            self.market.execute(
                "INSERT INTO fleet.mirror_agreements (collection, began_at, finished_at, documents, table_rows, equal) "
                "VALUES (:c, clock_timestamp(), clock_timestamp(), 7, 7, 7) ON CONFLICT (collection) DO UPDATE SET "
                "began_at = excluded.began_at, finished_at = excluded.finished_at, different = 0, unreadable = 0, waiting = 0",
                c=name,
            )
            self.market.execute("UPDATE fleet.mirror_differences SET resolved_at = now() WHERE collection = :c", c=name)
            self.market.execute("DELETE FROM fleet.outbox WHERE collection = :c", c=name)
        self.market.execute(
            "INSERT INTO fleet.shadow_reads (domain, compared, mismatched, agreed) VALUES (:d, :n, 0, :n) "
            "ON CONFLICT (domain) DO UPDATE SET compared = :n, mismatched = 0, agreed = :n",
            d=domain,
            n=agreed,
        )

    def propose(self, domain: Domain, to: Store, by: str = "mina") -> Action:
        with transaction(self.database.engine("fleet_operator")) as connection:
            action = propose_cutover(connection, domain, to, reason="all of it is there", by=by)
            return next(each for each in open_actions(connection, KIND) if each.id == action)

    def shown(self, action: UUID) -> SignableAction:
        [row] = self.market.execute(
            "SELECT kind, chain_id, parameters::text AS said FROM fleet.operator_actions WHERE id = :i", i=action
        )
        return SignableAction(str(action), row.kind, row.chain_id, row.said)

    def sign(self, action: UUID, *people: str) -> None:
        found = self.shown(action)
        for person in people:
            engine = self.database.engine("fleet_signer_api")
            hand_in_approval(engine, "operator_action", action, found.hash(), found.text("amn1"), person)
        judge_approvals(self.database.engine("fleet_releases"), self.signed, 100)

    def execute(self, action: Action, by: str = "omid") -> int:
        with transaction(self.database.engine("fleet_operator")) as connection:
            return execute_cutover(connection, action.id, agreed_hash=action.hash, by=by)

    def cut(self, domain: Domain, to: Store) -> int:
        action = self.propose(domain, to)
        self.sign(action.id, "ada", "bob")
        return self.execute(action)

    def refusals(self, domain: Domain) -> tuple[str, ...]:
        with transaction(self.database.engine("fleet_operator")) as connection:
            return standing_of(connection, domain).refusals

    def stores(self) -> dict[Domain, Store | None]:
        with transaction(self.database.engine("fleet_operator")) as connection:
            return {domain: standing_of(connection, domain).store for domain in DOMAINS}

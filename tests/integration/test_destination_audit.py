"""A destination that its account cannot derive is quarantined within a minute and never swept or shown again (R20)."""

from typing import Any
from uuid import UUID

import pytest
import structlog

from custody.destinations.accounts import HdAccount
from custody.destinations.audit import audit_destinations, why_not_derived
from custody.destinations.derivation import account_xpub_from_seed, address_at, seed_from_phrase
from custody.destinations.issuing import OfferRef, issue_destination, register_deposit_account
from custody.store.attention import needs_attention
from custody.store.engine import transaction
from custody.store.schedule_runs import AUDIT_SCHEDULE
from schedules.table import SCHEDULES
from tests.conftest import Database
from tests.keys_agent import new_phrase
from tests.marketplace import CHAIN_ID, Marketplace

PATH = "m/44'/60'/0'"


class Deposits:
    """A deposit account and destinations of it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.market = Marketplace(database)
        self.xpub = account_xpub_from_seed(seed_from_phrase(new_phrase()))
        with transaction(database.engine("fleet_operator")) as connection:
            self.account = register_deposit_account(connection, self.xpub)

    def issue(self) -> UUID:
        with transaction(self.database.engine("fleet_operator")) as connection:
            offer = OfferRef("template", external=f"template-{self.market._indices}")
            self.market._indices += 1
            return issue_destination(connection, buyer_id=self.market.user(), offer=offer, chain_id=CHAIN_ID).id

    def audit(self, **more: int) -> int:
        return audit_destinations(self.database.engine("fleet_housekeeping"), **more)

    def row(self, destination: UUID) -> Any:
        return self.market.execute("SELECT * FROM public.derived_destinations WHERE id = :d", d=destination)[0]

    def change(self, destination: UUID, assignment: str, **values: Any) -> None:
        self.market.execute(
            f"UPDATE public.derived_destinations SET {assignment} WHERE id = :d", d=destination, **values
        )


@pytest.fixture
def deposits(database: Database) -> Deposits:
    return Deposits(database)


def test_what_was_issued_is_audited_once_and_stays(deposits: Deposits):
    issued = [deposits.issue() for _ in range(5)]
    assert deposits.audit(limit=3) == 3
    assert deposits.audit(limit=3) == 2
    assert deposits.audit() == 0
    assert {deposits.row(each).status for each in issued} == {"active"}
    assert deposits.market.execute("SELECT DISTINCT is_derived FROM fleet.destination_audits")[0].is_derived is True


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("address = :theirs", "its account's address at index 0 is "),
        ("derivation_index = 77", "its account's address at index 77 is "),
        ("derivation_path = 'm/44''/60''/0''/0/9'", "its path is m/44'/60'/0'/0/9, expected m/44'/60'/0'/0/0"),
        ("deposit_account_id = NULL, address = :theirs", "no deposit account is known that it comes from"),
    ],
    ids=["address", "index", "path", "no-account"],
)
def test_a_row_that_somebody_changed_is_quarantined_and_said_aloud(deposits: Deposits, assignment: str, expected: str):
    good, bad = deposits.issue(), deposits.issue()
    good, bad = bad, good
    assert deposits.audit() == 2
    theirs = address_at(account_xpub_from_seed(seed_from_phrase(new_phrase())), 0)
    values = {"theirs": theirs} if ":theirs" in assignment else {}
    deposits.change(bad, assignment, **values)
    with structlog.testing.capture_logs() as logs:
        assert deposits.audit() == 1
    row = deposits.row(bad)
    assert row.status == "quarantined"
    assert row.quarantine_reason.startswith("not_derived: ")
    assert expected in row.quarantine_reason
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["destination_not_derived"]
    assert deposits.row(good).status == "active"
    with deposits.database.engine("fleet_operator").connect() as connection:
        assert any(row.address in each.what and expected in each.reason for each in needs_attention(connection))
    [asked] = deposits.market.execute(
        "SELECT DISTINCT document_id FROM fleet.outbox WHERE collection = 'deriveddestinations' AND document_id = :d",
        d=bad,
    )
    assert asked.document_id == bad
    assert deposits.audit() == 0  # said once


def test_an_inserted_row_of_a_stranger_s_key_is_found(deposits: Deposits):
    issued = deposits.issue()
    theirs = address_at(account_xpub_from_seed(seed_from_phrase(new_phrase())), 1)
    deposits.market.execute(
        "INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref, chain_id, "
        "address, derivation_path, derivation_index, deposit_account_id) SELECT buyer_id, 'template', 'theirs', chain_id, "
        ":theirs, 'm/44''/60''/0''/0/1', 1, deposit_account_id FROM public.derived_destinations WHERE id = :d",
        theirs=theirs,
        d=issued,
    )
    assert deposits.audit() == 2
    states = deposits.market.execute("SELECT address, status::text AS s FROM public.derived_destinations")
    assert {row.address: row.s for row in states}[theirs] == "quarantined"
    assert deposits.row(issued).status == "active"


def test_a_row_of_before_accounts_were_written_down_is_one_of_a_known_account(deposits: Deposits):
    issued = deposits.issue()
    deposits.change(issued, "deposit_account_id = NULL")
    assert deposits.audit() == 1
    assert deposits.row(issued).status == "active"


def test_it_is_rung_each_minute():
    [entry] = [each for each in SCHEDULES if each.name == AUDIT_SCHEDULE]
    assert (entry.period_seconds, entry.queue) == (60, "housekeeping")


def test_an_account_of_another_path_derives_its_own():
    xpub = account_xpub_from_seed(seed_from_phrase(new_phrase()))
    address = address_at(xpub, 3)
    assert why_not_derived(CHAIN_ID, address, f"{PATH}/0/3", 3, HdAccount(xpub, PATH)) is None
    assert "its account cannot derive it" in (
        why_not_derived(CHAIN_ID, address, f"{PATH}/0/3", 3, HdAccount(xpub, "m/44'/60'/7'")) or ""
    )
    assert "its account cannot derive it" in (
        why_not_derived(CHAIN_ID, address, f"{PATH}/0/3", -1, HdAccount(xpub, PATH)) or ""
    )

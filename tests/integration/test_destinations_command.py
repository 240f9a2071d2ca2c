"""``fleet destinations audit``: every row derived again; one that differs is named with what was expected (R20)."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from custody.destinations.derivation import account_xpub_from_seed, address_at, xpub_fingerprint
from custody.destinations.issuing import Destination, OfferRef, issue_destination, register_deposit_account
from custody.destinations.rotation import rotate_deposit_account
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from workers.cli import destinations

Run = Callable[..., Any]
XPUB, LATER_XPUB = (account_xpub_from_seed(bytes([seed]) * 64) for seed in (5, 6))


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer(rich_markup_mode="rich")
    destinations.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["destinations", *arguments])
    settings.cache_clear()


@pytest.fixture
def issued(database: Database, market: Marketplace) -> list[Destination]:
    """Six addresses of two accounts."""
    buyer = market.user()
    made: list[Destination] = []
    with transaction(database.engine("fleet_operator")) as connection:
        register_deposit_account(connection, XPUB)
        for number in range(6):
            if number == 3:
                rotate_deposit_account(connection, LATER_XPUB)
            offer = OfferRef("template", external=f"offer-{number}")
            made.append(issue_destination(connection, buyer_id=buyer, offer=offer, chain_id=CHAIN_ID))
    return made


def said(result: Any) -> dict[str, Any]:
    return json.loads(result.stdout)


def test_whole_is_said_with_exit_code_0(fleet: Run, issued: list[Destination]) -> None:
    result = fleet("audit")
    assert result.exit_code == 0, result.output
    assert f"{len(issued)} addresses of 2 deposit accounts" in result.stdout
    assert "every address is its account's" in result.stdout
    report = said(fleet("audit", "--json"))
    assert (report["ok"], report["audited"], report["differing"]) == (True, 6, 0)


def test_nothing_issued_is_whole(fleet: Run) -> None:
    result = fleet("audit", "--json")
    assert (result.exit_code, said(result)["audited"]) == (0, 0)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_row_that_differs_is_named_with_what_was_expected(
    fleet: Run, market: Marketplace, issued: list[Destination], place: int
) -> None:
    mine, theirs = issued[place], address_at(account_xpub_from_seed(b"\x07" * 64), place)
    market.execute("UPDATE public.derived_destinations SET address = :a WHERE id = :d", a=theirs, d=mine.id)
    # Whatever the minute's audit noted of it.
    market.execute(
        "INSERT INTO fleet.destination_audits (destination_id, address, derivation_path, derivation_index, "
        "deposit_account_id, is_derived) SELECT id, address, derivation_path, derivation_index, deposit_account_id, true "
        "FROM public.derived_destinations"
    )
    result = fleet("audit", "--json")
    assert result.exit_code == 1
    [found] = said(result)["differences"]
    assert (found["index"], found["destination"], found["address"]) == (place, str(mine.id), theirs)
    assert found["expected"] == mine.address
    shown = fleet("audit")
    assert shown.exit_code == 1
    for part in (str(mine.id), theirs, mine.address, "1 differ"):
        assert part in shown.stdout


def test_a_row_that_was_deleted_is_missed(fleet: Run, market: Marketplace, issued: list[Destination]) -> None:
    for place in (1, 3, 5):
        market.execute("DELETE FROM public.derived_destinations WHERE id = :d RETURNING id", d=issued[place].id)
    result = fleet("audit", "--json")
    assert result.exit_code == 1
    assert [(each["index"], each["account"]) for each in said(result)["differences"]] == [
        (1, xpub_fingerprint(XPUB)),
        (3, xpub_fingerprint(LATER_XPUB)),
        (5, xpub_fingerprint(LATER_XPUB)),
    ]


def test_an_account_whose_every_row_is_gone_is_missed(
    fleet: Run, market: Marketplace, issued: list[Destination]
) -> None:
    market.execute("DELETE FROM public.derived_destinations WHERE derivation_index >= 3 RETURNING id")
    assert [each["index"] for each in said(fleet("audit", "--json"))["differences"]] == [3]


def test_a_row_that_nobody_issued_is_found(fleet: Run, market: Marketplace, issued: list[Destination]) -> None:
    """Even at an address of our own: the next one issued would collide with it."""
    market.execute(
        "INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref, chain_id, "
        "address, derivation_path, derivation_index, deposit_account_id) SELECT buyer_id, 'template', 'theirs', chain_id, "
        ":a, 'm/44''/60''/0''/0/6', 6, deposit_account_id FROM public.derived_destinations WHERE id = :d",
        a=address_at(LATER_XPUB, 6),
        d=issued[-1].id,
    )
    result = fleet("audit", "--json")
    assert result.exit_code == 1
    [found] = said(result)["differences"]
    assert (found["index"], found["expected"]) == (6, "an index below 6, up to which the account has issued")

"""What was paid against what was quoted: where a route is issued, and where an operator sees it."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from custody.destinations.issuing import IssuingRefused, issue_route, register_deposit_account
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace, object_id
from tests.quote_scene import Told, quote_round, unrouted
from workers.cli import payments as explain_commands
from workers.cli import quotes as quote_commands

Run = Callable[..., Any]
XPUB = "xpub6DCoCpSuQZB2jawqnGMEPS63ePKWkwWPH4TU45Q7LPXWuNd8TMtVxRrgjtEshuqpK3mdhaWHPFsBngh5GFZaM6si3yZdUsT8ddYM3PwnATt"


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a ``fleet`` command as the operator's role, with quoting on."""
    app = typer.Typer()
    quote_commands.register(app)
    explain_commands.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("ORACLE_QUOTING_ENABLED", "true")
    monkeypatch.setenv("COLUMNS", "300")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def stored(market: Marketplace, payment: UUID) -> list[Any]:
    return market.execute("SELECT * FROM public.payment_quotes WHERE payment_id = :id", id=payment)


# Paid --------------------------------------------------------------------------------------------------------------


def route(market: Marketplace, payment: UUID, expected: str) -> None:
    with transaction(market.database.engine()) as connection:
        if connection.execute(text("SELECT count(*) FROM fleet.deposit_accounts")).scalar_one() == 0:
            connection.execute(text("DELETE FROM public.derived_destinations"))
            register_deposit_account(connection, XPUB)
        issue_route(
            connection,
            payment,
            chain_id=CHAIN_ID,
            token=TOKEN,
            expected=Decimal(expected),
            request_id=None,
            payment_reference="0x" + object_id()[:16],
        )


def test_a_route_expects_what_was_quoted_while_the_quote_is_good(database: Database, market: Marketplace) -> None:
    payment, late = unrouted(market), unrouted(market)
    quote_round(database, Told())
    with pytest.raises(IssuingRefused, match=r"was quoted 108.34 of 0x.* on chain 31337, not 100 of"):
        route(market, payment, "100")
    route(market, payment, "108.34")
    route(market, unrouted(market, currency="USD"), "77")  # nobody quoted it
    market.execute("ALTER TABLE fleet.quotes DISABLE TRIGGER quotes_no_change")
    market.execute("UPDATE fleet.quotes SET quoted_at = now() - interval '1 h', expires_at = now() - interval '1 s'")
    with pytest.raises(IssuingRefused, match=r"quote expired .* open another payment"):
        route(market, late, "108.34")


def test_explain_and_show_say_the_quote_its_sources_and_how_what_was_paid_stands_to_it(
    database: Database, market: Marketplace, fleet: Run
) -> None:
    payment = unrouted(market)
    quote_round(database, Told({"USDC/USD": "0.97", "EUR/USD": "1.0834"}))
    shown = fleet("explain", str(payment))
    assert shown.exit_code == 0, shown.output
    for part in (
        "quote: 100 EUR is 111.7 USDC on chain 31337, rate 1.0834, token at 0.97, 310 bps added for the depeg",
        "EUR/USD 1.0834 by told, 5 s old then",
        "USDC/USD 0.97 by told, 5 s old then",
        "not paid: nothing was paid yet; the quote is good until",
    ):
        assert part in shown.output
    route(market, payment, "111.7")
    market.fact(payment, 111_700_000)
    told = json.loads(fleet("explain", "--json", str(payment)).stdout)["quote"]
    assert told["verdict"] == {
        "outcome": "as_quoted",
        "sentence": "111.7 of 111.7 USDC came before the quote expired",
    }
    assert (told["quote"]["settle_amount"], len(told["quote"]["sources"])) == ("111.7", 2)
    assert fleet("quotes", "show", str(payment)).exit_code == 0


def test_what_was_paid_late_in_another_coin_or_too_little_is_said(
    database: Database, market: Marketplace, fleet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = unrouted(market)
    quote_round(database, Told())
    route(market, payment, "108.34")
    fact = market.fact(payment, 100_000_000)
    assert "too little: 100 of 108.34 USDC came" in fleet("quotes", "show", str(payment)).output
    market.execute("UPDATE fleet.chain_facts SET amount_units = 108340000 WHERE id = :id", id=fact)
    market.execute(
        "INSERT INTO fleet.chain_blocks (chain_id, number, hash, parent_hash, mined_at, agreed) "
        "SELECT chain_id, block_number, block_hash, 'before', now() + interval '1 h', true FROM fleet.chain_facts WHERE id = :id",
        id=fact,
    )  # fmt: skip
    late = fleet("quotes", "show", str(payment))
    assert late.exit_code == 1
    assert "late: 108.34 of 108.34 USDC came, but only 0 before the quote expired" in late.output
    market.execute("UPDATE fleet.chain_facts SET token = 'native' WHERE id = :id", id=fact)
    assert "other coin: paid in native on chain 31337" in fleet("quotes", "show", str(payment)).output
    monkeypatch.setenv("ORACLE_QUOTING_ENABLED", "false")
    settings.cache_clear()
    off = fleet("quotes", "show", str(payment))
    assert (off.exit_code, "not judged: ORACLE_QUOTING_ENABLED is off" in off.output) == (0, True)
    assert json.loads(fleet("explain", "--json", str(payment)).stdout)["quote"]["verdict"] is None


# The command -------------------------------------------------------------------------------------------------------


def test_asking_by_hand_is_for_payments_that_wait_and_for_those_of_mongodb(
    database: Database, market: Marketplace, fleet: Run
) -> None:
    payment, named = unrouted(market, "0"), object_id()
    words = ("100", "EUR", "USDC", "--chain", str(CHAIN_ID))
    assert fleet("quotes", "ask", str(payment), *words).output.startswith("asked;")
    assert fleet("quotes", "ask", str(payment), *words).output.startswith("asked for already;")
    assert fleet("quotes", "ask", named, *words).exit_code == 0
    waits = fleet("quotes", "show", str(payment))
    assert "quote: asked: not tried yet" in waits.output
    quote_round(database, Told())
    assert stored(market, payment)[0].settle_amount == Decimal("108.34")
    orphan = fleet("quotes", "show", named)
    assert orphan.exit_code == 0
    assert f"payment {named} is not in Postgres yet" in orphan.output
    for arguments, said in (
        (("ask", str(market.payment()), *words), "the payment is pending and has its route: no quote"),
        (("ask", "nobody", *words), "no payment is called nobody"),
        (("ask", named, "0", *words[1:]), "above zero"),
        (("ask", named, "x", *words[1:]), "'x' is no number"),
        (("ask", named, "1", "GBP", *words[2:]), "no seller prices in 'GBP'"),
        (("ask", named, "1", "EUR", "ETH", *words[3:]), "ETH on chain 31337 settles no payment"),
        (("show", str(market.payment())), "nobody asked for a quote"),
        (("show", object_id()), "no payment is called"),
    ):
        refused = fleet("quotes", *arguments)
        assert (refused.exit_code > 0, said in refused.output) == (True, True), (arguments, refused.output)

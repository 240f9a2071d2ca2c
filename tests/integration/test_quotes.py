"""Quotes as rows: who gets one, what is kept of it, what stops it, and where an operator sees it."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo.database import Database as MongoDatabase
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from custody.mirror import run_once as mirror_once
from custody.quotes.quoting import Sources, run_once
from custody.settings.environment import load_settings
from custody.store.mongo import open_mongo
from tasks.housekeeping import build_quotes
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.payment_scene import waits
from tests.policy_files import NOW
from tests.quote_scene import BOUNDS, PriceFolder, Told, ask_for_object, asked, quote_round, unrouted
from workers.embedded.services import Services

Mongo = MongoDatabase[dict[str, Any]]


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def stored(market: Marketplace, payment: UUID) -> list[Any]:
    return market.execute("SELECT * FROM public.payment_quotes WHERE payment_id = :id", id=payment)


# Made --------------------------------------------------------------------------------------------------------------


def test_a_payment_with_a_price_and_no_route_is_quoted_once(database: Database, market: Marketplace) -> None:
    payment = unrouted(market)
    assert quote_round(database, Told()) == 2  # asked for, and made
    [row] = stored(market, payment)
    kept = asked(market, payment)
    assert (row.fx_rate, row.token_price_usd, row.settle_amount) == (Decimal("1.0834"), 1, Decimal("108.34"))
    assert (row.depeg_adjustment_bps, row.chain_id, row.token_address) == (0, CHAIN_ID, TOKEN)
    assert row.expires_at - row.created_at == timedelta(seconds=900)
    for name in ("fx_rate", "token_price_usd", "settle_amount", "depeg_adjustment_bps", "chain_id", "expires_at"):
        assert getattr(kept, name) == getattr(row, name)
    assert [(each["pair"], each["source"], each["value"]) for each in kept.sources] == [
        ("EUR/USD", "told", "1.0834"), ("USDC/USD", "told", "1"),
    ]  # fmt: skip
    told = Told()
    assert quote_round(database, told) == 0
    assert told.asked == []
    assert stored(market, payment) == [row]


def test_who_waits_for_no_quote_gets_none(database: Database, market: Marketplace) -> None:
    routed, paid, native, old, theirs = (market.payment(), *(unrouted(market) for _ in range(4)))
    market.put(paid, "processing", None)
    market.execute("UPDATE public.payments SET token_address = 'native' WHERE id = :id", id=native)
    market.execute("UPDATE public.payments SET updated_at = now() - interval '2 days' WHERE id = :id", id=old)
    market.execute(
        "INSERT INTO public.payment_quotes (payment_id, fx_rate, token_price_usd, settle_amount, chain_id, token_address, "
        "expires_at) VALUES (:id, 1, 1, 100, :chain, :token, now())",
        id=theirs, chain=CHAIN_ID, token=TOKEN,
    )  # fmt: skip
    assert quote_round(database, Told()) == 0
    assert market.execute("SELECT count(*) AS n FROM fleet.quotes")[0].n == 0
    assert stored(market, routed) == []


def test_a_quote_that_is_waited_for_no_more_is_dropped_with_its_reason(database: Database, market: Marketplace) -> None:
    payment = unrouted(market)
    quote_round(database, Told({}))
    market.put(payment, "cancelled", None)
    assert quote_round(database, Told()) == 1
    row = asked(market, payment)
    assert (row.state, row.reason) == ("dropped", "the payment is cancelled and waits for no quote")
    assert stored(market, payment) == []


def test_two_workers_make_one_quote(database: Database, market: Marketplace) -> None:
    payments = [unrouted(market) for _ in range(8)]
    together = threading.Barrier(2)
    made: list[int] = []

    def work(name: str) -> None:
        together.wait()
        clock = lambda: datetime.now(UTC)  # noqa: E731 - one expression
        made.append(
            run_once(
                database.engine("fleet_housekeeping"),
                Sources((Told(name=name),)),
                BOUNDS,
                clock,
                100,
                attempts_limit=20,
            )
        )

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    quote_round(database, Told())
    assert market.execute("SELECT count(*) AS n FROM public.payment_quotes")[0].n == len(payments)
    assert all(len(stored(market, payment)) == 1 for payment in payments)


def test_quoting_that_is_off_asks_nobody(database: Database, market: Marketplace) -> None:
    payment = unrouted(market)
    step = build_quotes(database.engine("fleet_housekeeping"), load_settings(oracle_quoting_enabled=False))
    assert step() == 0
    assert stored(market, payment) == []
    assert market.execute("SELECT count(*) AS n FROM fleet.quotes")[0].n == 0


# Kept --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("fx_rate = 0", "payment_quotes_fx_rate_positive"),
        ("token_price_usd = 0", "payment_quotes_token_price_usd_check"),
        ("settle_amount = 0", "payment_quotes_settle_amount_positive"),
    ],
)
def test_the_marketplace_s_checks_hold_whoever_writes(
    database: Database, market: Marketplace, change: str, said: str
) -> None:
    payment = unrouted(market)
    quote_round(database, Told())
    with pytest.raises(DBAPIError, match=said):
        market.execute(f"UPDATE public.payment_quotes SET {change} WHERE payment_id = :id", id=payment)


@pytest.mark.parametrize(
    ("amount", "said"), [("99.999999", "quotes_never_below_owed"), ("103.000001", "quotes_rounding")]
)
def test_the_database_takes_no_quote_below_what_is_owed_or_three_percent_above(
    market: Marketplace, amount: str, said: str
) -> None:
    payment = unrouted(market, currency="USD")
    with pytest.raises(DBAPIError, match=said):
        market.execute(
            "INSERT INTO fleet.quotes (payment_id, owed, currency, chain_id, token, asked_by, state, fx_rate, "
            "token_price_usd, depeg_adjustment_bps, settle_amount, quoted_at, expires_at, sources) VALUES (:id, 100, 'USD', "
            ":chain, :token, 'a test', 'quoted', 1, 1, 0, :amount, now(), now() + interval '1 s', '[]')",
            id=payment, chain=CHAIN_ID, token=TOKEN, amount=Decimal(amount),
        )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE fleet.quotes SET settle_amount = settle_amount + 0.01",
        "UPDATE fleet.quotes SET state = 'asked', fx_rate = NULL",
        "UPDATE fleet.quotes SET payment_id = NULL",
        "DELETE FROM fleet.quotes",
        "TRUNCATE fleet.quotes",
    ],
)
def test_a_quote_that_was_given_is_never_changed(database: Database, market: Marketplace, change: str) -> None:
    unrouted(market)
    quote_round(database, Told())
    with pytest.raises(DBAPIError, match="never changed"):
        market.execute(change)


PAST_ITS_STEP = (
    ("fleet_housekeeping", "UPDATE public.payment_quotes SET settle_amount = 1"),
    ("fleet_housekeeping", "UPDATE fleet.quotes SET owed = 1"),
    ("fleet_housekeeping", "UPDATE public.payments SET amount = 1"),
    ("fleet_housekeeping", "INSERT INTO fleet.accepted_documents (kind, version, hash) VALUES ('policy', 9, 'x')"),
    ("fleet_housekeeping", "UPDATE fleet.accepted_price_files SET version = 9"),
    ("fleet_operator", "UPDATE fleet.quotes SET state = 'dropped'"),
    ("fleet_operator", "INSERT INTO public.payment_quotes DEFAULT VALUES"),
    ("fleet_operator", "INSERT INTO fleet.accepted_price_files (version, hash) VALUES (1, 'x')"),
    ("fleet_mirror", "UPDATE fleet.quotes SET owed = 1"),
    ("fleet_webhooks", "SELECT * FROM fleet.quotes"),
    ("fleet_ingress", "SELECT * FROM public.payment_quotes"),
)


def test_no_role_reaches_past_its_step_of_a_quote(database: Database) -> None:
    for role, statement in PAST_ITS_STEP:
        with database.engine(role).connect() as connection, pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text(statement))


# Refused, and waiting for people -----------------------------------------------------------------------------------


def test_what_is_refused_is_tried_again_says_why_and_is_dead_work_after_a_while(
    database: Database, market: Marketplace
) -> None:
    payment = unrouted(market)
    silent = Told({"USDC/USD": "none", "EUR/USD": "1.08"})
    assert quote_round(database, silent, attempts_limit=2) == 1
    row = asked(market, payment)
    assert (row.state, row.bound, row.attempts) == ("asked", "sources", 1)
    assert row.reason == "USDC/USD has 0 usable sources of the 1 it needs: told: it says nothing today"
    assert market.execute("SELECT count(*) AS n FROM fleet.dead_work")[0].n == 0
    assert (f"its quote: {row.reason}", "usable sources: fleet quotes sources") in waits(market, payment)
    quote_round(database, silent, attempts_limit=2)
    [dead] = market.execute("SELECT * FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert (dead.subject_kind, dead.subject_id, dead.payment_id) == ("quote", str(row.id), payment)
    assert market.execute("SELECT sentence FROM fleet.alarms")[0].sentence.startswith("housekeeping gave up on quote")
    quote_round(database, Told())
    assert len(stored(market, payment)) == 1
    assert market.execute("SELECT count(*) AS n FROM fleet.dead_work WHERE resolved_at IS NULL")[0].n == 0


def test_a_jump_waits_until_approvers_sign_the_new_level(
    database: Database, market: Marketplace, tmp_path: Path
) -> None:
    unrouted(market)
    assert quote_round(database, Told(), now=NOW - timedelta(hours=2)) == 2
    payment = unrouted(market)
    jumped = Told({"USDC/USD": "1", "EUR/USD": "0.95"})
    prices = PriceFolder.make(tmp_path)
    source = prices.source(database)
    quote_round(database, jumped, now=NOW)
    row = asked(market, payment)
    assert (row.state, row.bound) == ("waits_for_people", "jump")
    assert "EUR/USD is 0.95, more than 1000 bps from 1.0834" in row.reason
    [dead] = market.execute("SELECT reason, unblocks FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert "sign prices.toml with an anchor" in dead.unblocks
    # An anchor of before the last quote vouches for nothing; neither does one of another level.
    for price, issued in (("0.95", NOW - timedelta(hours=3)), ("0.80", NOW)):
        prices.write(prices.said([{"pair": "EUR/USD", "price": price, "use": "anchor"}], issued_at=issued))
        market.execute("DELETE FROM fleet.accepted_price_files")
        quote_round(database, jumped, signed_prices=source, now=NOW)
        assert asked(market, payment).state == "waits_for_people"
    prices.write(prices.said([{"pair": "EUR/USD", "price": "0.95", "use": "anchor"}], issued_at=NOW, version=2))
    quote_round(database, jumped, signed_prices=source, now=NOW)
    assert stored(market, payment)[0].settle_amount == 95
    assert market.execute("SELECT count(*) AS n FROM fleet.dead_work WHERE resolved_at IS NULL")[0].n == 0


def test_a_currency_without_a_feed_is_quoted_by_the_signed_file(
    database: Database, market: Marketplace, tmp_path: Path
) -> None:
    prices = PriceFolder.make(tmp_path)
    prices.write(prices.said([{"pair": "IRR/USD", "price": "0.0000010526"}]))
    payment = unrouted(market, "5000000", "IRR")
    quote_round(database, Told(), signed_prices=prices.source(database), now=NOW)
    assert stored(market, payment)[0].settle_amount == Decimal("5.27")  # 5.263 is owed
    assert asked(market, payment).sources[0]["source"] == "prices.toml v1, signed by ada, bob"


# A payment that Postgres does not have -----------------------------------------------------------------------------


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-quotes") as client:
        yield client[mongo_database]


def gaps(market: Marketplace, *, is_open: bool) -> list[Any]:
    return market.execute(
        "SELECT * FROM public.pg_dualwrite_gaps WHERE (resolved_at IS NULL) = :open AND op = 'quote'", open=is_open
    )


def test_a_quote_without_its_payment_goes_to_mongodb_and_a_gap_and_follows_when_it_comes(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    named = ask_for_object(market)
    theirs = {"_id": ObjectId(named), "status": "pending", "amount": {"amount": 1.5, "currency": "USDC"}}
    mongo["payments"].insert_one({**theirs})
    quote_round(database, Told())
    [gap] = gaps(market, is_open=True)
    assert (gap.collection, gap.legacy_object_id, gap.severity) == ("payments", named, "error")
    assert f"payment_quotes needs payment {named}, which Postgres does not have yet" in gap.reason
    assert (gap.payload["settle_amount"], gap.payload["owed"]) == ("108.34", "100")
    assert mirror_once(database.engine("fleet_mirror"), mongo, 100) == 1
    document = mongo["payments"].find_one({"_id": ObjectId(named)})
    assert document is not None
    quote = document.pop("quote")
    assert document.pop("fleetVersion") > 0
    assert document == theirs  # nothing else of it is the fleet's
    assert (quote["fxRate"], quote["tokenPriceUsd"], quote["settleAmount"], quote["depegAdjustmentBps"]) == (
        Decimal128("1.0834"), Decimal128("1"), Decimal128("108.34"), 0,
    )  # fmt: skip
    assert (quote["chainId"], quote["tokenAddress"]) == (CHAIN_ID, TOKEN)
    # The payment comes: its row is written, the gap is closed, and nobody quotes it again.
    payment = unrouted(market)
    market.execute("UPDATE public.payments SET legacy_object_id = :named WHERE id = :id", named=named, id=payment)
    told = Told({"USDC/USD": "1", "EUR/USD": "1.01"})
    assert quote_round(database, told) == 1
    assert told.asked == []
    assert stored(market, payment)[0].settle_amount == Decimal("108.34")
    assert gaps(market, is_open=True) == []
    [closed] = gaps(market, is_open=False)
    assert closed.resolution == f"payment {payment} came; its quote was written"
    mirror_once(database.engine("fleet_mirror"), mongo, 100)
    copied = mongo["payments"].find_one({"_id": ObjectId(named)})
    assert copied is not None
    assert copied["quote"] == quote


def test_a_payment_that_is_known_by_id_map_alone_is_found_at_once(database: Database, market: Marketplace) -> None:
    named, payment = ask_for_object(market), unrouted(market)
    market.execute(
        "INSERT INTO public.id_map (collection, legacy_object_id, new_id) VALUES ('payments', :named, :id)",
        named=named, id=payment,
    )  # fmt: skip
    assert quote_round(database, Told()) == 1
    assert asked(market, payment).payment_object_id == named
    assert len(stored(market, payment)) == 1
    assert gaps(market, is_open=True) == []


def test_a_quote_that_the_backend_made_is_left_to_it_in_mongodb(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payment = unrouted(market)
    [row] = market.execute("SELECT legacy_object_id FROM public.payments WHERE id = :id", id=payment)
    mongo["payments"].insert_one({"_id": ObjectId(row.legacy_object_id), "quote": {"rate": "theirs"}})
    market.put(payment, "processing", None)
    market.execute(
        "INSERT INTO fleet.outbox (queue, collection, document_id) VALUES ('mirror', 'payments', :id)", id=payment
    )
    mirror_once(database.engine("fleet_mirror"), mongo, 100)
    document = mongo["payments"].find_one({"_id": ObjectId(row.legacy_object_id)})
    assert document is not None
    assert (document["status"], document["quote"]) == ("processing", {"rate": "theirs"})

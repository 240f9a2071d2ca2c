"""`fleet explain`: a payment is found by each of its names, and what happened is printed whole (rule 8)."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from typer.testing import CliRunner

from custody.payments.story import PaymentUnknown, find_payment, tell
from custody.settings.environment import settings
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.payment_scene import deliver, held, instruction, request_is, story
from workers.cli import payments as commands

TREASURY = "0x" + "99" * 20
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a `fleet` command as the operator's role."""
    app = typer.Typer()
    commands.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


# Finding -----------------------------------------------------------------------------------------------------------


def test_a_payment_is_found_by_each_of_its_names(market: Marketplace, fleet: Run) -> None:
    market.payment()
    payment = market.payment()
    fact = market.fact(payment)
    paid_by = "0x" + secrets.token_hex(32)
    market.execute("UPDATE public.payments SET transaction_hash = :h WHERE id = :id", h=paid_by, id=payment)
    row = market.execute(
        "SELECT p.*, r.request_id, f.transaction_hash AS fact_hash FROM public.payments p "
        "JOIN fleet.payment_routes r ON r.payment_id = p.id JOIN fleet.chain_facts f ON f.id = :f WHERE p.id = :id",
        f=fact, id=payment,
    )[0]  # fmt: skip
    names = [
        str(payment), row.legacy_object_id, row.provider_payment_id, row.request_id, row.payment_reference, paid_by,
        row.fact_hash,
    ]  # fmt: skip
    with market.database.engine("fleet_operator").connect() as connection:
        for name in names:
            for written in (name, f" {name}\n", name.upper()):
                assert find_payment(connection, written) == payment, written
    for name in names:
        shown = fleet("explain", "--json", name)
        assert (shown.exit_code, json.loads(shown.stdout)["payment"]) == (0, str(payment))


def test_a_name_with_capitals_is_found_as_it_is_written(market: Marketplace) -> None:
    payment = market.payment()
    market.execute("UPDATE public.payments SET provider_payment_id = 'SHK-42-Az' WHERE id = :id", id=payment)
    with market.database.engine("fleet_operator").connect() as connection:
        assert find_payment(connection, "SHK-42-Az") == payment


@pytest.mark.parametrize("name", ["", "0x", "nobody", "%", "' OR true --", "x" * 10_000, str(UUID(int=7))])
def test_an_unknown_name_is_refused_in_one_sentence(market: Marketplace, fleet: Run, name: str) -> None:
    with market.database.engine("fleet_operator").connect() as connection:
        with pytest.raises(PaymentUnknown, match="expected a payment id"):
            find_payment(connection, name)
        with pytest.raises(PaymentUnknown):
            tell(connection, uuid4())
    shown = fleet("explain", "--", name)
    assert shown.exit_code == 1
    assert "no payment is called" in shown.output


# Happening, and the command ----------------------------------------------------------------------------------------


def test_what_happened_is_told_in_the_order_it_happened(market: Marketplace) -> None:
    payment = held(market)
    deliver(market, payment, "delivery-1")
    one = instruction(market, payment, "signed")
    market.execute(
        "UPDATE fleet.release_instructions SET created_at = now(), handed_out_at = now() + interval '1 s', "
        "signed_at = now() + interval '2 s' WHERE id = :i",
        i=one,
    )
    market.execute(
        "INSERT INTO fleet.signature_submissions (instruction_id, kind, reason, received_at, state) "
        "VALUES (:i, 'rejection', 'later', now() + interval '3 s', 'accepted')",
        i=one,
    )
    found = story(market, payment)
    assert [item.at for item in found.happenings] == sorted(item.at for item in found.happenings)
    name = f"release {str(one)[-8:]}"
    assert [item.what.split(":")[0] for item in found.happenings] == [
        "opened for 100 USDC",
        "payment.confirmed delivery-1 linked",
        f"{name} drafted",
        f"{name} handed out to the signer with nonce 7",
        f"{name} signed by the treasury device",
        "rejection accepted later",
    ]


def test_the_command_prints_every_happening_and_wait_and_its_json_is_the_same(market: Marketplace, fleet: Run) -> None:
    payment = held(market)
    request_is(market, payment, "delivery")
    deliver(market, payment, "delivery-2")
    found = story(market, payment)
    printed = fleet("explain", str(payment))
    assert printed.exit_code == 0
    for text in (
        str(payment), "100 USDC", "confirmed", "funded", "nothing booked", *(item.what for item in found.happenings),
        *(wait.what for wait in found.waits), *(wait.unblocks for wait in found.waits),
    ):  # fmt: skip
        assert text in printed.output
    told = json.loads(fleet("explain", "--json", str(payment)).stdout)
    assert [item["what"] for item in told["happenings"]] == [item.what for item in found.happenings]
    assert [(wait["what"], wait["unblocks"]) for wait in told["waits"]] == [
        (wait.what, wait.unblocks) for wait in found.waits
    ]
    assert (told["amount"], told["status"], told["escrow_state"]) == ("100", "confirmed", "funded")


def test_what_strangers_wrote_is_shown_and_not_obeyed(market: Marketplace, fleet: Run) -> None:
    payment = market.payment()
    deliver(market, payment, "[/bold][red]x[/nothing] \x1b[2J\x07")
    shown = fleet("explain", str(payment))
    assert shown.exit_code == 0
    assert "[/bold][red]x[/nothing]" in shown.output
    assert "\x1b" not in shown.output

"""``fleet policy why`` reads an instruction as the operator's role and names the rule that decides it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.policy.signed_entries import propose_entry
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.approvals import sign_entry
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.policy_files import BUYER, SELLER, STRANGER, TREASURY_BSC, Fleet, genesis_said, token
from workers.cli import policy

COIN = {"symbol": "ETH", "currency": "ETH", "address": "native", "decimals": 18, "treasury_maximum": "1"}
RULES: list[dict[str, Any]] = [
    {"name": "a-day", "kind": "limit_per_day", "currency": "USDT", "maximum": "250"},
    {"name": "nobody", "kind": "approvals", "purposes": ["release"], "tiers": [{"from": "0", "k": 0}]},
    {"name": "payouts", "kind": "allow", "purposes": ["release"]},
]


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def seller(market: Marketplace) -> UUID:
    payment = market.payment()
    return market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id


@pytest.fixture
def why(
    market: Marketplace, seller: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[UUID], Result]]:
    chain = genesis_said()["chains"][0] | {"id": CHAIN_ID, "name": "dev"}
    chain["tokens"] = [token("USDT", TOKEN, 6), COIN]
    root = Fleet(genesis_said(chains=[chain]), RULES).write_without_book(tmp_path)
    with transaction(market.database.engine("fleet_operator")) as connection:
        entry = propose_entry(
            connection,
            environment="amn1",
            user_id=seller,
            chain_id=CHAIN_ID,
            address=SELLER,
            label="a seller",
            by="test",
        )
    sign_entry(market.database, entry, "ada", "bob")
    app = typer.Typer()
    policy.register(app)
    app.callback()(lambda: None)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    settings.cache_clear()
    yield lambda instruction: CliRunner().invoke(
        app, ["policy", "why", str(instruction), str(tmp_path), "--genesis-hash", root, "--json"]
    )
    settings.cache_clear()


def instruction(market: Marketplace, seller: UUID, recipient: str = SELLER, **more: Any) -> UUID:
    payment = market.execute("SELECT id FROM public.payments WHERE seller_id = :s", s=seller)[0].id
    fields: dict[str, Any] = {"state": "drafted", "request_key": uuid4().hex, **more}
    names, values = ", ".join(fields), ", ".join(f":{name}" for name in fields)
    return market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
        f"amount_units, release_epoch, {names}) VALUES (:p, 'release', :c, :a, :t, :r, 100, 100000000, 0, {values}) "
        "RETURNING id",
        p=payment, c=CHAIN_ID, a=TREASURY_BSC, t=TOKEN, r=recipient, **fields,
    )[0].id  # fmt: skip


def handed_out(market: Marketplace, seller: UUID, hours_ago: int, **more: Any) -> UUID:
    fields: dict[str, Any] = {"state": "broadcast", "nonce": 1, "unsigned_bytes": b"\x02", **more}
    found = instruction(market, seller, SELLER, **fields)
    market.execute(
        "UPDATE fleet.release_instructions SET handed_out_at = now() - make_interval(hours => :h) WHERE id = :id "
        "RETURNING id",
        h=hours_ago,
        id=found,
    )
    return found


def decided(result: Result) -> tuple[str, str]:
    found = json.loads(result.output)
    return found["outcome"], found["rule"]


def test_the_rule_that_decides(market: Marketplace, seller: UUID, why: Callable[[UUID], Result]) -> None:
    asked = instruction(market, seller)
    assert decided(why(asked)) == ("allowed", "payouts")
    handed_out(market, seller, 25)
    handed_out(market, seller, 1, state="cancelled")
    first, second = handed_out(market, seller, 2), instruction(market, seller)
    assert decided(why(second)) == ("allowed", "payouts")
    handed_out(market, seller, 1)
    assert decided(why(second)) == ("denied", "a-day")
    assert decided(why(first)) == ("allowed", "payouts")


def test_a_recipient_of_somebody_else(market: Marketplace, seller: UUID, why: Callable[[UUID], Result]) -> None:
    for recipient in (STRANGER, BUYER):
        result = why(instruction(market, seller, recipient))
        assert (result.exit_code, decided(result)) == (1, ("denied", "genesis:known-recipient"))


def test_what_cannot_be_read(market: Marketplace, seller: UUID, why: Callable[[UUID], Result]) -> None:
    unknown = uuid4()
    result = why(unknown)
    assert (result.exit_code, result.output) == (2, f"there is no release instruction {unknown}\n")
    result = why(instruction(market, seller, "nobody"))
    assert result.exit_code == 2
    assert "fleet.release_instructions: recipient: " in result.output

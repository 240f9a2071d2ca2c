"""``fleet releases open|show|fees|fee-address|pay-fees``: what operators read of payouts, and what they order (R23, L7)."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import typer
from eth_account import Account
from typer.testing import CliRunner

from custody.policy.signed_entries import read_entry
from custody.releases.fees import FeeRates
from custody.settings.environment import settings
from tests.approvals import sign_entry
from tests.dispute_scene import work_on
from tests.integration.test_grouping import groups, three_of_one_seller
from tests.policy_files import key
from tests.release_scene import Scene
from workers.cli import releases

Run = Callable[..., Any]


def commands(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """``fleet`` on an operator's machine that knows this scene."""
    environment = {
        "DATABASE_URL": scene.database.url("fleet_operator"),
        "CHAINS_FILE": str(scene.folder / "chains.toml"),
        "COLUMNS": "200",
    }
    if scene.rules is None:
        environment["TREZOR_SAFEKEEPING_REQUIRED"] = "false"
    else:
        environment |= {"POLICY_DIR": str(scene.signed.folder), "GENESIS_HASH": scene.signed.root}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    app = typer.Typer()
    releases.register(app)
    yield lambda *arguments: CliRunner().invoke(app, ["releases", *arguments])
    settings.cache_clear()


@pytest.fixture
def fleet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    yield from commands(scene, monkeypatch)


@pytest.fixture
def approved_fleet(approved_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    yield from commands(approved_scene, monkeypatch)


def test_a_group_is_one_line_and_shows_each_payment_with_the_sum(scene: Scene, fleet: Run) -> None:
    blocking = scene.payment()
    scene.run()
    payments = three_of_one_seller(scene)
    scene.run()
    [group] = groups(scene)
    listed = fleet("open")
    assert listed.exit_code == 0, listed.output
    lines = [line for line in listed.output.splitlines() if "release" in line]
    assert len(lines) == 2  # three payments are one transfer
    assert str(scene.instruction(blocking).id) in lines[0]
    assert " 1 " in lines[0]
    assert str(group.id) in lines[1]
    assert " 3 " in lines[1]
    assert "300 USDT" in lines[1]
    shown = fleet("show", str(group.id))
    assert shown.exit_code == 0, shown.output
    assert f"release {group.id} is {group.state}: 300 USDT on chain 31337 to {group.recipient}" in shown.output
    assert all(str(payment) in shown.output for payment in payments)
    assert "3 payments" in shown.output
    member = fleet("show", str(scene.instruction(payments[0]).id))
    assert f"it is paid with others: fleet releases show {group.id}" in member.output
    unknown = fleet("show", str(uuid4()))
    assert unknown.exit_code == 1
    assert "see: fleet releases open" in unknown.output


def test_fees_are_shown_ordered_once_and_only_to_a_payee_that_approvers_signed(
    approved_scene: Scene, approved_fleet: Run
) -> None:
    scene, fleet = approved_scene, approved_fleet
    scene.step.rates = FeeRates(platform=250, provider=0)
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    work_on(scene)
    assert scene.instruction(payment).state == "final"
    kept = fleet("fees")
    assert [word for line in kept.output.splitlines() if "USDT" in line for word in line.split() if word == "2.5"]
    none = fleet("pay-fees", "--chain", "31337", "--token", "USDT")
    assert none.exit_code == 1
    assert "fee_payee" in none.output
    assert fleet("fee-address", scene.treasury, "--chain", "31337", "--label", "house").exit_code == 1
    house = Account.create().address
    proposed = fleet("fee-address", house, "--chain", "31337", "--label", "house")
    assert proposed.exit_code == 0, proposed.output
    assert "approvers sign it: fleet signer approve" in proposed.output
    assert fleet("pay-fees", "--chain", "31337", "--token", "USDT").exit_code == 1  # nobody has signed it
    [row] = scene.market.execute("SELECT * FROM fleet.address_book ORDER BY number DESC LIMIT 1")
    sign_entry(scene.database, read_entry(row), "ada", "bob")
    scene.run()
    ordered = fleet("pay-fees", "--chain", "31337", "--token", "USDT")
    assert ordered.exit_code == 0, ordered.output
    assert f"platform fees of 1 payments, 2.5 USDT in all, are to be paid to {house}" in ordered.output
    again = fleet("pay-fees", "--chain", "31337", "--token", "USDT")
    assert "No fees are to be paid out" in again.output
    made = scene.market.execute(
        "SELECT recipient, amount FROM fleet.release_instructions WHERE purpose = 'platform_fee' AND payment_id = :p",
        p=payment,
    )
    assert [(row.recipient, row.amount) for row in made] == [(house, Decimal("2.5"))]


def test_what_cannot_be_ordered_is_said(approved_fleet: Run) -> None:
    for arguments, words in (
        (("pay-fees", "--chain", "31337", "--token", "USDT", "--kind", "sweets"), "expected platform or provider"),
        (("pay-fees", "--chain", "31337", "--token", "DOGE"), "chain 31337 has ETH, USDT"),
        (("fee-address", key("eve").address.lower(), "--chain", "31337", "--label", "x"), "checksum"),
    ):
        refused = approved_fleet(*arguments)
        assert (refused.exit_code, words in refused.output) == (1, True), refused.output

"""A new deposit account issues; the one before is still swept, first of all when its seed is known to others (R20)."""

from collections.abc import Iterator

import pytest

from custody.destinations.derivation import account_xpub_from_seed, address_at, seed_from_phrase, xpub_fingerprint
from custody.destinations.issuing import IssuingRefused, OfferRef, issue_destination
from custody.destinations.keys.client import KeysAgent
from custody.destinations.rotation import mark_deposit_account, rotate_deposit_account
from custody.destinations.sweeps.signing import SweepSigner
from custody.store.engine import transaction
from tests.conftest import Database
from tests.keys_agent import new_phrase, serving, vault_of
from tests.sweeping import CHAIN_ID, SweepingFleet, World, sweeping_world

UNIT = 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


def test_both_accounts_are_swept_the_compromised_one_first(world: World, database: Database):
    fleet = SweepingFleet(world, database, world.contracts.usdt, agent=False)
    before, phrase = fleet.account, new_phrase()
    old_payment = fleet.payment(UNIT)
    old_fingerprint, xpub = xpub_fingerprint(fleet.xpub), account_xpub_from_seed(seed_from_phrase(phrase))
    with transaction(database.engine("fleet_operator")) as connection:
        opened = rotate_deposit_account(connection, xpub, ending="compromised")
        issued = issue_destination(
            connection, buyer_id=fleet.market.user(), offer=OfferRef("template", external="t"), chain_id=CHAIN_ID
        )
    assert issued.deposit_account_id == opened != before
    assert issued.address == address_at(xpub, issued.derivation_index)
    fleet.xpub, fleet.account = xpub, opened
    fleet.market._indices += 10  # the new account goes on behind the old one's
    new_payment = fleet.payment(UNIT)
    fleet.pay(new_payment, UNIT)
    fleet.pay(old_payment, UNIT)
    vault = vault_of(f"{phrase}\n{fleet.phrase}", fleet.payer_key, fleet.chains, fleet.socket.with_name("journal"))
    assert vault.accounts == (xpub_fingerprint(xpub), old_fingerprint)
    with serving(vault, fleet.socket):
        fleet.signer = SweepSigner(KeysAgent(fleet.socket))
        fleet.round(limit=1)
        [planned] = fleet.market.execute(
            "SELECT d.deposit_account_id FROM fleet.sweep_jobs j "
            "JOIN public.derived_destinations d ON d.id = j.destination_id"
        )
        assert planned.deposit_account_id == before
        with (
            transaction(database.engine("fleet_operator")) as connection,
            pytest.raises(IssuingRefused, match="coins lie at"),
        ):
            mark_deposit_account(connection, old_fingerprint, "retired")
        fleet.run()
    assert {fleet.destination(each) for each in (old_payment, new_payment)} == {("swept", 1, UNIT, None)}
    with transaction(database.engine("fleet_operator")) as connection:
        mark_deposit_account(connection, old_fingerprint, "retired")
    fleet.assert_books_equal_chain()


def test_an_account_whose_seed_the_agent_lacks_waits_and_says_so(world: World, database: Database):
    fleet = SweepingFleet(world, database, world.contracts.usdt, agent=False)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    vault = vault_of(new_phrase(), fleet.payer_key, fleet.chains, fleet.socket.with_name("journal"))
    with serving(vault, fleet.socket):
        fleet.run()
    assert fleet.jobs() == [("planned", f"other_deposit_account: the keys agent has the seeds of {vault.accounts[0]}")]
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 0


def test_what_is_no_new_account_is_refused_and_leaves_the_active_one(world: World, database: Database):
    fleet = SweepingFleet(world, database, world.contracts.usdt, agent=False)
    fingerprint = xpub_fingerprint(fleet.xpub)
    engine = database.engine("fleet_operator")
    with transaction(engine) as connection, pytest.raises(IssuingRefused, match="is active already"):
        rotate_deposit_account(connection, fleet.xpub)
    for state in ("compromised", "retired"):
        with transaction(engine) as connection, pytest.raises(IssuingRefused, match="open another one first"):
            mark_deposit_account(connection, fingerprint, state)
        with transaction(engine) as connection, pytest.raises(IssuingRefused, match="there is no deposit account"):
            mark_deposit_account(connection, "0x00000000", state)
    states = fleet.market.execute("SELECT xpub_fingerprint, state FROM fleet.deposit_accounts")
    assert [(row.xpub_fingerprint, row.state) for row in states] == [(fingerprint, "active")]

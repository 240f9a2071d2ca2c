"""Addresses are issued once each, without gaps, and never from a registered Trezor account."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from eth_utils.crypto import keccak
from sqlalchemy import event

from custody.chain import InvalidAmount
from custody.destinations.derivation import (
    account_xpub_from_seed,
    address_at,
    seed_from_phrase,
    xpub_fingerprint,
)
from custody.destinations.issuing import (
    Destination,
    IssuingRefused,
    OfferRef,
    issue_destination,
    issue_route,
    register_deposit_account,
)
from custody.destinations.rotation import rotate_deposit_account
from custody.ledger.house import HouseAccountDiffers, ensure_house_account
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import Counts, declared
from tests.fleet_process import wait_for
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

XPUB = account_xpub_from_seed(seed_from_phrase("all all all all all all all all all all all all"))
OTHER_XPUB = account_xpub_from_seed(b"\x05" * 64)
ISSUERS = 32


class Death(Exception):
    """The process dies here."""


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def register(database: Database, xpub: str = XPUB) -> UUID:
    with transaction(database.engine("fleet_operator")) as connection:
        return register_deposit_account(connection, xpub)


def issue(database: Database, buyer: UUID, offer: OfferRef, chain_id: int = CHAIN_ID) -> Destination:
    with transaction(database.engine("fleet_operator")) as connection:
        return issue_destination(connection, buyer_id=buyer, offer=offer, chain_id=chain_id)


def trezor_account(market: Marketplace, xpub: str, fingerprint: str) -> None:
    market.execute(
        "INSERT INTO public.trezor_accounts (user_id, xpub_fingerprint, xpub, registration_address) "
        "VALUES (:user, :fingerprint, :xpub, :address)",
        user=market.user("seller"),
        fingerprint=fingerprint,
        xpub=xpub,
        address=address_at(xpub, 0),
    )


def test_the_same_buyer_offer_and_chain_has_one_address(database: Database, market: Marketplace):
    account = register(database)
    assert register(database) == account
    buyer, offer = market.user(), OfferRef("template", external="offer-1")
    first = issue(database, buyer, offer)
    assert first.address == address_at(XPUB, 0)
    assert first.derivation_path == "m/44'/60'/0'/0/0"
    assert first.deposit_account_id == account
    assert issue(database, buyer, offer) == first
    others = [
        issue(database, buyer, offer, chain_id=1),
        issue(database, buyer, OfferRef("template", external="offer-2")),
        issue(database, market.user(), offer),
    ]
    assert [one.derivation_index for one in others] == [1, 2, 3]
    mirrored = market.execute("SELECT document_id FROM fleet.outbox WHERE collection = 'deriveddestinations'")
    assert {row.document_id for row in mirrored} == {first.id, *(one.id for one in others)}


def test_concurrent_issuers_leave_no_gap_and_no_double(database: Database, market: Marketplace, counts: Counts):
    register(database)
    buyers = [market.user() for _ in range(ISSUERS)]
    offers = [OfferRef("template", external=f"offer-{n}") for n in range(declared(8, 2))]
    # Each pair twice: repeats race with the first issue.
    wanted = [(buyer, offer) for offer in offers for buyer in buyers] * 2
    engine = database.engine("fleet_operator")

    def one(pair: tuple[UUID, OfferRef]) -> Destination:
        with transaction(engine) as connection:
            return issue_destination(connection, buyer_id=pair[0], offer=pair[1], chain_id=CHAIN_ID)

    engine.pool._max_overflow = ISSUERS  # pyright: ignore[reportAttributeAccessIssue]
    with ThreadPoolExecutor(ISSUERS) as pool:
        issued = list(pool.map(one, wanted))
    half = len(wanted) // 2
    assert issued[:half] == issued[half:]
    assert sorted(made.derivation_index for made in issued[:half]) == list(range(half))
    assert {made.address for made in issued} == {address_at(XPUB, n) for n in range(half)}
    [row] = market.execute("SELECT next_index FROM fleet.deposit_accounts")
    assert row.next_index == half
    counts("addresses issued by 32 at once, each asked for twice", len(wanted))


def test_a_death_at_any_statement_leaves_no_gap_and_no_double(database: Database, market: Marketplace, counts: Counts):
    """The issuing process dies before a statement, or with its commit on the way: what it asked for is issued next."""
    register(database)
    engine = database.engine("fleet_operator")
    places, at = 0, 0

    def place(*_: object) -> None:
        nonlocal places
        places += 1
        if places == at:
            raise Death(f"place {at}")

    event.listen(engine, "before_cursor_execute", place)
    event.listen(engine, "commit", place)
    buyer, offers = market.user(), [OfferRef("template", external=f"offer-{n}") for n in range(20)]
    issue(database, buyer, offers[0])
    last, issued = places, 1
    assert last > 5
    for number in range(1, last + 1):
        places, at = 0, number
        with pytest.raises(Death):
            issue(database, buyer, offers[number])
        at = 0
        made = issue(database, buyer, offers[number])
        assert (made.derivation_index, made.address) == (issued, address_at(XPUB, issued))
        assert issue(database, buyer, offers[number]) == made
        issued += 1
    [row] = market.execute(
        "SELECT next_index, (SELECT count(*) FROM public.derived_destinations) AS n FROM fleet.deposit_accounts"
    )
    assert (row.next_index, row.n) == (issued, issued)
    counts("issues that died at a place of their own", last)


def test_issuing_goes_on_with_the_new_account_of_a_rotation_under_way(database: Database, market: Marketplace):
    register(database)
    engine = database.engine("fleet_operator")
    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as connection:
            rotate_deposit_account(connection, OTHER_XPUB)
            issuing = pool.submit(issue, database, market.user(), OfferRef("template", external="x"))
            wait_for(lambda: market.execute("SELECT count(*) AS n FROM pg_locks WHERE NOT granted")[0].n > 0)
        made = issuing.result()
    assert (made.derivation_index, made.address) == (0, address_at(OTHER_XPUB, 0))


def test_a_rolled_back_issue_leaves_no_gap(database: Database, market: Marketplace):
    register(database)
    buyer, offer = market.user(), OfferRef("template", external="x")
    with database.engine("fleet_operator").connect() as connection:
        issue_destination(connection, buyer_id=buyer, offer=offer, chain_id=CHAIN_ID)
        connection.rollback()
    assert issue(database, market.user(), OfferRef("template", external="y")).derivation_index == 0


def test_an_xpub_of_a_registered_trezor_is_refused(database: Database, market: Marketplace):
    trezor_account(market, XPUB, xpub_fingerprint(XPUB))
    with pytest.raises(IssuingRefused, match="Trezor account"):
        register(database)
    # However the backend makes its fingerprints.
    trezor_account(market, OTHER_XPUB, "0xfeed")
    with pytest.raises(IssuingRefused, match="Trezor account"):
        register(database, OTHER_XPUB)


def test_issuing_stops_when_the_xpub_becomes_a_trezors(database: Database, market: Marketplace):
    register(database)
    trezor_account(market, XPUB, xpub_fingerprint(XPUB))
    with pytest.raises(IssuingRefused, match="Trezor account"):
        issue(database, market.user(), OfferRef("template", external="x"))


def test_a_second_active_account_is_refused_and_a_later_one_goes_on_counting(database: Database, market: Marketplace):
    with pytest.raises(IssuingRefused, match="no deposit account"):
        issue(database, market.user(), OfferRef("template", external="x"))
    register(database)
    issue(database, market.user(), OfferRef("template", external="x"))
    with pytest.raises(IssuingRefused, match="is active"):
        register(database, OTHER_XPUB)
    market.execute("UPDATE fleet.deposit_accounts SET state = 'draining'")
    register(database, OTHER_XPUB)
    made = issue(database, market.user(), OfferRef("template", external="x"))
    assert (made.derivation_index, made.address) == (1, address_at(OTHER_XPUB, 1))


def _route_of_new_payment(database: Database, market: Marketplace, **changes: object) -> str:
    payment = market.payment(Decimal(5))
    market.execute("DELETE FROM fleet.payment_routes WHERE payment_id = :id", id=payment)
    market.execute("DELETE FROM public.derived_destinations")
    values = {
        "chain_id": CHAIN_ID,
        "token": TOKEN,
        "expected": Decimal("5.25"),
        "request_id": "01ab",
        "payment_reference": "0xA1B2C3D4E5F60718",
        **changes,
    }
    topic = ""
    for _ in range(2):
        with transaction(database.engine("fleet_operator")) as connection:
            route = issue_route(connection, payment, **values)  # pyright: ignore[reportArgumentType]
            topic = route.reference_topic
            assert route.destination.address == address_at(XPUB, 0)
    [row] = market.execute("SELECT * FROM fleet.payment_routes WHERE payment_id = :id", id=payment)
    assert (row.expected, row.request_id, row.payment_reference) == (
        Decimal("5.25"),
        "01ab",
        "0xa1b2c3d4e5f60718",
    )
    with (
        pytest.raises(IssuingRefused, match="other values"),
        transaction(database.engine("fleet_operator")) as connection,
    ):
        issue_route(connection, payment, **{**values, "expected": Decimal(6)})  # pyright: ignore[reportArgumentType]
    return topic


def test_a_route_is_issued_once_with_the_topic_of_its_reference(database: Database, market: Marketplace):
    register(database)
    topic = _route_of_new_payment(database, market)
    assert topic == "0x" + keccak(bytes.fromhex("a1b2c3d4e5f60718")).hex()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"payment_reference": "0x1234"}, IssuingRefused, "16 hex digits"),
        ({"expected": Decimal("0.0000001")}, InvalidAmount, "decimals"),
        ({"expected": Decimal(0)}, IssuingRefused, "above zero"),
        ({"token": "0x" + "00" * 20}, IssuingRefused, "no token"),
    ],
)
def test_a_wrong_route_is_refused(
    database: Database,
    market: Marketplace,
    changes: dict[str, object],
    error: type[Exception],
    words: str,
):
    register(database)
    with pytest.raises(error, match=words):
        _route_of_new_payment(database, market, **changes)


def test_a_route_of_no_payment_is_refused(database: Database, market: Marketplace):
    with (
        pytest.raises(IssuingRefused, match="no payment"),
        transaction(database.engine("fleet_operator")) as connection,
    ):
        issue_route(
            connection,
            uuid4(),
            chain_id=CHAIN_ID,
            token=market.token,
            expected=Decimal(1),
            request_id=None,
            payment_reference="0x" + "ab" * 8,
        )


def test_a_house_account_has_one_office(database: Database):
    address = address_at(XPUB, 9)
    with transaction(database.engine("fleet_operator")) as connection:
        made = ensure_house_account(connection, CHAIN_ID, address, "gas_payer")
        assert ensure_house_account(connection, CHAIN_ID, address, "gas_payer") == made
        with pytest.raises(HouseAccountDiffers):
            ensure_house_account(connection, CHAIN_ID, address, "treasury")

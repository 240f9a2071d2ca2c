"""R10: two persons means two devices' signatures over what an action does, to the last byte of its parameters."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from custody.chain.pauses import go_on, propose_go_on
from custody.ledger.adjustments import Action, ActionRefused, execute, open_actions, propose
from custody.mirror.security_gaps import execute_resolution, propose_resolution
from custody.policy import SignedFolder, Verified, load_folder
from custody.policy.operator_actions import SignableAction
from custody.releases.approving import judge_approvals
from custody.store.engine import transaction
from custody.trezor.text_rows import rows_of
from tests.approvals import hand_in_approval
from tests.conftest import Database
from tests.ledger_book import book_of, move
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.policy_files import Fleet, genesis_said, token
from tests.security_gaps import gap_of_payment
from tests.signer_api_server import client_at, serving
from workers.signer import InstructionRefused, SignerClient
from workers.signer.approving import ApproverDesk, approvable_action

REAL = 56
RULES = [{"name": "books", "kind": "allow", "purposes": ["adjustment"]}]


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def signed(market: Marketplace, tmp_path: Path) -> SignedFolder:
    """A fleet on a chain with real money; ada, bob and cyd may sign."""
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES (:c, 1, '0x', now())",
        c=REAL,
    )
    return SignedFolder(tmp_path, Fleet(rules=RULES).write_without_book(tmp_path))


@pytest.fixture
def development(tmp_path: Path) -> SignedFolder:
    """A fleet on the tests' own chain."""
    folder = tmp_path / "development"
    folder.mkdir()
    chain = genesis_said()["chains"][0] | {"id": CHAIN_ID, "name": "dev"}
    coin = {"symbol": "ETH", "currency": "ETH", "address": "native", "decimals": 18, "treasury_maximum": "1"}
    chain["tokens"] = [token("USDT", TOKEN, 6), coin]
    return SignedFolder(folder, Fleet(genesis_said(chains=[chain]), RULES).write_without_book(folder))


def paused(market: Marketplace) -> Action:
    """The chain stands still, and somebody proposes that it goes on."""
    market.execute("SELECT fleet.pause_chain(:c, 'reorganisation of 7 blocks')", c=REAL)
    with transaction(market.database.engine("fleet_operator")) as connection:
        action = propose_go_on(connection, REAL, reason="looked at", by="mina")
        return next(one for one in open_actions(connection, "go_on") if one.id == action)


def text_of(market: Marketplace, action: UUID) -> tuple[str, bytes]:
    """What signers' devices show of an action, and the digest that goes with it."""
    [row] = market.execute(
        "SELECT kind, chain_id, parameters::text AS said FROM fleet.operator_actions WHERE id = :i", i=action
    )
    found = SignableAction(str(action), row.kind, row.chain_id, row.said)
    return found.text("amn1"), found.hash()


def sign(market: Marketplace, action: UUID, *people: str, kind: str = "operator_action") -> None:
    shown, digest = text_of(market, action)
    for person in people:
        hand_in_approval(market.database.engine("fleet_signer_api"), kind, action, digest, shown, person)


def judge(market: Marketplace, signed: SignedFolder) -> list[str | None]:
    judge_approvals(market.database.engine("fleet_releases"), signed, 100)
    rows = market.execute("SELECT refused_reason FROM fleet.approvals ORDER BY id")
    return [row.refused_reason for row in rows]


def lift(market: Marketplace, action: Action, by: str = "omid") -> None:
    with transaction(market.database.engine("fleet_operator")) as connection:
        go_on(connection, action.id, agreed_hash=action.hash, by=by)


def is_paused(market: Marketplace) -> bool:
    return (
        market.execute("SELECT paused_reason FROM fleet.chain_cursors WHERE chain_id = :c", c=REAL)[0].paused_reason
        is not None
    )


def test_two_persons_sign_and_the_chain_goes_on(market: Marketplace, signed: SignedFolder) -> None:
    action = paused(market)
    with pytest.raises(ActionRefused, match="nobody signed: each runs fleet signer approve"):
        lift(market, action)
    sign(market, action.id, "ada")
    assert judge(market, signed) == [None]
    with pytest.raises(ActionRefused, match="ada signed"):
        lift(market, action)
    sign(market, action.id, "cyd")
    judge(market, signed)
    with transaction(market.database.engine("fleet_operator")) as connection:
        [shown] = open_actions(connection, "go_on")
    assert list(shown.signed_by) == ["ada", "cyd"]
    lift(market, action)
    assert not is_paused(market)


def test_signatures_count_only_once_they_were_verified(market: Marketplace, signed: SignedFolder) -> None:
    action = paused(market)
    sign(market, action.id, "ada", "bob")
    with pytest.raises(ActionRefused, match="nobody signed"):
        lift(market, action)
    assert is_paused(market)
    judge(market, signed)
    lift(market, action)


def test_a_label_is_no_authority(market: Marketplace, signed: SignedFolder) -> None:
    """The same person twice is one person, whatever name stands on the command."""
    action = paused(market)
    sign(market, action.id, "ada")
    shown, digest = text_of(market, action.id)
    hand_in_approval(
        market.database.engine("fleet_signer_api"), "operator_action", action.id, digest, shown, "ada", person="bob"
    )
    assert [(reason or "").partition(":")[0] for reason in judge(market, signed)] == ["", "not_an_approver"]
    with pytest.raises(ActionRefused, match="ada signed"):
        lift(market, action)


def test_parameters_that_change_after_signing_are_refused(market: Marketplace, signed: SignedFolder) -> None:
    """A superuser who rewrites what was signed: its hash is another one, and nobody signed that."""
    action = paused(market)
    sign(market, action.id, "ada", "bob")
    judge(market, signed)
    market.execute(
        "UPDATE fleet.operator_actions SET parameters = jsonb_set(parameters, '{resolves}', '[\"x\"]') WHERE id = :i "
        "RETURNING id",
        i=action.id,
    )
    with pytest.raises(ActionRefused, match="other parameters than were shown"):
        lift(market, action)
    market.execute(
        "UPDATE fleet.operator_actions SET parameter_hash = fleet.action_hash(kind, parameters) WHERE id = :i RETURNING id",
        i=action.id,
    )
    [changed] = market.execute(
        "SELECT encode(parameter_hash, 'hex') AS hash FROM fleet.operator_actions WHERE id = :i", i=action.id
    )
    with (
        pytest.raises(ActionRefused, match="nobody signed"),
        transaction(market.database.engine("fleet_operator")) as connection,
    ):
        go_on(connection, action.id, agreed_hash=changed.hash, by="omid")
    assert is_paused(market)


def test_a_withdrawn_action_takes_no_signature(market: Marketplace, signed: SignedFolder) -> None:
    action = paused(market)
    market.execute(
        "UPDATE fleet.operator_actions SET state = 'withdrawn', ended_by = 'x', ended_at = now() WHERE id = :i RETURNING id",
        i=action.id,
    )
    sign(market, action.id, "ada")
    assert judge(market, signed) == ["not_open: the action is withdrawn; it takes no signature."]


def test_an_adjustment_keeps_who_signed_it(market: Marketplace, development: SignedFolder) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    move(book, "surplus", Decimal(100), 0)
    engine = market.database.engine("fleet_operator")
    with transaction(engine) as connection:
        action = propose(connection, book.payment, "accepted", Decimal(40), reason="the buyer asked", by="mina")
        [found] = open_actions(connection)
    shown, _ = text_of(market, action)
    assert shown.startswith("ADJUST amn1")
    for said in ("adjust 31337", "40", "suspense>held", str(book.payment)[:18], found.hash[:18]):
        assert said in shown
    sign(market, action, "ada", "bob")
    judge(market, development)
    with transaction(engine) as connection:
        entry = execute(connection, action, agreed_hash=found.hash, by="omid")
    [row] = market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE id = :i", i=entry)
    assert row.metadata["signed_by"] == ["ada", "bob"]


def test_the_hash_is_postgresqls_own(market: Marketplace, signed: SignedFolder) -> None:
    action = paused(market)
    _, digest = text_of(market, action.id)
    assert digest.hex() == action.hash
    [row] = market.execute("SELECT parameters::text AS said FROM fleet.operator_actions WHERE id = :i", i=action.id)
    by_hand = b"\x00\x00\x00\x05go_on" + len(row.said.encode()).to_bytes(4, "big") + row.said.encode()
    assert hashlib.sha256(by_hand).digest() == digest


@pytest.fixture
def client(market: Marketplace) -> Iterator[SignerClient]:
    with serving(market.database) as url, client_at(url) as client:
        yield client


LIES: dict[str, Callable[[dict[str, object]], object]] = {
    "parameters": lambda said: said.update(parameters='{"chain_id": 56, "paused_reason": "x", "resolves": []}'),
    "kind": lambda said: said.update(kind="adjust"),
    "hash": lambda said: said.update(hash="ab" * 32),
    "chain": lambda said: said.update(chain_id=1),
    "unknown chain": lambda said: said.update(chain_id=99),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_api_is_refused_by_the_signers_machine(
    market: Marketplace, signed: SignedFolder, client: SignerClient, name: str
) -> None:
    paused(market)
    verified: Verified = load_folder(signed.folder, root=signed.root, now=datetime.now(UTC))
    at_work = ApproverDesk(verified, "ada", "udp:127.0.0.1:1", 1.0, 10**16)
    [honest] = client.actions()
    assert approvable_action(honest, at_work).text == text_of(market, UUID(honest.id))[0]
    said = honest.model_dump()
    LIES[name](said)
    with pytest.raises(InstructionRefused):
        approvable_action(type(honest).model_validate(said), at_work)


def test_an_action_of_no_chain_is_shown_and_signed_as_one(
    market: Marketplace, signed: SignedFolder, client: SignerClient
) -> None:
    """A security gap is of no chain (R7); told that it is of one, or something else, the machine refuses."""
    gap = gap_of_payment(market.database, market.payment())
    market.execute("INSERT INTO fleet.tokens VALUES (:c, 'native', 'BNB', 18)", c=REAL)
    with transaction(market.database.engine("fleet_operator")) as connection:
        action = propose_resolution(connection, gap, write_again=True, reason="a script of ours", by="mina")
        [waiting] = open_actions(connection, "resolve_gap")
    verified: Verified = load_folder(signed.folder, root=signed.root, now=datetime.now(UTC))
    at_work = ApproverDesk(verified, "ada", "udp:127.0.0.1:1", 1.0, 10**16)
    [honest] = client.actions()
    shown = approvable_action(honest, at_work).text
    assert shown == text_of(market, action)[0]
    rows = [row.strip() for row in rows_of(shown)]
    assert (rows[0], rows[1], rows[3], rows[6]) == ("PAUSE amn1", "resolve_gap", "payments", "write ours again")
    assert "".join(rows[4:6]) == waiting.parameters["object_id"]
    for lie in ({"chain_id": REAL}, {"kind": "go_on"}, {"kind": "cutover"}):
        with pytest.raises(InstructionRefused):
            approvable_action(type(honest).model_validate(honest.model_dump() | lie), at_work)
    for expected, people in (("nobody signed", ()), ("ada signed", ("ada",)), (None, ("cyd",))):
        sign(market, action, *people)
        judge(market, signed)
        with transaction(market.database.engine("fleet_operator")) as connection:
            if expected is None:
                assert execute_resolution(connection, action, agreed_hash=waiting.hash, by="omid") == gap
            else:
                with pytest.raises(ActionRefused, match=expected):
                    execute_resolution(connection, action, agreed_hash=waiting.hash, by="omid")
                connection.rollback()

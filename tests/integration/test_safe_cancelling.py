"""R1, R14, R21 for a Safe: what operators and disputes end, its owners reject at their desks; refunds go the same way."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from eth_account import Account

from custody.releases.requests import RequestKind, ask
from custody.store.engine import transaction
from custody.trezor.derivation import SAFE_OWNER_PATH
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.dispute_scene import entries, in_books, of_purpose, prove_address, resolve
from tests.release_scene import AMOUNT, UNITS
from tests.safe_scene import SafeScene, safe_scenes
from tests.signer_api_server import client_at, serving
from tests.token_chain import TokenChain
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.embedded.trezor_device import Fault, Model, SoftwareDevice
from workers.signer import SignerClient, SigningDeskSettings, SigningOutcome, sign_open_instructions
from workers.signer.inbox import who_acts

FEE_CAP_WEI = 10**16


@pytest.fixture
def scene(
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[SafeScene]:
    yield from safe_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts)


@pytest.fixture(name="client")
def _client(scene: SafeScene) -> Iterator[SignerClient]:
    with serving(scene.database) as url, client_at(url) as client:
        yield client


def _request(scene: SafeScene, payment: UUID, kind: RequestKind) -> None:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        ask(connection, scene.instruction(payment).id, kind, reason="wrong seller", by="ada")


def _answers(scene: SafeScene) -> Sequence[tuple[str, str, str]]:
    return [
        (row.kind, row.state, row.answer)
        for row in scene.market.execute("SELECT * FROM fleet.release_requests ORDER BY requested_at, id")
    ]


def _owner_signs(
    scene: SafeScene, client: SignerClient, folder: Path, owner: int, *, fault: Fault | None = None
) -> SigningOutcome:
    """One owner at the desk takes whatever waits; then the worker runs until it rests, with nobody's help."""
    with SoftwareDevice(scene.owner_seeds[owner], model=Model.SAFE_5, fault=fault) as device:
        desk = SigningDeskSettings(device.path, SAFE_OWNER_PATH, 5.0, FEE_CAP_WEI, lock_folder=folder / "locks")
        outcome = sign_open_instructions(client, scene.step.chains, desk, count=1)
    scene.run()
    return outcome


def _require_asked_of_owners(scene: SafeScene, client: SignerClient, payment: UUID) -> None:
    """It is being cancelled by its owners, and nothing that only an account could sign was made of it."""
    row = scene.instruction(payment)
    assert (row.state, row.rejected_reason) == ("cancelling", None)
    assert row.held_reason.startswith("waits_for_cancel: 0 of 2 owners have signed the rejection of nonce 0")
    assert scene.market.execute("SELECT * FROM fleet.nonce_digests") == []
    claimed = client.instruction(str(row.id))
    assert (claimed.signs, claimed.waits_for_signer, claimed.signed_by) == ("cancel", True, ())
    assert claimed.signing_hash == "0x" + scene.transaction(payment).rejection().hash().hex()
    assert scene.market.balance(payment)["releasing"] == AMOUNT


@ONLY_LONG
def test_an_operators_cancel_becomes_a_rejection_that_its_owners_sign(
    scene: SafeScene, client: SignerClient, tmp_path: Path
) -> None:
    payment = scene.payment()
    scene.run()
    assert _owner_signs(scene, client, tmp_path, 2).errors == []
    # An owner said no to the payout; that is no answer to its rejection.
    assert _owner_signs(scene, client, tmp_path, 0, fault=Fault.REJECT).rejected != []
    assert scene.instruction(payment).rejected_reason is not None
    _request(scene, payment, "cancel")
    scene.run()
    _require_asked_of_owners(scene, client, payment)
    assert "cancelled by ada: wrong seller" in scene.instruction(payment).held_reason
    assert _answers(scene) == [("cancel", "done", "the rejection of nonce 0 of the Safe waits for its owners.")]
    assert _owner_signs(scene, client, tmp_path, 0).errors == []
    assert scene.instruction(payment).held_reason.startswith("waits_for_cancel: 1 of 2 owners")
    scene.set_threshold(50)
    assert _owner_signs(scene, client, tmp_path, 2).errors == []
    # Sent and not deep yet: nobody is asked for a signature, and it says what it waits for.
    [sent] = client.instructions()
    assert (sent.signs, sent.waits_for_signature, sent.waits_for_signer) == ("cancel", False, False)
    assert who_acts(sent, [sent]).startswith("rejection_sent: 0x")
    scene.chain.development.mine(50)
    scene.due_now()
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "cancelled"
    assert row.held_reason.startswith("rejected: nonce 0 of the Safe")
    assert row.held_reason.endswith("cancelled by ada: wrong seller")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.market.state(payment) == ("confirmed", "releasable")
    assert scene.market.balance(payment)["held"] == AMOUNT
    assert scene.paid_to(payment) == 0
    scene.require_books_equal_chain()
    other = scene.payment()
    scene.run()
    assert (scene.instruction(other).state, scene.instruction(other).nonce) == ("handed_out", 1)


def test_a_safes_fees_cannot_be_outbid(scene: SafeScene, client: SignerClient) -> None:
    payment = scene.payment()
    scene.run()
    before = scene.instruction(payment)
    _request(scene, payment, "bump")
    scene.run()
    [(kind, state, answer)] = _answers(scene)
    assert (kind, state) == ("bump", "refused")
    assert answer.startswith("it is a Safe's: its owners sign no fees")
    after = scene.instruction(payment)
    assert (after.state, after.unsigned_bytes, after.max_total_fee_wei) == (
        "handed_out",
        before.unsigned_bytes,
        before.max_total_fee_wei,
    )
    assert scene.market.execute("SELECT * FROM fleet.nonce_digests") == []


def test_a_dispute_has_the_owners_reject_it_and_its_end_pays_the_seller(
    scene: SafeScene, client: SignerClient, tmp_path: Path
) -> None:
    payment = scene.payment()
    scene.run()
    scene.open_dispute(payment)
    scene.run()
    _require_asked_of_owners(scene, client, payment)
    resolve(scene, payment, action="no_action")
    scene.run()
    [dispute] = in_books(scene, payment)
    assert (dispute.state, dispute.held_reason.partition(":")[0]) == ("open", "waits_for_cancel")
    for owner in (0, 1):
        assert _owner_signs(scene, client, tmp_path, owner).errors == []
    scene.due_now()
    scene.run()
    again = scene.instruction(payment)
    assert (again.state, again.nonce) == ("handed_out", 1)
    scene.two_sign(payment)
    scene.run()
    assert entries(scene, payment) == [
        ("release", "reserve", "held", "releasing", AMOUNT),
        ("release", "void", "releasing", "disputed", AMOUNT),
        ("dispute_hold", "lifted", "disputed", "held", AMOUNT),
        ("release", "reserve", "held", "releasing", AMOUNT),
        ("release", "final", "releasing", "treasury", AMOUNT),
    ]
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_a_refund_of_a_safe_is_paid_from_what_was_disputed(scene: SafeScene) -> None:
    payment, buyer = scene.payment(), Account.create()
    scene.open_dispute(payment)
    scene.run()
    prove_address(scene, payment, buyer)
    resolve(scene, payment, action="refund")
    scene.run()
    row = of_purpose(scene, payment, "refund")
    assert (row.state, row.unsigned_kind, row.recipient) == ("handed_out", "safe_transaction", buyer.address)
    scene.two_sign(payment)
    scene.run()
    assert entries(scene, payment) == [
        ("dispute_hold", "opened", "held", "disputed", AMOUNT),
        ("refund", "reserve", "disputed", "refunding", AMOUNT),
        ("refund", "final", "refunding", "treasury", AMOUNT),
    ]
    assert scene.market.state(payment) == ("refunded", "refunded")
    assert scene.token_balance(buyer.address) == UNITS
    scene.require_books_equal_chain()


def test_a_refund_whose_nonce_its_owners_spend_goes_back_to_where_it_came_from(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.open_dispute(payment)
    scene.run()
    prove_address(scene, payment, Account.create())
    resolve(scene, payment, action="refund")
    scene.run()
    scene.safe.run(scene.safe.address)  # its rejection, which nobody asked for
    scene.run()
    row = scene.instruction(payment)
    assert (row.purpose, row.state) == ("refund", "cancelled")
    assert entries(scene, payment)[-1] == ("refund", "void", "refunding", "disputed", AMOUNT)
    assert scene.market.balance(payment)["refunding"] == 0
    scene.require_books_equal_chain()

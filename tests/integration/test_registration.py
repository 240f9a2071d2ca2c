"""Registering a marketplace Trezor: device, command, API, the worker that judges, MongoDB; and every way to cheat."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from bson import ObjectId
from sqlalchemy.exc import DBAPIError

from custody.destinations.derivation import address_at
from custody.destinations.issuing import IssuingRefused, register_deposit_account
from custody.ledger.house import ensure_house_account
from custody.mirror import run_once
from custody.policy import Genesis
from custody.policy.documents import document_hash
from custody.registration import (
    ApiPlace,
    RegistrationRefused,
    register_text,
)
from custody.registration.challenges import CHALLENGES_LIMIT
from custody.settings.environment import SettingsError, load_settings, settings
from custody.store.engine import transaction
from custody.store.mongo import open_mongo
from custody.trezor import DeviceRejected
from custody.trezor.accounts import ROLE_ACCOUNTS
from tasks import housekeeping
from tests.conftest import Database
from tests.counts import sampled
from tests.keys_agent import new_phrase
from tests.marketplace import CHAIN_ID
from tests.policy_files import approver, genesis_file, genesis_said, write_signed
from tests.registering import FINGERPRINT, Office, Person, signed
from tests.signer_api_server import post, serving
from workers.cli import register as command
from workers.cli.signer import EXIT_REJECTED
from workers.embedded.services import Services
from workers.embedded.trezor_device import Fault, SoftwareDevice
from workers.signer import SignerApiError, SignerClient
from workers.signer.registering import RegisteringDesk, RegistrationFailed, register_device


@pytest.fixture
def office(database: Database) -> Iterator[Office]:
    with serving(database) as url:
        yield Office(database, url)


@pytest.fixture
def ada() -> Person:
    return Person(new_phrase())


@pytest.fixture
def device(ada: Person) -> Iterator[SoftwareDevice]:
    with SoftwareDevice(ada.phrase) as running:
        yield running


def desk(office: Office, device: SoftwareDevice, tmp_path: Path, **changed: Any) -> RegisteringDesk:
    fields: dict[str, Any] = {
        "device_path": device.path,
        "place": office.place,
        "user_id": office.user,
        "approval_timeout_seconds": 10.0,
        "label": "desk",
        "lock_folder": tmp_path / "locks",
        **changed,
    }
    return RegisteringDesk(**fields)


# The whole way -------------------------------------------------------------------------------------------------------


def test_a_device_registers_and_the_rows_are_the_seed_s(
    office: Office, ada: Person, device: SoftwareDevice, tmp_path: Path
):
    shown: list[str] = []
    with SignerClient(office.url) as client, office.judging():
        made = register_device(client, desk(office, device, tmp_path), office.invite(), show=shown.append)
    [account] = office.accounts()
    assert (account.user_id, account.xpub, account.active) == (office.user, ada.xpub(), True)
    assert (account.base_path, account.registration_address) == ("m/44'/60'/1'", ada.account().address)
    assert account.xpub_fingerprint == "0x" + ada._node("m/44'/60'/1'").FingerPrint().ToBytes().hex()
    assert (account.next_address_index, account.device_label) == (1, "desk")
    assert made.address == ada.account().address
    [kept] = office.market.execute("SELECT * FROM fleet.trezor_registrations")
    assert (kept.device_fingerprint, kept.device_model) == (made.device_fingerprint, "T1B1")
    assert kept.device_fingerprint == ada._node("m").FingerPrint().ToBytes().hex()
    [text] = shown
    assert text.startswith("REGISTER amanat")
    [used] = office.market.execute("SELECT used_at FROM fleet.registration_invitations")
    assert used.used_at is not None


def test_the_command_registers_and_says_so(
    office: Office, ada: Person, device: SoftwareDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from typer.testing import CliRunner

    from workers.cli import app, signer

    for name, value in {
        "SIGNER_API_URL": office.url,
        "TREZOR_PATH": device.path,
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    command.register(app)
    with office.judging():
        done = CliRunner().invoke(
            signer.signer, ["register", "--user", str(office.user), "--label", "desk"], input=f"{office.invite()}\n"
        )
    assert done.exit_code == 0, done.output
    assert f"address {ada.account().address}" in done.output.replace("\n", " ").replace("  ", " ")
    assert "REGISTER amanat" in done.output
    device.fault = Fault.REJECT
    office.revoke()
    done = CliRunner().invoke(signer.signer, ["register", "--user", str(office.user)], input=f"{office.invite()}\n")
    assert done.exit_code == EXIT_REJECTED
    settings.cache_clear()


def test_addresses_begin_at_1_and_the_same_payment_has_the_same_one(office: Office, ada: Person):
    assert office.register(ada) == ("accepted", None)
    first, second = office.market.payment(), office.market.payment()
    issued = office.issue(first)
    assert (issued.index, issued.path) == (1, "m/44'/60'/1'/0/1")
    assert issued.address == ada.account(index=1).address == address_at(ada.xpub(), 1, "m/44'/60'/1'")
    assert office.issue(first) == issued
    assert office.issue(second).index == 2
    assert office.issue(first, purpose="refund").index == 3
    assert office.accounts()[0].next_address_index == 4
    with ThreadPoolExecutor(4) as pool:
        third = office.market.payment()
        asked = [pool.submit(office.issue, third) for _ in range(8)]
        found = {each.result().address for each in asked}
    assert len(found) == 1
    assert office.accounts()[0].next_address_index == 5
    with pytest.raises(RegistrationRefused, match="there is no payment"):
        office.issue(uuid4())


def test_both_tables_are_mirrored_with_the_backend_s_names(
    office: Office, ada: Person, services: Services, mongo_database: str
):
    office.register(ada)
    payment = office.market.payment()
    issued = office.issue(payment)
    with open_mongo(services.mongo_url, application="test-registration") as client:
        mongo = client[mongo_database]
        while run_once(office.database.engine("fleet_mirror"), mongo, 100):
            pass
        [document] = mongo["trezoraccounts"].find()
        legacy = office.market.execute("SELECT legacy_object_id AS l FROM public.users WHERE id = :u", u=office.user)[
            0
        ].l
        assert document["userId"] == ObjectId(legacy)
        assert (document["xpub"], document["basePath"], document["active"]) == (ada.xpub(), "m/44'/60'/1'", True)
        assert (document["nextAddressIndex"], document["registrationAddress"]) == (2, ada.account().address)
        [row] = document["addresses"]
        assert (row["index"], row["address"], row["path"], row["purpose"]) == (
            1,
            issued.address,
            issued.path,
            "deposit",
        )
        of = office.market.execute("SELECT legacy_object_id AS l FROM public.payments WHERE id = :p", p=payment)[0].l
        assert row["paymentId"] == ObjectId(of)
        office.revoke()
        while run_once(office.database.engine("fleet_mirror"), mongo, 100):
            pass
        [document] = mongo["trezoraccounts"].find()
        assert document["active"] is False


def test_a_revoked_account_issues_nothing_and_may_be_proved_again_by_its_user_alone(office: Office, ada: Person):
    office.register(ada)
    payment = office.market.payment()
    issued = office.issue(payment)
    fingerprint = office.revoke()
    assert fingerprint == office.accounts()[0].xpub_fingerprint
    with pytest.raises(RegistrationRefused, match="has no registered account"):
        office.issue(payment)
    with pytest.raises(RegistrationRefused, match="has no registered account"):
        office.revoke()
    [kept] = office.market.execute("SELECT revoked_by, revoked_reason FROM fleet.trezor_registrations")
    assert (kept.revoked_by, kept.revoked_reason) == ("olga", "lost")
    state, reason = office.register(ada, office.market.user("seller"))
    assert state == "refused"
    assert "is another user's" in (reason or "")
    assert office.register(ada) == ("accepted", None)
    assert office.issue(payment) == issued
    assert len(office.accounts()) == 1


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_second_device_waits_for_the_first_one_s_revocation(office: Office, ada: Person):
    office.register(ada)
    state, reason = office.register(Person(new_phrase()))
    assert state == "refused"
    assert f"revoke it first: fleet trezor revoke {office.user}" in (reason or "")
    assert len(office.accounts()) == 1


def test_an_invitation_is_good_once_for_an_hour_and_few_tries(office: Office, ada: Person):
    code = office.invite()
    first, second = office.challenge(code), office.challenge(code)
    for challenge in (first, second):
        assert post(office.url, "/v1/registrations", office.body(ada, challenge)).status_code == 202
    assert office.judge() == 2
    states = office.market.execute("SELECT state, reason FROM fleet.trezor_registrations ORDER BY received_at")
    assert [row.state for row in states] == ["accepted", "refused"]
    for used in (code, "00" * 16):
        answer = post(office.url, "/v1/registrations/challenge", {"invitation": used})
        assert (answer.status_code, "another one" in answer.json()["error"]) == (403, True)
    old = office.invite()
    office.market.execute("UPDATE fleet.registration_invitations SET expires_at = now() WHERE used_at IS NULL")
    assert post(office.url, "/v1/registrations/challenge", {"invitation": old}).status_code == 403
    many = office.invite()
    for _ in range(CHALLENGES_LIMIT):
        office.challenge(many)
    answer = post(office.url, "/v1/registrations/challenge", {"invitation": many})
    assert "was tried too often" in answer.json()["error"]
    [kept] = office.market.execute("SELECT count(*) AS n FROM fleet.registration_invitations WHERE code_sha256 = :c",
                                   c=bytes.fromhex(many))  # fmt: skip
    assert kept.n == 0  # only hashes are kept


def test_a_challenge_is_hex_short_lived_and_answered_once(office: Office, ada: Person):
    challenge = office.challenge(office.invite())
    assert set(challenge) == {"nonce", "user_id", "account", "expires_at"}  # no text to sign (R6)
    assert len(bytes.fromhex(challenge["nonce"])) == 16
    assert datetime.fromisoformat(challenge["expires_at"]) - datetime.now(UTC) <= timedelta(seconds=120)
    body = office.body(ada, challenge)
    first = post(office.url, "/v1/registrations", body)
    assert post(office.url, "/v1/registrations", body).json() == first.json()  # a lost answer costs nothing
    other = Person(new_phrase())
    answer = post(office.url, "/v1/registrations", office.body(other, challenge))
    assert (answer.status_code, "good once" in answer.json()["error"]) == (409, True)
    answer = post(office.url, "/v1/registrations", {**body, "nonce": "00" * 16})
    assert (answer.status_code, answer.json()["error"]) == (409, "There is no such challenge: register again.")
    with pytest.raises(DBAPIError, match="signer_challenges"):
        office.market.execute(
            "INSERT INTO fleet.signer_challenges (purpose, nonce, expires_at) "
            "VALUES ('login', decode(repeat('00', 16), 'hex'), now() + interval '10 minutes')"
        )


def test_an_answer_that_comes_late_is_refused(office: Office, ada: Person):
    challenge = office.challenge(office.invite())
    answer = post(office.url, "/v1/registrations", office.body(ada, challenge))
    office.market.execute("UPDATE fleet.trezor_registrations SET received_at = received_at + interval '121 seconds'")
    office.judge()
    state, reason = office.state(answer.json()["id"])
    assert state == "refused"
    assert "register again" in (reason or "")
    assert office.accounts() == []


@pytest.mark.parametrize(
    "changed",
    sampled(
        [
            {"xpub": "xprv" + "9" * 107},
            {"xpub": ""},
            {"xpub": "xpub" + "0" * 107},
            {"address": "0x12"},
            {"signature": "0x" + "00" * 64},
            {"signature": "0x" + "00" * 66},
            {"nonce": "zz" * 16},
            {"device_fingerprint": "0A1B2C3D"},
            {"device_label": "line\nbreak"},
            {"device_label": "x" * 65},
            {"device_model": "a"},
            {"text": "sign me"},
            {"user_id": "0197aaaa-0000-7000-8000-00001a2b3c4d"},
        ]
    ),
    ids=lambda changed: " ".join(f"{name}={value[:8]!r}" for name, value in changed.items()),
)
def test_a_malformed_body_is_refused_and_leaves_nothing(office: Office, ada: Person, changed: dict[str, str]):
    body = office.body(ada, office.challenge(office.invite()))
    answer = post(office.url, "/v1/registrations", {**body, **changed})
    assert answer.status_code == 422
    assert "xprv" not in answer.text
    assert office.market.execute("SELECT 1 FROM fleet.trezor_registrations") == []


def test_somebody_else_s_signature_or_address_is_no_proof(office: Office, ada: Person):
    eve = Person(new_phrase())
    challenge = office.challenge(office.invite())
    right = office.body(ada, challenge)
    text = register_text(
        place=office.place,
        nonce=challenge["nonce"],
        expires_at=datetime.fromisoformat(challenge["expires_at"]),
        address=ada.account().address,
        user_id=office.user,
        device_fingerprint=FINGERPRINT,
    )
    for changed, expected in (
        ({"signature": signed(eve.account(), text)}, "or of another text"),
        ({"xpub": eve.xpub()}, "which is the xpub's own"),
        ({"address": eve.account().address}, "which is the xpub's own"),
        ({"xpub": ada.xpub("m/44'/60'/0'")}, "export the xpub of m/44'/60'/1'"),
        ({"device_fingerprint": "ffffffff"}, "or of another text"),
    ):
        fresh = office.challenge(office.invite())
        body = {**office.body(ada, fresh), **changed}
        if "signature" in changed:
            body["nonce"] = right["nonce"]
        answer = post(office.url, "/v1/registrations", body)
        office.judge()
        state, reason = office.state(answer.json()["id"])
        assert (state, expected in (reason or "")) == ("refused", True), (changed, reason)
    assert office.accounts() == []


def test_keys_of_other_roles_are_refused(office: Office):
    """R3, R6: a deposit account, the house's addresses, an approver's device, a treasury, a Safe's owner."""
    treasury, by_xpub, by_address, owner, safe = (Person(new_phrase()) for _ in range(5))
    with transaction(office.database.engine("fleet_operator")) as connection:
        ensure_house_account(connection, CHAIN_ID, treasury.account().address, "treasury")
    state, reason = office.register(treasury)
    assert (state, "the house's treasury already" in (reason or "")) == ("refused", True)
    said = genesis_said(
        approvers=[
            approver("ada"),
            approver("bob", xpub_sha256=sha256(by_xpub.xpub().encode()).hexdigest()),
            approver("cyd", address=by_address.account().address),
        ]
    )
    bsc, ethereum = said["chains"]
    bsc["treasury"]["address"] = safe.account(index=3).address
    ethereum["treasury"]["owners"][0] = owner.account().address
    office.genesis = Genesis.model_validate(said)
    for person, expected in (
        (by_xpub, "the approver bob's already"),
        (by_address, "the approver cyd's already"),
        (owner, "an owner's of the Safe on ethereum already"),
        (safe, "the treasury's on bsc already"),
    ):
        state, reason = office.register(person)
        assert (state, expected in (reason or "")) == ("refused", True), reason
    assert office.accounts() == []


def test_a_registered_account_never_becomes_a_deposit_account(office: Office, ada: Person):
    office.register(ada)
    office.market.execute("UPDATE public.trezor_accounts SET xpub = :x", x=ada.xpub("m/44'/60'/0'"))
    with transaction(office.database.engine("fleet_operator")) as connection, pytest.raises(IssuingRefused):
        register_deposit_account(connection, ada.xpub("m/44'/60'/0'"))


def test_a_user_who_is_suspended_registers_nothing(office: Office, ada: Person):
    office.market.execute("UPDATE public.users SET status = 'suspended' WHERE id = :u", u=office.user)
    state, reason = office.register(ada)
    assert (state, "is suspended" in (reason or "")) == ("refused", True)


def test_the_api_cannot_register_by_itself(office: Office):
    """R9: a signer API that was taken over writes hints, never accounts."""
    for statement in (
        "INSERT INTO public.trezor_accounts (user_id, xpub_fingerprint, xpub, registration_address) "
        f"VALUES ('{office.user}', '0x00000000', 'x', 'y')",
        "UPDATE fleet.trezor_registrations SET state = 'accepted'",
        "UPDATE public.trezor_accounts SET active = true",
        "INSERT INTO fleet.registration_invitations (user_id, code_sha256, invited_by, expires_at) "
        f"VALUES ('{office.user}', decode(repeat('00', 32), 'hex'), 'x', now())",
    ):
        with (
            pytest.raises(DBAPIError, match="permission denied"),
            transaction(office.database.engine("fleet_signer_api")) as connection,
        ):
            connection.exec_driver_sql(statement)


# The signer's machine ------------------------------------------------------------------------------------------------


class LyingApi(SignerClient):
    """An API that answers a challenge otherwise."""

    def __init__(self, url: str, **lies: Any) -> None:
        super().__init__(url)
        self._lies = lies

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().post(path, body)
        return {**answer, **self._lies} if path.endswith("/challenge") else answer


@pytest.mark.parametrize(
    ("lies", "expected"),
    [
        ({"user_id": str(uuid4())}, "ask the operator who sent it"),
        ({"account": ROLE_ACCOUNTS["treasury"]}, "a registration is proved with m/44'/60'/1' and no other"),
        ({"expires_at": "2099-01-01T00:00:00+00:00"}, "compare this machine's clock"),
        ({"expires_at": "2026-01-01T00:00:00"}, "sign nothing for it"),
        ({"nonce": "sign this: all my coins to eve!!"}, "sign nothing for it"),
        ({"text": "a text of the server's"}, "sign nothing for it"),
    ],
    ids=["user", "account", "expiry", "expiry-without-zone", "nonce", "text"],
)
def test_a_server_that_lies_gets_no_signature(
    office: Office, device: SoftwareDevice, tmp_path: Path, lies: dict[str, str], expected: str
):
    shown: list[str] = []
    with LyingApi(office.url, **lies) as client, pytest.raises((RegistrationFailed, SignerApiError), match=expected):
        register_device(client, desk(office, device, tmp_path), office.invite(), show=shown.append)
    assert shown == []  # the device was asked for nothing but its public key
    assert office.market.execute("SELECT 1 FROM fleet.trezor_registrations") == []


def test_a_text_for_another_api_is_refused_by_the_fleet(office: Office, device: SoftwareDevice, tmp_path: Path):
    """R6: somebody in the middle shows the person another certificate."""
    middle = ApiPlace(office.place.host, "ab" * 32)
    with (
        SignerClient(office.url) as client,
        office.judging(),
        pytest.raises(RegistrationFailed, match="compare SIGNER_API_URL and the certificate"),
    ):
        register_device(client, desk(office, device, tmp_path, place=middle), office.invite(), show=lambda _: None)
    assert office.accounts() == []


def test_a_rejection_on_the_device_hands_nothing_in(office: Office, device: SoftwareDevice, tmp_path: Path):
    device.fault = Fault.REJECT
    with SignerClient(office.url) as client, pytest.raises(DeviceRejected):
        register_device(client, desk(office, device, tmp_path), office.invite(), show=lambda _: None)
    assert office.market.execute("SELECT 1 FROM fleet.trezor_registrations") == []


def test_without_an_invitation_nothing_is_said(office: Office):
    import httpx

    unknown = httpx.post(f"{office.url}/v1/registrations/challenge", json={"invitation": "0" * 32})
    assert (unknown.status_code, "no such invitation" in unknown.json()["error"]) == (403, True)
    for path in (f"/v1/registrations/{uuid4()}", "/v1/registrations/x"):
        assert httpx.get(office.url + path).status_code == 404


# The worker ----------------------------------------------------------------------------------------------------------


def test_the_housekeeping_worker_judges_with_the_signed_genesis(office: Office, ada: Person, tmp_path: Path):
    """An approver's device is refused as a user's; without a genesis nobody is registered where safekeeping is on."""
    said = genesis_said(
        approvers=[approver("ada"), approver("bob"), approver("cyd", address=ada.account().address)],
    )
    write_signed(tmp_path / "genesis.toml", genesis_file(said))
    configured = {
        "signer_api_public_host": office.place.host,
        "policy_dir": tmp_path,
        "genesis_hash": document_hash("genesis", said),
    }
    engine = office.database.engine("fleet_housekeeping")
    answer = post(office.url, "/v1/registrations", office.body(ada, office.challenge(office.invite())))
    with pytest.raises(SettingsError, match="POLICY_DIR is not set"):
        housekeeping.build(engine, load_settings(signer_api_public_host=office.place.host))()
    assert office.state(answer.json()["id"]) == ("received", None)
    assert housekeeping.build(engine, load_settings(**configured))() == 1
    state, reason = office.state(answer.json()["id"])
    assert (state, "the approver cyd's already" in (reason or "")) == ("refused", True)
    right = Person(new_phrase())
    answer = post(office.url, "/v1/registrations", office.body(right, office.challenge(office.invite())))
    assert housekeeping.build(engine, load_settings(**configured))() == 1
    assert office.state(answer.json()["id"]) == ("accepted", None)

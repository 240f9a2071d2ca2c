"""Sessions of the signer API (R6): opened by a device over a text of the signer's own making, short, one person's."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_keys.constants import SECPK1_N
from sqlalchemy.exc import ProgrammingError

from custody.policy import SignedFolder
from custody.policy.documents import read_toml
from custody.policy.succession import revoke_approver
from custody.policy.verified import GENESIS_FILE
from custody.registration import ApiPlace, register_text
from custody.sessions import SignedIdentities, bar, end_sessions_of, login_text
from custody.sessions.login import OPEN_CHALLENGES_LIMIT, SESSIONS_OF_ONE
from custody.store.engine import transaction
from custody.trezor.text_rows import CHARACTERS_MAXIMUM
from tests.conftest import Database
from tests.counts import Counts
from tests.policy_files import Fleet, approver, genesis_file, genesis_said, key, write_signed
from tests.signer_api_server import place_of, serving, token_of
from workers.signer_api.rate_limit import RateLimit

PIN: Final = "ab" * 32


@pytest.fixture
def api(database: Database) -> Iterator[str]:
    with serving(database) as url:
        yield url


def challenge(api: str) -> dict[str, Any]:
    answer = httpx.post(f"{api}/v1/session/challenge")
    assert answer.status_code == 201, answer.text
    return answer.json()


def text_for(api: str, given: Mapping[str, Any], address: str, **changed: Any) -> str:
    fields: dict[str, Any] = {
        "place": place_of(api),
        "nonce": given["nonce"],
        "expires_at": datetime.fromisoformat(given["expires_at"]),
        "address": address,
        **changed,
    }
    return login_text(**fields)


def sign(account: LocalAccount, text: str) -> str:
    return "0x" + account.sign_message(encode_defunct(text=text)).signature.hex().removeprefix("0x")


def log_in(api: str, account: LocalAccount, **body: Any) -> httpx.Response:
    given = challenge(api)
    said = {
        "nonce": given["nonce"],
        "address": account.address,
        "signature": sign(account, text_for(api, given, account.address)),
    }
    return httpx.post(f"{api}/v1/session", json=said | body)


def whoami(api: str, token: str) -> httpx.Response:
    return httpx.get(f"{api}/v1/session", headers={"Authorization": f"Bearer {token}"})


def sessions(database: Database) -> int:
    """Sessions beside those that the tests' people have."""
    with database.engine().connect() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM fleet.signer_sessions").scalar_one()


# Logging in -------------------------------------------------------------------------------------------------------


def test_a_login_is_one_persons_short_session(api: str, database: Database) -> None:
    answer = log_in(api, key("ada"))
    assert answer.status_code == 201, answer.text
    opened = answer.json()
    assert (opened["person"], opened["role"], opened["address"]) == ("ada", "approver", key("ada").address)
    left = datetime.fromisoformat(opened["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert answer.headers["cache-control"] == "no-store"
    assert whoami(api, opened["token"]).json()["person"] == "ada"
    with database.engine().connect() as connection:
        rows = connection.exec_driver_sql("SELECT s::text AS said FROM fleet.signer_sessions s").scalars()
        assert not [each for each in rows if opened["token"] in each]  # kept hashed
    headers = {"Authorization": f"Bearer {opened['token']}"}
    assert httpx.delete(f"{api}/v1/session", headers=headers).json() == {"ended": True}
    assert whoami(api, opened["token"]).status_code == 401


def test_the_server_gives_hex_and_a_time_and_the_text_is_no_safe_hash(api: str) -> None:
    given = challenge(api)
    assert set(given) == {"nonce", "expires_at"}
    assert len(bytes.fromhex(given["nonce"])) == 16
    ends = datetime.fromisoformat(given["expires_at"]) - datetime.now(UTC)
    assert timedelta(0) < ends <= timedelta(seconds=120)
    text = text_for(api, given, key("ada").address, place=ApiPlace("h" * 31 + ":8481", PIN))
    assert 32 < len(text) <= CHARACTERS_MAXIMUM
    assert text.split()[0] == "LOGIN"
    assert given["nonce"] in text
    assert PIN[:32] in text


Attack = Callable[[str, dict[str, Any]], dict[str, Any]]


def _malleated(signature: str) -> str:
    raw = bytes.fromhex(signature[2:])
    s = SECPK1_N - int.from_bytes(raw[32:64], "big")
    return "0x" + (raw[:32] + s.to_bytes(32, "big") + bytes([55 - raw[64]])).hex()


def _other(**changed: Any) -> Attack:
    """The right person signs another text than this API's."""
    return lambda api, given: _claim(api, given, text=text_for(api, given, key("ada").address, **changed))


def _claim(
    api: str, given: Mapping[str, Any], *, text: str | None = None, by: str = "ada", address: str | None = None
) -> dict[str, Any]:
    own = address or key("ada").address
    return {
        "nonce": given["nonce"],
        "address": own,
        "signature": sign(key(by), text if text is not None else text_for(api, given, own)),
    }


def _with_v(v: int) -> Attack:
    def attack(api: str, given: dict[str, Any]) -> dict[str, Any]:
        claim = _claim(api, given)
        return claim | {"signature": claim["signature"][:-2] + f"{v:02x}"}

    return attack


def _registered(api: str, given: dict[str, Any]) -> str:
    return register_text(
        place=place_of(api),
        nonce=given["nonce"],
        expires_at=datetime.fromisoformat(given["expires_at"]),
        address=key("ada").address,
        user_id=UUID(int=1),
        device_fingerprint="0a1b2c3d",
    )


ATTACKS: Final[Mapping[str, Attack]] = {
    "other host": _other(place=ApiPlace("evil.example:443", None)),
    "other port": _other(place=ApiPlace("127.0.0.1:1", None)),
    "other pin": lambda api, given: _other(place=ApiPlace(place_of(api).host, PIN))(api, given),
    "other nonce": _other(nonce="0" * 32),
    "other expiry": _other(expires_at=datetime(2099, 1, 1, tzinfo=UTC)),
    "a registration's text": lambda api, given: _claim(api, given, text=_registered(api, given)),
    "the bare nonce": lambda api, given: _claim(api, given, text=given["nonce"]),
    "32 bytes": lambda api, given: _claim(api, given, text="x" * 32),
    "newline in it": lambda api, given: _claim(api, given, text=text_for(api, given, key("ada").address) + "\n"),
    "bob's signature as ada": lambda api, given: _claim(api, given, by="bob"),
    "ada's signature as bob": lambda api, given: _claim(api, given) | {"address": key("bob").address},
    "a stranger": lambda api, given: _claim(api, given, by="mallory", address=key("mallory").address),
    "high s": lambda api, given: _claim(api, given) | {"signature": _malleated(_claim(api, given)["signature"])},
    "v 0": _with_v(0),
    "v 1": _with_v(1),
    "v 31": _with_v(31),
    "zeros": lambda api, given: _claim(api, given) | {"signature": "0x" + "00" * 65},
    "unknown nonce": lambda api, given: _claim(api, given) | {"nonce": "f" * 32},
    "lower case address": lambda api, given: _claim(api, given) | {"address": key("ada").address.lower()},
    "a token of one's own": lambda api, given: _claim(api, given) | {"token": "0" * 64},
    "a person of one's own": lambda api, given: _claim(api, given) | {"person": "ada"},
    "a text of one's own": lambda api, given: _claim(api, given) | {"text": "LOGIN"},
    "no nonce": lambda api, given: {name: each for name, each in _claim(api, given).items() if name != "nonce"},
    "short signature": lambda api, given: _claim(api, given) | {"signature": "0x00"},
}


def test_every_other_login_is_refused(api: str, database: Database, counts: Counts) -> None:
    """R6: another place, person, text, nonce or signature form; and each byte of a right one changed."""
    before = sessions(database)
    tried = refused = 0
    for name, attack in ATTACKS.items():
        answer = httpx.post(f"{api}/v1/session", json=attack(api, challenge(api)))
        assert answer.status_code in (403, 422), (name, answer.text)
        tried, refused = tried + 1, refused + (answer.status_code in (403, 422))
    for place in range(65):
        given = challenge(api)
        claim = _claim(api, given)
        raw = bytearray.fromhex(claim["signature"][2:])
        raw[place] ^= 1 if place < 64 else 2
        answer = httpx.post(f"{api}/v1/session", json=claim | {"signature": "0x" + raw.hex()})
        tried, refused = tried + 1, refused + (answer.status_code == 403)
    assert (refused, sessions(database)) == (tried, before)
    counts("logins of others, elsewhere, malformed or malleated, refused", refused)


def test_a_challenge_is_good_once_and_two_minutes(api: str, database: Database, counts: Counts) -> None:
    refused = 0
    given = challenge(api)
    claim = _claim(api, given)
    assert httpx.post(f"{api}/v1/session", json=claim).status_code == 201
    for _ in range(3):  # replayed
        answer = httpx.post(f"{api}/v1/session", json=claim)
        refused += answer.status_code == 403 and "good once" in answer.json()["error"]
    given = challenge(api)  # a wrong answer spends it as well
    assert httpx.post(f"{api}/v1/session", json=_claim(api, given, by="bob")).status_code == 403
    refused += httpx.post(f"{api}/v1/session", json=_claim(api, given)).status_code == 403
    given = challenge(api)
    with database.engine().begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fleet.signer_challenges SET created_at = created_at - interval '3 minutes', "
            "expires_at = expires_at - interval '3 minutes' WHERE used_at IS NULL"
        )
        [ends] = connection.exec_driver_sql(
            "SELECT expires_at FROM fleet.signer_challenges WHERE used_at IS NULL"
        ).scalars()
    late = _claim(api, given | {"expires_at": ends.isoformat()})
    answer = httpx.post(f"{api}/v1/session", json=late)
    refused += answer.status_code == 403 and "ended after 120 seconds" in answer.json()["error"]
    assert refused == 5
    counts("answers to spent or expired challenges, refused", refused)


def test_of_many_answers_at_once_one_opens_a_session(api: str, counts: Counts) -> None:
    claim = _claim(api, challenge(api))
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(httpx.post(f"{api}/v1/session", json=claim).status_code))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201] + [403] * 15
    counts("answers to one challenge at once, one session", len(answers))


def test_nobody_gives_a_session_its_token(api: str) -> None:
    """Fixation: a token from before the login, or one that the caller brings, is never the session's."""
    brought = "f" * 64
    given = challenge(api)
    answer = httpx.post(
        f"{api}/v1/session",
        json=_claim(api, given),
        headers={"Authorization": f"Bearer {brought}", "Cookie": f"session={brought}"},
    )
    assert answer.status_code == 201
    assert answer.json()["token"] != brought
    assert "set-cookie" not in answer.headers
    assert whoami(api, brought).status_code == 401
    first, second = log_in(api, key("bob")).json()["token"], log_in(api, key("bob")).json()["token"]
    assert first != second


# What a session is worth ------------------------------------------------------------------------------------------


def _ended(database: Database) -> None:
    with transaction(database.engine("fleet_operator")) as connection:
        assert end_sessions_of(connection, "ada", by="test", reason="test") >= 1


def _expired(database: Database) -> None:
    with database.engine().begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fleet.signer_sessions SET opened_at = now() - interval '2 hours', expires_at = now() WHERE person = 'ada'"
        )


def _barred(database: Database) -> None:
    with transaction(database.engine("fleet_operator")) as connection:
        bar(connection, key("ada").address, by="test", reason="lost in a taxi")


@pytest.mark.parametrize("end", [_ended, _expired, _barred])
def test_an_ended_session_is_worth_nothing_at_once(
    api: str, database: Database, end: Callable[[Database], None]
) -> None:
    token = log_in(api, key("ada")).json()["token"]
    other = log_in(api, key("bob")).json()["token"]
    assert whoami(api, token).status_code == 200
    end(database)
    answer = whoami(api, token)
    assert (answer.status_code, "fleet signer login" in answer.json()["error"]) == (401, True)
    assert whoami(api, other).status_code == 200
    again = log_in(api, key("ada"))
    assert again.status_code == (403 if end is _barred else 201)
    if end is _barred:
        assert "is barred (lost in a taxi)" in again.json()["error"]


def test_an_approver_whom_the_genesis_revokes_is_out_at_once(database: Database, tmp_path: Path) -> None:
    files = Fleet(genesis_said(approvers=[approver(each) for each in ("ada", "bob", "cyd")]), [])
    root = files.write_without_book(tmp_path)
    identities = SignedIdentities(database.engine("fleet_signer_api"), SignedFolder(tmp_path, root))
    with serving(database, identities=identities) as api:
        tokens = {each: log_in(api, key(each)).json()["token"] for each in ("ada", "cyd")}
        assert {whoami(api, each).status_code for each in tokens.values()} == {200}
        revoke_approver(tmp_path, "cyd", datetime.now(UTC).replace(microsecond=0), book=None)
        unsigned = whoami(api, tokens["ada"])
        assert (unsigned.status_code, "signed files are refused" in unsigned.json()["error"]) == (503, True)
        write_signed(tmp_path / GENESIS_FILE, genesis_file(read_toml(tmp_path / GENESIS_FILE)))
        assert whoami(api, tokens["ada"]).status_code == 200
        assert whoami(api, tokens["cyd"]).status_code == 401
        assert "is no active approver" in log_in(api, key("cyd")).json()["error"]


def test_what_a_person_hands_in_is_their_own(api: str, counts: Counts) -> None:
    """Wrong person: an approval, entry or action in another one's name is refused before anything is written."""
    refused = tried = 0
    for who, person, at in itertools.product(("ada", "bob", "signer"), ("ada", "bob"), ("ada", "bob")):
        if who == person == at:
            continue
        token = token_of(who)
        for subject in ("instructions", "address-book", "actions"):
            answer = httpx.post(
                f"{api}/v1/{subject}/00000000-0000-7000-8000-000000000000/approval",
                json={
                    "person": person,
                    "approver": key(at).address,
                    "digest": "0" * 64,
                    "signature": "0x" + "11" * 65,
                },
                headers={"Authorization": f"Bearer {token}"},
            )
            tried, refused = tried + 1, refused + (answer.status_code == 403)
    assert refused == tried == 30
    counts("approvals in another person's name, refused", refused)


def test_one_device_has_few_sessions_and_the_oldest_ends(api: str) -> None:
    tokens = [log_in(api, key("cyd")).json()["token"] for _ in range(SESSIONS_OF_ONE + 1)]
    assert [whoami(api, each).status_code for each in tokens] == [401] + [200] * SESSIONS_OF_ONE


def test_logins_are_taken_at_a_bounded_pace(database: Database) -> None:
    with serving(database, login_limit=RateLimit(per_second=0.001, burst=3)) as api:
        answers = [httpx.post(f"{api}/v1/session/challenge").status_code for _ in range(3)]
        answers.append(httpx.post(f"{api}/v1/session", json={}).status_code)
        answers.append(httpx.get(f"{api}/v1/instructions", headers={"Authorization": "Bearer x"}).status_code)
    assert answers == [201, 201, 201, 429, 401]


def test_challenges_that_nobody_answers_are_bounded(api: str, database: Database) -> None:
    with database.engine().begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO fleet.signer_challenges (purpose, nonce, expires_at) SELECT 'login', decode(md5(n::text), 'hex'), "
            f"now() + interval '1 minute' FROM generate_series(1, {OPEN_CHALLENGES_LIMIT}) n"
        )
    answer = httpx.post(f"{api}/v1/session/challenge")
    assert (answer.status_code, "wait two minutes" in answer.json()["error"]) == (429, True)


def test_the_apis_role_makes_no_signer_and_lifts_no_bar(database: Database, counts: Counts) -> None:
    statements = (
        "UPDATE fleet.signer_sessions SET expires_at = now() + interval '1 day'",
        "UPDATE fleet.signer_sessions SET person = 'ada'",
        "DELETE FROM fleet.barred_signers",
        "INSERT INTO fleet.barred_signers (address, barred_by, reason) VALUES ('0x', 'x', 'x')",
        "UPDATE fleet.signer_challenges SET expires_at = now()",
        "INSERT INTO fleet.accepted_documents (kind, version, hash) VALUES ('genesis', 1, 'x')",
    )
    for statement in statements:
        with (
            database.engine("fleet_signer_api").connect() as connection,
            pytest.raises(ProgrammingError, match="permission denied"),
        ):
            connection.exec_driver_sql(statement)
    counts("statements past the signer API's role on sessions, refused", len(statements))

"""A registration is proved by index 0 of the account's xpub, over this API's text, in time, with a key of no other role."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from eth_account.messages import encode_defunct
from eth_keys.constants import SECPK1_N
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.destinations.derivation import address_at
from custody.registration.proof import REUSE_INDICES, Challenge, Claim, InUse, RegistrationRefused, prove
from custody.registration.texts import NO_CERTIFICATE, ApiPlace, register_text
from custody.trezor.accounts import ROLE_ACCOUNTS, Role
from custody.trezor.text_rows import CHARACTERS_MAXIMUM, COLUMNS, TextNotShowable, rows_of
from tests.counts import declared
from tests.registering import FINGERPRINT, Person, signed

ADA = Person("all all all all all all all all all all all all")
EVE = Person("legal winner thank year wave sausage worth useful legal winner thank yellow")
PLACE = ApiPlace("signer.example.com:443", "ab" * 32)
USER = UUID("0197aaaa-0000-7000-8000-00001a2b3c4d")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CHALLENGE = Challenge("00112233445566778899aabbccddeeff", USER, NOW + timedelta(seconds=120))


def claim(**changed: Any) -> Claim:
    right = Claim(
        xpub=ADA.xpub(),
        address=ADA.account().address,
        device_fingerprint=FINGERPRINT,
        signature=ADA.proof(PLACE, CHALLENGE.nonce, USER, CHALLENGE.expires_at),
        received_at=NOW,
    )
    return replace(right, **changed)


def refusal(
    given: Claim, challenge: Challenge = CHALLENGE, place: ApiPlace = PLACE, in_use: InUse | None = None
) -> str:
    with pytest.raises(RegistrationRefused) as caught:
        prove(given, challenge, place, in_use or InUse())
    return str(caught.value)


def test_a_right_proof_gives_the_account_s_fingerprint():
    assert prove(claim(), CHALLENGE, PLACE, InUse()) == "0x" + ADA._node("m/44'/60'/1'").FingerPrint().ToBytes().hex()


def test_the_text_is_the_verb_first_in_rows_that_every_device_shows():
    text = register_text(
        place=PLACE,
        nonce=CHALLENGE.nonce,
        expires_at=CHALLENGE.expires_at,
        address=ADA.account().address,
        user_id=USER,
        device_fingerprint=FINGERPRINT,
    )
    assert rows_of(text)[0].strip() == "REGISTER amanat"
    assert len(text.encode()) > 32
    assert len(text) <= CHARACTERS_MAXIMUM
    assert len(text) % COLUMNS == 0
    for part in ("signer.example.com", "ab" * 9, CHALLENGE.nonce[:18], "1a2b3c4d/0a1b2c3d", "03-01 12:02:00 UTC"):
        assert part in text
    assert ADA.account().address in text


@pytest.mark.parametrize(
    ("host", "pin"),
    [
        ("a" * 40 + ":443", None),
        ("Signer:443", None),
        ("signer", None),
        ("s:443\n", None),
        ("s:443", "ab"),
        ("s:443", "AB" * 32),
    ],
    ids=["long", "capitals", "no-port", "line-break", "short-pin", "capital-pin"],
)
def test_a_place_that_a_device_could_not_show_is_refused(host: str, pin: str | None):
    with pytest.raises(ValueError, match="expected"):
        ApiPlace(host, pin)


@pytest.mark.parametrize(
    "changed", [{"nonce": "00"}, {"nonce": "zz" * 16}, {"device_fingerprint": "0A1B2C3D"}], ids=str
)
def test_fields_of_another_form_make_no_text(changed: dict[str, str]):
    fields: dict[str, Any] = {
        "place": PLACE,
        "nonce": CHALLENGE.nonce,
        "expires_at": NOW,
        "address": ADA.account().address,
        "user_id": USER,
        "device_fingerprint": FINGERPRINT,
        **changed,
    }
    with pytest.raises(TextNotShowable):
        register_text(**fields)


def test_an_extended_private_key_is_refused_and_never_quoted():
    said = refusal(claim(xpub=ADA.xprv()))
    assert "a private one (xprv) is refused" in said
    assert ADA.xprv() not in said


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("m/44'/60'/0'", "got account 0"),
        ("m/44'/60'/2'", "got account 2"),
        ("m/44'/60'", "got depth 2"),
        ("m/44'/60'/1'/0", "got depth 4"),
        ("m", "got depth 0"),
    ],
)
def test_an_xpub_of_another_depth_or_account_is_refused(path: str, expected: str):
    said = refusal(claim(xpub=ADA.xpub(path)))
    assert expected in said
    assert "export the xpub of m/44'/60'/1'" in said


def test_the_address_must_be_the_xpub_s_own_at_index_0():
    assert "which is the xpub's own at m/44'/60'/1'/0/0" in refusal(claim(address=EVE.account().address))
    assert "which is the xpub's own" in refusal(claim(address=ADA.account(index=1).address))
    assert "which is the xpub's own" in refusal(claim(xpub=EVE.xpub()))
    assert "which is the xpub's own" in refusal(claim(address=ADA.account().address.lower()))


@pytest.mark.parametrize(
    "challenge",
    [
        replace(CHALLENGE, nonce="ff" * 16),
        replace(CHALLENGE, user_id=UUID("0197aaaa-0000-7000-8000-00001a2b3c4e")),
        replace(CHALLENGE, expires_at=CHALLENGE.expires_at + timedelta(seconds=1)),
    ],
    ids=["nonce", "user", "expiry"],
)
def test_a_signature_for_another_challenge_is_refused(challenge: Challenge):
    assert "or of another text" in refusal(claim(), challenge)


@pytest.mark.parametrize(
    "place",
    [ApiPlace("signer.example.org:443", "ab" * 32), ApiPlace("signer.example.com:443", "ac" * 32),
     ApiPlace("signer.example.com:443", None)],
    ids=["host", "certificate", "no-tls"],
)  # fmt: skip
def test_a_signature_for_another_api_is_refused(place: ApiPlace):
    """R6: whoever stands between the person and the fleet has another name or another certificate."""
    assert "compare SIGNER_API_URL and the certificate" in refusal(claim(), place=place)
    assert ApiPlace("h:1", None).shown_pin == NO_CERTIFICATE


@pytest.mark.parametrize("role", [role for role in ROLE_ACCOUNTS if role != "registration"])
def test_a_signature_of_another_role_s_key_is_refused(role: Role):
    proof = ADA.proof(PLACE, CHALLENGE.nonce, USER, CHALLENGE.expires_at, role=role, address=ADA.account().address)
    assert f"it is {ADA.account(role).address}'s" in refusal(claim(signature=proof))


def test_a_late_answer_is_refused():
    late = claim(received_at=CHALLENGE.expires_at + timedelta(microseconds=1))
    assert "register again" in refusal(late)
    assert prove(claim(received_at=CHALLENGE.expires_at), CHALLENGE, PLACE, InUse())


def test_a_malleated_signature_and_a_wrong_v_are_refused():
    raw = bytes.fromhex(claim().signature[2:])
    r, s, v = raw[:32], int.from_bytes(raw[32:64]), raw[64]
    high = "0x" + (r + (SECPK1_N - s).to_bytes(32) + bytes([55 - v])).hex()
    assert "low s" in refusal(claim(signature=high))
    for other in (0, 1, v - 27, v + 4, 37):
        assert "27 or 28" in refusal(claim(signature="0x" + (raw[:64] + bytes([other])).hex()))


def test_a_32_byte_challenge_signed_as_a_safe_owner_would_is_no_proof():
    """R6: what a server that supplies bytes would get."""
    account = ADA.account()
    digest = sha256(b"a safe transaction").digest()
    signature = "0x" + account.sign_message(encode_defunct(primitive=digest)).signature.hex().removeprefix("0x")
    assert "or of another text" in refusal(claim(signature=signature))


@pytest.mark.parametrize("index", [0, 1, REUSE_INDICES - 1])
def test_a_key_that_has_another_role_is_refused(index: int):
    taken = InUse(addresses={address_at(ADA.xpub(), index, "m/44'/60'/1'"): "the treasury's on bsc"})
    assert "its key is the treasury's on bsc already" in refusal(claim(), in_use=taken)


def test_an_xpub_that_an_approver_has_is_refused():
    taken = InUse(xpubs={sha256(ADA.xpub().encode()).hexdigest(): "the approver ben's"})
    assert "its key is the approver ben's already" in refusal(claim(), in_use=taken)
    assert prove(claim(), CHALLENGE, PLACE, InUse(xpubs={sha256(EVE.xpub().encode()).hexdigest(): "ben's"}))


@settings(max_examples=declared(2_000, 40), deadline=None)
@given(st.integers(0, 64), st.integers(1, 255))
def test_any_changed_byte_of_the_signature_is_refused(place: int, flip: int):
    raw = bytearray.fromhex(claim().signature[2:])
    raw[place] ^= flip
    refusal(claim(signature="0x" + bytes(raw).hex()))


def test_another_text_of_the_same_person_is_no_registration():
    login = "LOGIN amanat".ljust(36) + CHALLENGE.nonce
    assert "or of another text" in refusal(claim(signature=signed(ADA.account(), login)))

"""Every reason why a genesis, a policy or an address book is refused, with its file, field and what was expected."""

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from custody.policy import PolicyRefused, binds_at, load_folder, verify_genesis, verify_policy
from custody.policy.documents import NO_HASH, canonical_bytes, document_hash, parse_toml
from custody.policy.signatures import ApproverSignature
from custody.policy.texts import file_text
from custody.policy.toml_text import toml_text
from custody.policy.verified import Accepted, SignedFile
from custody.trezor.text_rows import CHARACTERS_MAXIMUM, rows_of
from tests.policy_files import (
    NOW,
    STRANGER,
    TREASURY_BSC,
    USDT_BSC,
    Fleet,
    approver,
    genesis_file,
    genesis_said,
    key,
    policy_file,
    policy_said,
    signed,
)


def refusal(what: Callable[[], object]) -> str:
    with pytest.raises(PolicyRefused) as caught:
        what()
    return str(caught.value)


def genesis_refusal(said: dict[str, Any], *people: str) -> str:
    return refusal(lambda: verify_genesis([genesis_file(said, *people)], root=None, now=NOW))


def policy_refusal(file: SignedFile, **given: Any) -> str:
    return refusal(lambda: verify_policy(file, Fleet().genesis(), now=NOW, **given))


ROOT = Fleet().genesis().root


def test_a_folder_is_read_as_it_was_signed(tmp_path: Path) -> None:
    fleet = Fleet()
    root = fleet.write(tmp_path)
    verified = load_folder(tmp_path, root=root, environment="amn1", now=NOW)
    assert verified == fleet.verified()
    assert (verified.genesis.signed_by, verified.policy.signed_by) == (("ada", "bob"), ("ada", "bob"))
    assert [entry.owner for entry in verified.book.entries] == ["seller-1", "seller-2", "house", "seller-1"]


def test_layout_and_comments_are_not_signed_but_every_value_is() -> None:
    said = policy_said(ROOT)
    again = parse_toml(b"# a comment\n" + toml_text(said).replace(" = ", "  =  ").encode(), file="policy.toml")
    assert canonical_bytes("policy", again) == canonical_bytes("policy", said)
    hashes = {document_hash("policy", said), document_hash("genesis", said)}
    for place, rule in enumerate(said["rules"]):
        for field in rule:
            changed = copy.deepcopy(said)
            del changed["rules"][place][field]
            hashes.add(document_hash("policy", changed))
    assert len(hashes) == 2 + sum(len(rule) for rule in said["rules"])


@pytest.mark.parametrize("value", [0.5, NOW.replace(tzinfo=None), None])
def test_a_value_without_an_exact_form_has_no_hash(value: object) -> None:
    assert "rules.0.x: expected" in refusal(lambda: document_hash("policy", {"rules": [{"x": value}]}, file="f"))


def test_the_text_fits_a_device() -> None:
    text = file_text("policy", "amn1", 7, "ab" * 32)
    assert rows_of(text)[:3] == ("POLICY amn1       ", "policy v7         ", "ab" * 9)
    assert len(text) <= CHARACTERS_MAXIMUM
    assert text.endswith("ab" * 5 + " " * 8)


# Signatures


def test_too_few_signatures() -> None:
    assert policy_refusal(policy_file(policy_said(ROOT), "ada")) == (
        "policy.toml.sig: signatures: expected 2 approvers of genesis version 1, ada signed"
    )
    said = policy_said(ROOT)
    assert "expected 2 approvers of genesis version 1, nobody signed" in policy_refusal(
        SignedFile("policy.toml", said, ())
    )


def test_a_person_counts_once() -> None:
    assert policy_refusal(policy_file(policy_said(ROOT), "ada", "ada")) == (
        "policy.toml.sig: signatures.2: ada signed already; expected one signature a person"
    )


def test_a_stranger_counts_for_nothing() -> None:
    said = policy_refusal(policy_file(policy_said(ROOT), "ada", "bob", "eve"))
    assert said == (
        f"policy.toml.sig: signatures.3: expected an approver of genesis version 1, {key('eve').address} is none"
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"revoked_at": NOW - timedelta(days=1)}, "cyd (.*) was revoked 2019-01-15; expected an active approver"),
        ({"valid_from": NOW + timedelta(seconds=1)}, "cyd approves from 2019-01-16 12:00 UTC, not yet"),
        ({"powers": ["release"]}, "expected an approver with the power 'policy', cyd has it not"),
    ],
)
def test_an_approver_who_may_not_sign(changed: dict[str, Any], expected: str) -> None:
    people = [approver("ada"), approver("bob"), approver("cyd", **changed)]
    fleet = Fleet(genesis_said(approvers=people))
    genesis = fleet.genesis()
    file = policy_file(policy_said(genesis.root, fleet.rules), "ada", "bob", "cyd")
    with pytest.raises(PolicyRefused, match=expected):
        verify_policy(file, genesis, now=NOW)


def test_changed_bytes() -> None:
    said = policy_said(ROOT)
    file = policy_file(said)
    changed = copy.deepcopy(said)
    changed["rules"][2]["maximum"] = "6000"
    message = policy_refusal(SignedFile("policy.toml", changed, file.signatures))
    assert message.startswith("policy.toml.sig: signatures.1: expected the signature of " + key("ada").address)


def test_a_genesis_signature_is_no_policy_signature() -> None:
    said = policy_said(ROOT)
    text = file_text("genesis", "amn1", 1, document_hash("policy", said))
    assert "signatures.1: expected the signature of" in policy_refusal(
        SignedFile("policy.toml", said, signed(text, "ada", "bob"))
    )


@pytest.mark.parametrize("shape", ["v 0", "high s"])
def test_only_one_shape_of_a_signature(shape: str) -> None:
    file = policy_file(policy_said(ROOT))
    raw = bytes.fromhex(file.signatures[0].signature[2:])
    if shape == "v 0":
        raw = raw[:64] + bytes([raw[64] - 27])
    else:
        order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
        high = order - int.from_bytes(raw[32:64], "big")
        raw = raw[:32] + high.to_bytes(32, "big") + bytes([27 + 28 - raw[64]])
    malformed = ApproverSignature(approver=key("ada").address, signature="0x" + raw.hex())
    message = policy_refusal(SignedFile("policy.toml", file.said, (malformed, *file.signatures[1:])))
    assert message.startswith(
        f"policy.toml.sig: signatures.1: signature field '{shape[0] if shape[0] == 'v' else 's'}'"
    )


# Versions


def accepted_and_next(**changed: Any) -> tuple[Accepted, SignedFile]:
    accepted = Accepted(4, "44" * 32)
    return accepted, policy_file(policy_said(ROOT, version=5, previous=accepted.hash) | changed)


def test_the_next_version_and_the_same_one_are_taken() -> None:
    accepted, file = accepted_and_next()
    found = verify_policy(file, Fleet().genesis(), accepted=accepted, now=NOW)
    assert verify_policy(file, Fleet().genesis(), accepted=Accepted(5, found.hash), now=NOW) == found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"version": 3}, "policy.toml: version: expected 4 or 5, got 3: it is older"),
        ({"version": 4}, f"policy.toml: hash: expected {'44' * 32}: another version 4 was accepted"),
        ({"version": 6}, "policy.toml: version: expected 5, got 6: none may be left out"),
        ({"previous": "55" * 32}, f"policy.toml: previous: expected {'44' * 32}, got {'55' * 32}"),
        ({"genesis": "66" * 32}, f"policy.toml: genesis: expected {ROOT}, got {'66' * 32}: another genesis"),
        ({"environment": "test"}, "policy.toml: environment: expected 'amn1', got 'test': another fleet's file"),
        ({"issued_at": NOW + timedelta(days=1)}, "policy.toml: issued_at: expected a time that has come"),
        ({"version": 5, "previous": NO_HASH}, "policy.toml: document: previous: expected 64 zeros for version 1"),
    ],
)
def test_another_version(changed: dict[str, Any], expected: str) -> None:
    accepted, file = accepted_and_next(**changed)
    assert expected in policy_refusal(file, accepted=accepted)


def successor(**changed: Any) -> dict[str, Any]:
    return genesis_said(version=2, previous=ROOT, issued_at=NOW - timedelta(days=2)) | changed


def chain_of(second: dict[str, Any], *people: str, accepted: Accepted | None = None):
    files = [genesis_file(genesis_said()), genesis_file(second, *people)]
    return verify_genesis(files, root=ROOT, environment="amn1", accepted=accepted, now=NOW)


def test_a_genesis_is_followed_by_one_that_its_approvers_signed() -> None:
    dan = approver("dan", valid_from=NOW - timedelta(days=1))
    found = chain_of(successor(approvers=[approver("ada"), approver("bob"), dan]))
    assert (found.genesis.version, found.root, found.signed_by) == (2, ROOT, ("ada", "bob"))


def test_a_newcomer_cannot_sign_himself_in() -> None:
    dan = approver("dan", valid_from=NOW - timedelta(days=1))
    second = successor(approvers=[approver("ada"), approver("bob"), dan])
    assert f"expected an approver of genesis version 1, {key('dan').address} is none" in refusal(
        lambda: chain_of(second, "ada", "dan")
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"previous": "55" * 32}, f"genesis.toml: previous: expected {ROOT}"),
        ({"version": 3}, "genesis.toml: version: expected 2, got 3: none may be left out"),
        ({"environment": "test"}, "genesis.toml: environment: expected 'amn1', got 'test'"),
        (
            {"approvers": [*map(approver, ("ada", "bob")), approver("dan", valid_from=NOW - timedelta(days=2))]},
            "genesis.toml: approvers.dan.valid_from: expected 2019-01-15T12:00:00+00:00 or later (R3)",
        ),
        (
            {"approvers": [*map(approver, ("ada", "bob")), approver("cyd", powers=["policy", "release", "sweep"])]},
            "genesis.toml: approvers.cyd.valid_from: expected",
        ),
    ],
)
def test_a_genesis_that_does_not_follow(changed: dict[str, Any], expected: str) -> None:
    assert expected in refusal(lambda: chain_of(successor(**changed)))


def test_another_genesis_and_an_older_one() -> None:
    assert "genesis.toml: hash: expected" in refusal(
        lambda: verify_genesis([genesis_file(genesis_said(k=1 + 1, environment="amn2"))], root=ROOT, now=NOW)
    )
    second = chain_of(successor())
    accepted = Accepted(2, second.hash)
    assert chain_of(successor(), accepted=accepted) == second
    assert "expected at least 2, got 1: it is older" in refusal(
        lambda: verify_genesis([genesis_file(genesis_said())], root=ROOT, accepted=accepted, now=NOW)
    )
    assert "another version 2 was accepted" in refusal(lambda: chain_of(successor(k=3), accepted=accepted))


# What a genesis may say


def changed_chain(**changed: Any) -> dict[str, Any]:
    said = genesis_said()
    said["chains"][0] |= changed
    return said


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (genesis_said(k=1), "k: expected at least 2 where money is real"),
        (genesis_said(k=4), "k: expected at most 3"),
        (genesis_said(unknown=1), "unknown: Extra inputs are not permitted"),
        (genesis_said(environment="Amn1"), "environment: String should match"),
        (genesis_said(approvers=[approver("ada"), approver("ada"), approver("bob")]), "two share an address"),
        (
            genesis_said(approvers=[*map(approver, ("ada", "bob")), approver("ada", address=STRANGER)]),
            "a person has two devices",
        ),
        (
            genesis_said(approvers=[*map(approver, ("ada", "bob")), approver("cyd", address=TREASURY_BSC)]),
            f"{TREASURY_BSC} is a treasury or a Safe's owner too",
        ),
        (changed_chain(id=1), "two chains share an id"),
        (changed_chain(id=31337), "a development chain (1337, 31337) may not stand beside another chain"),
        (changed_chain(genesis_hash="0x" + "AB" * 32), "chains.0.genesis_hash: String should match"),
        (changed_chain(treasury={"kind": "eoa", "address": TREASURY_BSC}), "device_fingerprint is missing"),
        (changed_chain(treasury={"kind": "safe", "address": TREASURY_BSC}), "expected singleton_code_hash, owners"),
        (
            changed_chain(treasury={"kind": "eoa", "address": USDT_BSC, "device_fingerprint": "0a1b2c3d"}),
            "the treasury is a token's or a contract's address",
        ),
        (genesis_said(address_book={"entries": 1, "head": NO_HASH}), "address_book.head: expected 64 zeros"),
    ],
)
def test_a_genesis_that_says_something_wrong(said: dict[str, Any], expected: str) -> None:
    message = genesis_refusal(said)
    assert message.startswith("genesis.toml: ")
    assert expected in message


# What a policy may say


def rule_refusal(*rules: dict[str, Any]) -> str:
    allow = {"name": "all", "kind": "allow"}
    return policy_refusal(policy_file(policy_said(ROOT, [*rules, allow])))


LIMIT = {"name": "limit", "kind": "limit_per_day", "currency": "USDT", "maximum": "100"}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (LIMIT | {"maximum": 100}, "rules.0.limit_per_day.maximum: expected an exact amount in quotes"),
        (LIMIT | {"maximum": "1e30"}, "rules.0.limit_per_day.maximum: expected at most"),
        (LIMIT | {"maximum": "NaN"}, "rules.0.limit_per_day.maximum: "),
        (LIMIT | {"maximum": "-1"}, "rules.0.limit_per_day.maximum: "),
        (
            LIMIT | {"currency": "DAI"},
            "rules.limit.currency: expected currencies of the genesis (BNB, ETH, USDC, USDT)",
        ),
        (LIMIT | {"currency": "USDC", "chains": [56]}, "rules.limit: expected a currency that the genesis has on one"),
        (LIMIT | {"chains": [137]}, "rules.limit.chains: expected chains of the genesis (56, 1), got 137"),
        (LIMIT | {"name": "all"}, "two are named 'all'"),
        (LIMIT | {"kind": "wish"}, "rules.0: Input tag 'wish'"),
        (
            {"name": "k", "kind": "approvals", "tiers": [{"from": "0", "k": 4}], "purposes": ["release"]},
            "rules.k.tiers: expected at most 3 approvals, so many persons have the power 'release'",
        ),
        ({"name": "k", "kind": "approvals", "tiers": [{"from": "1", "k": 1}]}, "expected the first one from '0'"),
        (
            {"name": "k", "kind": "approvals", "tiers": [{"from": "0", "k": 2}, {"from": "9", "k": 1}]},
            "expected rising amounts with a k that never falls",
        ),
        (
            {"name": "h", "kind": "hours", "windows": [{"days": ["mon"], "from": "18:00", "until": "08:00"}]},
            "until: expected a later time than 'from'",
        ),
    ],
)
def test_a_rule_that_says_something_wrong(rule: dict[str, Any], expected: str) -> None:
    message = rule_refusal(rule)
    assert message.startswith("policy.toml: ")
    assert expected in message


DENY = {"name": "deny", "kind": "deny", "reason": "no", "purposes": ["release", "refund"]}
KNOWN = {"name": "known", "kind": "recipients", "sources": ["address_book"], "cool_down_seconds": 60}
TIERS = {"name": "tiers", "kind": "approvals", "purposes": ["release"], "tiers": [{"from": "0", "k": 2}]}
HOURS = {"name": "hours", "kind": "hours", "windows": [{"days": ["mon"], "from": "08:00", "until": "18:00"}]}


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (DENY, {"kind": "allow", "purposes": ["release"]}),
        (DENY, DENY | {"purposes": ["refund"], "chains": [1]}),
        (DENY, DENY | {"recipients": [STRANGER]}),
        (DENY, LIMIT | {"purposes": ["refund"]}),
        ({"name": "any", "kind": "allow"}, {"kind": "allow", "purposes": ["sweep"]}),
        (LIMIT, LIMIT | {"maximum": "100.5", "purposes": ["release"]}),
        (LIMIT, LIMIT | {"per_recipient": True}),
        (LIMIT, LIMIT | {"kind": "limit_per_transaction"}),
        (KNOWN, KNOWN | {"sources": ["buyer_signature", "address_book"], "cool_down_seconds": 59}),
        (TIERS, TIERS | {"tiers": [{"from": "0", "k": 0}, {"from": "10", "k": 2}]}),
        (HOURS, HOURS | {"windows": [{"days": ["mon", "tue"], "from": "07:00", "until": "24:00"}]}),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_shadowed_rule_is_an_error(wide: dict[str, Any], narrow: dict[str, Any], *, is_first: bool) -> None:
    narrow = narrow | {"name": "narrow"}
    rules = [narrow, wide] if is_first else [wide, narrow]
    rules += [] if wide["kind"] == "allow" else [{"name": "all", "kind": "allow", "purposes": ["release", "sweep"]}]
    message = policy_refusal(policy_file(policy_said(ROOT, rules)))
    assert f"policy.toml: rules.narrow: is shadowed by {wide['name']!r}" in message


def test_of_two_equal_rules_the_later_is_too_many() -> None:
    assert "rules.second: is shadowed by 'limit'" in rule_refusal(LIMIT, LIMIT | {"name": "second"})


# Files


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("genesis.toml", None, "genesis.toml: file: cannot be read"),
        ("policy.toml", b"\xff", "policy.toml: file: expected TOML, which is UTF-8 text"),
        ("policy.toml", b"a = ", "policy.toml: file: expected TOML: "),
        ("policy.toml.sig", None, "policy.toml.sig: signatures: expected 2 approvers"),
        ("policy.toml.sig", b"[[signatures]]\napprover = 1", "policy.toml.sig: signatures.0.approver: "),
        ("address-book.toml", b"more = 1", "address-book.toml: entries: expected [[entries]] tables"),
        ("policy.toml", b"#" * 1_048_577, "policy.toml: file: expected at most 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    root = Fleet().write(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert refusal(lambda: load_folder(tmp_path, root=root, now=NOW)).startswith(expected)


def test_an_address_book_that_the_genesis_names_may_not_be_missing(tmp_path: Path) -> None:
    root = Fleet(genesis_said(address_book={"entries": 1, "head": "77" * 32})).write_without_book(tmp_path)
    assert "address-book.toml: file: expected it at" in refusal(lambda: load_folder(tmp_path, root=root, now=NOW))


def test_loosening_waits_a_day_from_when_it_was_seen() -> None:
    seen = NOW
    issued = NOW - timedelta(days=30)
    assert binds_at(issued_at=issued, first_seen_at=seen, loosens=True) == NOW + timedelta(days=1)
    assert binds_at(issued_at=issued, first_seen_at=seen, loosens=False) == NOW

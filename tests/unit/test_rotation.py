"""A treasury's rotation in the signed files (R8, R22): which genesis may follow which, and what the policy says of a drain."""

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from custody.destinations.derivation import DerivationError
from custody.destinations.keys.shapes import Asked, KnownChain, ShapeRefused, require_shape
from custody.policy import (
    Approval,
    Decision,
    Genesis,
    HandOut,
    PolicyRefused,
    Request,
    Situation,
    VerifiedGenesis,
    judge,
    policy_differences,
    verify_genesis,
)
from custody.policy.documents import document_hash, read_toml
from custody.policy.in_force import require_genesis_treasuries
from custody.policy.rotation import NEXT_STATES
from custody.policy.succession import rotate_treasury, set_former_state
from custody.sessions import of_genesis
from custody.settings.chains import Chain, Chains
from custody.trezor import UnsignedTransaction
from tests.policy_files import (
    NOW,
    SELLER,
    TREASURY_BSC,
    TREASURY_ETH,
    USDT_BSC,
    Fleet,
    address,
    approver,
    genesis_file,
    genesis_said,
    key,
    parsed_policy,
    write_signed,
)
from workers.signer.client import ApiInstruction
from workers.signer.treasuries import why_not_from

NEW, NEWER = address(0x5701), address(0x5702)
EOA = {"kind": "eoa", "device_fingerprint": "0a1b2c3d"}
FIRST = genesis_said()
UNIT = 10**18
STATES = ("draining", "compromised", "retired")


def after(before: Mapping[str, Any], *, treasury: str = TREASURY_BSC, former: Sequence[tuple[str, str]] = ()) -> Any:
    """The next version, with that treasury and those former ones on chain 56."""
    said = copy.deepcopy(dict(before))
    said |= {"version": before["version"] + 1, "previous": document_hash("genesis", before), "issued_at": NOW}
    said["chains"][0] |= {
        "treasury": {**EOA, "address": treasury},
        "former_treasuries": [{**EOA, "address": at, "state": state} for at, state in former],
    }
    return said


def verified(*versions: Mapping[str, Any]) -> VerifiedGenesis:
    return verify_genesis([genesis_file(each) for each in versions], root=None, now=NOW)


ROTATED = after(FIRST, treasury=NEW, former=[(TREASURY_BSC, "draining")])


def test_a_rotation_names_the_new_treasury_and_keeps_the_old_one() -> None:
    chain = verified(FIRST, ROTATED).genesis.chain(56)
    assert chain is not None
    assert [each.address for each in chain.treasuries] == [NEW, TREASURY_BSC]
    former = chain.former(TREASURY_BSC)
    assert former is not None
    assert former.state == "draining"


@pytest.mark.parametrize(
    ("before", "following", "words"),
    [
        (FIRST, after(FIRST, treasury=NEW), "expected the treasury before"),
        (
            FIRST,
            after(FIRST, treasury=NEW, former=[(TREASURY_BSC, "retired")]),
            "expected draining or compromised first",
        ),
        (FIRST, after(FIRST, former=[(NEW, "draining")]), "never was the treasury"),
        (ROTATED, after(ROTATED, treasury=NEW), "none is left out"),
        (ROTATED, after(ROTATED, treasury=TREASURY_BSC, former=[(NEW, "draining")]), "none is left out"),
        (
            ROTATED,
            after(ROTATED, treasury=TREASURY_BSC, former=[(NEW, "draining"), (TREASURY_BSC, "retired")]),
            "a former one never comes back",
        ),
    ],
)
def test_no_signature_lets_a_treasury_be_forgotten(before: Any, following: Any, words: str) -> None:
    versions = [before, following] if before is FIRST else [FIRST, before, following]
    with pytest.raises(PolicyRefused, match=words):
        verified(*versions)


@pytest.mark.parametrize("was", STATES)
@pytest.mark.parametrize("becomes", STATES)
def test_states_go_one_way(was: Any, becomes: Any) -> None:
    """active -> draining -> retired | compromised: what is compromised is never called sound again."""
    reached = [FIRST, ROTATED]
    if was != "draining":
        reached.append(after(ROTATED, treasury=NEW, former=[(TREASURY_BSC, was)]))
    following = after(reached[-1], treasury=NEW, former=[(TREASURY_BSC, becomes)])
    if becomes in NEXT_STATES[was]:
        assert verified(*reached, following).genesis.version == following["version"]
    else:
        with pytest.raises(PolicyRefused, match=f"was {was}"):
            verified(*reached, following)
    assert "draining" not in NEXT_STATES["compromised"] | NEXT_STATES["retired"]


def test_an_approver_is_no_former_treasury_either() -> None:
    """R6: one key never serves two purposes, also after one of them ended."""
    reused = [approver("ada"), approver("bob"), approver("cyd", address=TREASURY_BSC)]
    with pytest.raises(PolicyRefused, match="treasury or a Safe's owner too"):
        verified(FIRST, {**ROTATED, "approvers": reused})


def test_who_signs_for_a_former_treasury_still_logs_in_until_it_is_retired() -> None:
    """R6, R22: its device signs the moves away from it; of a retired one it signs nothing more."""
    ended = after(ROTATED, treasury=NEW, former=[(TREASURY_BSC, "retired")])
    for versions, may in (((FIRST,), True), ((FIRST, ROTATED), True), ((FIRST, ROTATED, ended), False)):
        found = of_genesis(verified(*versions).genesis, NOW)
        assert (TREASURY_BSC in found) is may
        assert [each.person for each in found.values() if each.role == "approver"] == ["ada", "bob", "cyd"]
    assert found[NEW].treasuries == frozenset({NEW})


def test_the_chains_file_names_the_same_former_treasuries() -> None:
    genesis = verified(FIRST, ROTATED).genesis
    chain = {
        "id": 56,
        "name": "bsc",
        "genesis_hash": "0x" + "56" * 32,
        "rpc_urls": ["https://a.example", "https://b.example.org"],
        "treasury": NEW,
        "fee_proxy": address(0x56F0),
        "tokens": [{"symbol": "BNB", "address": "native", "decimals": 18}],
    }

    def chains(*former: tuple[str, str]) -> Chains:
        named = [{"address": at, "state": state} for at, state in former]
        return Chains(chains=(Chain.model_validate({**chain, "former_treasuries": named}),))

    require_genesis_treasuries(genesis, chains((TREASURY_BSC, "draining")))
    for wrong in ((), ((TREASURY_BSC, "retired"),), ((TREASURY_BSC, "draining"), (NEWER, "retired"))):
        with pytest.raises(PolicyRefused, match="former_treasuries"):
            require_genesis_treasuries(genesis, chains(*wrong))


# The keys agent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_no_key_of_a_deposit_address_signs_to_a_former_treasury(state: str) -> None:
    known = KnownChain(56, NEW, frozenset({USDT_BSC}), {TREASURY_BSC: state})
    asked = Asked(
        "token_sweep", "0x00000000", 1, TREASURY_BSC, UnsignedTransaction(56, 0, 1, 1, 60_000, USDT_BSC, 0, b"")
    )

    def nowhere(_account: str, _index: int) -> str:
        raise DerivationError("no address is derived for a refused sweep")

    with pytest.raises(ShapeRefused, match=f"is {state}: no sweep goes there"):
        require_shape(asked, chain=known, address_at=nowhere)


# The policy ---------------------------------------------------------------------------------------------------------

GENERAL = [
    {"name": "once", "kind": "limit_per_transaction", "currency": "USDT", "maximum": "10"},
    {"name": "hours", "kind": "hours", "windows": [{"days": ["sun"], "from": "08:00", "until": "09:00"}]},
    {"name": "known", "kind": "recipients", "sources": ["address_book"], "cool_down_seconds": 60},
    {"name": "payouts", "kind": "allow", "purposes": ["release"]},
]


def decide(
    *people: str, rules: Sequence[Mapping[str, Any]] = GENERAL, state: str = "draining", **changed: Any
) -> Decision:
    said = ROTATED if state == "draining" else after(ROTATED, treasury=NEW, former=[(TREASURY_BSC, state)])
    genesis = verified(*([FIRST, ROTATED] if state == "draining" else [FIRST, ROTATED, said]))
    request = Request.model_validate(
        {
            "intent": "move-1",
            "purpose": "drain",
            "chain_id": 56,
            "token": USDT_BSC,
            "treasury": TREASURY_BSC,
            "recipient": NEW,
            "amount_units": 1_000 * UNIT,
            "requested_by": "releases",
        }
        | changed
    )
    approvals = tuple(Approval(approver=key(person).address, intent="move-1") for person in people)
    policy = parsed_policy(genesis.root, rules)
    return judge(
        request,
        Situation(NOW, (), approvals),
        genesis=genesis.genesis,
        policy=policy,
        policy_hash="x",
        book=Fleet().book(),
    )


def test_a_drain_needs_k_persons_and_no_rule_that_allows_it() -> None:
    assert decide("ada").outcome == "needs_approvals"
    found = decide("ada", "bob")
    assert (found.outcome, found.rule) == ("allowed", "genesis:rotation")
    weak = [{"name": "one", "kind": "approvals", "purposes": ["drain"], "tiers": [{"from": "0", "k": 1}]}]
    assert decide("ada", rules=weak).outcome == "needs_approvals"


def test_what_bounds_payouts_bounds_a_drain_only_by_name() -> None:
    """What must get away from a thief in the night is no payout of the day; a denial holds all the same."""
    named = [{**each, "purposes": ["drain"]} for each in GENERAL[:2]]
    assert decide("ada", "bob", rules=named).rule == "once"
    stop = [{"name": "stop", "kind": "deny", "reason": "nothing moves"}]
    assert decide("ada", "bob", rules=stop).rule == "stop"


def test_what_was_moved_takes_nothing_from_the_days_payouts() -> None:
    genesis = verified(FIRST, ROTATED)
    day = [{"name": "day", "kind": "limit_per_day", "currency": "USDT", "maximum": "1000"}, GENERAL[-1]]
    moved = HandOut(
        intent="move-1", at=NOW, purpose="drain", chain_id=56, token=USDT_BSC, recipient=NEW, amount_units=1_000 * UNIT
    )
    request = Request.model_validate(
        {
            "intent": "pay-1",
            "purpose": "release",
            "chain_id": 56,
            "token": USDT_BSC,
            "treasury": NEW,
            "recipient": SELLER,
            "beneficiary": "seller-1",
            "amount_units": 1_000 * UNIT,
            "requested_by": "releases",
        }
    )
    approvals = [Approval(approver=key(person).address, intent="pay-1") for person in ("ada", "bob")]
    found = judge(
        request,
        Situation(NOW, [moved], approvals),
        genesis=genesis.genesis,
        policy=parsed_policy(genesis.root, day),
        policy_hash="x",
        book=Fleet().book(),
    )
    assert found.outcome == "allowed", found.sentence


@pytest.mark.parametrize("state", ["draining", "compromised"])
@pytest.mark.parametrize(
    "changed",
    [
        {"recipient": SELLER},
        {"recipient": TREASURY_BSC},
        {"recipient": TREASURY_ETH},
        {"treasury": NEW, "recipient": NEW},
        {"treasury": TREASURY_ETH},
        {"treasury": None},
    ],
)
def test_a_drain_goes_from_a_former_treasury_to_the_active_one_and_nowhere_else(state: str, changed: Any) -> None:
    found = decide("ada", "bob", "cyd", state=state, **changed)
    assert (found.outcome, found.rule) == ("denied", "genesis:rotation")


def test_nobody_is_paid_from_a_retired_treasury_or_to_a_former_one() -> None:
    release = {"purpose": "release", "recipient": SELLER, "beneficiary": "seller-1"}
    allowing = [GENERAL[-1]]
    assert decide("ada", "bob", state="retired", rules=allowing, **release).rule == "genesis:rotation"
    assert decide("ada", "bob", rules=allowing, **release).outcome == "allowed"
    back = {**release, "treasury": NEW, "recipient": TREASURY_BSC}
    assert decide("ada", "bob", rules=allowing, **back).rule == "genesis:not-our-own"


def test_a_sweep_goes_to_the_new_treasury_at_once() -> None:
    sweeps = [{"name": "in", "kind": "allow", "purposes": ["sweep"]}]
    assert decide(rules=sweeps, purpose="sweep", treasury=None).outcome == "allowed"
    old = decide(rules=sweeps, purpose="sweep", treasury=None, recipient=TREASURY_BSC)
    assert old.rule == "genesis:sweep-to-treasury"


def test_a_denial_of_drains_that_is_lifted_loosens() -> None:
    genesis = verified(FIRST).genesis
    stop = [{"name": "stop", "kind": "deny", "purposes": ["drain"], "reason": "no", "chains": [56]}]
    found = policy_differences(parsed_policy("ab" * 32, [*GENERAL, *stop]), parsed_policy("ab" * 32, GENERAL), genesis)
    assert [(each.sentence, each.loosens) for each in found] == [("becomes allowed", True)]


# Drafting -----------------------------------------------------------------------------------------------------------


def test_the_next_genesis_is_drafted_and_signed_by_the_approvers_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "genesis.toml"
    write_signed(path, genesis_file(FIRST))
    rotate_treasury(tmp_path, 56, {**EOA, "address": NEW}, "draining", NOW)
    drafted = read_toml(path)
    assert drafted["chains"][0]["former_treasuries"] == [{**EOA, "address": TREASURY_BSC, "state": "draining"}]
    assert drafted["chains"][1] == FIRST["chains"][1]
    with pytest.raises(PolicyRefused, match="finish that draft"):
        set_former_state(tmp_path, 56, TREASURY_BSC, "compromised", NOW)
    write_signed(path, genesis_file(drafted))
    set_former_state(tmp_path, 56, TREASURY_BSC, "retired", datetime(2019, 1, 16, 13, tzinfo=UTC))
    chain = Genesis.model_validate(read_toml(path)).chain(56)
    assert chain is not None
    assert [each.state for each in chain.former_treasuries] == ["retired"]


@pytest.mark.parametrize(
    ("chain_id", "to", "words"),
    [(7, NEW, "expected one of 56, 1"), (56, TREASURY_BSC, "another address"), (56, USDT_BSC, "token's")],
)
def test_a_rotation_that_cannot_be_drafts_nothing(tmp_path: Path, chain_id: int, to: str, words: str) -> None:
    path = tmp_path / "genesis.toml"
    write_signed(path, genesis_file(FIRST))
    with pytest.raises(PolicyRefused, match=words):
        rotate_treasury(tmp_path, chain_id, {**EOA, "address": to}, "draining", NOW)
    assert read_toml(path)["version"] == 1


def test_only_a_former_treasury_has_a_state(tmp_path: Path) -> None:
    path = tmp_path / "genesis.toml"
    write_signed(path, genesis_file(FIRST))
    with pytest.raises(PolicyRefused, match="is the active one"):
        set_former_state(tmp_path, 56, TREASURY_BSC, "compromised", NOW)
    with pytest.raises(PolicyRefused, match="no treasury of bsc"):
        set_former_state(tmp_path, 56, SELLER, "compromised", NOW)


# The signer's and the approver's own machines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("treasury", "changed", "words"),
    [
        (NEW, {}, None),
        (TREASURY_BSC, {}, None),
        (NEWER, {}, "is compromised: nobody is paid"),
        (NEWER, {"signs": "cancel"}, None),
        (TREASURY_ETH, {}, "signed files say"),
        (TREASURY_ETH, {"signs": "cancel"}, "signed files say"),
        (TREASURY_BSC, {"purpose": "drain", "recipient": NEW}, None),
        (NEWER, {"purpose": "drain", "recipient": NEW}, None),
        (NEW, {"purpose": "drain", "recipient": NEW}, "away from the active treasury"),
        (TREASURY_BSC, {"purpose": "drain", "recipient": NEWER}, "the active treasury is"),
        (TREASURY_BSC, {"purpose": "drain", "recipient": SELLER}, "the active treasury is"),
    ],
)
def test_a_persons_own_machine_knows_what_each_treasury_may_pay(treasury: str, changed: Any, words: str | None) -> None:
    said: Any = {"id": "1", "purpose": "release", "signs": "payout", "treasury": treasury, "recipient": SELLER}
    claimed = ApiInstruction.model_construct(**(said | changed))
    why = why_not_from(claimed, NEW, {TREASURY_BSC: "draining", NEWER: "compromised"})
    assert why is None if words is None else words in (why or "")

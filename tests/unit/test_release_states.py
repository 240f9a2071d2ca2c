"""The table of release instruction states (R1) and the pure judgements beside it."""

from decimal import Decimal
from uuid import uuid4

import pytest
from eth_account import Account

from custody.releases.dispute_outcomes import Dispute
from custody.releases.payout import BytesDiffer, FeeOverCeiling, build, stored_transaction
from custody.releases.rows import Instruction
from custody.releases.sources import Reading
from custody.releases.states import (
    ENDED,
    MOVES,
    SIGNATURE_MAY_EXIST,
    STATES,
    InstructionState,
    MoveRefused,
    require_move,
)

TOKEN = Account.create().address
RECIPIENT = Account.create().address
GWEI = 10**9


def instruction(**changes: object) -> Instruction:
    values: dict[str, object] = {
        "id": uuid4(), "payment_id": uuid4(), "purpose": "release", "request_key": "whole", "chain_id": 31337,
        "treasury": Account.create().address, "token": TOKEN, "recipient": RECIPIENT, "amount": Decimal(5),
        "amount_units": 5_000_000, "release_epoch": 1, "state": "ready", "held_reason": None, "rejected_reason": None,
        "nonce": None, "unsigned_bytes": None, "signing_hash": None, "max_total_fee_wei": None, "attempts": 0,
        "lease_token": None, "handed_out_at": None,
    }  # fmt: skip
    return Instruction(**(values | changes))  # pyright: ignore[reportArgumentType]


def handed_out(**changes: object) -> Instruction:
    drafted = instruction()
    unsigned = build(drafted, nonce=3, gas_estimate=50_000, base_fee=GWEI, priority_fee=1, ceiling_wei=10**18)
    values: dict[str, object] = {
        "nonce": 3,
        "unsigned_bytes": unsigned.signing_bytes(),
        "signing_hash": unsigned.signing_hash(),
        "max_total_fee_wei": unsigned.max_total_fee_wei,
        "state": "handed_out",
    }
    return instruction(**(values | changes))


def test_every_state_has_its_row_and_every_target_exists() -> None:
    assert set(MOVES) == set(STATES)
    assert {target for targets in MOVES.values() for target in targets} <= set(STATES)
    assert {"final", "cancelled", "expired", "failed"} == ENDED


def test_nothing_expires_once_a_signature_may_exist() -> None:
    for state in SIGNATURE_MAY_EXIST:
        assert "expired" not in MOVES[state]
        assert not MOVES[state] & {"drafted", "awaiting_approval", "ready"}
    assert "cancelled" not in MOVES["handed_out"] | MOVES["signed"] | MOVES["broadcast"]


def test_every_state_is_reached_from_drafted() -> None:
    reached: set[InstructionState] = {"drafted"}
    for _ in STATES:
        for state in tuple(reached):
            reached |= MOVES[state]
    assert reached == set(STATES)


@pytest.mark.parametrize(
    ("source", "target"),
    [("drafted", "handed_out"), ("ready", "signed"), ("handed_out", "broadcast"), ("final", "failed")],
)
def test_a_move_outside_the_table_is_refused_with_the_legal_ones(
    source: InstructionState, target: InstructionState
) -> None:
    with pytest.raises(MoveRefused, match="legal: "):
        require_move(source, target)
    for legal in MOVES[source]:
        require_move(source, legal)


def test_stored_bytes_read_back_as_the_instruction() -> None:
    row = handed_out()
    assert stored_transaction(row).signing_bytes() == row.unsigned_bytes
    assert stored_transaction(row).gas_limit == 60_000


@pytest.mark.parametrize(
    "changes",
    [
        {"unsigned_bytes": None},
        {"unsigned_bytes": b"\x02\xc0"},
        {"signing_hash": bytes(32)},
        {"nonce": 4},
        {"chain_id": 1},
        {"recipient": TOKEN},
        {"amount_units": 5_000_001},
        {"token": RECIPIENT},
        {"max_total_fee_wei": 1},
    ],
)
def test_bytes_that_differ_in_any_field_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BytesDiffer, match="unsigned bytes"):
        stored_transaction(handed_out(**changes))


def test_native_coin_goes_as_value_without_data() -> None:
    unsigned = build(
        instruction(token="native"), nonce=0, gas_estimate=21_000, base_fee=GWEI, priority_fee=0, ceiling_wei=10**18
    )
    assert (unsigned.to, unsigned.value, unsigned.data) == (RECIPIENT, 5_000_000, b"")


def test_a_fee_over_the_ceiling_is_refused_at_one_wei() -> None:
    fee = 60_000 * (2 * GWEI + 7)
    terms = {"nonce": 0, "gas_estimate": 50_000, "base_fee": GWEI, "priority_fee": 7}
    assert build(instruction(), **terms, ceiling_wei=fee).max_total_fee_wei == fee
    with pytest.raises(FeeOverCeiling, match="RELEASE_MAX_TOTAL_FEE_WEI"):
        build(instruction(), **terms, ceiling_wei=fee - 1)


@pytest.mark.parametrize(
    ("status", "action", "stops"),
    [
        ("open", "no_action", True),
        ("escalated", None, True),
        ("resolved", "refund", True),
        ("resolved", "ban_seller", True),
        ("resolved", None, True),
        ("resolved", "no_action", False),
        ("closed", "warning_seller", False),
    ],
)
def test_a_dispute_stops_unless_it_was_settled_for_the_seller(status: str, action: str | None, *, stops: bool) -> None:
    reading = Reading("completed", (Dispute("d", status, action),), 0.0)
    assert (reading.why_it_stops() is not None) is stops


def test_a_request_that_is_missing_or_refunded_stops() -> None:
    assert "purchase_request_missing" in (Reading(None, (), 0.0).why_it_stops() or "")
    assert "refunded" in (Reading("refunded", (), 0.0).why_it_stops() or "")
    assert Reading("completed", (), 0.0).why_it_stops() is None
    assert not Reading("completed", (), -10.0).is_fresh()

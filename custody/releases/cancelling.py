"""Ending what was handed out without paying it, and outbidding what nobody mines (R1).

handed_out, signed, broadcast -> cancelling: the fleet stores a transaction of its own on the same nonce, from the
treasury to itself, worth nothing, that the same device signs. From then on the payout is not sent by us any more, but
whoever has its signature can: the mined one decides (custody/releases/finality.py), and until then ``releasing`` stays
reserved. A bid is the payout, or the cancel, again with higher fees. A Safe's payout is ended by its owners' rejection
instead (custody/releases/safe_rejection.py), and there is nothing of it to outbid.
"""

from dataclasses import dataclass
from typing import Final, Literal

import structlog
from sqlalchemy import Connection, Engine

from custody.chain import (
    CallRequest,
    ChainUnavailable,
    ExecutionReverted,
    InsufficientFunds,
    NonceTooLow,
    SendRefused,
    WrongChain,
)
from custody.chain.lanes import mark_broadcast, transactions_of
from custody.chain.nodes import ChainNodes
from custody.releases import rows
from custody.releases.broadcast import SEND_AGAIN_SECONDS
from custody.releases.digests import (
    DigestKind,
    TooManyDigests,
    digests_of,
    keep,
    newest_signed,
    transaction_of,
)
from custody.releases.grouping import leave_group
from custody.releases.hand_out import Held, require_house_coins
from custody.releases.outbidding import cancel_of, outbid, payout_again
from custody.releases.payout import BytesDiffer, FeeOverCeiling
from custody.releases.raw_units import mark_raw_units
from custody.releases.requests import Request, answer, ask, due, lock_open, postpone
from custody.releases.rows import Instruction
from custody.releases.safe_rejection import begin_rejection
from custody.releases.states import ENDED, SIGNATURE_MAY_EXIST
from custody.releases.voiding import void_before_hand_out
from custody.store.engine import transaction
from custody.store.security_pauses import why_paused
from custody.trezor.transaction import TransactionError, UnsignedTransaction

log = structlog.get_logger(__name__)

_DUE: Final = """
    w.chain_id = :chain AND w.state = 'cancelling' AND EXISTS (
        SELECT FROM fleet.nonce_digests d JOIN fleet.chain_transactions t ON t.subject_id = w.id AND t.nonce = w.nonce
        WHERE d.instruction_id = w.id AND d.kind = 'cancel' AND d.signed_bytes IS NOT NULL
          AND (t.state = 'signed'
               OR t.state = 'broadcast' AND t.broadcast_at < clock_timestamp() - make_interval(secs => :again)))
"""


@dataclass(frozen=True, slots=True)
class _Prices:
    """What the chain asks now, wei per gas, and the gas of the cancel."""

    base_fee: int
    priority_fee: int
    cancel_gas: int


def answer_requests(engine: Engine, nodes: ChainNodes, limit: int, *, ceiling_wei: int) -> int:
    """Do at most ``limit`` of the chain's requests to cancel or outbid, or refuse them; how many were answered.

    One whose fees would pass ``ceiling_wei``, or whose chain does not answer, stays open with that reason.
    """
    with transaction(engine) as connection:
        open_requests = due(connection, nodes.chain.id, limit)
    answered = 0
    for request in open_requests:
        try:
            answered += _answer(engine, nodes, request, ceiling_wei)
        except (FeeOverCeiling, TooManyDigests, BytesDiffer, TransactionError, Held) as error:
            why = str(error)
        except (ChainUnavailable, WrongChain) as error:
            why = f"chain_unavailable: {error}"
        else:
            continue
        with transaction(engine) as connection:
            postpone(connection, request, why)
        log.info("release_request_waits", request_id=str(request.id), reason=why)
    return answered


def send_cancels(engine: Engine, nodes: ChainNodes, limit: int) -> int:
    """Send at most ``limit`` signed cancels, again after SEND_AGAIN_SECONDS; how many were sent."""
    with transaction(engine) as connection:
        leased = rows.lease(connection, _DUE, {"chain": nodes.chain.id, "again": SEND_AGAIN_SECONDS}, limit)
    return sum(_send(engine, nodes, instruction) for instruction in leased)


def _answer(engine: Engine, nodes: ChainNodes, request: Request, ceiling_wei: int) -> int:
    """One request: at once where no bytes are out, else with the chain's word on fees between two transactions."""
    with transaction(engine) as connection:
        instruction = rows.lock(connection, request.instruction_id)
        if not lock_open(connection, request):
            return 0
        if instruction.group_id is not None and instruction.state not in ENDED:
            answer(connection, request, "done", _answer_of_member(connection, instruction, request))
            return 1
        if (found := _answer_at_once(connection, instruction, request)) is not None:
            answer(connection, request, *found)
            return 1
    prices = _ask_chain(nodes, instruction)
    with transaction(engine) as connection:
        instruction = rows.lock(connection, request.instruction_id)
        if not lock_open(connection, request) or instruction.state not in SIGNATURE_MAY_EXIST:
            return 0  # answered, or ended: the next round looks
        kind: DigestKind = "cancel" if request.kind == "cancel" or instruction.state == "cancelling" else "payout"
        unsigned = _add(connection, instruction, kind, prices, ceiling_wei)
        if request.kind == "cancel" and instruction.state != "cancelling":
            rows.move(connection, instruction, "cancelling", rejected_reason=None)
            rows.note(
                connection,
                instruction.id,
                f"waits_for_cancel: {request.reason} (asked by {request.requested_by}). Sign it: fleet signer sign "
                f"{instruction.id}; until its nonce is spent the payout may still be mined (R1).",
            )
        answer(connection, request, "done", f"a {kind} at {unsigned.max_fee_per_gas} wei a gas waits for the signer.")
    log.warning(
        "release_outbid",
        instruction_id=str(instruction.id),
        payment_id=instruction.named,
        what=kind,
        nonce=unsigned.nonce,
        asked_by=request.requested_by,
    )
    return 1


def _answer_of_member(connection: Connection, member: Instruction, request: Request) -> str:
    """Before hand-out a member leaves its group and ends alone; from then on it is the whole group that is asked (R23)."""
    assert member.group_id is not None
    if request.kind == "cancel" and member.state not in SIGNATURE_MAY_EXIST:
        leave_group(connection, member, f"payment {member.payment_id} is cancelled by {request.requested_by}")
        void_before_hand_out(
            connection,
            rows.lock(connection, member.id),
            f"cancelled by {request.requested_by}: {request.reason}",
        )
        return "it had not been handed out: nothing can be paid by it. Its group was taken apart, the others go on."
    ask(connection, member.group_id, request.kind, reason=request.reason, by=request.requested_by)
    return f"it is paid with others by one transaction: asked of its group {member.group_id}."


def _answer_at_once(
    connection: Connection, instruction: Instruction, request: Request
) -> tuple[Literal["done", "refused"], str] | None:
    """What needs no word of the chain; None for what does. The caller holds the lock."""
    if instruction.state in ENDED:
        return "refused", f"it is {instruction.state} already; nothing can be changed."
    if request.kind == "raw_units":
        return mark_raw_units(connection, instruction)
    if instruction.state not in SIGNATURE_MAY_EXIST:
        if request.kind == "bump":
            return "refused", f"it is {instruction.state}: no fees were chosen yet."
        void_before_hand_out(connection, instruction, f"cancelled by {request.requested_by}: {request.reason}")
        return "done", "it had not been handed out: nothing can be paid by it."
    if request.kind == "cancel" and instruction.state == "cancelling":
        return "done", "it is being cancelled already."
    return _answer_of_safe(connection, instruction, request) if instruction.is_safe else None


def _answer_of_safe(
    connection: Connection, instruction: Instruction, request: Request
) -> tuple[Literal["done", "refused"], str]:
    """A Safe's nonce is its own: its owners end it by signing its rejection, and no device outbids anything (R1, R16)."""
    if request.kind == "bump":
        return (
            "refused",
            "it is a Safe's: its owners sign no fees; the release payer chooses those of the execution when it makes it.",
        )
    rejected = begin_rejection(connection, instruction)
    rows.note(
        connection,
        instruction.id,
        f"waits_for_cancel: {request.reason} (asked by {request.requested_by}). Its owners sign the rejection of nonce "
        f"{rejected.nonce} of the Safe: fleet signer sign {instruction.id}; until that nonce is spent the payout may still "
        "be executed (R1).",
    )
    log.warning(
        "release_rejection_asked",
        instruction_id=str(instruction.id),
        payment_id=instruction.named,
        nonce=rejected.nonce,
        asked_by=request.requested_by,
    )
    return "done", f"the rejection of nonce {rejected.nonce} of the Safe waits for its owners."


def _ask_chain(nodes: ChainNodes, instruction: Instruction) -> _Prices:
    nodes.require_identity()
    base_fee, priority_fee = nodes.any(lambda client: client.fees())
    request = CallRequest(to=instruction.treasury, data=b"", value=0, sender=instruction.treasury)
    try:
        gas = nodes.any(lambda client: client.estimate_gas(request))
    except ExecutionReverted as error:
        raise Held(f"would_revert: the chain refuses a transfer of the treasury to itself ({error.reason}).") from error
    return _Prices(base_fee, priority_fee, gas)


def _add(
    connection: Connection, instruction: Instruction, kind: DigestKind, prices: _Prices, ceiling_wei: int
) -> UnsignedTransaction:
    """Store one more digest of the nonce; a payout becomes the instruction's own bytes."""
    digests = digests_of(connection, instruction.id)
    known = [transaction_of(instruction, each) for each in digests]
    if not known:
        raise BytesDiffer("stored_bytes_differ: no digest of its nonce was kept; an operator looks at it")
    fees = outbid(known, base_fee=prices.base_fee, priority_fee=prices.priority_fee)
    if kind == "payout":
        for payment_id in instruction.payment_ids:
            if not instruction.is_drain and (paused := why_paused(connection, payment_id)) is not None:
                raise Held(paused)  # R7: no further bytes that would pay it
    if kind == "cancel":
        unsigned = cancel_of(known[-1], instruction.treasury, fees, gas=prices.cancel_gas, ceiling_wei=ceiling_wei)
    else:
        newest = next(
            transaction
            for transaction, each in zip(reversed(known), reversed(digests), strict=True)
            if each.kind == kind
        )
        # R19: what its approvers agreed to bounds every bid.
        approved = ceiling_wei if instruction.fee_ceiling_wei is None else min(ceiling_wei, instruction.fee_ceiling_wei)
        unsigned = payout_again(newest, fees, ceiling_wei=approved)
    # What is out is counted by the instruction's own ceiling; only what goes beyond it must be there as well (R11).
    beyond = unsigned.max_total_fee_wei - (instruction.max_total_fee_wei or 0)
    if beyond > 0:
        require_house_coins(connection, instruction, beyond)
    keep(connection, instruction.id, kind, unsigned, place=digests[-1].place + 1)
    if kind == "payout":
        rows.replace_bytes(connection, instruction, unsigned)
    return unsigned


def _send(engine: Engine, nodes: ChainNodes, instruction: Instruction) -> int:
    with transaction(engine) as connection:
        cancel = newest_signed(digests_of(connection, instruction.id), "cancel")
        [lane] = [each for each in transactions_of(connection, instruction.id) if each.nonce == instruction.nonce]
    assert cancel is not None
    assert cancel.signed_bytes is not None
    reason = "waits_for_cancel: the cancel is sent; the next block on its nonce decides (R1)."
    sent = 1
    try:
        nodes.require_identity()
        nodes.send(cancel.signed_bytes)
    except NonceTooLow:
        log.info("release_nonce_spent", instruction_id=str(instruction.id), nonce=instruction.nonce)
    except InsufficientFunds as error:
        reason, sent = f"treasury_short: {error.reason}; send coins for the fee to {instruction.treasury}.", 0
    except SendRefused as error:
        reason = f"send_refused: {error.reason}; outbid it: fleet releases bump {instruction.id}"
        sent = 0
    except (ChainUnavailable, WrongChain) as error:
        reason, sent = f"chain_unavailable: {error}", 0
    with transaction(engine) as connection:
        now = rows.lock_leased(connection, instruction)
        if now is None:
            return 0
        if sent:
            mark_broadcast(connection, lane.id)
            rows.let_go(connection, now)
            rows.note(connection, now.id, reason)
        else:
            rows.hold(connection, now, reason)
    log.info("release_cancel_sent" if sent else "release_waits", instruction_id=str(instruction.id), reason=reason)
    return sent

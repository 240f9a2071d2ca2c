"""Handing out: the treasury's next nonce is taken only now, and the exact unsigned bytes are stored (R1, R19).

One instruction a (chain, treasury) is with the signer; a limited number is signed or broadcast behind it.
Lease, commit, ask marketplace and chain, then take nonce and store bytes in one transaction (L15).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from custody.chain import (
    NATIVE,
    CallRequest,
    ChainUnavailable,
    ExecutionReverted,
    WrongChain,
    to_amount,
)
from custody.chain.lanes import LaneBlocked, open_lane, take_nonce
from custody.chain.nodes import ChainNodes
from custody.payments import PaymentState, lock_payments
from custody.policy import PolicyRefused, SignedFolder, read_in_force
from custody.releases import rows
from custody.releases.approvals import decide, why_outdated
from custody.releases.digests import keep
from custody.releases.gate import chain_stops, why_recipient_refused
from custody.releases.grouping import take_apart
from custody.releases.payout import FeeOverCeiling, build, call_of
from custody.releases.rows import Instruction
from custody.releases.safe_hand_out import ask_safe, safe_columns
from custody.releases.safe_treasury import SafeStopped, SafeTreasury
from custody.releases.sources import Reading, Sources, SourceUnreadable, references
from custody.releases.treasuries import goes_on_while_paused, why_not_from
from custody.releases.voiding import PROMISED
from custody.safe import SafeState
from custody.store.engine import transaction
from custody.store.security_pauses import why_paused
from custody.trezor.transaction import TransactionError

log = structlog.get_logger(__name__)

_ETHER_DECIMALS: Final = 18
_DELEGATION: Final = b"\xef\x01\x00"  # EIP-7702: a wallet that lends its account some code is still a wallet

_MAY_GO: Final = """
    w.state = 'ready' AND w.chain_id = :chain AND w.treasury = :treasury
    -- However many are paused, each by its own gap, the others keep their turn (R7).
    AND (w.purpose = 'drain' OR NOT EXISTS (SELECT FROM fleet.security_pauses_of(ARRAY[w.payment_id])))
    AND NOT EXISTS (SELECT FROM fleet.release_instructions o
                    WHERE o.chain_id = w.chain_id AND o.treasury = w.treasury AND o.state IN ('handed_out', 'cancelling'))
    AND (SELECT count(*) FROM fleet.release_instructions o
         WHERE o.chain_id = w.chain_id AND o.treasury = w.treasury AND o.state IN ('signed', 'broadcast')) < :in_flight
"""


class Held(Exception):
    """The instruction waits; the message is its held_reason."""


class PartsStopped(Exception):
    """Payments of a group, by the ids of their instructions, must wait, each with its reason; the others need not (R23)."""

    def __init__(self, stopped: Mapping[UUID, str]) -> None:
        super().__init__("; ".join(stopped.values()))
        self.stopped = stopped


class EpochMoved(Exception):
    """Something else touched what instructions (by id) were judged on (R12, L18); they are judged again at these epochs."""

    def __init__(self, epochs: Mapping[UUID, int]) -> None:
        super().__init__(f"release_epoch is {', '.join(map(str, epochs.values()))} now")
        self.epochs = epochs


class ApprovalsLost(Exception):
    """What made the instruction ready holds no more: it goes back to its approvers. The message says why (R8, R24)."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What the chain said for one payout: counts in units of gas, prices in wei."""

    treasury_nonce: int
    gas_estimate: int
    base_fee: int
    priority_fee: int


def hand_out_next(
    engine: Engine,
    nodes: ChainNodes,
    sources: Sources,
    *,
    treasury: str | None = None,
    signed: SignedFolder | None,
    ceiling_wei: int,
    in_flight_limit: int,
    safe: SafeTreasury | None = None,
) -> int:
    """Hand out a treasury's next ready instruction, if it is free; 1 if one was, else 0.

    ``treasury``: the chain's active one, if none is named. ``signed``: where the signed files lie; None where no approvals are required. ``safe``: the Safe that the genesis pins
    as that treasury. One that must wait keeps its state with its reason, and the next one is tried on the next round.
    """
    with transaction(engine) as connection:
        leased = rows.lease(
            connection,
            _MAY_GO,
            {"chain": nodes.chain.id, "treasury": treasury or nodes.chain.treasury, "in_flight": in_flight_limit},
            1,
        )
        named = references(
            connection, [payment for each in leased if not each.is_drain for payment in each.payment_ids]
        )
    if not leased:
        return 0
    instruction = leased[0]
    try:
        readings: dict[UUID, Reading] = {}
        if not instruction.is_drain:  # the marketplace has no say in where the house keeps its coins
            readings = sources.read([named[payment] for payment in instruction.payment_ids])
            _require_none_stopped(
                instruction,
                {
                    each.instruction_id: why
                    for each in instruction.parts
                    if (why := readings[each.payment_id].why_it_stops(instruction.purpose))
                },
            )
            _require_no_contract(nodes, instruction)
        is_safe = safe is not None or nodes.chain.at(instruction.treasury).safe is not None
        prices = ask_safe(nodes, instruction, safe) if is_safe else _ask_chain(nodes, instruction)
        with transaction(engine) as connection:
            return _apply(connection, instruction, nodes, readings.values(), prices, signed, ceiling_wei)
    except EpochMoved as moved:
        with transaction(engine) as connection:
            _judge_again(connection, instruction, moved.epochs, is_approved=signed is None)
        return 1
    except PartsStopped as error:
        with transaction(engine) as connection:
            _go_on_without(connection, instruction, error.stopped)
        return 1
    except ApprovalsLost as lost:
        with transaction(engine) as connection:
            _back_to_approvers(connection, instruction, str(lost))
        return 1
    except PolicyRefused as error:
        reason = f"policy_refused: {error}"
    except SourceUnreadable as error:
        reason = f"source_unreadable: {error}"
    except (ChainUnavailable, WrongChain) as error:
        reason = f"chain_unavailable: {error}"
    except IntegrityError:
        reason = "treasury_busy: another instruction was handed out first; this one is next."
    except (Held, LaneBlocked, SafeStopped) as error:
        reason = str(error)
    with transaction(engine) as connection:
        rows.hold(connection, instruction, reason)
    log.info("release_waits", instruction_id=str(instruction.id), reason=reason)
    return 0


def _require_no_contract(nodes: ChainNodes, instruction: Instruction) -> None:
    nodes.require_identity()
    code = nodes.code(instruction.recipient)
    if code and not code.startswith(_DELEGATION):
        raise Held(
            f"recipient_refused: {instruction.recipient} is a contract (R21); add the seller's own wallet to the "
            "address book and draft the release again."
        )


def _ask_chain(nodes: ChainNodes, instruction: Instruction) -> Prices:
    try:
        call = call_of(instruction)
    except TransactionError as error:
        raise Held(f"recipient_refused: {error}") from error
    request = CallRequest(to=call.to, data=call.data, value=call.value, sender=instruction.treasury)
    try:
        estimate = nodes.any(lambda client: client.estimate_gas(request))
    except ExecutionReverted as error:
        raise Held(
            f"would_revert: the chain refuses this payout now ({error.reason}); check the treasury's balance and "
            "whether the token blocks treasury or seller."
        ) from error
    base_fee, priority_fee = nodes.any(lambda client: client.fees())
    return Prices(nodes.nonce(instruction.treasury), estimate, base_fee, priority_fee)


def _apply(
    connection: Connection,
    leased: Instruction,
    nodes: ChainNodes,
    readings: Iterable[Reading],
    prices: Prices | SafeState,
    signed: SignedFolder | None,
    ceiling_wei: int,
) -> int:
    instruction = rows.lock_leased(connection, leased)
    if instruction is None:
        return 0
    if not all(each.is_fresh() for each in readings):
        raise Held("source_stale: the marketplace's word grew too old while the chain answered; asked again.")
    for stop in chain_stops(connection, nodes.chain.at(instruction.treasury)):
        if stop.reason != "chain_paused" or not goes_on_while_paused(nodes.chain, instruction):
            raise Held(str(stop))
    if why := why_not_from(connection, nodes.chain, instruction):
        raise Held(why)
    if not instruction.is_drain and (why := why_recipient_refused(connection, nodes.chain, instruction.recipient)):
        raise Held(f"recipient_refused: {why}")
    if signed is not None:
        _require_policy(connection, instruction, signed)
        ceiling_wei = min(ceiling_wei, instruction.fee_ceiling_wei or 0)
    if isinstance(prices, SafeState):
        columns = safe_columns(connection, instruction, prices, ceiling_wei)
        _judge_books(connection, instruction)
    else:
        columns = _transaction_columns(connection, instruction, prices, ceiling_wei)
        _judge_books(connection, instruction)
        require_house_coins(connection, instruction, columns["max_total_fee_wei"])
    rows.move(
        connection, instruction, "handed_out", rejected_reason=None, handed_out_at=rows.now(connection), **columns
    )
    log.info(
        "release_handed_out",
        payment_id=instruction.named,
        instruction_id=str(instruction.id),
        nonce=columns["nonce"],
    )
    return 1


def _transaction_columns(
    connection: Connection, instruction: Instruction, prices: Prices, ceiling_wei: int
) -> dict[str, Any]:
    """The treasury's next nonce and the exact transaction on it. Raises Held, LaneBlocked."""
    open_lane(connection, instruction.chain_id, instruction.treasury, "treasury", prices.treasury_nonce)
    call = call_of(instruction)
    taken = take_nonce(
        connection,
        chain_id=instruction.chain_id,
        sender=instruction.treasury,
        purpose="release",
        subject_id=instruction.id,
        recipient=call.to,
        value_wei=call.value,
        data=call.data,
    )
    try:
        unsigned = build(
            instruction,
            nonce=taken.nonce,
            gas_estimate=prices.gas_estimate,
            base_fee=prices.base_fee,
            priority_fee=prices.priority_fee,
            ceiling_wei=ceiling_wei,
        )
    except (FeeOverCeiling, TransactionError) as error:
        raise Held(str(error)) from error
    keep(connection, instruction.id, "payout", unsigned)
    return {
        "nonce": taken.nonce,
        "unsigned_bytes": unsigned.signing_bytes(),
        "signing_hash": unsigned.signing_hash(),
        "max_total_fee_wei": unsigned.max_total_fee_wei,
    }


def _require_policy(connection: Connection, instruction: Instruction, signed: SignedFolder) -> None:
    """R9: every approval is verified again, and the policy asked, before bytes leave the fleet. Raises as ``_apply``."""
    now = rows.now(connection)
    in_force = read_in_force(connection, signed, now)
    if instruction.expires_at is not None and instruction.expires_at <= now:
        raise ApprovalsLost("its approvals ran out before it was handed out")
    if (why := why_outdated(instruction, in_force)) is not None:
        raise ApprovalsLost(why)
    pinned = in_force.genesis.genesis.chain(instruction.chain_id)
    former = None if pinned is None else pinned.former(instruction.treasury)
    if former is not None and former.state != "draining" and not instruction.is_drain:
        # The signed genesis binds before this worker's chains file says the same.
        raise Held(f"treasury_{former.state}: nobody is paid from {former.address} any more (R22).")
    decision = decide(connection, instruction, in_force, now, moment="hand_out")
    if decision.outcome == "needs_approvals":
        raise ApprovalsLost(decision.sentence)
    if not decision.is_allowed:
        raise Held(f"policy_denied: {decision.sentence} (rule {decision.rule}).")


def _back_to_approvers(connection: Connection, leased: Instruction, reason: str) -> None:
    instruction = rows.lock_leased(connection, leased)
    if instruction is None:
        return
    rows.move(connection, instruction, "awaiting_approval")
    log.info("release_back_to_approvers", instruction_id=str(instruction.id), reason=reason)


def _judge_books(connection: Connection, instruction: Instruction) -> None:
    """The last look under locks: payments before balances before house books (L17). Raises Held, PartsStopped, EpochMoved."""
    paid = rows.lock_paid(connection, instruction)
    states = lock_payments(connection, instruction.payment_ids)
    stopped: dict[UUID, str] = {}
    moved: dict[UUID, int] = {}
    for each in paid:
        state = None if each.payment_id is None else states[each.payment_id]
        why, epoch = _judge_book(connection, each, state)
        if why is not None:
            stopped[each.id] = why
        elif epoch != each.release_epoch:
            moved[each.id] = epoch
    _require_none_stopped(instruction, stopped)
    if moved:
        raise EpochMoved(moved)


def _require_none_stopped(instruction: Instruction, stopped: Mapping[UUID, str]) -> None:
    if stopped and instruction.is_group:
        raise PartsStopped(stopped)
    for why in stopped.values():
        raise Held(why)


def _judge_book(connection: Connection, instruction: Instruction, state: PaymentState | None) -> tuple[str | None, int]:
    """Why one payment must not be paid now (None: it may), and its book's epoch. ``state`` None: the house's own."""
    payment_id = None if instruction.is_drain else instruction.payment_id
    if payment_id is not None and (paused := why_paused(connection, payment_id)) is not None:
        return paused, 0  # R7: asked under the payment's lock, in the transaction that would hand it out
    if instruction.purpose == "release" and state is not None and state.escrow != "releasing":
        return f"payment_moved: the payment is {state.status}/{state.escrow}; an operator looks at it.", 0
    row = connection.execute(
        text(
            """
            SELECT dispute_open, release_epoch, overdraft,
                CASE CAST(:promised AS text) WHEN 'releasing' THEN releasing WHEN 'refunding' THEN refunding
                    WHEN 'paying_fees' THEN paying_fees ELSE in_transit END AS promised, (
                SELECT coalesce(sum(CASE WHEN CAST(:promised AS text) = CASE WHEN :is_asset THEN e.debit ELSE e.credit END
                                    THEN e.amount ELSE -e.amount END), 0)
                FROM public.funds_ledger_entries e
                WHERE e.instruction_id = :id AND e.book_id = :book AND CAST(:promised AS text) IN (e.debit, e.credit)) AS own
            FROM fleet.ledger_balances WHERE book_id = :book AND chain_id = :chain AND token = :token
            """
        ),
        {
            "id": instruction.id,
            "promised": "in_transit" if instruction.is_drain else PROMISED[instruction.purpose],
            "is_asset": instruction.is_drain,
            "book": instruction.book_id,
            "chain": instruction.chain_id,
            "token": instruction.token,
        },
    ).one()
    why = None
    if row.dispute_open and not instruction.is_drain:
        why = "dispute_open: a dispute is open in the books; it must be resolved first (L4)."
    elif row.overdraft > 0:
        why = "coins_lost: coins of it are gone from the chain; cover the loss: fleet ledger adjust cover (L3)."
    # What another instruction reserved is not this one's: both would be paid.
    elif min(row.promised, row.own) < instruction.amount:
        why = "not_reserved: the books do not reserve this amount for it; an operator looks at it."
    return why, row.release_epoch


def _judge_again(connection: Connection, leased: Instruction, epochs: Mapping[UUID, int], *, is_approved: bool) -> None:
    """Back to approval with the epochs that stand now (R12), which is another intent; the books are judged anew then."""
    instruction = rows.lock_leased(connection, leased)
    if instruction is None:
        return
    rows.move(connection, instruction, "awaiting_approval")
    for instruction_id, epoch in epochs.items():
        rows.set_epoch(connection, instruction_id, epoch)
    if is_approved:
        rows.move(connection, rows.lock(connection, instruction.id), "ready")
    log.info("release_judged_again", instruction_id=str(instruction.id), release_epochs=list(epochs.values()))


def _go_on_without(connection: Connection, leased: Instruction, stopped: Mapping[UUID, str]) -> None:
    """Take a group apart; those that stopped it wait by themselves, the others may be grouped again (R23)."""
    group = rows.lock_leased(connection, leased)
    if group is None:
        return
    take_apart(connection, group, "; ".join(stopped.values()), alone=stopped)
    for instruction_id, why in stopped.items():
        rows.note(connection, instruction_id, why)


def require_house_coins(connection: Connection, instruction: Instruction, fee_wei: int) -> None:
    """R11: the treasury's own coins cover this fee and those of everything it has out."""
    row = connection.execute(
        text(
            """
            SELECT coalesce(b.treasury_house - b.overdraft, 0) AS house, (
                SELECT coalesce(sum(i.max_total_fee_wei), 0) FROM fleet.release_instructions i
                WHERE i.chain_id = :chain AND i.treasury = :treasury
                  AND i.state IN ('handed_out', 'signed', 'broadcast', 'cancelling')) AS promised
            FROM fleet.house_accounts h
            LEFT JOIN fleet.ledger_balances b
                ON b.book_id = h.id AND b.chain_id = h.chain_id AND b.token = :native
            WHERE h.chain_id = :chain AND h.address = :treasury AND h.kind = 'treasury'
            """
        ),
        {"chain": instruction.chain_id, "treasury": instruction.treasury, "native": NATIVE},
    ).one()
    needed = to_amount(int(row.promised) + fee_wei, _ETHER_DECIMALS)
    if row.house < needed:
        raise Held(
            f"house_float_low: the treasury's house book has {row.house or Decimal(0):f} coins for fees and up to "
            f"{needed:f} may be needed; send coins to {instruction.treasury}, the watcher books them."
        )

"""Sending what was signed, with one more look at disputes (R14) and at security gaps (R7) just before.

The bytes were stored before anybody sent them, so sending again after a crash sends the same transaction.
"""

from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import ChainUnavailable, InsufficientFunds, NonceTooLow, SendRefused, WrongChain
from custody.chain.lanes import LaneTransaction, mark_broadcast, transactions_of
from custody.chain.nodes import ChainNodes
from custody.policy import PolicyRefused, SignedFolder, read_in_force
from custody.releases import rows
from custody.releases.approvals import agreement_of, decide, intent_of
from custody.releases.rows import Instruction
from custody.releases.safe_execution import execution_to_send
from custody.releases.safe_treasury import Safes, SafeStopped, SafeTreasury, safe_of
from custody.releases.sources import Sources, SourceUnreadable, references
from custody.releases.treasuries import goes_on_while_paused
from custody.settings.chains import Chain
from custody.store.engine import transaction
from custody.store.security_pauses import why_paused

log = structlog.get_logger(__name__)

SEND_AGAIN_SECONDS: Final = 60  # a node may have dropped it; sending the same bytes again costs nothing

_DUE: Final = """
    w.chain_id = :chain AND (w.state = 'signed' OR w.state = 'broadcast' AND EXISTS (
        SELECT FROM fleet.chain_transactions t
        WHERE t.subject_id = w.id AND (t.nonce = w.nonce OR w.unsigned_kind = 'safe_transaction')
          AND (t.state = 'signed'   -- a higher bid, or a Safe's next execution
               OR t.state = 'broadcast' AND t.broadcast_at < clock_timestamp() - make_interval(secs => :again)))
      OR w.state = 'broadcast' AND w.unsigned_kind = 'safe_transaction' AND NOT EXISTS (   -- it reverted: tried again
        SELECT FROM fleet.chain_transactions t WHERE t.subject_id = w.id AND t.state IN ('signed', 'broadcast')))
"""


class _Waits(Exception):
    """The signed transaction is not sent now; the message is the held_reason."""


def broadcast_signed(
    engine: Engine,
    nodes: ChainNodes,
    sources: Sources,
    limit: int,
    *,
    signed: SignedFolder | None,
    safes: Safes | None = None,
) -> int:
    """Send at most ``limit`` signed releases of one chain, in nonce order; how many were sent for the first time.

    What no block has ended SEND_AGAIN_SECONDS after it was sent is sent again, the same bytes.

    One whose dispute opened after signing is not sent and says so. Its signature exists, so only a mined
    transaction on its nonce ends it (R1).
    """
    with transaction(engine) as connection:
        leased = rows.lease(connection, _DUE, {"chain": nodes.chain.id, "again": SEND_AGAIN_SECONDS}, limit)
        named = references(
            connection, [payment for each in leased if not each.is_drain for payment in each.payment_ids]
        )
    if not leased:
        return 0
    leased.sort(key=lambda each: each.nonce or 0)
    try:
        readings = sources.read(list(named.values()))
    except SourceUnreadable as error:
        for instruction in leased:
            _hold(engine, instruction, f"source_unreadable: {error}")
        return 0
    sent = 0
    for instruction in leased:
        try:
            if not instruction.is_drain:  # the marketplace has no say in where the house keeps its coins
                asked = {payment: readings[payment] for payment in instruction.payment_ids}
                if not all(each.is_fresh() for each in asked.values()):  # those before it took their time
                    asked = sources.read([named[payment] for payment in instruction.payment_ids])
                if why := next(filter(None, (each.why_it_stops(instruction.purpose) for each in asked.values())), None):
                    raise _Waits(f"{why} It is signed but not sent: waits_for_cancel, or for the dispute's end (R1).")
            sent += _send(engine, nodes, instruction, signed, safe_of(safes or {}, instruction))
        except PolicyRefused as error:
            _hold(engine, instruction, f"policy_refused: {error}")
        except SourceUnreadable as error:
            _hold(engine, instruction, f"source_unreadable: {error}")
        except (ChainUnavailable, WrongChain) as error:
            _hold(engine, instruction, f"chain_unavailable: {error}")
        except (_Waits, SafeStopped) as error:
            _hold(engine, instruction, str(error))
    return sent


def _send(
    engine: Engine,
    nodes: ChainNodes,
    instruction: Instruction,
    signed: SignedFolder | None,
    safe: SafeTreasury | None,
) -> int:
    with transaction(engine) as connection:
        lane = None if instruction.is_safe else _lane_of(connection, instruction)
        _require_quiet_books(connection, instruction, nodes.chain)
        if signed is not None and instruction.state == "signed":
            _require_policy(connection, instruction, signed)
    if lane is None:
        lane = execution_to_send(engine, nodes, safe, instruction)
    if lane is None:
        with transaction(engine) as connection:
            rows.let_go(connection, instruction)
        return 0
    assert lane.signed_bytes is not None
    try:
        nodes.require_identity()
        nodes.send(lane.signed_bytes)
    except NonceTooLow:
        # The nonce is spent: by these very bytes sent before a crash, or by another transaction. What was mined
        # decides, and the next step looks.
        log.info("release_nonce_spent", instruction_id=str(instruction.id), nonce=lane.nonce)
    except InsufficientFunds as error:
        raise _Waits(f"treasury_short: {error.reason}; send coins for the fee to {lane.sender}.") from error
    except SendRefused as error:
        raise _Waits(f"send_refused: {error.reason}; the same bytes are sent again.") from error
    with transaction(engine) as connection:
        now = rows.lock_leased(connection, instruction)
        if now is None:
            return 0
        mark_broadcast(connection, lane.id)
        if now.state == "broadcast":
            rows.let_go(connection, now)
            log.info("release_sent_again", instruction_id=str(now.id), transaction_hash=lane.transaction_hash)
            return 0
        rows.move(connection, now, "broadcast")
    log.info(
        "release_broadcast",
        payment_id=instruction.named,
        instruction_id=str(instruction.id),
        transaction_hash=lane.transaction_hash,
    )
    return 1


def _lane_of(connection: Connection, instruction: Instruction) -> LaneTransaction:
    for lane in transactions_of(connection, instruction.id):
        if lane.nonce == instruction.nonce and lane.signed_bytes is not None:
            return lane
    raise _Waits("no_signed_bytes: the nonce lane lost its signed bytes; an operator looks at it.")


def _require_quiet_books(connection: Connection, instruction: Instruction, chain: Chain) -> None:
    for book_id in instruction.payment_ids or (instruction.book_id,):
        _require_quiet_book(connection, instruction, book_id, chain)


def _require_quiet_book(connection: Connection, instruction: Instruction, book_id: UUID, chain: Chain) -> None:
    row = connection.execute(
        text(
            """
            SELECT b.dispute_open, b.overdraft, coalesce(p.disputed, false) AS disputed, c.paused_reason
            FROM fleet.ledger_balances b LEFT JOIN public.payments p ON p.id = b.book_id
            LEFT JOIN fleet.chain_cursors c ON c.chain_id = b.chain_id
            WHERE b.book_id = :book AND b.chain_id = :chain AND b.token = :token
            """
        ),
        {"book": book_id, "chain": instruction.chain_id, "token": instruction.token},
    ).one()
    if not instruction.is_drain and (paused := why_paused(connection, book_id)) is not None:
        raise _Waits(f"{paused} It is signed but not sent: waits_for_cancel (R1).")
    if (row.dispute_open or row.disputed) and not instruction.is_drain:
        raise _Waits("dispute_open: waits_for_cancel, or for the dispute's end; it is signed but not sent (R1).")
    if row.overdraft > 0:
        raise _Waits("coins_lost: coins of it are gone from the chain; cover the loss: fleet ledger adjust cover.")
    if row.paused_reason and not goes_on_while_paused(chain, instruction):
        raise _Waits(f"chain_paused: {row.paused_reason}; an operator resumes chain {instruction.chain_id}.")


def _require_policy(connection: Connection, instruction: Instruction, signed: SignedFolder) -> None:
    """R9: the last look at approvals and policy. What was sent once is out, and asks nobody when it is sent again."""
    now = rows.now(connection)
    in_force = read_in_force(connection, signed, now)
    if (
        instruction.intent_hash is None
        or intent_of(instruction, agreement_of(instruction)).hash() != instruction.intent_hash
    ):
        raise _Waits(
            "approvals_lost: its row says something else than what was approved; it is signed but not sent (R1)."
        )
    decision = decide(connection, instruction, in_force, now, moment="broadcast")
    if not decision.is_allowed:
        raise _Waits(
            f"policy_denied: {decision.sentence} (rule {decision.rule}). It is signed but not sent: waits_for_cancel (R1)."
        )


def _hold(engine: Engine, instruction: Instruction, reason: str) -> None:
    with transaction(engine) as connection:
        rows.hold(connection, instruction, reason)
    log.info("release_waits", instruction_id=str(instruction.id), reason=reason)

"""Looking after what a gas payer's lane has sent, once a round: found in a block, lost, too cheap, pointless, stolen.

The chain's own count decides. Below it every nonce is spent: by one of our signatures, or the key is used elsewhere and the
lane is frozen. From it on each nonce must be known to the node; what is not is sent again, which closes a gap in the next
block. The lowest open one is outbid when blocks pass it by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain import Receipt, ReceiptsAndHeaders
from custody.chain.lane_leases import SUBJECT_KIND, LaneView, fill_gaps, freeze, hold, note_chain, raise_to
from custody.chain.lanes import LaneTransaction, mark_taken, note_block, unfinished
from custody.chain.spender import Spender, spender_at
from custody.destinations.keys.client import KeysAgentAway
from custody.destinations.sweeps.house_costs import Mined, book_cancel
from custody.destinations.sweeps.jobs import QUEUE
from custody.destinations.sweeps.lane_sending import LaneSending
from custody.destinations.sweeps.payer_float import watch_float
from custody.destinations.sweeps.payers import PayerLane
from custody.destinations.sweeps.settling import evidence_of, why_not_final
from custody.destinations.sweeps.strategy import SweepRound
from custody.store.work import bury

log = structlog.get_logger(__name__)

SUSPECT_BLOCKS: Final = (
    2  # a nonce spent by nobody we know: a block may still be replaced, or a node late with a receipt
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one node showed. ``nonce``: counted before the receipts were asked for, so that none of ours can be missed."""

    head: int
    nonce: int
    balance: int
    receipts: ReceiptsAndHeaders
    known: frozenset[str]

    def mined(self, row: LaneTransaction) -> Receipt | None:
        """The receipt of whichever signature of the nonce a canonical block holds."""
        return next((found for each in row.hashes if (found := self.receipts.canonical(each)) is not None), None)


def tend(work: SweepRound, lane: PayerLane) -> LaneSending:
    """One look at the lane, and what follows from it. Raises ChainUnavailable, and LaneLost when another has the lane."""
    payer = lane.address
    rows = work.apply(lambda connection: unfinished(connection, work.chain.id, payer))
    seen = _look(work, payer, rows)
    lane.balance_wei = seen.balance
    mined = {row.id: receipt for row in rows if (receipt := seen.mined(row)) is not None}
    view = work.apply(lambda connection: _record(connection, work, lane, rows, mined, seen))
    sending = LaneSending(work, lane, seen.head)
    if view.suspect_since is not None and view.frozen_reason is None:
        lane.why_not = f"nonce_suspect: a nonce of {payer} is spent by no transaction of ours"
        if seen.head >= view.suspect_since + SUSPECT_BLOCKS:
            _freeze(work, lane, rows, mined, seen)
    elif view.frozen_reason is not None:
        lane.why_not = f"payer_frozen: {payer}: {view.frozen_reason}"
    else:
        _settle_cancels(work, lane, rows, mined, seen)
        try:
            _push(work, lane, sending, mined, seen)
        except KeysAgentAway as error:
            lane.why_not = f"keys_agent_away: {error}"
    work.apply(lane.count)
    return sending


def _look(work: SweepRound, payer: str, rows: Sequence[LaneTransaction]) -> _Seen:
    account = work.client.accounts([payer])[payer]
    receipts = work.client.receipts_and_headers([each for row in rows for each in row.hashes])
    unseen = [
        row.transaction_hash
        for row in rows
        if row.transaction_hash is not None and not any(receipts.canonical(each) for each in row.hashes)
    ]
    known = work.client.known(unseen) if unseen else frozenset[str]()
    return _Seen(receipts.head.number, account.nonce, account.balance, receipts, known)


def _record(
    connection: Connection,
    work: SweepRound,
    lane: PayerLane,
    rows: Sequence[LaneTransaction],
    mined: Mapping[UUID, Receipt],
    seen: _Seen,
) -> LaneView:
    """Write down what the chain shows; returns the lane as it stands after it."""
    view = hold(connection, lane.lease)
    for row in rows:
        receipt = mined.get(row.id)
        if row.block_hash != (None if receipt is None else receipt.block_hash):
            note_block(connection, row.id, None if receipt is None else (receipt.block_number, receipt.block_hash))
        if receipt is None and row.nonce < min(seen.nonce, view.foreign_below):
            reason = f"nonce_taken: nonce {row.nonce} of {row.sender} was spent elsewhere"
            mark_taken(connection, row.id, reason)
            work.reasons[row.subject_id] = reason
    is_suspect = seen.nonce > max(view.next_nonce, view.foreign_below) or any(
        row.id not in mined and view.foreign_below <= row.nonce < seen.nonce for row in rows
    )
    since = (view.suspect_since or seen.head) if is_suspect else None
    note_chain(
        connection,
        lane.lease,
        nonce=seen.nonce,
        balance_wei=seen.balance,
        block=seen.head,
        floor_wei=work.chain.gas.payer_floor_wei,
        suspect_since=since,
    )
    watch_float(connection, work, lane.address, seen.balance)
    if since is None and view.frozen_reason is None:
        raise_to(connection, lane.lease, seen.nonce)
        if fill_gaps(connection, lane.lease, seen.nonce, view):
            log.warning("lane_gaps", sender=lane.address, first=seen.nonce, below=view.next_nonce)
    return LaneView(view.next_nonce, view.foreign_below, since, view.frozen_reason)


def _push(work: SweepRound, lane: PayerLane, sending: LaneSending, mined: Mapping[UUID, Receipt], seen: _Seen) -> None:
    """Bring each nonce that no block holds one step further, the lowest first."""
    for row in work.apply(lambda connection: unfinished(connection, work.chain.id, lane.address)):
        if row.id in mined:
            continue
        if row.cancel_reason is None and (why := work.apply(lambda c, r=row: _why_pointless(c, work, r))) is not None:
            sending.cancel(row, why)
        elif row.state == "intent":
            sending.begin(row)
        elif row.cancel_reason is not None and row.transaction_hash not in row.cancels:
            sending.replace(row)
        elif row.state == "signed" or row.transaction_hash not in seen.known:
            sending.send(row)
        elif row.nonce == seen.nonce and _waited(row, seen.head) > work.chain.gas.replace_after_blocks:
            sending.replace(row)
        else:
            work.reasons.setdefault(row.subject_id, f"{row.purpose}_waits_for_block")


def _why_pointless(connection: Connection, work: SweepRound, row: LaneTransaction) -> str | None:
    signer = work.signers.get(row.purpose)
    return None if signer is None else signer.why_pointless(connection, row)


def _waited(row: LaneTransaction, head: int) -> int:
    """Blocks since a node first took the nonce's newest signature."""
    return 0 if row.sent_block is None else head - row.sent_block


def _settle_cancels(
    work: SweepRound, lane: PayerLane, rows: Sequence[LaneTransaction], mined: Mapping[UUID, Receipt], seen: _Seen
) -> None:
    """End the nonces that were spent on nothing, once that is deep, and book their gas (L6, L13)."""
    for row in rows:
        receipt = mined.get(row.id)
        if receipt is None or receipt.transaction_hash not in row.cancels:
            continue
        if why_not_final(work, [Mined(row, receipt)], seen.receipts) is not None:
            continue

        def end(connection: Connection, row: LaneTransaction = row, receipt: Receipt = receipt) -> bool:
            hold(connection, lane.lease)
            return book_cancel(connection, lane.house_book, row, receipt, evidence_of(work, seen.receipts))

        if work.apply(end):
            work.step()
            log.info("lane_cancelled", sender=row.sender, nonce=row.nonce, reason=row.cancel_reason)


def _freeze(
    work: SweepRound, lane: PayerLane, rows: Sequence[LaneTransaction], mined: Mapping[UUID, Receipt], seen: _Seen
) -> None:
    """The key is used elsewhere: say so, name the transaction, and send nothing more from it."""
    taken = next((row for row in rows if row.id not in mined and row.nonce < seen.nonce), None)
    nonce = seen.nonce - 1 if taken is None else taken.nonce
    found: Spender | None = spender_at(work.client, lane.address, nonce)
    if found is not None and taken is not None and found.transaction_hash in taken.hashes:
        return  # the node shows our own transaction in its block; its receipt is late
    by = "a transaction that the node does not show" if found is None else found.transaction_hash
    reason = f"nonce_stolen: nonce {nonce} of {lane.address} on chain {work.chain.id} was spent by {by}, none of ours"
    lane.why_not = f"payer_frozen: {lane.address}: {reason}"

    def write(connection: Connection) -> None:
        hold(connection, lane.lease)
        freeze(connection, lane.lease, reason)
        bury(
            connection,
            queue=QUEUE,
            subject_kind=SUBJECT_KIND,
            subject_id=f"{work.chain.id}:{lane.address}",
            reason=reason,
            unblocks="find who else holds this key. If it may be a thief: take it from the keys agent and let its coins go; "
            "other payers sweep on. If it was one of us: fleet payers thaw PAYER --chain ID, then book what it moved",
            attempts=1,
        )

    work.apply(write)
    log.error("lane_frozen", sender=lane.address, chain_id=work.chain.id, nonce=nonce, spent_by=by)


def lanes_due(connection: Connection, idle_seconds: int, payers: Sequence[str] | None) -> list[int]:
    """Chains with a lane of these payers (None: of any) that has something open, or was not looked at for so long."""
    rows = connection.execute(
        text(
            """
            SELECT DISTINCT l.chain_id FROM fleet.nonce_lanes l
            WHERE l.kind = 'gas_payer' AND (CAST(:payers AS text[]) IS NULL OR l.address = ANY(:payers)) AND (
                l.seen_at IS NULL OR l.seen_at < clock_timestamp() - make_interval(secs => :idle)
                OR EXISTS (SELECT FROM fleet.chain_transactions t WHERE t.chain_id = l.chain_id AND t.sender = l.address
                    AND t.state IN ('intent', 'signed', 'broadcast')))
            ORDER BY l.chain_id
            """
        ),
        {"idle": idle_seconds, "payers": None if payers is None else list(payers)},
    )
    return [row.chain_id for row in rows]

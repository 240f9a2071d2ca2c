"""The release payer's transactions to their end: each is mined once, and its fee is in the payer's own book (L6, R16).

Apart from what became of the payout: another may have executed the same SafeTx first, and ours then reverts and costs.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import NATIVE, ChainUnavailable, Receipt, SendRefused, to_amount
from custody.chain.lanes import mark_broadcast, mark_final
from custody.chain.nodes import ChainNodes
from custody.ledger import Entry, post
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

SEND_AGAIN_SECONDS: Final = 60  # as for payouts: the same bytes cost nothing
_ETHER_DECIMALS: Final = 18
_OPEN: Final = text(
    """
    SELECT t.id, t.sender, t.subject_id, t.hashes, t.signed_bytes, h.id AS house,
        i.state IN ('final', 'failed', 'cancelled') AND coalesce(t.broadcast_at, '-infinity')
            < clock_timestamp() - make_interval(secs => :again) AS is_left_over
    FROM fleet.chain_transactions t
    JOIN fleet.house_accounts h ON h.chain_id = t.chain_id AND h.address = t.sender AND h.kind = 'release_payer'
    JOIN fleet.release_instructions i ON i.id = t.subject_id
    WHERE t.chain_id = :chain AND t.state IN ('signed', 'broadcast') ORDER BY t.nonce LIMIT :limit
    """
)


def settle_executions(engine: Engine, nodes: ChainNodes, threshold: int, limit: int) -> int:
    """End the payer's transactions that are mined at ``threshold`` blocks of depth; how many ended.

    One whose payout has ended by another's execution is sent all the same: its nonce must be spent, or every later one of
    the payer waits for ever. Raises ChainUnavailable below the quorum.
    """
    with transaction(engine) as connection:
        rows = connection.execute(_OPEN, {"chain": nodes.chain.id, "again": SEND_AGAIN_SECONDS, "limit": limit}).all()
    if not rows:
        return 0
    mined = nodes.mined([each for row in rows for each in row.hashes])
    ended = 0
    for row in rows:
        own = next((mined[each] for each in row.hashes if each in mined), None)
        if own is None:
            if row.is_left_over:
                _send_again(engine, nodes, row)
            continue
        if own.depth < threshold:
            continue
        with transaction(engine) as connection:
            ended += end_execution(connection, row.id, row.house, own.receipt, {"depth": own.depth})
    return ended


def end_execution(
    connection: Connection, lane_id: UUID, house: UUID, receipt: Receipt, evidence: Mapping[str, Any]
) -> int:
    """Mark the payer's transaction final and book its fee, in the caller's transaction; 0 if another did (L6)."""
    is_new = mark_final(
        connection,
        lane_id,
        block_number=receipt.block_number,
        block_hash=receipt.block_hash,
        succeeded=receipt.succeeded,
        fee_wei=receipt.fee,
    )
    if not is_new:
        return 0
    post(
        connection,
        Entry(
            book_kind="house",
            book_id=house,
            chain_id=receipt.chain_id,
            token=NATIVE,
            entry_type="adjustment",
            reason="gas",
            debit="gas_spent",
            credit="gas_payer",
            amount=to_amount(receipt.fee, _ETHER_DECIMALS),
            key=f"gas:{receipt.chain_id}:{receipt.transaction_hash}",
            credit_address=receipt.sender,
            evidence={
                **evidence,
                "transaction_hash": receipt.transaction_hash,
                "block_number": receipt.block_number,
                "block_hash": receipt.block_hash,
                "succeeded": receipt.succeeded,
            },
        ),
    )
    log.info("safe_execution_mined", transaction_hash=receipt.transaction_hash, succeeded=receipt.succeeded)
    return 1


def _send_again(engine: Engine, nodes: ChainNodes, row: Any) -> None:
    try:
        nodes.send(bytes(row.signed_bytes))
    except (SendRefused, ChainUnavailable) as error:
        log.warning("left_over_execution_refused", instruction_id=str(row.subject_id), reason=str(error))
        return
    with transaction(engine) as connection:
        mark_broadcast(connection, row.id)

"""What left the treasury without us (custody-rules R5, ledger-rules L5): booked as a loss, shown, the chain paused.

``adjustment : unauthorised`` loss / overdraft in the treasury's house book, on an outbound fact of its own, so that the
books equal the chain again (L22); ``recovered`` takes it back when its block is replaced. What is found, and what is
ours: custody/chain/treasury_scan.py.
"""

from typing import Any
from uuid import UUID

import structlog
from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, text

from custody.chain.assets import NATIVE, to_amount
from custody.chain.blocks import ScannedBlock
from custody.chain.cursor import pause_chain
from custody.chain.looks import QUEUE
from custody.chain.treasury_scan import NATIVE_PLACE, Outflow, unauthorised
from custody.ledger import BookTooSmall, Entry, LedgerRefusal, post
from custody.ledger.house import house_account
from custody.settings.chains import Chain
from custody.store.work import bury

log = structlog.get_logger(__name__)

__all__ = ["NATIVE_PLACE", "Outflow", "book_outflow", "unauthorised", "watch_outflows"]


def watch_outflows(connection: Connection, chain: Chain, block: ScannedBlock) -> int:
    """Take back what a replaced block held, then book what this one took; how many were new. In one transaction.

    Every treasury is followed, also those of before a rotation, whatever their state (R22).

    ``block``: canonical as the watcher sees it, in ascending order of height. Repeating a block adds nothing. Raises
    LookupError while the treasury has no house account.
    """
    moved = _take_back(connection, chain, block)
    for each in chain.treasuries:
        at = chain.at(each)
        for outflow in unauthorised(connection, at, block.at(each)):
            moved += book_outflow(connection, at, block, outflow)
    return moved


def watch_treasury(connection: Connection, chain: Chain, block: ScannedBlock) -> None:
    """The same as a step of the block watch, which nothing may stop: what cannot be booked pauses the chain."""
    try:
        with connection.begin_nested():
            watch_outflows(connection, chain, block)
    except (LookupError, LedgerRefusal) as error:
        reason = f"block {block.header.number}: what moved out of the treasury cannot be booked: {error}"
        log.error("chain_paused", chain_id=chain.id, reason=reason)
        pause_chain(connection, chain.id, block.header, reason)
        bury(
            connection,
            queue=QUEUE,
            subject_kind="treasury_block",
            subject_id=f"{chain.id}:{block.header.hash}",
            reason=reason,
            unblocks=f"repair what the reason names; then two persons: fleet chain go-on {chain.id}",
            attempts=1,
        )


def book_outflow(connection: Connection, chain: Chain, block: ScannedBlock, outflow: Outflow) -> bool:
    """Book a loss, pause the chain and tell an operator, in the caller's transaction. False for one that stands.

    Raises LookupError while the treasury has no house account.
    """
    if outflow.units == 0:
        return _tell(connection, chain, block, outflow)
    house = house_account(connection, chain.id, chain.treasury, "treasury")
    if house is None:
        raise LookupError(f"treasury {chain.treasury} has no house account on chain {chain.id}; register it")
    token = _token_of(connection, chain.id, outflow.token)
    fact_id = _insert_fact(connection, chain, block, outflow, token.token)
    if fact_id is None:
        return False
    post(
        connection,
        Entry(
            book_kind="house",
            book_id=house,
            chain_id=chain.id,
            token=token.token,
            entry_type="adjustment",
            reason="unauthorised",
            debit="loss",
            credit="overdraft",
            amount=to_amount(outflow.units, token.decimals),
            key=f"fact:{fact_id}:unauthorised",
            credit_address=chain.treasury,
            fact_id=fact_id,
            evidence={
                "transaction_hash": outflow.transaction_hash,
                "log_index": outflow.log_index,
                "recipient": outflow.recipient,
                "block_number": block.header.number,
                "block_hash": block.header.hash,
            },
        ),
    )
    reason = (
        f"{outflow.units} units of {outflow.token} left the treasury for {outflow.recipient} with "
        f"{outflow.transaction_hash}: {outflow.why}"
    )
    _stop(connection, chain, block, outflow, reason, "chain_fact", str(fact_id))
    return True


def _tell(connection: Connection, chain: Chain, block: ScannedBlock, outflow: Outflow) -> bool:
    """Something was spent or cannot be read, and no coins are known to have moved: once for each, for people."""
    place = outflow.nonce if outflow.nonce is not None else f"{outflow.transaction_hash}:{outflow.log_index}"
    subject = f"{chain.id}:{chain.treasury}:{place}"
    reason = f"{outflow.transaction_hash}: {outflow.why} (nonce {outflow.nonce})"
    known = connection.execute(
        text(
            "SELECT reason, resolved_at FROM fleet.dead_work "
            "WHERE queue = :queue AND subject_kind = 'treasury_transaction' AND subject_id = :id"
        ),
        {"queue": QUEUE, "id": subject},
    ).one_or_none()
    is_unseen = outflow.transaction_hash == block.header.hash
    if known is not None and (is_unseen or known.resolved_at is None or outflow.transaction_hash in known.reason):
        return False
    _stop(connection, chain, block, outflow, reason, "treasury_transaction", subject)
    return True


def _stop(
    connection: Connection, chain: Chain, block: ScannedBlock, outflow: Outflow, reason: str, kind: str, subject: str
) -> None:
    log.error("treasury_outflow", chain_id=chain.id, units=str(outflow.units), reason=reason)
    pause_chain(connection, chain.id, block.header, f"unauthorised: {reason}"[:2000])
    bury(
        connection,
        queue=QUEUE,
        subject_kind=kind,
        subject_id=subject,
        reason=reason,
        unblocks="find out who has the treasury's key or its allowance, move what is left to another treasury, then two "
        f"persons: fleet chain go-on {chain.id}",
        attempts=1,
    )


def _token_of(connection: Connection, chain_id: int, token: str) -> Any:
    """The token as fleet.tokens spells it. Raises LookupError."""
    rows = connection.execute(
        text("SELECT token, decimals FROM fleet.tokens WHERE chain_id = :chain"), {"chain": chain_id}
    ).all()
    for row in rows:
        if row.token == token or (row.token != NATIVE != token and to_checksum_address(row.token) == token):
            return row
    raise LookupError(f"token {token} on chain {chain_id} is in no chains file that was loaded")


def _insert_fact(
    connection: Connection, chain: Chain, block: ScannedBlock, outflow: Outflow, token: str
) -> UUID | None:
    """The outbound fact, None if it stands. ``tx_ordinal`` is counted down from -1: a scanned block does not show the
    log's place inside its transaction, and one place is one live fact of its direction.
    """
    return connection.execute(
        text(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction, judged_at, incarnation)
            SELECT :chain, :number, :block, :hash, :log_index, -2 - :log_index, :token, :sender, :recipient, :units,
                'outbound', clock_timestamp(), coalesce(max(incarnation), 0) + 1
            FROM fleet.chain_facts
            WHERE chain_id = :chain AND block_hash = :block AND transaction_hash = :hash AND log_index = :log_index
                AND direction = 'outbound'
            HAVING NOT coalesce(bool_or(live), false)
            RETURNING id
            """
        ),
        {
            "chain": chain.id,
            "number": block.header.number,
            "block": block.header.hash,
            "hash": outflow.transaction_hash,
            "log_index": outflow.log_index,
            "token": token,
            "sender": chain.treasury,
            "recipient": outflow.recipient,
            "units": outflow.units,
        },
    ).scalar_one_or_none()


def _take_back(connection: Connection, chain: Chain, block: ScannedBlock) -> int:
    """What stood in a block that this one replaces left the chain: its loss is taken back, exactly."""
    rows = connection.execute(
        text(
            """
            SELECT f.id, f.transaction_hash, e.id AS entry_id, e.book_id, e.token, e.amount, e.credit_address
            FROM fleet.chain_facts f JOIN public.funds_ledger_entries e ON e.fact_id = f.id AND e.reason = 'unauthorised'
            WHERE f.chain_id = :chain AND f.block_number = :number AND f.block_hash <> :hash AND f.live
                AND f.direction = 'outbound' AND f.payment_id IS NULL
            ORDER BY e.book_seq DESC
            """
        ),
        {"chain": chain.id, "number": block.header.number, "hash": block.header.hash},
    ).all()
    for row in rows:
        said = "left the chain again; its loss is taken back"
        try:
            with connection.begin_nested():
                connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": row.id})
                _post_recovered(connection, chain, block, row)
        except BookTooSmall:
            # Covered meanwhile: the coins are the house's own now, and only people can say so.
            connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": row.id})
            said = "left the chain again after its loss was covered: the treasury has more than its book says"
        bury(
            connection,
            queue=QUEUE,
            subject_kind="chain_fact",
            subject_id=row.id,
            reason=f"what {row.transaction_hash} took from the treasury {said}",
            unblocks="see whether it is mined again, and that the books equal the chain (fleet ledger escrow); then two "
            f"persons: fleet chain go-on {chain.id}",
            attempts=1,
        )
        log.warning("treasury_outflow_gone", chain_id=chain.id, fact_id=str(row.id), said=said)
    return len(rows)


def _post_recovered(connection: Connection, chain: Chain, block: ScannedBlock, row: Any) -> None:
    post(
        connection,
        Entry(
            book_kind="house",
            book_id=row.book_id,
            chain_id=chain.id,
            token=row.token,
            entry_type="adjustment",
            reason="recovered",
            debit="overdraft",
            credit="loss",
            amount=row.amount,
            key=f"reverse:{row.entry_id}",
            debit_address=row.credit_address,
            fact_id=row.id,
            reverses_entry_id=row.entry_id,
            evidence={"block_number": block.header.number, "replaced_by": block.header.hash},
        ),
    )

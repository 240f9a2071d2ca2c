"""More left an address in a sweep than its books held there: a deposit that came late, and that nobody has looked at.

A sweep that moves the balance takes it along. It is never booked from the sweep (L20): the deposit's own transfer is
found in the token's logs and looked at by the watcher, goes through detection like any other, and only then is the rest
of the sweep booked against it (L2, L11). Until then the sweep's fact says how much of it is in no book.
Role: fleet_sweeps.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import ChainClient, ChainUnavailable, MalformedLog, to_amount
from custody.chain.looks import request_looks
from custody.destinations.balance import show_balance
from custody.destinations.sweeps.booked import facts_at, split
from custody.destinations.sweeps.jobs import QUEUE
from custody.ledger import Entry, post
from custody.settings.chains import NATIVE
from custody.store.engine import forbid_inside_transaction, ring_relay, transaction
from custody.store.outbox import ring

log = structlog.get_logger(__name__)

SEARCH_BLOCKS: Final = 10_000  # before the sweep; the watcher reads each block, so what it missed is not old
QUESTION_BLOCKS: Final = 500  # what the stricter providers allow in one question
LIMIT: Final = 20

# Once told to people, and searched for once: attempts 1 is a search still to be made.
_UNSEARCHED: Final = text(
    """
    SELECT f.id, f.chain_id, f.token, f.sender AS address, f.block_number
    FROM fleet.dead_work w JOIN fleet.chain_facts f ON f.id::text = w.subject_id
    WHERE w.queue = :queue AND w.subject_kind = 'chain_fact' AND w.resolved_at IS NULL AND w.attempts = 1
      AND f.live AND f.unbooked_units > 0 AND f.token <> :native
    ORDER BY w.created_at LIMIT :limit
    """
)
_UNBOOKED: Final = text(
    """
    SELECT f.id, f.chain_id, f.token, f.sender AS address, f.recipient, f.block_number, f.block_hash, f.transaction_hash,
        f.log_index, f.unbooked_units, f.destination_id, t.decimals,
        EXISTS (SELECT FROM public.derived_destination_sweeps s WHERE s.chain_id = f.chain_id
                AND s.transaction_hash = f.transaction_hash AND s.log_index = f.log_index) AS is_to_treasury
    FROM fleet.chain_facts f JOIN fleet.tokens t ON t.chain_id = f.chain_id AND t.token = f.token
    WHERE f.direction = 'sweep' AND f.live AND f.unbooked_units > 0
      AND EXISTS (SELECT FROM fleet.chain_facts i WHERE i.destination_id = f.destination_id AND i.direction = 'inbound'
                  AND i.live AND i.payment_id IS NOT NULL AND i.created_at > f.created_at)
    ORDER BY f.id LIMIT :limit FOR UPDATE OF f SKIP LOCKED
    """
)


def settle_late_deposits(engine: Engine, clients: Mapping[int, ChainClient], *, limit: int = LIMIT) -> int:
    """Have the watcher look at late deposits, and book the sweeps that took those it has booked since.

    Returns how many sweeps are whole in the books now. A chain that does not answer is asked again at the next round.
    """
    with transaction(engine) as connection:
        unsearched = connection.execute(_UNSEARCHED, {"queue": QUEUE, "native": NATIVE, "limit": limit}).all()
    for sweep in unsearched:
        client = clients.get(sweep.chain_id)
        if client is not None:
            _search(engine, client, sweep)
    with transaction(engine) as connection:
        whole = [_book(connection, sweep) for sweep in connection.execute(_UNBOOKED, {"limit": limit}).all()]
    if unsearched or whole:
        ring_relay(engine)
    return sum(whole)


def _search(engine: Engine, client: ChainClient, sweep: Any) -> None:
    """Ask for a look at every transfer to the address that no fact stands for; a look is a hint (L20)."""
    forbid_inside_transaction("searching for a late deposit")
    found: dict[str, UUID | None] = {}
    start = max(0, sweep.block_number - SEARCH_BLOCKS + 1)
    try:
        for first in range(start, sweep.block_number + 1, QUESTION_BLOCKS):
            last = min(first + QUESTION_BLOCKS - 1, sweep.block_number)
            for transfer in client.transfers_to([sweep.token], [sweep.address], first, last):
                found[transfer.transaction_hash] = None
    except (ChainUnavailable, MalformedLog) as error:
        log.warning("late_deposit_search_waits", address=sweep.address, reason=str(error))
        return
    with transaction(engine) as connection:
        known = connection.execute(
            text(
                "SELECT transaction_hash FROM fleet.chain_facts WHERE chain_id = :chain AND live "
                "AND direction = 'inbound' AND transaction_hash = ANY(:hashes)"
            ),
            {"chain": sweep.chain_id, "hashes": list(found)},
        ).scalars()
        seen = {*known}
        unseen: dict[str, UUID | None] = {each: None for each in found if each not in seen}
        request_looks(connection, sweep.chain_id, unseen, requested_by=QUEUE)
        connection.execute(
            text(
                "UPDATE fleet.dead_work SET attempts = 2 WHERE queue = :queue AND subject_kind = 'chain_fact' "
                "AND subject_id = :id"
            ),
            {"queue": QUEUE, "id": str(sweep.id)},
        )
    log.warning("late_deposits_looked_for", address=sweep.address, transactions=len(unseen))


def _book(connection: Connection, sweep: Any) -> bool:
    """Book what a sweep took of deposits that are in the books by now; whether nothing of it is unbooked any more."""
    connection.execute(
        text("SELECT 1 FROM public.derived_destinations WHERE id = :id FOR UPDATE"), {"id": sweep.destination_id}
    ).one()
    place = (sweep.block_number, sweep.log_index)
    facts = [
        fact
        for fact in facts_at(
            connection,
            destination_id=sweep.destination_id,
            chain_id=sweep.chain_id,
            token=sweep.token,
            address=sweep.address,
            decimals=sweep.decimals,
        )
        if (fact.block_number, fact.log_index) < place  # what came after it is still there
    ]
    unbooked = int(sweep.unbooked_units)
    shares, left = split(facts, unbooked)
    if not shares:
        return False
    reason, debit = ("sweep", "treasury") if sweep.is_to_treasury else ("token_fee", "transfer_cost")
    # First of all: the entries of a fact are its amount less what is unbooked of it (L2).
    connection.execute(
        text("UPDATE fleet.chain_facts SET unbooked_units = :left WHERE id = :id"), {"left": left, "id": sweep.id}
    )
    for share in shares:
        post(
            connection,
            Entry(
                book_kind="payment",
                book_id=share.payment_id,
                chain_id=sweep.chain_id,
                token=sweep.token,
                entry_type="adjustment",
                reason=reason,
                debit=debit,
                credit="destination",
                amount=to_amount(share.units, sweep.decimals),
                # A payment may have shares of the same sweep from before; what was unbooked tells them apart (L1).
                key=f"fact:{sweep.id}:{reason}:{share.payment_id}:late:{unbooked}",
                debit_address=sweep.recipient if sweep.is_to_treasury else None,
                credit_address=sweep.address,
                fact_id=sweep.id,
                evidence={
                    "late_deposit": True,
                    "transaction_hash": sweep.transaction_hash,
                    "log_index": sweep.log_index,
                    "block_number": sweep.block_number,
                    "block_hash": sweep.block_hash,
                },
            ),
        )
    show_balance(connection, sweep.destination_id)
    if left == 0:
        connection.execute(
            text(
                "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue "
                "WHERE queue = :queue AND subject_kind = 'chain_fact' AND subject_id = :id AND resolved_at IS NULL"
            ),
            {"queue": QUEUE, "id": str(sweep.id)},
        )
    ring(connection, "releases")
    log.info("late_deposit_booked", address=sweep.address, units=str(unbooked - left), still_unbooked=str(left))
    return left == 0

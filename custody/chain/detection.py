"""Detection: the books are brought to what the canonical chain says about a transaction (L1, L20).

The watcher's step. One transaction is looked at as a whole: facts that vanished are reversed first, then new
ones are booked. A webhook is only the reason to look; nothing in it is believed.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.chain import cursor as cursors
from custody.chain import facts, looks, native_proof
from custody.chain.assets import NATIVE
from custody.chain.blocks import BlockHeader
from custody.chain.depth import confirmations, floor
from custody.chain.errors import ChainUnavailable
from custody.chain.facts import Arrival, StandingFact
from custody.chain.logs import MalformedLog
from custody.chain.looks import Look
from custody.chain.native import Unproved
from custody.chain.receipts import Receipt
from custody.chain.rpc import ChainClient
from custody.chain.unwinding import CannotUnwind, stop_for_move, stop_for_people, unwind
from custody.destinations.balance import show_balance
from custody.ledger import LedgerRefusal
from custody.payments.standing import settle_state
from custody.payments.transitions import TransitionRefused, lock_payment
from custody.settings.chains import Chain
from custody.store.engine import attempts, forbid_inside_transaction, is_retryable, ring_relay, transaction
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)

_Suspect = tuple[str, UUID | None]  # a transaction's hash, and the payment it was for

# What may be wrong with one look alone; anything else stops the batch and is said loudly.
_LOOK_FAILURES: Final = (MalformedLog, Unproved, LedgerRefusal, TransitionRefused, LookupError, DBAPIError)


class NodeContradicts(Exception):
    """A node's answers do not fit each other or what stands: it is behind, or lying. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a node said about one transaction; ``headers`` has the blocks of receipt and standing facts."""

    transaction_hash: str
    receipt: Receipt | None
    """Only of a block that is canonical on that node."""
    head: BlockHeader
    headers: Mapping[int, BlockHeader]
    rises: native_proof.Rises = field(default_factory=dict[str, int])
    """What proves the native proxy's events of the receipt (L8), see native_proof."""


@dataclass(slots=True)
class Detected:
    """What one look changed."""

    new_facts: int = 0
    reversed_facts: int = 0
    standing: int = 0
    """Live facts of the transaction afterwards."""
    stuck: str | None = None
    """Why vanished facts could not be reversed; then nothing else was changed."""
    payments: set[UUID] = field(default_factory=set[UUID])
    destinations: set[UUID] = field(default_factory=set[UUID])


def detect(connection: Connection, chain: Chain, sighting: Sighting) -> Detected:
    """Reconcile the live facts of one transaction with the canonical chain, in the caller's transaction.

    A fact is a Transfer log of an allow-listed token to any address ever issued, amount > 0, or native coin (L8).
    Raises NodeContradicts, Unproved, MalformedLog, LedgerRefusal: roll the transaction back then.
    """
    standing = facts.lock_standing_facts(connection, chain.id, sighting.transaction_hash)
    found = {} if sighting.receipt is None else _by_ordinal(facts.arrivals(connection, chain, sighting.receipt))
    gone = [fact for fact in standing if _has_vanished(fact, sighting)]
    kept = {fact.tx_ordinal: fact for fact in standing if fact not in gone}
    plan = [
        _Plan(arrival, kept.get(ordinal), *_attribute(connection, chain.id, arrival))
        for ordinal, arrival in found.items()
        if ordinal not in kept or kept[ordinal].payment_id is None
    ]
    counted: list[StandingFact] = []
    if sighting.receipt is not None:
        new = [one.arrival for one in plan if one.fact is None]
        native_proof.require_proof(connection, chain, sighting.receipt, new, found.values(), sighting.rises)
        natively = {arrival.destination.id for arrival in new if arrival.token == NATIVE}
        counted = facts.lock_reconciled(connection, chain.id, natively, sighting.receipt.block_number)
        # The same coins stay the same payment's, though it may be funded by them meanwhile (as in L1).
        owners = {fact.destination_id: facts.attribution_of(connection, fact.id) for fact in counted}
        plan = [_owned(one, owners.get(one.arrival.destination.id)) for one in plan]
    result = Detected(standing=len(kept))
    result.destinations = {fact.destination_id for fact in gone} | {one.arrival.destination.id for one in plan}
    result.payments = {fact.payment_id for fact in [*gone, *counted] if fact.payment_id is not None}
    result.payments |= {one.payment_id for one in plan if one.payment_id is not None}
    _lock(connection, result)
    if gone:
        try:
            unwind(connection, chain.id, gone, sighting.headers.get(gone[0].block_number))
        except CannotUnwind as error:
            stop_for_people(connection, chain.id, sighting.head, gone, str(error))
            return Detected(stuck=str(error))
        result.reversed_facts = len(gone)
    if counted:
        _supersede(connection, chain.id, counted)
    for one in plan:
        _apply(connection, chain.id, one, result)
    for payment_id in sorted(result.payments):
        settle_state(connection, payment_id)
    for destination_id in sorted(result.destinations):
        show_balance(connection, destination_id)
    if result.new_facts:
        ring(connection, "confirmations")
    return result


def _supersede(connection: Connection, chain_id: int, counted: list[StandingFact]) -> None:
    """A transaction tells what a balance had told before (L8): never both. What else the balance had is found again."""
    try:
        unwind(connection, chain_id, counted, None)
    except CannotUnwind as error:
        raise Unproved(f"the coins were booked by their address' balance already: {error}") from error


@dataclass(frozen=True, slots=True)
class _Plan:
    arrival: Arrival
    fact: StandingFact | None
    """A standing fact that had no payment yet; None for a new one."""
    payment_id: UUID | None
    basis: facts.Basis


def _owned(one: _Plan, owner: tuple[UUID, facts.Basis] | None) -> _Plan:
    is_told = one.fact is not None or one.basis == "reference" or one.arrival.token != NATIVE
    return one if is_told or owner is None else _Plan(one.arrival, one.fact, *owner)


def _by_ordinal(found: list[Arrival]) -> dict[int, Arrival]:
    return {arrival.inbound.tx_ordinal: arrival for arrival in found}


def _has_vanished(fact: StandingFact, sighting: Sighting) -> bool:
    """Whether the fact's block is provably not canonical. Silence proves nothing: a node may be behind."""
    header = sighting.headers.get(fact.block_number)
    if header is None:
        raise NodeContradicts(
            f"the node does not reach block {fact.block_number}, where this transaction was seen before"
        )
    if header.hash != fact.block_hash:
        return True
    if sighting.receipt is None or sighting.receipt.block_hash != fact.block_hash:
        raise NodeContradicts(
            f"block {fact.block_hash} still stands, but the node shows this transaction elsewhere or nowhere"
        )
    return False


def _attribute(connection: Connection, chain_id: int, arrival: Arrival) -> tuple[UUID | None, facts.Basis]:
    attributed = facts.attribute(connection, arrival.destination.id, arrival.inbound.reference_topic)
    if attributed is not None and attributed[1] == "reference":
        return attributed
    return facts.earlier_attribution(connection, chain_id, arrival) or attributed or (None, "newest")


def _lock(connection: Connection, result: Detected) -> None:
    """L17: destinations, then payments, each by id, before any balance row."""
    facts.lock_destinations(connection, result.destinations)
    for payment_id in sorted(result.payments):
        lock_payment(connection, payment_id)


def _apply(connection: Connection, chain_id: int, one: _Plan, result: Detected) -> None:
    if one.fact is None:
        fact_id = facts.insert_fact(connection, chain_id, one.arrival, one.payment_id)
        result.new_facts += 1
        result.standing += 1
    else:
        fact_id = one.fact.id
        if one.payment_id is not None:
            facts.set_payment(connection, fact_id, one.payment_id)
    transfer = one.arrival.inbound.transfer
    if one.payment_id is None:
        bury(
            connection,
            queue=looks.QUEUE,
            subject_kind="chain_fact",
            subject_id=fact_id,
            reason=f"{transfer.amount} units of {one.arrival.token} came to {transfer.recipient}: no payment is there",
            unblocks="give the address a payment, then ask for a look at the transaction again",
            attempts=1,
        )
        return
    facts.post_detected(connection, fact_id, one.arrival, payment_id=one.payment_id, basis=one.basis)
    log.info(
        "payment_detected",
        chain_id=chain_id,
        payment_id=str(one.payment_id),
        fact_id=str(fact_id),
        transaction_hash=transfer.transaction_hash,
        token=one.arrival.token,
        amount_units=str(transfer.amount),
        attribution=one.basis,
    )


def run_once(engine: Engine, client: ChainClient, chain: Chain, limit: int) -> int:
    """Read the head, answer up to ``limit`` due looks, notice a replaced head; return how many moved on.

    Two batched requests: head and receipts, then the headers of their blocks; a third for the block that was
    the head last time, a fourth only when it was replaced. Raises ChainUnavailable.
    """
    with transaction(engine) as connection:
        known = cursors.read_cursor(connection, chain.id)
        due = looks.due_looks(connection, chain.id, limit)
        heights = facts.block_numbers_of(connection, chain.id, [look.transaction_hash for look in due])
    if known is not None:
        heights.add(known.head_number)
    forbid_inside_transaction("reading receipts")
    askable = [look for look in due if look.is_well_formed]
    moved = 0
    for look in due:
        if not look.is_well_formed:
            with transaction(engine) as connection:
                looks.give_up(connection, look, "this is no transaction hash: expected 0x and 64 hex digits")
            moved += 1
    view = _read(engine, client, chain, askable, heights)
    for look in askable:
        if look.transaction_hash in view.sightings:
            moved += _answer(engine, chain, look, view.sightings[look.transaction_hash])
    replaced = _replaced(engine, client, chain, view.head) if _was_replaced(known, view) else _Replaced([], [])
    _move_cursor(engine, chain, view.head, replaced)
    if moved:
        ring_relay(engine)
    return moved


@dataclass(frozen=True, slots=True)
class _View:
    """One node's view of the chain at one moment."""

    head: BlockHeader
    headers: Mapping[int, BlockHeader]
    sightings: dict[str, Sighting]


def _read(engine: Engine, client: ChainClient, chain: Chain, due: list[Look], heights: set[int]) -> _View:
    """Everything a node says about the due transactions; one it chokes on does not stop the others."""
    hashes = [look.transaction_hash for look in due]
    try:
        return _read_batch(engine, client, chain, hashes, heights)
    except ChainUnavailable:
        if not hashes:
            raise
    view = _read_batch(engine, client, chain, [], heights)  # raises if the node is away altogether
    for look in due:
        with _look_failed(engine, look):
            view.sightings.update(_read_batch(engine, client, chain, [look.transaction_hash], heights).sightings)
    return view


def _read_batch(engine: Engine, client: ChainClient, chain: Chain, hashes: list[str], heights: set[int]) -> _View:
    found = client.receipts_and_headers(hashes, values=True)
    headers = {**found.headers, found.head.number: found.head}
    missing = heights - headers.keys()
    if missing:
        headers |= client.headers(missing)
    receipts = {one: found.canonical(one) for one in hashes}
    rises = native_proof.read_rises(engine, client, chain, filter(None, receipts.values()), headers)
    sightings = {one: Sighting(one, receipts[one], found.head, headers, rises.get(one, {})) for one in hashes}
    return _View(found.head, headers, sightings)


def _answer(engine: Engine, chain: Chain, look: Look, sighting: Sighting) -> int:
    """One look, one transaction of the database. Returns 1 if it moved on."""
    with _look_failed(engine, look):
        for attempt in attempts():
            try:
                with transaction(engine) as connection:
                    return _answer_inside(connection, chain, look, sighting)
            except DBAPIError as error:
                if not is_retryable(error) or attempt == max(attempts()):
                    raise
    return 0


def _answer_inside(connection: Connection, chain: Chain, look: Look, sighting: Sighting) -> int:
    if not looks.lock_look(connection, look):
        return 0
    result = detect(connection, chain, sighting)
    if result.stuck is not None:
        looks.try_later(connection, look, result.stuck)
    elif sighting.receipt is None:
        looks.try_later(connection, look, "no block holds the transaction", start_over=result.reversed_facts > 0)
        return int(result.reversed_facts > 0)
    elif result.standing:
        looks.conclude(connection, look, "seen", f"{result.standing} transfers to issued addresses")
        return 1
    else:
        why = (
            "no transfer of an accepted token to an issued address"
            if sighting.receipt.succeeded
            else "the transaction was reverted"
        )
        # In a block that replaces this one it may do otherwise, and no fact of ours watches this block.
        least = floor(chain.id)
        if confirmations(sighting.head.number, sighting.receipt.block_number) < least:
            looks.try_later(connection, look, f"{why}; looked at again until its block has {least} confirmations")
            return 0
        looks.conclude(connection, look, "nothing_of_ours", why)
        return 1
    return 0


@contextmanager
def _look_failed(engine: Engine, look: Look) -> Generator[None]:
    """A look that fails waits and says why; it stops no other."""
    try:
        yield
    except (NodeContradicts, ChainUnavailable, *_LOOK_FAILURES) as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        why = f"{type(error).__name__}: {error}"
        log.warning("look_failed", transaction_hash=look.transaction_hash, reason=why)
        with transaction(engine) as connection:
            looks.try_later(connection, look, why)


def _was_replaced(known: cursors.Cursor | None, view: _View) -> bool:
    """Whether the head seen last is no longer on the chain.

    One comparison a tick finds a reorganisation of any depth, without a request a payment (design §5).
    """
    if known is None:
        return False
    last = view.headers.get(known.head_number)
    return last is None or last.hash != known.head_hash


@dataclass(frozen=True, slots=True)
class _Replaced:
    """What a replaced head put in doubt: transactions to look at again, and booked moves that are gone."""

    suspects: list[_Suspect]
    gone: list[cursors.BookedMove]


def _move_cursor(engine: Engine, chain: Chain, head: BlockHeader, replaced: _Replaced) -> None:
    """In one transaction, so that a crash cannot lose what the replaced head meant."""
    with transaction(engine) as connection:
        for move in replaced.gone:
            stop_for_move(connection, chain.id, head, move)
        for transaction_hash, payment_id in sorted(replaced.suspects, key=lambda suspect: suspect[0]):
            looks.request_look(
                connection, chain.id, transaction_hash, requested_by="reorganisation", payment_id=payment_id
            )
        if cursors.move_cursor(connection, chain.id, head) and _facts_wait(connection, chain.id):
            ring(connection, "confirmations")


def _replaced(engine: Engine, client: ChainClient, chain: Chain, head: BlockHeader) -> _Replaced:
    """The watched transactions whose block is not on the chain, or not yet again."""
    with transaction(engine) as connection:
        blocks = cursors.watched_blocks(connection, chain.id, head.number)
        moves = cursors.booked_moves(connection, chain.id, head.number)
    headers = client.headers({watched.block_number for watched in moves} | {block.number for block in blocks})
    # Another block stands there: a node that is only behind proves nothing.
    gone = [m for m in moves if m.block_number in headers and headers[m.block_number].hash != m.block_hash]
    suspects = [
        one
        for block in blocks
        if block.number not in headers or headers[block.number].hash != block.hash
        for one in block.transactions
    ]
    log.warning(
        "head_replaced",
        chain_id=chain.id,
        head_number=head.number,
        blocks=len(blocks),
        suspects=len(suspects),
        booked_moves_gone=len(gone),
    )
    return _Replaced(suspects, gone)


def _facts_wait(connection: Connection, chain_id: int) -> bool:
    return connection.execute(
        text(
            "SELECT EXISTS (SELECT FROM fleet.chain_facts "
            "WHERE chain_id = :id AND live AND judged_at IS NULL AND direction = 'inbound')"
        ),
        {"id": chain_id},
    ).scalar_one()

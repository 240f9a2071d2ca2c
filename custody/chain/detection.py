"""Detection: the books are brought to what the canonical chain says about a transaction (L1, L20).

The watcher's step. One transaction is looked at as a whole: facts that vanished are reversed first, then new
ones are booked. A webhook is only the reason to look; nothing in it is believed.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from custody.chain import facts, looks, native_proof
from custody.chain.assets import NATIVE
from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.depth import confirmations, floor
from custody.chain.errors import ChainUnavailable
from custody.chain.facts import Arrival, StandingFact
from custody.chain.fence import Fence
from custody.chain.logs import MalformedLog
from custody.chain.looks import Look
from custody.chain.native import Unproved
from custody.chain.receipts import Receipt
from custody.chain.scanned_blocks import ScannedHash
from custody.chain.unwinding import lost_of, recover, reverse, unwind
from custody.destinations.balance import show_balance
from custody.ledger import BookTooSmall, LedgerRefusal
from custody.payments.standing import settle_state
from custody.payments.transitions import TransitionRefused, lock_payment
from custody.settings.chains import Chain
from custody.store.engine import attempts, forbid_inside_transaction, is_retryable, ring_relay, transaction
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)

FAR_BLOCKS: Final = (
    8  # above what a quorum agreed on no honest node is further ahead; nearer, the chain gets there first
)

# What may be wrong with one look alone; anything else stops the batch and is said loudly.
_LOOK_FAILURES: Final = (MalformedLog, Unproved, LedgerRefusal, TransitionRefused, LookupError, DBAPIError)


class NodeContradicts(Exception):
    """A node's answers do not fit each other or what stands: it is behind, or lying. Nothing was changed."""


class OtherBranch(Exception):
    """What was read is not of the branch that was scanned: the next scan sees to it. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a node said about one transaction; ``headers`` has the blocks of receipt and standing facts."""

    transaction_hash: str
    receipt: Receipt | None
    """Only of a block that is canonical on that node."""
    head: BlockHeader
    headers: Mapping[int, BlockHeader]
    voices: int = 1
    """How many nodes said it alike."""
    agreed: int | None = None
    """The newest block that a quorum has agreed on, where several nodes make one."""
    is_quorum: bool = True
    rises: native_proof.Rises = field(default_factory=dict[str, int])
    """What proves the native proxy's events of the receipt (L8), see native_proof."""


@dataclass(slots=True)
class Detected:
    """What one look changed."""

    new_facts: int = 0
    reversed_facts: int = 0
    standing: int = 0
    """Live facts of the transaction afterwards."""
    payments: set[UUID] = field(default_factory=set[UUID])
    destinations: set[UUID] = field(default_factory=set[UUID])


def detect(connection: Connection, chain: Chain, sighting: Sighting) -> Detected:
    """Reconcile the live facts of one transaction with the canonical chain, in the caller's transaction.

    A fact is a Transfer log of an allow-listed token to any address ever issued, amount > 0, or native coin (L8).
    Raises NodeContradicts, Unproved, MalformedLog, LedgerRefusal: roll the transaction back then.
    """
    standing = facts.lock_standing_facts(connection, chain.id, sighting.transaction_hash)
    found = {} if sighting.receipt is None else _by_ordinal(facts.arrivals(connection, chain, sighting.receipt))
    gone = [fact for fact in standing if _has_vanished(fact, sighting, found)]
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
        unwind(connection, chain.id, sighting.head, gone, sighting.headers.get(gone[0].block_number))
        result.reversed_facts = len(gone)
    if counted:
        _supersede(connection, counted)
    for one in plan:
        _apply(connection, chain.id, one, result)
    for payment_id in sorted(result.payments):
        settle_state(connection, payment_id)
    for destination_id in sorted(result.destinations):
        show_balance(connection, destination_id)
    if result.new_facts:
        ring(connection, "confirmations")
    return result


def _supersede(connection: Connection, counted: list[StandingFact]) -> None:
    """A transaction tells what a balance had told before (L8): never both. What else the balance had is found again."""
    try:
        for fact in counted:
            reverse(connection, fact)
    except BookTooSmall as error:
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


def _has_vanished(fact: StandingFact, sighting: Sighting, found: Mapping[int, Arrival]) -> bool:
    """Whether the fact is provably not on the canonical chain. Silence proves nothing: a node may be behind."""
    header = sighting.headers.get(fact.block_number)
    stands = header is not None and header.hash == fact.block_hash
    shown = stands and sighting.receipt is not None and sighting.receipt.block_hash == fact.block_hash
    agreed = sighting.agreed
    if not sighting.is_quorum and agreed is not None and fact.block_number <= agreed and not shown:
        raise NodeContradicts(f"a quorum agreed on block {agreed}: fewer nodes take back nothing up to it")
    # What is not deep yet may be the word of a node that was alone; a quorum says what it was worth (L13).
    is_doubtful = sighting.is_quorum and sighting.voices > 1 and not fact.is_judged and fact.token != NATIVE
    if header is None:
        if is_doubtful and agreed is not None and fact.block_number > agreed + FAR_BLOCKS:
            return True
        raise NodeContradicts(
            f"the node does not reach block {fact.block_number}, where this transaction was seen before"
        )
    if not stands:
        return True
    if not shown:
        if is_doubtful:
            return True
        raise NodeContradicts(
            f"block {fact.block_hash} still stands, but the node shows this transaction elsewhere or nowhere"
        )
    arrival = found.get(fact.tx_ordinal)
    return is_doubtful and (arrival is None or not arrival.is_same_transfer(fact))


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
    lost = lost_of(connection, chain_id, one.arrival, one.payment_id)
    left = transfer.amount if lost is None else recover(connection, fact_id, one.arrival, lost)
    if left:
        facts.post_detected(connection, fact_id, one.arrival, left, payment_id=one.payment_id, basis=one.basis)
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


class Reader(Protocol):
    """Who answers for the chain: one node, or several of which only the common word counts."""

    def receipts_and_headers(
        self, transaction_hashes: Sequence[str], /, *, values: bool = False
    ) -> ReceiptsAndHeaders: ...

    def headers(self, numbers: set[int], /) -> dict[int, BlockHeader]: ...

    def balances_at(self, places: Sequence[tuple[str, str]], /) -> dict[tuple[str, str], int]: ...


def answer_looks(
    engine: Engine,
    reader: Reader,
    chain: Chain,
    fence: Fence,
    limit: int,
    *,
    anchor: ScannedHash | None = None,
    agreed: ScannedHash | None = None,
    voices: int = 1,
    is_quorum: bool = True,
) -> int:
    """Answer up to ``limit`` due looks; return how many moved on.

    ``anchor``: the block up to which the chain was scanned. The reader must still have it when everything else is read, or
    nothing it says counts: what it shows is of a branch that no scan has seen, and would miss if it went again.
    ``agreed``: the newest block that a quorum agreed on; ``voices``: how many nodes the reader needs to say the same.
    Where ``is_quorum`` is False these are fewer than a quorum: they must have that block, or nothing they say counts.
    Three batched requests: head and receipts, the headers of their blocks, the anchor's; none when nothing is due. Raises
    ChainUnavailable, Fenced.
    """
    with transaction(engine) as connection:
        due = looks.due_looks(connection, chain.id, limit)
        if not due:
            return 0
        heights = facts.block_numbers_of(connection, chain.id, [look.transaction_hash for look in due])
    forbid_inside_transaction("reading receipts")
    if not is_quorum and agreed is not None and not _is_anchored(reader, agreed):
        log.warning(
            "looks_wait", chain_id=chain.id, reason=f"the node does not have block {agreed.number} {agreed.hash}"
        )
        return 0
    askable = [look for look in due if look.is_well_formed]
    moved = 0
    for look in due:
        if not look.is_well_formed:
            with fence.transaction(engine) as connection:
                looks.give_up(connection, look, "this is no transaction hash: expected 0x and 64 hex digits")
            moved += 1
    try:
        sightings = _read(engine, reader, chain, fence, askable, heights, anchor) if askable else {}
    except OtherBranch as error:
        log.warning("looks_wait", chain_id=chain.id, reason=str(error))
        return moved
    for look in askable:
        if look.transaction_hash in sightings:
            sighting = replace(
                sightings[look.transaction_hash],
                voices=voices,
                agreed=None if agreed is None else agreed.number,
                is_quorum=is_quorum,
            )
            moved += _answer(engine, chain, fence, look, sighting)
    if moved:
        ring_relay(engine)
    return moved


def _is_anchored(reader: Reader, anchor: ScannedHash) -> bool:
    header = reader.headers({anchor.number}).get(anchor.number)
    return header is not None and header.hash == anchor.hash


def _read(
    engine: Engine,
    reader: Reader,
    chain: Chain,
    fence: Fence,
    due: list[Look],
    heights: set[int],
    anchor: ScannedHash | None,
) -> dict[str, Sighting]:
    """Everything the chain says about the due transactions; one that chokes it does not stop the others."""
    try:
        return _read_batch(engine, reader, chain, [look.transaction_hash for look in due], heights, anchor)
    except ChainUnavailable:
        if len(due) == 1:
            with _look_failed(engine, fence, due[0]):
                raise
            return {}
    found: dict[str, Sighting] = {}
    _read_batch(engine, reader, chain, [], heights, anchor)  # raises if the nodes are away altogether
    for look in due:
        with _look_failed(engine, fence, look):
            found |= _read_batch(engine, reader, chain, [look.transaction_hash], heights, anchor)
    return found


def _read_batch(
    engine: Engine, reader: Reader, chain: Chain, hashes: list[str], heights: set[int], anchor: ScannedHash | None
) -> dict[str, Sighting]:
    found = reader.receipts_and_headers(hashes, values=True)
    headers = dict(found.headers)  # the head is one node's word
    missing = heights - headers.keys()
    if anchor is not None:
        missing.add(anchor.number)  # last, also where its height was read before
    if missing:
        shown = reader.headers(missing)
        if anchor is not None and (anchor.number not in shown or shown[anchor.number].hash != anchor.hash):
            raise OtherBranch(f"the chain that shows them does not have block {anchor.number} {anchor.hash}")
        headers |= shown
    receipts = {one: found.canonical(one) for one in hashes}
    rises = native_proof.read_rises(engine, reader, chain, filter(None, receipts.values()), headers)
    return {one: Sighting(one, receipts[one], found.head, headers, rises=rises.get(one, {})) for one in hashes}


def _answer(engine: Engine, chain: Chain, fence: Fence, look: Look, sighting: Sighting) -> int:
    """One look, one transaction of the database. Returns 1 if it moved on."""
    with _look_failed(engine, fence, look):
        for attempt in attempts():
            try:
                with fence.transaction(engine) as connection:
                    return _answer_inside(connection, chain, look, sighting)
            except DBAPIError as error:
                if not is_retryable(error) or attempt == max(attempts()):
                    raise
    return 0


def _answer_inside(connection: Connection, chain: Chain, look: Look, sighting: Sighting) -> int:
    if not looks.lock_look(connection, look):
        return 0
    result = detect(connection, chain, sighting)
    if sighting.receipt is None:
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
def _look_failed(engine: Engine, fence: Fence, look: Look) -> Generator[None]:
    """A look that fails waits and says why; it stops no other."""
    try:
        yield
    except (NodeContradicts, ChainUnavailable, *_LOOK_FAILURES) as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        why = f"{type(error).__name__}: {error}"
        log.warning("look_failed", transaction_hash=look.transaction_hash, reason=why)
        with fence.transaction(engine) as connection:
            looks.try_later(connection, look, why)

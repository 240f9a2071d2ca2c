"""Detection: the books are brought to what the canonical chain says about transactions (L1, L20).

The watcher's step. Each transaction is looked at as a whole: facts that vanished are reversed first, then new
ones are booked. A webhook is only the reason to look; nothing in it is believed. Any number of transactions that only
bring money cost the same few statements.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection

from custody.chain import facts, looks, native_proof
from custody.chain.assets import NATIVE
from custody.chain.attribution import Attribution, Basis, attribute, attribution_of, earlier_attributions
from custody.chain.blocks import BlockHeader
from custody.chain.facts import Arrival, StandingFact
from custody.chain.native import Unproved
from custody.chain.receipts import Receipt
from custody.chain.unwinding import ever_lost, lost_of, recover, reverse, unwind
from custody.destinations.balance import show_balances
from custody.ledger import BATCH_MAXIMUM, BookTooSmall, Entry, post_together
from custody.payments.standing import settle_states
from custody.payments.transitions import lock_payments
from custody.settings.chains import Chain
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)

FAR_BLOCKS: Final = (
    8  # above what a quorum agreed on no honest node is further ahead; nearer, the chain gets there first
)


class NodeContradicts(Exception):
    """A node's answers do not fit each other or what stands: it is behind, or lying. Nothing was changed."""


class NotTogether(Exception):
    """A transaction among several that must be looked at alone, as its outcome may change theirs. Nothing was changed."""


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
    booked: list["Booked"] = field(default_factory=list["Booked"])


@dataclass(frozen=True, slots=True)
class Booked:
    """A transfer that was booked now, for the log once that is committed."""

    arrival: Arrival
    fact_id: UUID
    payment_id: UUID
    basis: Basis


def detect(connection: Connection, chain: Chain, sighting: Sighting) -> Detected:
    """``detect_together`` of one transaction. What vanished is taken back only so."""
    [result] = detect_together(connection, chain, [sighting])
    return result


def detect_together(connection: Connection, chain: Chain, sightings: Sequence[Sighting]) -> list[Detected]:
    """Reconcile the live facts of transactions with the canonical chain, in the caller's; return what came of each.

    A fact is a Transfer log of an allow-listed token to any address ever issued, amount > 0, or native coin (L8).
    Raises NodeContradicts, Unproved, MalformedLog, LedgerRefusal, and NotTogether when one of several takes anything
    back, brings native coin or what was lost before: roll the transaction back then.
    """
    cases = _cases(connection, chain, sightings)
    _plan(connection, chain, cases)
    for case in cases:
        _prove(connection, chain, case)
    gone = [fact for case in cases for fact in (*case.gone, *case.counted)]
    plans = [one for case in cases for one in case.plans]
    payments = {one.payment_id for one in (*gone, *plans) if one.payment_id is not None}
    destinations = {fact.destination_id for case in cases for fact in case.gone}
    destinations |= {one.arrival.destination.id for one in plans}
    # L17: destinations, then payments, each by id, before any balance row.
    if destinations:
        facts.lock_destinations(connection, destinations)
    if payments:
        lock_payments(connection, payments)
    for case in cases:
        if case.gone:
            replaced_by = case.sighting.headers.get(case.gone[0].block_number)
            unwind(connection, chain.id, case.sighting.head, case.gone, replaced_by)
        if case.counted:
            _supersede(connection, case.counted)
    _apply(connection, chain.id, cases)
    settle_states(connection, payments)
    show_balances(connection, destinations)
    if any(case.result.new_facts for case in cases):
        ring(connection, "confirmations")
    return [case.result for case in cases]


@dataclass(slots=True)
class _Case:
    """One transaction: what stands of it in the books, and what it brought."""

    sighting: Sighting
    found: Mapping[int, Arrival]
    gone: list[StandingFact]
    kept: Mapping[int, StandingFact]
    result: Detected
    plans: list["_Plan"] = field(default_factory=list["_Plan"])
    counted: list[StandingFact] = field(default_factory=list[StandingFact])

    @property
    def wanted(self) -> list[tuple[Arrival, StandingFact | None]]:
        """What is to be booked: new arrivals, and standing ones that had no payment yet."""
        return [
            (arrival, self.kept.get(ordinal))
            for ordinal, arrival in self.found.items()
            if ordinal not in self.kept or self.kept[ordinal].payment_id is None
        ]


@dataclass(frozen=True, slots=True)
class _Plan:
    arrival: Arrival
    fact: StandingFact | None
    """A standing fact that had no payment yet; None for a new one."""
    payment_id: UUID | None
    basis: Basis


def _cases(connection: Connection, chain: Chain, sightings: Sequence[Sighting]) -> list[_Case]:
    standing = facts.lock_standing_facts(connection, chain.id, [one.transaction_hash for one in sightings])
    arrived = facts.arrivals(connection, chain, [one.receipt for one in sightings if one.receipt is not None])
    cases: list[_Case] = []
    for sighting in sightings:
        arrivals = arrived[sighting.transaction_hash] if sighting.receipt is not None else []
        found = {arrival.inbound.tx_ordinal: arrival for arrival in arrivals}
        facts_of_it = standing.get(sighting.transaction_hash, [])
        gone = [fact for fact in facts_of_it if _has_vanished(fact, sighting, found)]
        kept = {fact.tx_ordinal: fact for fact in facts_of_it if fact not in gone}
        case = _Case(sighting, found, gone, kept, Detected(standing=len(kept), reversed_facts=len(gone)))
        if len(sightings) > 1 and (gone or any(arrival.token == NATIVE for arrival, _ in case.wanted)):
            raise NotTogether(f"transaction {sighting.transaction_hash} takes back, or brings native coin")
        cases.append(case)
    return cases


def _plan(connection: Connection, chain: Chain, cases: Iterable[_Case]) -> None:
    """Say of everything that is to be booked whose it is (L1, L11)."""
    arrivals = [arrival for case in cases for arrival, _ in case.wanted]
    if not arrivals:
        return
    by_place = {(one.destination.id, one.inbound.reference_topic) for one in arrivals}
    attributed = attribute(connection, by_place)
    earlier = earlier_attributions(connection, chain.id, arrivals)

    def whose(arrival: Arrival) -> tuple[UUID | None, Basis]:
        now = attributed[arrival.destination.id, arrival.inbound.reference_topic]
        if now is not None and now[1] == "reference":
            return now
        before = earlier.get((arrival.inbound.transfer.transaction_hash, arrival.inbound.tx_ordinal))
        return before or now or (None, "newest")

    for case in cases:
        case.plans = [_Plan(arrival, fact, *whose(arrival)) for arrival, fact in case.wanted]


def _prove(connection: Connection, chain: Chain, case: _Case) -> None:
    """Native coin: a proxy's word needs its proof, and what an address' balance had told before is not told twice (L8)."""
    receipt = case.sighting.receipt
    new = [one.arrival for one in case.plans if one.fact is None]
    natively = {arrival.destination.id for arrival in new if arrival.token == NATIVE}
    if receipt is None or not natively:
        return
    native_proof.require_proof(connection, chain, receipt, new, case.found.values(), case.sighting.rises)
    case.counted = facts.lock_reconciled(connection, chain.id, natively, receipt.block_number)
    # The same coins stay the same payment's, though it may be funded by them meanwhile (as in L1).
    owners = {fact.destination_id: attribution_of(connection, fact.id) for fact in case.counted}
    case.plans = [_owned(one, owners.get(one.arrival.destination.id)) for one in case.plans]


def _supersede(connection: Connection, counted: list[StandingFact]) -> None:
    """A transaction tells what a balance had told before (L8): never both. What else the balance had is found again."""
    try:
        for fact in counted:
            reverse(connection, fact)
    except BookTooSmall as error:
        raise Unproved(f"the coins were booked by their address' balance already: {error}") from error


def _owned(one: _Plan, owner: Attribution | None) -> _Plan:
    is_told = one.fact is not None or one.basis == "reference" or one.arrival.token != NATIVE
    return one if is_told or owner is None else replace(one, payment_id=owner[0], basis=owner[1])


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


def _apply(connection: Connection, chain_id: int, cases: Sequence[_Case]) -> None:
    """Write the facts and their entries, in the order of the transactions and of what each brought."""
    planned = [(case, one) for case in cases for one in case.plans]
    if not planned:
        return
    lost = ever_lost(connection, {one.payment_id for _, one in planned if one.payment_id is not None})
    if lost and len(cases) > 1:
        raise NotTogether(f"what these payments lost may have come back: {sorted(str(one) for one in lost)}")
    ids = _write_facts(connection, chain_id, planned)
    entries: list[Entry] = []
    for (case, one), fact_id in zip(planned, ids, strict=True):
        transfer, payment_id = one.arrival.inbound.transfer, one.payment_id
        if one.fact is None:
            case.result.new_facts += 1
            case.result.standing += 1
        if payment_id is None:
            _bury_ownerless(connection, fact_id, one.arrival)
            continue
        missing = lost_of(connection, chain_id, one.arrival, payment_id) if payment_id in lost else None
        left = transfer.amount if missing is None else recover(connection, fact_id, one.arrival, missing)
        if left:
            entries.append(facts.seen_entry(fact_id, one.arrival, left, payment_id=payment_id, basis=one.basis))
        case.result.booked.append(Booked(one.arrival, fact_id, payment_id, one.basis))
    # By book, so that also several batches of entries lock the books in L17's order.
    entries.sort(key=lambda entry: (entry.book_id, entry.chain_id, entry.token))
    for start in range(0, len(entries), BATCH_MAXIMUM):
        post_together(connection, entries[start : start + BATCH_MAXIMUM])


def _write_facts(connection: Connection, chain_id: int, planned: Sequence[tuple[_Case, _Plan]]) -> list[UUID]:
    """Insert the new facts, give the others their payment; return the ids of all, in their order."""
    new = [(one.arrival, one.payment_id) for _, one in planned if one.fact is None]
    inserted = iter(facts.insert_facts(connection, chain_id, new) if new else [])
    ids: list[UUID] = []
    for _, one in planned:
        ids.append(next(inserted) if one.fact is None else one.fact.id)
        if one.fact is not None and one.payment_id is not None:
            facts.set_payment(connection, one.fact.id, one.payment_id)
    return ids


def _bury_ownerless(connection: Connection, fact_id: UUID, arrival: Arrival) -> None:
    transfer = arrival.inbound.transfer
    bury(
        connection,
        queue=looks.QUEUE,
        subject_kind="chain_fact",
        subject_id=fact_id,
        reason=f"{transfer.amount} units of {arrival.token} came to {transfer.recipient}: no payment is there",
        unblocks="give the address a payment, then ask for a look at the transaction again",
        attempts=1,
    )


def say_booked(chain_id: int, result: Detected) -> None:
    """Log what a look has booked; called once it is committed."""
    for one in result.booked:
        transfer = one.arrival.inbound.transfer
        log.info(
            "payment_detected",
            chain_id=chain_id,
            payment_id=str(one.payment_id),
            fact_id=str(one.fact_id),
            transaction_hash=transfer.transaction_hash,
            token=one.arrival.token,
            amount_units=str(transfer.amount),
            attribution=one.basis,
        )

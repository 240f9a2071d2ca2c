"""Batches: many destinations swept by one transaction of the gas payer, each judged by its own logs.

A destination that cannot be swept is left out before the transaction is made, or fails alone after it; the others go.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from custody.chain import ChainClient, ExecutionReverted, ReceiptsAndHeaders
from custody.chain.lanes import LaneBlocked, LaneTransaction
from custody.destinations.keys.client import KeysAgentAway, SigningPostponed
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps import batches, jobs, settling
from custody.destinations.sweeps.batch_method import BatchMethod, Unfit
from custody.destinations.sweeps.batch_settling import settle_batch
from custody.destinations.sweeps.batch_signing import BatchSigner
from custody.destinations.sweeps.batches import Batch, Item, MethodTaken
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms, batch_gas_limit_for
from custody.destinations.sweeps.house_costs import Mined
from custody.destinations.sweeps.jobs import LeaseLost, SweepJob
from custody.destinations.sweeps.sightings import OPEN_TRANSACTIONS, came_to_nothing, is_quarantined, receipt_of
from custody.destinations.sweeps.signing import BatchCall, SweepSigner
from custody.destinations.sweeps.strategy import CREATE2_FORWARDER, SweepRound
from custody.settings.chains import Chain

_WAITS: Final = (
    ExecutionReverted, FeesTooHigh, KeysAgentAway, LaneBlocked, ShapeRefused, SigningPostponed, ValueError,
)  # fmt: skip
HALVINGS_MAXIMUM: Final = 12  # of a batch that reverts as a whole; long before it each destination is alone


@dataclass(frozen=True, slots=True)
class _At:
    """A round as its methods reach the chain: ``chain`` names the treasury that their batches go to; see Reach."""

    work: SweepRound
    chain: Chain

    @property
    def client(self) -> ChainClient:
        return self.work.client

    @property
    def signer(self) -> SweepSigner:
        return self.work.signer


class BatchSweeping:
    """The strategy of a batch method; see SweepStrategy."""

    def __init__(self, method: BatchMethod) -> None:
        self.signers = {"sweep": BatchSigner()}
        self._method = method
        self.name = method.name

    def advance(self, work: SweepRound) -> None:
        """Do one round for the jobs of one chain."""
        standing = self._standing(work)
        hashes = [each for batch in standing if batch.transaction for each in batch.transaction.hashes]
        seen = work.client.receipts_and_headers(hashes)
        unsent: list[Batch] = []
        for batch in standing:
            if batch.transaction is None:
                unsent.append(batch)
            else:
                self._follow(work, batch, batch.transaction, seen)
        fresh = [job for job in work.jobs if job.batch_id is None]
        if unsent or fresh:
            self._begin(work, unsent, fresh, seen)

    def _standing(self, work: SweepRound) -> list[Batch]:
        """The batches of this round's jobs, of which this worker has every open job."""
        own = {job.id: job.lease_token for job in work.jobs}
        found: list[Batch] = []
        for batch_id in dict.fromkeys(job.batch_id for job in work.jobs if job.batch_id is not None):
            batch = work.apply(lambda connection, id_=batch_id: batches.read(connection, id_))
            if batch is not None and all(own.get(job.id, object()) == job.lease_token for job in batch.jobs):
                found.append(batch)
                continue
            for job in work.jobs:
                if job.batch_id == batch_id:
                    work.wait(job, "batch_is_elsewhere: another worker has a part of it")
        return found

    def _follow(self, work: SweepRound, batch: Batch, transaction: LaneTransaction, seen: ReceiptsAndHeaders) -> None:
        """Its lane looks after the transaction; here only what it came to."""
        receipt = receipt_of(transaction, seen)
        with work.apart(batch.jobs[0]):
            if receipt is not None:
                settle_batch(work, self._method, batch, Mined(transaction, receipt), seen)
            elif came_to_nothing(transaction) and transaction.state not in OPEN_TRANSACTIONS:
                self._dissolve(work, batch, f"batch_came_to_nothing: {transaction.cancel_reason or transaction.state}")
            else:
                reason = work.reasons.get(batch.id, "sweep_waits_for_block")
                work.wait(batch.jobs[0], reason)
        _share_reason(work, batch.jobs)

    def _dissolve(self, work: SweepRound, batch: Batch, reason: str) -> None:
        def dissolve(connection: Connection) -> None:
            batches.lock_all(connection, batch)
            batches.dissolve(connection, batch, reason, count=False)

        work.apply(dissolve)
        work.step()

    def _begin(
        self,
        work: SweepRound,
        unsent: Sequence[Batch],
        fresh: Sequence[SweepJob],
        seen: ReceiptsAndHeaders,
    ) -> None:
        """By treasury: a forwarder pays the one that it was made for, whichever binds now (R22)."""
        if self.name != CREATE2_FORWARDER:
            self._begin_at(_At(work, work.chain), unsent, fresh, seen)
            return
        treasuries = [*(job.treasury for job in fresh), *(batch.jobs[0].treasury for batch in unsent)]
        for treasury in dict.fromkeys(treasuries):
            self._begin_at(
                _At(work, work.chain.at(treasury)),
                [batch for batch in unsent if batch.jobs[0].treasury == treasury],
                [job for job in fresh if job.treasury == treasury],
                seen,
            )

    def _begin_at(
        self, reach: "_At", unsent: Sequence[Batch], fresh: Sequence[SweepJob], seen: ReceiptsAndHeaders
    ) -> None:
        work = reach.work
        members = [*fresh, *(job for batch in unsent for job in batch.jobs)]
        lane = work.payers.pick(0)
        why = lane if isinstance(lane, str) else self._method.why_not(reach)
        try:
            quote = FeeQuote.capped(*work.client.fees(), work.chain.gas)
        except FeesTooHigh as error:
            why = why or f"fees_too_high: {error}"
            quote = None
        if why is not None or quote is None:
            for job in members:
                work.wait(job, why or "")
            return
        items = dict(zip((job.id for job in members), self._method.look(reach, members), strict=True))
        for job in members:
            found = items[job.id]
            if isinstance(found, Unfit):
                if found.is_final:
                    with work.apart(job):
                        settling.fail(work, job, (), seen, found.reason)
                else:
                    work.wait(job, found.reason)
        for batch in unsent:
            self._renew(reach, batch, items, seen, quote)
        fit = [(job, item) for job in fresh if isinstance(item := items[job.id], Item)]
        for chunk in _chunks(fit, self._method.limit):
            formed = self._form(work, chunk)
            if formed is not None:
                self._send(reach, formed, seen, quote)

    def _renew(
        self,
        reach: "_At",
        batch: Batch,
        items: Mapping[UUID, Item | Unfit],
        seen: ReceiptsAndHeaders,
        quote: FeeQuote,
    ) -> None:
        """Go on with a batch that was formed and not sent, or dissolve it where what it stored would be refused now."""
        work = reach.work
        kept = batch.without({job.id for job in batch.jobs if isinstance(items[job.id], Unfit)})

        def stands(job: SweepJob, stored: Item) -> bool:
            found = items[job.id]
            return isinstance(found, Item) and self._method.stands(stored, found)

        if kept.jobs and all(stands(job, item) for job, item in zip(kept.jobs, kept.items, strict=True)):
            self._send(reach, kept, seen, quote)
            return

        with work.apart(batch.jobs[0]):
            self._dissolve(work, kept, "its signatures are out of date")

    def _form(self, work: SweepRound, chunk: Sequence[tuple[SweepJob, Item]]) -> Batch | None:
        def form(connection: Connection) -> Batch | None:
            busy = batches.own_transactions_open(connection, [job for job, _ in chunk])
            members: list[tuple[SweepJob, Item]] = []
            for job, item in chunk:
                if job.address in busy:
                    work.wait(job, "own_transaction_open: the address has one under way")
                elif is_quarantined(connection, job):
                    work.wait(job, "quarantined")
                else:
                    members.append((job, item))
            if not members:
                return None
            return batches.read(connection, batches.form(connection, members, self._method.lifetime))

        try:
            formed = work.apply(form)
        except (LeaseLost, MethodTaken) as error:
            for job, _ in chunk:
                work.wait(job, f"batch_not_formed: {error}")
            return None
        if formed is not None:
            work.step()
        return formed

    def _send(self, reach: "_At", formed: Batch, seen: ReceiptsAndHeaders, quote: FeeQuote) -> None:
        """Compose, simulate, price, take the nonce; the lane signs and sends. What would fail is left out first."""
        work = reach.work
        batch = formed
        lane = work.payers.pick(0)
        try:
            if isinstance(lane, str):
                raise LaneBlocked(lane)
            composed = self._composed(reach, batch)
            failures = {} if composed is None else self._method.failures(reach, *composed, lane.address)
            for job in formed.jobs:
                if job.id in failures:
                    with work.apart(job):
                        settling.fail(work, job, (), seen, failures[job.id])
            if composed is not None and failures:
                composed = self._composed(reach, composed[0].without(set(failures)))
            if composed is None:
                work.apply(lambda connection: batches.end(connection, formed.id, "dissolved", "nothing in it is left"))
                return
            batch, call = composed
            terms = quote.terms(batch_gas_limit_for(self._method.estimate(reach, call, lane.address)))
            assert terms is not None  # without a budget they are found, or FeesTooHigh is raised
        except _WAITS as error:
            for job in batch.jobs:
                work.wait(job, f"batch_not_sent: {error}")
            return
        with work.apart(batch.jobs[0]):
            self._take(work, batch, call, terms)
        _share_reason(work, batch.jobs)

    def _composed(self, reach: "_At", batch: Batch) -> tuple[Batch, BatchCall] | None:
        """The call with every destination whose key signs; one that is refused stops no other."""
        if not batch.jobs:
            return None
        try:
            return batch, self._method.compose(reach, batch)
        except (ShapeRefused, ValueError) as error:
            refused: set[UUID] = set()
            for job in batch.jobs:
                alone = batch.without({other.id for other in batch.jobs} - {job.id})
                with reach.work.apart(job):
                    refused.add(job.id)
                    self._method.compose(reach, alone)
                    refused.discard(job.id)
            if not refused:
                raise ShapeRefused(f"the batch is refused, none of its destinations is alone: {error}") from None
            kept = batch.without(refused)
            return (kept, self._method.compose(reach, kept)) if kept.jobs else None

    def _take(self, work: SweepRound, batch: Batch, call: BatchCall, terms: GasTerms) -> None:
        lead = batch.jobs[0]
        lane = work.payers.pick(terms.cost)
        if isinstance(lane, str):
            work.wait(lead, lane)
            return
        # Before the nonce is taken: one that this key will not sign for is spent on nothing.
        work.signer.check_batch(work.chain.id, call, payer=lane.address, treasury=lead.treasury, gas=terms)

        def take(connection: Connection) -> LaneTransaction | None:
            batches.lock_all(connection, batch)
            if any(is_quarantined(connection, job) for job in sorted(batch.jobs, key=lambda job: job.destination_id)):
                batches.dissolve(connection, batch, "one of its addresses was quarantined", count=False)
                return None
            intent = lane.take(
                connection, purpose="sweep", subject_id=batch.id, recipient=call.to, value_wei=0, data=call.data
            )
            for job in batch.jobs:
                jobs.move(connection, job, "transferring")
            return intent

        intent = work.apply(take)
        if intent is not None:
            work.step()
            lane.promise(terms.cost)
            work.sending[lane.address].begin(intent, terms)
            work.reasons.setdefault(lead.id, work.reasons.get(batch.id, "sweep_waits_for_block"))


def _chunks(members: Sequence[tuple[SweepJob, Item]], limit: int) -> list[list[tuple[SweepJob, Item]]]:
    """Members of one token a chunk, those that were in reverted batches in smaller ones."""
    groups: dict[tuple[str, int], list[tuple[SweepJob, Item]]] = defaultdict(list)
    for job, item in members:
        groups[job.token, min(job.batch_tries, HALVINGS_MAXIMUM)].append((job, item))
    return [
        group[start : start + size]
        for (_, tries), group in groups.items()
        for size in [max(1, limit >> tries)]
        for start in range(0, len(group), size)
    ]


def _share_reason(work: SweepRound, members: Sequence[SweepJob]) -> None:
    """What the first of a batch waits for, all of it waits for."""
    reason = work.reasons.get(members[0].id)
    if reason is not None:
        for job in members[1:]:
            work.reasons.setdefault(job.id, reason)

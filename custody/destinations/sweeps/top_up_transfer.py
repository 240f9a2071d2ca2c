"""Top-up and transfer: a gas payer sends a destination what its own token transfer costs; then it transfers.

Works for every token and chain. Two transactions a destination; the top-ups of all destinations are sent without
waiting for each other, and so are the transfers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain import CallRequest, ExecutionReverted, ReceiptsAndHeaders
from custody.chain.erc20 import encode_transfer
from custody.chain.lanes import LaneTransaction, open_lane, take_nonce, transactions_of
from custody.destinations.sweeps import jobs, sending, settling
from custody.destinations.sweeps.booked import native_floats
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms, gas_limit_for
from custody.destinations.sweeps.house_costs import Mined
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.payers import PayerLane
from custody.destinations.sweeps.sightings import (
    OPEN_TRANSACTIONS,
    came_to_nothing,
    is_quarantined,
    receipt_of,
    stale_before_of,
)
from custody.destinations.sweeps.signing import key_of
from custody.destinations.sweeps.strategy import TOP_UP_TRANSFER, SweepRound

TOP_UPS_MAXIMUM: Final = 3  # a job whose gas price outran three top-ups waits until it fits


@dataclass(frozen=True, slots=True)
class _Funding:
    """A job that needs its next transaction: its open, mined top-ups, and what they brought (wei)."""

    job: SweepJob
    mined: tuple[Mined, ...]
    top_ups: int

    @property
    def brought_wei(self) -> int:
        return sum(item.transaction.value_wei for item in self.mined if item.receipt.succeeded)


class TopUpTransfer:
    """The strategy; see SweepStrategy."""

    name = TOP_UP_TRANSFER

    def __init__(self) -> None:
        self.signers = {"top_up": TopUpSigner()}

    def advance(self, work: SweepRound) -> None:
        """Do one round for the jobs of one chain."""
        signing = _Signing(work)
        owned = work.apply(lambda connection: {job.id: transactions_of(connection, job.id) for job in work.jobs})
        hashes = [
            each for rows in owned.values() for row in rows if row.state in OPEN_TRANSACTIONS for each in row.hashes
        ]
        seen = work.client.receipts_and_headers(hashes)
        stale_before = stale_before_of(work, seen)
        ready: list[_Funding] = []
        for job in work.jobs:
            with work.apart(job):
                funding = self._look(work, job, owned[job.id], seen, signing, stale_before)
                if funding is not None:
                    ready.append(funding)
        if ready:
            self._go_on(work, ready, seen, signing)

    def _look(
        self,
        work: SweepRound,
        job: SweepJob,
        rows: Sequence[LaneTransaction],
        seen: ReceiptsAndHeaders,
        signing: "_Signing",
        stale_before: datetime | None,
    ) -> _Funding | None:
        """Bring what is sent further; return the job if it needs its next transaction."""
        open_rows = [row for row in rows if row.state in OPEN_TRANSACTIONS]
        waiting = [row for row in open_rows if receipt_of(row, seen) is None]
        for row in waiting:
            if row.purpose == "top_up":  # its payer's lane looks after it
                work.reasons.setdefault(job.id, "top_up_waits_for_block")
            else:
                sending.push(work, job, row, signing.sign, stale_before)
        if waiting:
            return None
        mined = tuple(Mined(row, receipt) for row in open_rows if (receipt := receipt_of(row, seen)))
        if job.state != "transferring":
            if any(not item.receipt.succeeded for item in mined):
                settling.fail(work, job, mined, seen, "top_up_reverted: the address does not take plain coins")
                return None
            return _Funding(job, mined, sum(row.purpose == "top_up" and not came_to_nothing(row) for row in rows))
        settling.settle(work, job, mined, seen)
        return None

    def _go_on(
        self,
        work: SweepRound,
        ready: Sequence[_Funding],
        seen: ReceiptsAndHeaders,
        signing: "_Signing",
    ) -> None:
        """Send transfers for the jobs that can pay their gas, top-ups for the others."""
        places = work.payers.free_places
        funded = [item for item in ready if item.job.state == "funding"]
        planned = [item for item in ready if item.job.state == "planned"]
        for item in planned[places:]:
            why = work.payers.pick(0)
            work.wait(item.job, why if isinstance(why, str) else "in_flight_limit")
        items = funded + planned[:places]
        if not items:
            return
        try:
            quote = FeeQuote.capped(*work.client.fees(), work.chain.gas)
        except FeesTooHigh as error:
            for item in items:
                work.wait(item.job, f"fees_too_high: {error}")
            return
        accounts = work.client.accounts([item.job.address for item in items])
        estimates = work.client.estimates([_transfer_call(item.job) for item in items])
        floats = work.apply(
            lambda connection: {
                item.job.id: sum(
                    wei for _, wei in native_floats(connection, chain_id=work.chain.id, address=item.job.address)
                )
                for item in items
            }
        )
        short: list[tuple[_Funding, int]] = []
        for item, estimate in zip(items, estimates, strict=True):
            job = item.job
            if isinstance(estimate, ExecutionReverted):
                settling.fail(work, job, item.mined, seen, f"transfer_reverts: {estimate.reason}")
                continue
            try:
                limit = gas_limit_for(estimate)
                # Only the house's booked coins pay: dust from strangers at the address is not ours to spend.
                usable = min(accounts[job.address].balance, floats[job.id] + item.brought_wei)
                terms = quote.terms(limit, usable)
                wished = limit * quote.max_fee_for(limit)
            except FeesTooHigh as error:
                work.wait(job, f"gas_too_much: {error}")
                continue
            if terms is not None:
                with work.apart(job):
                    self._transfer(work, job, accounts[job.address].nonce, terms, signing)
            elif item.top_ups >= TOP_UPS_MAXIMUM:
                work.wait(job, "fees_outran_top_ups")
            else:
                short.append((item, wished - usable))
        if short:
            self._top_up(work, short, quote)

    def _transfer(
        self, work: SweepRound, job: SweepJob, chain_nonce: int, terms: GasTerms, signing: "_Signing"
    ) -> None:
        def take(connection: Connection) -> LaneTransaction | None:
            jobs.lock(connection, job)
            open_lane(connection, job.chain_id, job.address, "destination", chain_nonce)
            if is_quarantined(connection, job):
                work.wait(job, "quarantined")
                return None
            intent = take_nonce(
                connection,
                chain_id=job.chain_id,
                sender=job.address,
                purpose="sweep",
                subject_id=job.id,
                recipient=job.token,
                value_wei=0,
                data=encode_transfer(job.treasury, job.amount_units),
            )
            jobs.move(connection, job, "transferring")
            return intent

        intent = work.apply(take)
        if intent is not None:
            work.step()
            signing.terms[intent.id] = terms
            sending.push(work, job, intent, signing.sign, None)

    def _top_up(self, work: SweepRound, short: Sequence[tuple[_Funding, int]], quote: FeeQuote) -> None:
        # A node estimates for whoever has the coins; each payer's top-up costs the same.
        requests = [CallRequest(to=item.job.address, value=wei) for item, wei in short]
        for (item, wei), estimate in zip(short, work.client.estimates(requests), strict=True):
            job = item.job
            if isinstance(estimate, ExecutionReverted):
                work.wait(job, f"top_up_reverts: {estimate.reason}")
                continue
            try:
                terms = quote.terms(gas_limit_for(estimate))
            except FeesTooHigh as error:
                work.wait(job, f"gas_too_much: {error}")
                continue
            assert terms is not None  # FeeQuote.capped has refused dearer blocks
            lane = work.payers.pick(wei + terms.cost)
            if isinstance(lane, str):
                work.wait(job, lane)
                continue

            def take(
                connection: Connection, job: SweepJob = job, wei: int = wei, lane: PayerLane = lane
            ) -> LaneTransaction | None:
                jobs.lock(connection, job)
                if is_quarantined(connection, job):
                    work.wait(job, "quarantined")
                    return None
                intent = lane.take(
                    connection, purpose="top_up", subject_id=job.id, recipient=job.address, value_wei=wei
                )
                jobs.move(connection, job, "funding")
                return intent

            with work.apart(job):
                # Before the nonce is taken: one that this key will not sign for is spent on nothing.
                work.signer.check_top_up(
                    job.chain_id, job.address, wei, of=key_of(job), payer=lane.address, treasury=job.treasury, gas=terms
                )
                intent = work.apply(take)
                if intent is not None:
                    work.step()
                    lane.promise(wei + terms.cost)
                    work.sending[lane.address].begin(intent, terms)


class TopUpSigner:
    """Signs top-ups for the lanes of gas payers; see IntentSigner."""

    def gas_limit(self, work: SweepRound, intent: LaneTransaction) -> int:
        request = CallRequest(to=intent.recipient, value=intent.value_wei, sender=intent.sender)
        return gas_limit_for(work.client.estimate_gas(request))

    def sign(self, work: SweepRound, intent: LaneTransaction, terms: GasTerms) -> bytes:
        job = work.apply(lambda connection: jobs.by_id(connection, intent.subject_id))
        return work.signer.sign_top_up(intent, of=key_of(job), treasury=job.treasury, gas=terms)

    def why_pointless(self, connection: Connection, intent: LaneTransaction) -> str | None:
        job = jobs.by_id(connection, intent.subject_id)
        if job.state not in jobs.OPEN_STATES:
            return f"pointless: its job is {job.state}"
        status = connection.execute(
            text("SELECT status::text FROM public.derived_destinations WHERE id = :id"), {"id": job.destination_id}
        ).scalar_one()
        return "pointless: its destination is quarantined" if status == "quarantined" else None


class _Signing:
    """Signs transfers with terms found in this round, or finds them anew for an intent that a crash left."""

    def __init__(self, work: SweepRound) -> None:
        self._work = work
        self.terms: dict[UUID, GasTerms] = {}

    def sign(self, job: SweepJob, intent: LaneTransaction) -> bytes | None:
        work = self._work
        terms = self.terms.get(intent.id) or self._terms_now(job, intent)
        if terms is None:
            return None
        return work.signer.sign_sweep(intent, of=key_of(job), treasury=job.treasury, gas=terms)

    def _terms_now(self, job: SweepJob, intent: LaneTransaction) -> GasTerms | None:
        work = self._work
        request = CallRequest(to=intent.recipient, data=intent.data, value=intent.value_wei, sender=intent.sender)
        try:
            quote = FeeQuote.capped(*work.client.fees(), work.chain.gas)
            limit = gas_limit_for(work.client.estimate_gas(request))
            terms = quote.terms(limit, work.client.balance(intent.sender))
        except (FeesTooHigh, ExecutionReverted) as error:
            work.wait(job, f"{intent.purpose}_cannot_be_signed: {error}")
            return None
        if terms is None:
            work.wait(job, f"{intent.purpose}_cannot_be_signed: its gas costs more than the address has")
        return terms


def _transfer_call(job: SweepJob) -> CallRequest:
    return CallRequest(to=job.token, data=encode_transfer(job.treasury, job.amount_units), sender=job.address)

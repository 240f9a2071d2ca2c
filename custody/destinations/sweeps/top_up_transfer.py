"""Top-up and transfer: the gas payer sends a destination what its own token transfer costs; then it transfers.

Works for every token and chain. Two transactions a destination; the top-ups of all destinations are sent without
waiting for each other, and so are the transfers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain import CallRequest, ExecutionReverted, Receipt, ReceiptsAndHeaders
from custody.chain.erc20 import encode_transfer
from custody.chain.lanes import (
    LaneTransaction,
    open_lane,
    take_nonce,
    transactions_of,
    unfinished,
)
from custody.destinations.sweeps import jobs, sending, settling
from custody.destinations.sweeps.booked import native_float
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms, gas_limit_for
from custody.destinations.sweeps.finality import Mined
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.payer_float import watch_float
from custody.destinations.sweeps.planner import TOP_UP_TRANSFER
from custody.destinations.sweeps.signing import DepositKey, gas_terms_of
from custody.destinations.sweeps.strategy import SweepRound

TOP_UPS_MAXIMUM: Final = 3  # a job whose gas price outran three top-ups waits until it fits
_OPEN: Final = frozenset({"intent", "signed", "broadcast"})


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

    def advance(self, work: SweepRound) -> None:
        """Do one round for the jobs of one chain."""
        signing = _Signing(work)
        lane_is_free = sending.finish_intents(work, work.signer.gas_payer, signing.sign)
        owned = work.apply(lambda connection: {job.id: transactions_of(connection, job.id) for job in work.jobs})
        hashes = [
            row.transaction_hash
            for rows in owned.values()
            for row in rows
            if row.state in _OPEN and row.transaction_hash is not None
        ]
        seen = work.client.receipts_and_headers(hashes)
        stale_before = _stale_before(work, seen)
        _note_mined(work, owned, seen)
        ready: list[_Funding] = []
        for job in work.jobs:
            with work.apart(job):
                funding = self._look(work, job, owned[job.id], seen, signing, stale_before)
                if funding is not None:
                    ready.append(funding)
        if ready:
            self._go_on(work, ready, seen, signing, lane_is_free=lane_is_free)

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
        open_rows = [row for row in rows if row.state in _OPEN]
        waiting = [row for row in open_rows if _receipt(row, seen) is None]
        for row in waiting:
            sending.push(work, job, row, signing.sign, stale_before)
        if waiting:
            return None
        mined = tuple(Mined(row, receipt) for row in open_rows if (receipt := _receipt(row, seen)))
        if job.state != "transferring":
            if any(not item.receipt.succeeded for item in mined):
                settling.fail(work, job, mined, seen, "top_up_reverted: the address does not take plain coins")
                return None
            return _Funding(job, mined, sum(row.purpose == "top_up" for row in rows))
        settling.settle(work, job, mined, seen)
        return None

    def _go_on(
        self,
        work: SweepRound,
        ready: Sequence[_Funding],
        seen: ReceiptsAndHeaders,
        signing: "_Signing",
        *,
        lane_is_free: bool,
    ) -> None:
        """Send transfers for the jobs that can pay their gas, top-ups for the others."""
        slots = max(0, work.in_flight_limit - work.apply(lambda connection: _in_flight(connection, work)))
        funded = [item for item in ready if item.job.state == "funding"]
        planned = [item for item in ready if item.job.state == "planned"]
        for item in planned[slots:]:
            work.wait(item.job, "in_flight_limit")
        items = funded + planned[:slots]
        if not items:
            return
        try:
            quote = FeeQuote.capped(*work.client.fees())
        except FeesTooHigh as error:
            for item in items:
                work.wait(item.job, f"fees_too_high: {error}")
            return
        payer = work.signer.gas_payer
        accounts = work.client.accounts([payer, *(item.job.address for item in items)])
        work.apply(lambda connection: watch_float(connection, work, accounts[payer].balance))
        estimates = work.client.estimates([_transfer_call(item.job) for item in items])
        floats = work.apply(
            lambda connection: {
                item.job.id: native_float(
                    connection, book_id=work.house_book, chain_id=work.chain.id, address=item.job.address
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
        if short and lane_is_free:
            self._top_up(work, short, quote, accounts[payer].nonce, accounts[payer].balance, signing)

    def _transfer(
        self, work: SweepRound, job: SweepJob, chain_nonce: int, terms: GasTerms, signing: "_Signing"
    ) -> None:
        def take(connection: Connection) -> LaneTransaction | None:
            jobs.lock(connection, job)
            open_lane(connection, job.chain_id, job.address, "destination", chain_nonce)
            if _is_quarantined(connection, job):
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

    def _top_up(
        self,
        work: SweepRound,
        short: Sequence[tuple[_Funding, int]],
        quote: FeeQuote,
        chain_nonce: int,
        payer_wei: int,
        signing: "_Signing",
    ) -> None:
        payer = work.signer.gas_payer
        affordable: list[tuple[_Funding, int]] = []
        for item, wei in short:
            if wei > payer_wei:
                work.wait(item.job, f"gas_payer_empty: {payer} has {payer_wei} wei, {wei} wei are needed")
            else:
                affordable.append((item, wei))
        requests = [CallRequest(to=item.job.address, value=wei, sender=payer) for item, wei in affordable]
        for (item, wei), estimate in zip(affordable, work.client.estimates(requests), strict=True):
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

            def take(
                connection: Connection, job: SweepJob = job, wei: int = wei, terms: GasTerms = terms
            ) -> LaneTransaction | None:
                jobs.lock(connection, job)
                open_lane(connection, job.chain_id, payer, "gas_payer", chain_nonce)
                if _is_quarantined(connection, job):
                    work.wait(job, "quarantined")
                    return None
                if _in_flight(connection, work) >= work.in_flight_limit:
                    work.wait(job, "in_flight_limit")
                    return None
                missing = wei + terms.cost - _house_free(connection, work)
                if missing > 0:
                    work.wait(job, f"house_float_low: the gas payer's book lacks {missing} wei; fund {payer}")
                    return None
                intent = take_nonce(
                    connection,
                    chain_id=job.chain_id,
                    sender=payer,
                    purpose="top_up",
                    subject_id=job.id,
                    recipient=job.address,
                    value_wei=wei,
                )
                jobs.move(connection, job, "funding")
                return intent

            with work.apart(job):
                # Before the nonce is taken: a nonce that this key will not sign for would block the lane.
                work.signer.check_top_up(
                    job.chain_id, job.address, wei, of=_key(job), payer=payer, treasury=job.treasury, gas=terms
                )
                intent = work.apply(take)
                if intent is not None:
                    work.step()
                    signing.terms[intent.id] = terms
                    sending.push(work, job, intent, signing.sign, None)


class _Signing:
    """Signs intents with terms found in this round, or finds them anew for an intent that a crash left."""

    def __init__(self, work: SweepRound) -> None:
        self._work = work
        self.terms: dict[UUID, GasTerms] = {}

    def sign(self, job: SweepJob, intent: LaneTransaction) -> bytes | None:
        work = self._work
        terms = self.terms.get(intent.id) or self._terms_now(job, intent)
        if terms is None:
            return None
        if intent.purpose == "top_up":
            return work.signer.sign_top_up(intent, of=_key(job), treasury=job.treasury, gas=terms)
        return work.signer.sign_sweep(intent, of=_key(job), treasury=job.treasury, gas=terms)

    def _terms_now(self, job: SweepJob, intent: LaneTransaction) -> GasTerms | None:
        work = self._work
        request = CallRequest(to=intent.recipient, data=intent.data, value=intent.value_wei, sender=intent.sender)
        try:
            quote = FeeQuote.capped(*work.client.fees())
            limit = gas_limit_for(work.client.estimate_gas(request))
            affordable = None if intent.purpose == "top_up" else work.client.balance(intent.sender)
            terms = quote.terms(limit, affordable)
        except (FeesTooHigh, ExecutionReverted) as error:
            work.wait(job, f"{intent.purpose}_cannot_be_signed: {error}")
            return None
        if terms is None:
            work.wait(job, f"{intent.purpose}_cannot_be_signed: its gas costs more than the address has")
        return terms


def _key(job: SweepJob) -> DepositKey:
    return DepositKey(job.account_fingerprint or "", job.derivation_index)


def _transfer_call(job: SweepJob) -> CallRequest:
    return CallRequest(to=job.token, data=encode_transfer(job.treasury, job.amount_units), sender=job.address)


def _receipt(row: LaneTransaction, seen: ReceiptsAndHeaders) -> Receipt | None:
    return None if row.transaction_hash is None else seen.canonical(row.transaction_hash)


def _stale_before(work: SweepRound, seen: ReceiptsAndHeaders) -> datetime | None:
    number = seen.head.number - sending.REBROADCAST_AFTER_BLOCKS
    header = work.client.header(number) if number > 0 else None
    return None if header is None else datetime.fromtimestamp(header.timestamp, UTC)


def _is_quarantined(connection: Connection, job: SweepJob) -> bool:
    status = connection.execute(
        text("SELECT status::text FROM public.derived_destinations WHERE id = :id FOR UPDATE"),
        {"id": job.destination_id},
    ).scalar_one()
    return status == "quarantined"


def _note_mined(work: SweepRound, owned: Mapping[UUID, Sequence[LaneTransaction]], seen: ReceiptsAndHeaders) -> None:
    """Note in which block each top-up was seen, so that it no longer counts as in flight. Final it is at depth."""
    blocks = [
        {"id": row.id, "number": receipt.block_number, "hash": receipt.block_hash}
        for rows in owned.values()
        for row in rows
        if row.purpose == "top_up" and row.state == "broadcast" and (receipt := _receipt(row, seen))
    ]
    if blocks:
        work.apply(
            lambda connection: connection.execute(
                text(
                    "UPDATE fleet.chain_transactions SET block_number = :number, block_hash = :hash "
                    "WHERE id = :id AND state = 'broadcast' AND block_hash IS DISTINCT FROM :hash"
                ),
                sorted(blocks, key=lambda block: block["id"]),
            )
        )


def _in_flight(connection: Connection, work: SweepRound) -> int:
    """The payer's top-ups that no block has been seen to hold. Exact while the payer's lane is locked."""
    return connection.execute(
        text(
            "SELECT count(*) FROM fleet.chain_transactions WHERE chain_id = :chain AND sender = :payer "
            "AND state IN ('intent', 'signed', 'broadcast') AND block_hash IS NULL"
        ),
        {"chain": work.chain.id, "payer": work.signer.gas_payer},
    ).scalar_one()


def _house_free(connection: Connection, work: SweepRound) -> int:
    """What the payer's book holds beyond all it has promised to blocks not booked yet, wei.

    Without this a mined top-up could find its book too small, and wait for funding that waits for it.
    """
    booked = connection.execute(
        text(
            "SELECT (gas_payer * 1000000000000000000)::numeric(78, 0) FROM fleet.ledger_balances "
            "WHERE book_id = :book AND chain_id = :chain AND token = 'native'"
        ),
        {"book": work.house_book, "chain": work.chain.id},
    ).scalar_one_or_none()
    promised = sum(
        row.value_wei + (0 if row.signed_bytes is None else gas_terms_of(row.signed_bytes).cost)
        for row in unfinished(connection, work.chain.id, work.signer.gas_payer)
    )
    return int(booked or 0) - promised

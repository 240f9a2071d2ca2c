"""Native coin pays its own way: a destination sends all that was judged, less the fee, which leaves nothing behind (L8).

The fee is fixed beforehand: priority and maximum are the same price, so gas x price is what the transaction takes. The
payment's book moves value and fee; the treasury's own coins give the fee back in the same transaction of the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, text

from custody.chain import CallRequest, ChainUnavailable, ExecutionReverted, ReceiptsAndHeaders, TransferLog
from custody.chain.lanes import LaneTransaction, open_lane, take_nonce, transactions_of
from custody.chain.native import TOP_LEVEL
from custody.destinations.contracts import sweep_contracts
from custody.destinations.sweeps import finality, jobs, sending, settling
from custody.destinations.sweeps.booked import native_floats
from custody.destinations.sweeps.drain_outbidding import mined_value, outbid_if_passed_by, set_value
from custody.destinations.sweeps.drain_terms import drain_terms, drained_wei, treasury_free
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.house_costs import Costs, Mined
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.lane_sending import IntentSigner
from custody.destinations.sweeps.sightings import OPEN_TRANSACTIONS, is_quarantined, receipt_of, stale_before_of
from custody.destinations.sweeps.signing import key_of
from custody.destinations.sweeps.strategy import NATIVE_DRAIN, SweepRound
from custody.ledger import BookTooSmall
from custody.ledger.house import house_account
from custody.settings.chains import NATIVE


class NativeDrain:
    """The strategy; see SweepStrategy."""

    name = NATIVE_DRAIN

    def __init__(self) -> None:
        self.signers: Mapping[str, IntentSigner] = {}  # the destinations send themselves

    def advance(self, work: SweepRound) -> None:
        """Do one round for the jobs of one chain."""
        owned = work.apply(lambda connection: {job.id: transactions_of(connection, job.id) for job in work.jobs})
        open_rows = {job: [row for row in rows if row.state in OPEN_TRANSACTIONS] for job, rows in owned.items()}
        hashes = [each for rows in open_rows.values() for row in rows for each in row.hashes]
        seen = work.client.receipts_and_headers(hashes)
        signing = _Drains(work)
        stale_before, head = stale_before_of(work, seen), seen.head.number
        fresh: list[SweepJob] = []
        for job in work.jobs:
            with work.apart(job):
                if not open_rows[job.id]:
                    fresh.append(job)
                for row in open_rows[job.id]:
                    receipt = receipt_of(row, seen)
                    if receipt is None:
                        sent = outbid_if_passed_by(work, job, row, head)
                        sending.push(work, job, sent, signing.sign, stale_before, head=head)
                    else:
                        _settle(work, job, Mined(row, receipt), seen)
        if fresh:
            _begin(work, fresh, seen, signing)


class _Drains:
    """Signs drains. What an intent sends follows from the gas price of the moment it is signed."""

    def __init__(self, work: SweepRound) -> None:
        self._work = work
        self.terms: dict[UUID, GasTerms] = {}

    def sign(self, job: SweepJob, intent: LaneTransaction) -> bytes | None:
        work = self._work
        terms = self.terms.get(intent.id)
        if terms is None:
            try:
                terms = drain_terms(
                    work.client.estimate_gas(_call(job)), FeeQuote.capped(*work.client.fees(), work.chain.gas)
                )
            except (FeesTooHigh, ExecutionReverted) as error:
                work.wait(job, f"drain_cannot_be_signed: {error}")
                return None
        value = drained_wei(job, terms, work.chain.data_fee_margin_wei)
        if value <= 0:
            work.wait(job, f"gas_too_much: {job.amount_units} wei do not pay {terms.cost} wei")
            return None
        if value != intent.value_wei:  # a crash left it at another price; no signature of it exists
            work.apply(
                lambda connection: connection.execute(
                    text("UPDATE fleet.chain_transactions SET value_wei = :wei WHERE id = :id AND state = 'intent'"),
                    {"id": intent.id, "wei": value},
                )
            )
        return work.signer.sign_drain(
            replace(intent, value_wei=value), of=key_of(job), treasury=job.treasury, gas=terms
        )


def _begin(work: SweepRound, fresh: Sequence[SweepJob], seen: ReceiptsAndHeaders, signing: _Drains) -> None:
    try:
        quote = FeeQuote.capped(*work.client.fees(), work.chain.gas)
    except FeesTooHigh as error:
        for job in fresh:
            work.wait(job, f"fees_too_high: {error}")
        return
    accounts = work.client.accounts([job.address for job in fresh])
    estimates = work.client.estimates([_call(job) for job in fresh])
    for job, estimate in zip(fresh, estimates, strict=True):
        with work.apart(job):
            if isinstance(estimate, ExecutionReverted):
                settling.fail(work, job, (), seen, f"transfer_reverts: {estimate.reason}")
            elif (code := work.client.code(job.address)) and code not in _delegations(work):
                # What another's code does with the coins that come and go is not known.
                settling.fail(work, job, (), seen, f"address_has_code: 0x{code[:23].hex()}")
            else:
                _send(work, job, estimate, quote, accounts[job.address].nonce, signing, seen.head.number)


def _send(
    work: SweepRound, job: SweepJob, estimate: int, quote: FeeQuote, chain_nonce: int, signing: _Drains, head: int
) -> None:
    try:
        terms = drain_terms(estimate, quote)
    except FeesTooHigh as error:
        work.wait(job, f"gas_too_much: {error}")
        return
    value = drained_wei(job, terms, work.chain.data_fee_margin_wei)
    if value <= 0:
        work.wait(job, f"gas_too_much: {job.amount_units} wei do not pay {terms.cost} wei")
        return

    def take(connection: Connection) -> LaneTransaction | None:
        jobs.lock(connection, job)
        open_lane(connection, job.chain_id, job.address, "destination", chain_nonce)
        if is_quarantined(connection, job):
            work.wait(job, "quarantined")
            return None
        missing = terms.cost + work.chain.data_fee_margin_wei - treasury_free(connection, work)
        if missing > 0:
            work.wait(
                job, f"house_float_low: the treasury's own book lacks {missing} wei for fees; fund {job.treasury}"
            )
            return None
        intent = take_nonce(
            connection,
            chain_id=job.chain_id,
            sender=job.address,
            purpose="sweep",
            subject_id=job.id,
            recipient=job.treasury,
            value_wei=value,
        )
        jobs.move(connection, job, "transferring")
        return intent

    intent = work.apply(take)
    if intent is not None:
        work.step()
        signing.terms[intent.id] = terms
        sending.push(work, job, intent, signing.sign, None, head=head)


def _settle(work: SweepRound, job: SweepJob, mined: Mined, seen: ReceiptsAndHeaders) -> None:
    """Book a drain that is deep. Without a log, the transaction itself and its status say what moved (L8)."""
    waits = settling.why_not_final(work, [mined], seen)
    if waits is not None:
        work.wait(job, waits)
        return
    receipt = mined.receipt
    brought = mined_value(work, mined.transaction, receipt.transaction_hash)
    sent = brought if receipt.succeeded else 0
    left = Outgoing(
        TransferLog(
            chain_id=job.chain_id,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            transaction_hash=receipt.transaction_hash,
            transaction_index=receipt.transaction_index,
            log_index=TOP_LEVEL,
            token=NATIVE,  # pyright: ignore[reportArgumentType]
            sender=to_checksum_address(job.address),
            recipient=to_checksum_address(job.treasury),
            amount=sent + receipt.fee,
        ),
        TOP_LEVEL,
    )
    held, held_at = _held_after(work, job, receipt.block_number, seen)

    def book(connection: Connection) -> None:
        treasury_book = house_account(connection, job.chain_id, job.treasury, "treasury")
        if treasury_book is None:
            raise LookupError(f"treasury {job.treasury} has no house account on chain {job.chain_id}; register it")
        set_value(connection, mined.transaction, brought)
        costs = Costs([mined], {"sweep_job": str(job.id)}, treasury_book)
        evidence = {**settling.evidence_of(work, seen), "value_wei": str(sent), "fee_wei": str(receipt.fee)}
        if receipt.succeeded:
            finality.book_sweep(
                connection, job, [left], costs, held_after_units=held, held_at_block=held_at, evidence=evidence
            )
        else:
            reason = "drain_reverted: the treasury did not take plain coins"
            finality.book_failure(connection, job, [left], reason, costs, evidence=evidence)

    try:
        work.apply(book)
    except BookTooSmall as error:
        work.wait(
            job, f"house_float_low: the treasury's own book cannot give the fee of {receipt.fee} wei back: {error}"
        )
        return
    work.step()


def _held_after(work: SweepRound, job: SweepJob, block: int, seen: ReceiptsAndHeaders) -> tuple[int, int]:
    """What deposits left at the address, wei, and the block it was read at: the house's coins there are not theirs."""
    try:
        held, at = work.client.balance(job.address, block), block
    except ChainUnavailable:  # full nodes keep the state of 128 blocks
        held, at = work.client.balance(job.address), seen.head.number
    house = work.apply(
        lambda connection: sum(wei for _, wei in native_floats(connection, chain_id=job.chain_id, address=job.address))
    )
    return max(0, held - house), at


def _delegations(work: SweepRound) -> set[bytes]:
    """The code of an address that was swept by EIP-7702, to whichever treasury bound then (R22)."""
    return {sweep_contracts(each).delegation for each in work.chain.treasuries}


def _call(job: SweepJob) -> CallRequest:
    # One wei stands for the value, which follows from the answer; a plain transfer costs the same whatever it carries.
    return CallRequest(to=job.treasury, value=1, sender=job.address)

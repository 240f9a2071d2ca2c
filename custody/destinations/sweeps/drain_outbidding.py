"""Outbidding a drain that blocks pass by (R1): both fees by an eighth at least, as in a gas payer's lane.

A drain empties its address, so the dearer fee comes out of what it brings: the value shrinks, and nothing else may change.
Every signature is kept, since any one of them may be mined; each brings coins to the same treasury, and the mined one says
how many.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection, text

from custody.chain.fee_bids import outbid, replaces
from custody.chain.lanes import SIGNATURES_LIMIT, LaneTransaction, add_signed, signatures_of
from custody.chain.signed_bytes import SignedBytesDiffer, SignedTransaction, hash_of, read_signed
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps import sending
from custody.destinations.sweeps.drain_terms import DRAIN_HEADROOM_PERCENT, drained_wei, treasury_free
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.signing import key_of
from custody.destinations.sweeps.strategy import SweepRound

log = structlog.get_logger(__name__)


class _NotOutbid(Exception):
    """What is out stays as it is; the message is the job's reason."""


def outbid_if_passed_by(work: SweepRound, job: SweepJob, row: LaneTransaction, head: int) -> LaneTransaction:
    """The drain's transaction as it is to be sent now: outbid where blocks passed it by, else as it is.

    Where it cannot be outbid the job's reason says why, and what is out waits for the chain. Raises ChainUnavailable,
    KeysAgentAway, SigningPostponed, SignedBytesDiffer.
    """
    if row.signed_bytes is None or not _is_passed_by(work, row, head):
        return row
    before = [read_signed(raw) for raw in work.apply(lambda connection: signatures_of(connection, row.id))]
    try:
        terms, value = _offer(work, job, before)
        intent = replace(row, value_wei=value)
        raw = work.signer.sign_drain(intent, of=key_of(job), treasury=job.treasury, gas=terms)
    except _NotOutbid as error:
        work.wait(job, str(error))
        return row
    except ShapeRefused as error:
        work.wait(job, f"not_outbid: {error}")  # after a rotation nothing new is signed for the treasury of before
        return row
    signed = _require_outbids(read_signed(raw), intent, before)

    def keep(connection: Connection) -> None:
        add_signed(connection, row.id, raw, signed.hash, to_send=True)
        set_value(connection, row, value)

    work.apply(keep)
    work.step()
    log.info("drain_outbid", sender=row.sender, nonce=row.nonce, max_fee=signed.bid.max_fee, value_wei=str(value))
    return sending.reload(work, row)


def _offer(work: SweepRound, job: SweepJob, before: Sequence[SignedTransaction]) -> tuple[GasTerms, int]:
    """Terms that outbid every one of ``before``, and the value that they leave, wei. Raises _NotOutbid."""
    if len(before) >= SIGNATURES_LIMIT:
        raise _NotOutbid(f"too_many_signatures: outbid {len(before)} times; find out why nothing is mined")
    try:
        terms = _terms(work, before)
    except FeesTooHigh as error:
        raise _NotOutbid(f"fees_too_high: {error}") from None
    value = drained_wei(job, terms, work.chain.data_fee_margin_wei)
    if value <= 0:
        raise _NotOutbid(f"gas_too_much: {job.amount_units} wei do not pay {terms.cost} wei, which outbids what is out")
    more = terms.cost - max(each.max_fee_wei for each in before)
    if (missing := more - work.apply(lambda connection: treasury_free(connection, work))) > 0:
        raise _NotOutbid(f"house_float_low: the treasury's own book lacks {missing} wei for fees; fund {job.treasury}")
    return terms, value


def mined_value(work: SweepRound, row: LaneTransaction, transaction_hash: str) -> int:
    """What the mined one of a drain's signatures brings, wei."""
    for raw in work.apply(lambda connection: signatures_of(connection, row.id)):
        if hash_of(raw) == transaction_hash:
            return read_signed(raw).value
    return row.value_wei


def set_value(connection: Connection, row: LaneTransaction, value_wei: int) -> None:
    """What the transaction that is sent, or was mined, brings: others of its nonce brought more or less."""
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET value_wei = :wei WHERE id = :id AND state IN ('signed', 'broadcast')"
        ),
        {"id": row.id, "wei": value_wei},
    )


def _is_passed_by(work: SweepRound, row: LaneTransaction, head: int) -> bool:
    """Blocks have passed since a node first took it, or none will take it: its price is below what a block asks for."""
    if row.state == "broadcast":
        return row.sent_block is not None and head - row.sent_block > work.chain.gas.replace_after_blocks
    assert row.signed_bytes is not None
    base_fee, _ = work.client.fees()
    return read_signed(row.signed_bytes).bid.max_fee < base_fee


def _terms(work: SweepRound, before: Sequence[SignedTransaction]) -> GasTerms:
    """One price, all of it paid: an eighth above every one that is out, and what the chain asks for now. Raises FeesTooHigh."""
    quote = FeeQuote.capped(*work.client.fees(), work.chain.gas)
    gas_limit = before[0].gas_limit
    least = max(outbid([each.bid for each in before], base_fee=0, priority_fee=0).max_fee, quote.least_fee)
    most = min(work.chain.gas.max_fee_per_gas_wei, work.chain.gas.total_fee_maximum_wei // gas_limit)
    if least > most:
        raise FeesTooHigh(f"a replacement needs {least} wei per gas, the cap is {most}")
    wished = -(-quote.base_fee * DRAIN_HEADROOM_PERCENT // 100) + quote.priority_fee
    price = min(max(wished, least), most)
    return GasTerms(gas_limit, price, price)


def _require_outbids(
    signed: SignedTransaction, intent: LaneTransaction, before: Sequence[SignedTransaction]
) -> SignedTransaction:
    """The bytes are the intent's, and replace every one that is out. Raises SignedBytesDiffer naming the field."""
    for field, found, expected in (
        ("chain_id", signed.chain_id, intent.chain_id),
        ("nonce", signed.nonce, intent.nonce),
        ("sender", signed.sender, intent.sender),
        ("to", signed.to, intent.recipient),
        ("value", signed.value, intent.value_wei),
        ("data", signed.data, b""),
    ):
        if found != expected:
            raise SignedBytesDiffer(f"{field}: another one than the drain's")
    for each in before:
        if not replaces(signed.bid, each.bid):
            raise SignedBytesDiffer(f"fees: {signed.bid} does not replace {each.bid}; both must be 1.125 times as high")
        if signed.value >= each.value:
            raise SignedBytesDiffer(
                f"value: {signed.value} is not less than {each.value}, which its dearer fee comes from"
            )
    return signed

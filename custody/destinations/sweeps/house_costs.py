"""The house's side of a sweep: one entry for each (transaction, account), exact to the wei (L6).

A payer's transaction is paid from its own book. A deposit address pays with what payers sent there, so that a transfer's
fee comes from the books of those payers, the one with most there first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from custody.chain import Receipt, to_amount
from custody.chain.lanes import LaneTransaction, mark_final
from custody.destinations.sweeps.booked import native_floats
from custody.destinations.sweeps.gas_shares import record_shares
from custody.ledger import Entry, post
from custody.ledger.house import house_account
from custody.settings.chains import NATIVE

_NATIVE_DECIMALS: Final = 18


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction of a job, and its receipt in a canonical block at depth."""

    transaction: LaneTransaction
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Costs:
    """Mined transactions of a job or a batch. ``treasury_book``: set for a drain, whose fee the treasury's own coins give
    back (L8)."""

    mined: Sequence[Mined]
    evidence: Mapping[str, Any]
    treasury_book: UUID | None = None


def book_costs(connection: Connection, costs: Costs, weights: Mapping[UUID, Fraction]) -> None:
    """End transactions and book what they cost and what was topped up; last of all locks (L17).

    ``weights`` of the payments that caused it: each entry of gas is split over them, exact to the wei.
    """
    evidence = costs.evidence
    for item in sorted(costs.mined, key=lambda item: (item.transaction.purpose != "top_up", item.transaction.nonce)):
        receipt, transaction = item.receipt, item.transaction
        if not _end(connection, transaction, receipt):
            continue
        book = house_account(connection, transaction.chain_id, transaction.sender, "gas_payer")
        if book is None and transaction.purpose == "top_up":
            raise LookupError(f"house_account_missing: register the gas payer {transaction.sender} as a house account")
        if book is None and costs.treasury_book is not None:
            _book_gas(
                connection,
                receipt,
                costs.treasury_book,
                "treasury_house",
                receipt.fee,
                evidence,
                weights,
                address=transaction.recipient,
            )
            continue
        if book is None:
            _book_from_floats(connection, transaction, receipt, evidence, weights)
            continue
        if transaction.purpose == "top_up" and receipt.succeeded:
            _post_house(
                connection,
                receipt,
                book,
                reason="topup",
                debit="gas_float",
                credit="gas_payer",
                wei=transaction.value_wei,
                debit_address=transaction.recipient,
                credit_address=transaction.sender,
                evidence=evidence,
            )
        _book_gas(connection, receipt, book, "gas_payer", receipt.fee, evidence, weights)


def book_cancel(
    connection: Connection, book: UUID, transaction: LaneTransaction, receipt: Receipt, evidence: Mapping[str, Any]
) -> bool:
    """End a nonce that was spent on nothing, and book its gas; False if another did."""
    if not _end(connection, transaction, receipt):
        return False
    told = {**evidence, "nonce": transaction.nonce, "cancelled": transaction.cancel_reason}
    _book_gas(connection, receipt, book, "gas_payer", receipt.fee, told, {})
    return True


def _end(connection: Connection, transaction: LaneTransaction, receipt: Receipt) -> bool:
    return mark_final(
        connection,
        transaction.id,
        block_number=receipt.block_number,
        block_hash=receipt.block_hash,
        succeeded=receipt.succeeded,
        fee_wei=receipt.fee,
        transaction_hash=receipt.transaction_hash,
    )


def _book_from_floats(
    connection: Connection,
    transaction: LaneTransaction,
    receipt: Receipt,
    evidence: Mapping[str, Any],
    weights: Mapping[UUID, Fraction],
) -> None:
    left = receipt.fee
    floats = native_floats(connection, chain_id=transaction.chain_id, address=transaction.sender)
    if not floats:
        raise LookupError(f"no payer's book has coins at {transaction.sender}, which paid {receipt.fee} wei of gas")
    for place, (book, wei) in enumerate(floats):
        # The last one bears what no book covers: the ledger refuses it, and people look.
        part = left if place == len(floats) - 1 else min(left, wei)
        _book_gas(connection, receipt, book, "gas_float", part, evidence, weights, suffix=f":{place}" if place else "")
        left -= part


def _book_gas(
    connection: Connection,
    receipt: Receipt,
    book: UUID,
    credit: str,
    wei: int,
    evidence: Mapping[str, Any],
    weights: Mapping[UUID, Fraction],
    *,
    address: str | None = None,
    suffix: str = "",
) -> None:
    entry = _post_house(
        connection,
        receipt,
        book,
        reason="gas",
        debit="gas_spent",
        credit=credit,
        wei=wei,
        debit_address=None,
        credit_address=receipt.sender if address is None else address,
        evidence=evidence,
        suffix=suffix,
    )
    if entry is not None:
        record_shares(connection, entry, wei, weights)


def _post_house(
    connection: Connection,
    receipt: Receipt,
    book: UUID,
    *,
    reason: str,
    debit: str,
    credit: str,
    wei: int,
    debit_address: str | None,
    credit_address: str,
    evidence: Mapping[str, Any],
    suffix: str = "",
) -> UUID | None:
    if wei == 0:  # a chain without base fee
        return None
    return post(
        connection,
        Entry(
            book_kind="house",
            book_id=book,
            chain_id=receipt.chain_id,
            token=NATIVE,
            entry_type="adjustment",
            reason=reason,
            debit=debit,
            credit=credit,
            amount=to_amount(wei, _NATIVE_DECIMALS),
            key=f"transaction:{receipt.transaction_hash}:{reason}{suffix}",
            debit_address=debit_address,
            credit_address=credit_address,
            evidence=evidence,
        ),
    ).entry_id

"""Paying out what the house kept of releases (L7): platform_fees or provider_fees -> paying_fees -> treasury.

An operator orders it; each payment whose fees are earned gets an instruction of its own purpose, and those to one recipient
go as groups (R23), judged, approved and signed as everything else. Earned is what no open release may still give back.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from custody.ledger import Entry, post
from custody.payments import lock_payment
from custody.policy import AddressBook
from custody.releases import rows
from custody.releases.fees import ACCOUNTS, FeeKind
from custody.releases.gate import ReleaseStopped, Stop, chain_stops, security_stops, why_recipient_refused
from custody.releases.rows import Instruction
from custody.releases.treasuries import treasury_of, why_apart
from custody.settings.chains import Chain, Chains
from custody.settings.environment import SettingsError
from custody.store.outbox import ring

log = structlog.get_logger(__name__)

PAYMENTS_LIMIT: Final = 1_000  # of one order; what is left is paid by the next one
FEE_PAYEE: Final = "fee_payee"

# While a release is open its own fees may be given back, so its payment waits. One order of a payment at a time: what is
# drafted and not reserved yet has its fees in the account still.
_EARNED: Final = """
    FROM fleet.ledger_balances b JOIN public.payments p ON p.id = b.book_id
    JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
    WHERE b.chain_id = :chain AND b.token = :token AND b.is_primary AND b.{account} > 0 AND b.dispute_open = 0
      AND b.overdraft = 0 AND NOT p.disputed AND p.escrow_state IS DISTINCT FROM 'releasing'
      AND b.treasury - b.releasing - b.refunding - b.paying_fees >= b.{account}
      AND NOT EXISTS (SELECT FROM fleet.release_instructions i
                      WHERE i.payment_id = p.id AND i.purpose = :purpose AND i.state = 'drafted')
"""


class OrderRefused(Exception):
    """Nothing was ordered. The message says why."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What an order drafted: how many payments' fees, whole tokens in all, and where they go."""

    payments: int
    amount: Decimal
    recipient: str


def order_fees(
    connection: Connection,
    kind: FeeKind,
    chain: Chain,
    token: str,
    *,
    by: str,
    book: AddressBook | None = None,
    recipient: str | None = None,
) -> Ordered:
    """Draft the payout of every earned fee of a kind, in one token of a chain, and ring; repeated, of what came since.

    ``recipient``: an address that the address book has as fee_payee; default the newest one. ``book``: the signed entries;
    None where no approvals are required. Raises OrderRefused.
    """
    to = fee_recipient(connection, chain.id, book, recipient)
    if to is None:
        raise OrderRefused(
            f"no signed fee_payee of chain {chain.id} in the address book"
            + (f" has the address {recipient}" if recipient else "")
            + "; propose one with: fleet releases fee-address, and have it signed: fleet signer approve"
        )
    account = ACCOUNTS[kind]
    made = connection.execute(
        text(
            f"""
            INSERT INTO fleet.release_instructions (payment_id, purpose, request_key, chain_id, treasury, token, recipient,
                amount, amount_units, release_epoch, source, cause)
            SELECT p.id, :purpose, 'fees-' || (
                    SELECT count(*) + 1 FROM fleet.release_instructions i WHERE i.payment_id = p.id AND i.purpose = :purpose),
                b.chain_id, :treasury, b.token, :recipient, b.{account}, b.{account} * power(10::numeric, t.decimals),
                b.release_epoch, :account, :cause
            {_EARNED.format(account=account)} ORDER BY p.id LIMIT :limit
            ON CONFLICT (payment_id, purpose, request_key) DO NOTHING RETURNING amount
            """  # noqa: S608 - the account is one of two names of this package
        ),
        {
            "chain": chain.id,
            "token": token,
            "purpose": kind,
            "treasury": chain.treasury,
            "recipient": to,
            "account": account,
            "cause": f"operator:{by}"[:200],
            "limit": PAYMENTS_LIMIT,
        },
    )
    amounts = [Decimal(each) for each in made.scalars()]
    ring(connection, "releases")
    log.info("fees_ordered", kind=kind, chain_id=chain.id, token=token, payments=len(amounts), recipient=to)
    return Ordered(len(amounts), sum(amounts, Decimal(0)), to)


def fee_recipient(
    connection: Connection, chain_id: int, book: AddressBook | None, wanted: str | None = None
) -> str | None:
    """The fee_payee entry that stands on a chain (``wanted``, else the newest), None without one."""
    if book is not None:
        entries = [each for each in book.entries if each.chain_id == chain_id and each.role == FEE_PAYEE]
        for each in reversed(entries):
            if wanted in {None, each.address} and book.entry(chain_id, each.address, FEE_PAYEE) is not None:
                return each.address
        return None
    return connection.execute(
        text(
            "SELECT address FROM fleet.address_book WHERE chain_id = :chain AND role = 'fee_payee' AND action = 'add' "
            "AND (CAST(:wanted AS text) IS NULL OR address = :wanted) ORDER BY created_at DESC, id DESC LIMIT 1"
        ),
        {"chain": chain_id, "wanted": wanted},
    ).scalar_one_or_none()


def reserve_fees(
    connection: Connection, instruction: Instruction, chains: Chains, *, book: AddressBook | None = None
) -> Instruction:
    """drafted -> awaiting_approval, with ``platform_fee`` or ``provider_fee : reserve`` of its account / paying_fees.

    The caller holds the instruction's lock. Raises ReleaseStopped, or a LedgerRefusal; the transaction must then be
    rolled back.
    """
    assert instruction.payment_id is not None
    lock_payment(connection, instruction.payment_id)
    found = connection.execute(
        text(
            """
            SELECT b.treasury - b.releasing - b.refunding - b.paying_fees - b.overdraft AS free, b.dispute_open, b.release_epoch,
                b.platform_fees, b.provider_fees, p.escrow_state::text AS escrow
            FROM fleet.ledger_balances b JOIN public.payments p ON p.id = b.book_id
            WHERE b.book_id = :book AND b.chain_id = :chain AND b.token = :token
            """
        ),
        {"book": instruction.payment_id, "chain": instruction.chain_id, "token": instruction.token},
    ).one()
    if stops := _stops(connection, instruction, chains, book, found):
        raise ReleaseStopped(instruction.payment_id, tuple(stops))
    payment_id = instruction.payment_id
    instruction = rows.pay_from(connection, instruction, _treasury(connection, instruction, chains))
    rows.move(connection, instruction, "awaiting_approval", release_epoch=found.release_epoch)
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type=instruction.purpose,
            reason="reserve",
            debit=instruction.source,
            credit="paying_fees",
            amount=instruction.amount,
            key=f"release:{instruction.id}:reserve:1",
            instruction_id=instruction.id,
            evidence={"recipient": instruction.recipient, "cause": instruction.cause},
        ),
    )
    log.info("fees_reserved", payment_id=instruction.named, instruction_id=str(instruction.id))
    return rows.lock(connection, instruction.id)


def _stops(
    connection: Connection, instruction: Instruction, chains: Chains, book: AddressBook | None, found: Any
) -> list[Stop]:
    try:
        chain = chains.chain(instruction.chain_id)
    except SettingsError as error:
        return [Stop("chain_unknown", f"{error}; add it, or pay the fees where it is configured.")]
    treasury = _treasury(connection, instruction, chains)
    stops = [*security_stops(connection, instruction.payment_ids[0]), *chain_stops(connection, chain.at(treasury))]
    if why := why_apart(connection, chain, instruction.payment_ids[0], instruction.token, instruction.amount, treasury):
        stops.append(Stop(*why.split(": ", 1)))
    if fee_recipient(connection, chain.id, book, instruction.recipient) is None:
        stops.append(
            Stop("recipient_unsigned", f"{instruction.recipient} is no fee_payee of the address book any more.")
        )
    if why := why_recipient_refused(connection, chain, instruction.recipient):
        stops.append(Stop("recipient_refused", why))
    if found.dispute_open or found.escrow == "releasing":
        stops.append(Stop("not_earned", "a dispute or an open release of its payment may give fees back; it waits."))
    has = found.platform_fees if instruction.source == "platform_fees" else found.provider_fees
    if has < instruction.amount:
        stops.append(Stop("nothing_to_pay", f"{has.normalize():f} are {instruction.source}, less than it pays."))
    if found.free < instruction.amount:
        stops.append(Stop("not_swept", "its coins are not free in the treasury (L3)."))
    return stops


def _treasury(connection: Connection, instruction: Instruction, chains: Chains) -> str:
    """Where its coins lie: the active treasury, or a former one that is drained (R22)."""
    chain = chains.chain(instruction.chain_id)
    return treasury_of(connection, chain, instruction.payment_ids[0], instruction.token, instruction.amount)

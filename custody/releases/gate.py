"""What stops a release now, each stop with a sentence that says what unblocks it (L3, L4, R14, R21, R24).

Read from Postgres alone: the marketplace's own word (requests, disputes in MongoDB) is custody.releases.sources.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.addresses import InvalidAddress, parse_address
from custody.chain.assets import to_units
from custody.policy import AddressBook
from custody.releases.fees import NO_FEES, NOTHING, FeeRates, Fees
from custody.releases.treasuries import treasury_of, why_apart
from custody.settings.chains import Chain, Chains
from custody.settings.environment import SettingsError
from custody.store.security_pauses import REASON, pauses_of

RELEASABLE_STATES: Final = frozenset({("confirmed", "funded"), ("confirmed", "releasable")})


@dataclass(frozen=True, slots=True)
class Stop:
    """One reason why a release waits. ``reason`` is its short name, ``sentence`` says what unblocks it."""

    reason: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.sentence}"


class ReleaseStopped(Exception):
    """The gate is closed; nothing was written. The message has one line a stop."""

    def __init__(self, payment_id: UUID, stops: tuple[Stop, ...]) -> None:
        super().__init__(f"payment {payment_id}: " + "\n".join(str(stop) for stop in stops))
        self.stops = stops


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate found. The plan (treasury, recipient, amount) is whole when ``stops`` is empty.

    ``amount`` is the payment's held balance in its primary asset less the house's ``fees``, whole tokens; ``amount_units`` the same in the
    token's smallest unit.
    """

    payment_id: UUID
    chain_id: int
    token: str
    treasury: str
    recipient: str
    label: str
    amount: Decimal
    amount_units: int
    release_epoch: int
    stops: tuple[Stop, ...]
    fees: Fees = NOTHING

    @property
    def is_open(self) -> bool:
        return not self.stops

    def require_open(self) -> "Gate":
        """This gate. Raises ReleaseStopped when anything stops the release."""
        if self.stops:
            raise ReleaseStopped(self.payment_id, self.stops)
        return self


_FACTS: Final = text(
    """
    SELECT p.id, p.status::text AS status, p.escrow_state::text AS escrow, p.disputed, p.seller_id,
        r.chain_id, r.token, t.symbol, t.decimals, b.held, b.treasury, b.releasing, b.refunding, b.paying_fees,
        b.overdraft, b.dispute_open, b.release_epoch, c.paused_reason, a.address AS recipient, a.label,
        EXISTS (SELECT FROM fleet.refund_orders o LEFT JOIN fleet.release_instructions i ON i.id = o.instruction_id
                WHERE o.payment_id = p.id AND o.source = 'held' AND (i.id IS NULL OR i.state = 'drafted')) AS refund_ordered
    FROM public.payments p
    LEFT JOIN fleet.payment_routes r ON r.payment_id = p.id
    LEFT JOIN fleet.tokens t ON t.chain_id = r.chain_id AND t.token = r.token
    LEFT JOIN fleet.ledger_balances b ON b.book_id = p.id AND b.chain_id = r.chain_id AND b.token = r.token
    LEFT JOIN fleet.chain_cursors c ON c.chain_id = r.chain_id
    LEFT JOIN LATERAL (
        SELECT address, label FROM fleet.address_book a
        WHERE a.user_id = p.seller_id AND a.chain_id = r.chain_id AND coalesce(a.action, 'add') = 'add'
        ORDER BY a.created_at DESC, a.id DESC LIMIT 1
    ) a ON true
    WHERE p.id = :id
    """
)


def release_gate(
    connection: Connection,
    payment_id: UUID,
    chains: Chains,
    *,
    book: AddressBook | None = None,
    rates: FeeRates = NO_FEES,
    amount: Decimal | None = None,
) -> Gate:
    """What stops a release of ``amount`` of ``payment_id``, less the house's fees, to its seller now.

    ``amount``: whole tokens of what is held, before fees; None: all of it. ``book`` holds the signed entries that alone
    name recipients (R8); None where no approvals are required: then what was proposed last does. Raises LookupError if
    there is no such payment.
    """
    row = connection.execute(_FACTS, {"id": payment_id}).one_or_none()
    if row is None:
        raise LookupError(f"there is no payment {payment_id}")
    if row.chain_id is None:
        stop = Stop("no_route", "the payment was never given an address; it cannot have been paid.")
        return Gate(payment_id, 0, "", "", "", "", Decimal(0), 0, 0, (stop,))
    wanted = (row.held or Decimal(0)) if amount is None else amount
    stops = [*security_stops(connection, payment_id), *_state_stops(row), *_ledger_stops(row, wanted)]
    if refused := _amount_stops(row, wanted):
        stops, wanted = [*stops, *refused], Decimal(0)
    treasury, recipient, label = "", row.recipient, row.label
    fees = rates.of(wanted, row.decimals)
    paid = wanted - fees.total
    if book is not None:
        entry = book.payee_of(str(row.seller_id), row.chain_id)
        recipient, label = (None, None) if entry is None else (entry.address, entry.label)
    try:
        chain = chains.chain(row.chain_id)
    except SettingsError as error:
        stops.append(Stop("chain_unknown", f"{error}; add it, or release where it is configured."))
    else:
        treasury = treasury_of(connection, chain, payment_id, row.token, paid)
        stops += chain_stops(connection, chain.at(treasury))
        if not stops and (why := why_apart(connection, chain, payment_id, row.token, paid, treasury)):
            stops.append(Stop(*why.split(": ", 1)))
        stops += _recipient_stops(connection, chain, recipient, is_proposed=row.recipient is not None)
    return Gate(
        payment_id,
        row.chain_id,
        row.token,
        treasury,
        recipient or "",
        label or "",
        paid,
        to_units(paid, row.decimals),
        row.release_epoch or 0,
        tuple(stops),
        fees,
    )


def security_stops(connection: Connection, payment_id: UUID) -> list[Stop]:
    """What stops everything of one payment: documents of it that somebody changed in MongoDB (R7)."""
    return [Stop(REASON, each.sentence) for each in pauses_of(connection, [payment_id])]


def chain_stops(connection: Connection, chain: Chain) -> list[Stop]:
    """What stops every release of one chain: a pause, or a treasury that has no house book."""
    stops: list[Stop] = []
    row = connection.execute(
        text(
            """
            SELECT (SELECT paused_reason FROM fleet.chain_cursors WHERE chain_id = :chain) AS paused,
                EXISTS (SELECT FROM fleet.house_accounts
                        WHERE chain_id = :chain AND address = :treasury AND kind = 'treasury') AS known
            """
        ),
        {"chain": chain.id, "treasury": chain.treasury},
    ).one()
    if row.paused:
        stops.append(Stop("chain_paused", f"chain {chain.id} is paused ({row.paused}); an operator resumes it."))
    if not row.known:
        stops.append(
            Stop(
                "treasury_unknown",
                f"treasury {chain.treasury} has no house account on chain {chain.id}; register it.",
            )
        )
    return stops


def why_recipient_refused(connection: Connection, chain: Chain, recipient: str) -> str | None:
    """Why coins must not be sent to ``recipient`` (R21, R24), as a sentence; None when it may be paid.

    That it is no contract is asked of the chain at hand-out.
    """
    try:
        address = parse_address(recipient, field="recipient", require_checksum=True)
    except InvalidAddress as error:
        return f"{error}."
    named = {
        **{each.lower(): "our treasury" for each in chain.treasuries},
        chain.fee_proxy.lower(): "the payment proxy",
        **({} if chain.native_fee_proxy is None else {chain.native_fee_proxy.lower(): "the native payment proxy"}),
        **{token.address.lower(): f"the token {token.symbol}" for token in chain.tokens},
    }
    if (what := named.get(address.lower())) is not None:
        return f"recipient {address} is {what}, not a seller's wallet."
    ours = connection.execute(
        text(
            """
            SELECT 'the token ' || symbol FROM fleet.tokens WHERE lower(token) = :address
            UNION ALL SELECT 'our ' || kind FROM fleet.house_accounts WHERE lower(address) = :address
            UNION ALL SELECT 'a deposit address of ours' FROM public.derived_destinations
                WHERE address IN (:address, :checksum)
            LIMIT 1
            """
        ),
        {"address": address.lower(), "checksum": address},
    ).scalar_one_or_none()
    return None if ours is None else f"recipient {address} is {ours}, not a seller's wallet."


def _state_stops(row: Any) -> list[Stop]:
    stops: list[Stop] = []
    if (row.status, row.escrow) not in RELEASABLE_STATES:
        stops.append(
            Stop(
                "payment_not_releasable",
                f"it is {row.status}/{row.escrow or 'no escrow'}; only a confirmed payment that is funded or "
                "releasable can be released.",
            )
        )
    if row.refund_ordered:
        stops.append(Stop("refund_ordered", "a refund of what is held was ordered; it is reserved first (R21)."))
    if row.disputed or row.dispute_open:
        stops.append(Stop("dispute_open", f"{row.dispute_open or 1} dispute(s) open; resolve them first (L4)."))
    return stops


def _amount_stops(row: Any, wanted: Decimal) -> list[Stop]:
    """What is wrong with an amount that somebody named (R24)."""
    held = row.held or Decimal(0)
    if not wanted.is_finite() or wanted > held or (wanted <= 0 < held):
        said = f"{held.normalize():f} {row.symbol or ''} are held; {wanted:f} is no part of that."
        return [Stop("amount_refused", said)]
    if wanted % Decimal(1).scaleb(-row.decimals):
        return [Stop("amount_refused", f"{wanted:f}: {row.symbol} has {row.decimals} decimals.")]
    return []


def _ledger_stops(row: Any, wanted: Decimal) -> list[Stop]:
    held = row.held or Decimal(0)
    if held <= 0:
        return [Stop("nothing_held", "no coins are held for it; its transfer is not deep enough yet.")]
    if row.overdraft > 0:
        return [
            Stop(
                "coins_lost",
                f"{row.overdraft.normalize():f} {row.symbol} of it are gone from the chain; paying it out would spend "
                "other payments' coins (L3). Cover the loss: fleet ledger adjust cover.",
            )
        ]
    free = row.treasury - row.releasing - row.refunding - row.paying_fees
    if free < wanted:
        return [
            Stop(
                "not_swept",
                f"{wanted:f} {row.symbol} are to be paid and {free:f} of them are free in the treasury; the sweep must "
                "bring the rest first (L3).",
            )
        ]
    return []


def _recipient_stops(connection: Connection, chain: Chain, recipient: str | None, *, is_proposed: bool) -> list[Stop]:
    if recipient is None and is_proposed:
        sentence = (
            f"the seller's entry for chain {chain.id} in the address book has too few signatures; approvers sign it."
        )
        return [Stop("recipient_unsigned", sentence)]
    if recipient is None:
        return [
            Stop(
                "recipient_missing",
                f"the seller has no entry for chain {chain.id} in the address book; add one.",
            )
        ]
    why = why_recipient_refused(connection, chain, recipient)
    if why is None:
        return []
    return [Stop("recipient_refused", f"{why} Add the seller's own address to the address book.")]

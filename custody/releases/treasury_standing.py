"""Where each treasury of a chain stands: what lies there, what is open, and what its rotation waits for (R22).

From the ledger and the signed state alone; whether the chain says the same is asked apart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from custody.releases.states import ENDED
from custody.settings.chains import Chain, FormerState

State = Literal["active", "draining", "compromised", "retired"]
SHOWN_INSTRUCTIONS: Final = 20  # of one treasury in a list that a person reads; the counts are whole

_LYING: Final = text(
    """
    SELECT e.token, t.symbol, b.is_house, trim_scale(sum(leg.amount)) AS amount
    FROM public.funds_ledger_entries e
    CROSS JOIN LATERAL (VALUES (e.debit, e.debit_address, e.amount), (e.credit, e.credit_address, -e.amount))
        AS leg (account, address, amount)
    CROSS JOIN LATERAL (SELECT e.book_kind = 'house' AS is_house) b
    JOIN fleet.tokens t ON t.chain_id = e.chain_id AND t.token = e.token
    WHERE e.chain_id = :chain AND leg.address = :address
      AND leg.account IN ('treasury', 'treasury_house', 'in_transit', 'overdraft')
    GROUP BY e.token, t.symbol, b.is_house HAVING sum(leg.amount) <> 0 ORDER BY b.is_house, t.symbol
    """
)
_OPEN: Final = text(
    """
    SELECT i.id, i.purpose, i.state, i.amount, t.symbol, i.held_reason FROM fleet.release_instructions i
    JOIN fleet.tokens t ON t.chain_id = i.chain_id AND t.token = i.token
    WHERE i.chain_id = :chain AND i.treasury = :address AND i.state <> ALL (:ended)
    ORDER BY array_position(ARRAY['handed_out', 'cancelling', 'signed', 'broadcast', 'ready', 'awaiting_approval', 'drafted'],
                            i.state), i.amount DESC, i.id
    """
)
_COUNTS: Final = text(
    """
    SELECT (SELECT count(*) FROM fleet.sweep_jobs j WHERE j.chain_id = :chain AND j.treasury = :address
                AND j.state IN ('planned', 'funding', 'transferring')) AS sweeps,
        (SELECT count(*) FROM fleet.chain_transactions t WHERE t.chain_id = :chain AND t.sender = :address
                AND t.state IN ('intent', 'signed', 'broadcast')) AS nonces,
        EXISTS (SELECT FROM fleet.house_accounts h
                WHERE h.chain_id = :chain AND h.address = :address AND h.kind = 'treasury') AS is_registered,
        (SELECT ordered_at FROM fleet.treasury_drains d WHERE d.chain_id = :chain AND d.treasury = :address) AS ordered_at
    """
)


@dataclass(frozen=True, slots=True)
class Lying:
    """What the books have of one token at an address, whole tokens. ``is_house``: the house's own, for fees."""

    token: str
    symbol: str
    amount: Decimal
    is_house: bool


@dataclass(frozen=True, slots=True)
class OpenInstruction:
    """An instruction that has not ended, as a person reads it. ``amount``: whole tokens."""

    id: str
    purpose: str
    state: str
    amount: Decimal
    symbol: str
    held_reason: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """One treasury. ``waits``: what its rotation, or its work, waits for, the most urgent first."""

    chain_id: int
    chain: str
    address: str
    kind: Literal["eoa", "safe"]
    state: State
    lying: tuple[Lying, ...]
    instructions: tuple[OpenInstruction, ...]
    sweeps: int
    open_nonces: int
    waits: tuple[str, ...]

    @property
    def why_not_retired(self) -> tuple[str, ...]:
        """What keeps it from being retired, as sentences; empty once only the house's own coins for fees are left."""
        return tuple(_why_not_retired(self))


def treasury_standings(connection: Connection, chain: Chain) -> list[Standing]:
    """Every treasury that the chain ever had, the active one first."""
    return [_standing(connection, chain, address) for address in chain.treasuries]


def _standing(connection: Connection, chain: Chain, address: str) -> Standing:
    values = {"chain": chain.id, "address": address}
    former = chain.former(address)
    state: State = "active" if former is None else former.state
    found = [
        OpenInstruction(str(row.id), *row[1:]) for row in connection.execute(_OPEN, {**values, "ended": sorted(ENDED)})
    ]
    lying = [Lying(row.token, row.symbol, row.amount, row.is_house) for row in connection.execute(_LYING, values)]
    counts = connection.execute(_COUNTS, values).one()
    standing = Standing(
        chain.id,
        chain.name,
        address,
        "eoa" if chain.at(address).safe is None else "safe",
        state,
        tuple(lying),
        tuple(found),
        counts.sweeps,
        counts.nonces,
        (),
    )
    waits = tuple(_waits(standing, counts, former.state if former else None))
    return Standing(
        standing.chain_id, standing.chain, address, standing.kind, state, standing.lying, standing.instructions,
        standing.sweeps, standing.open_nonces, waits,
    )  # fmt: skip


def _waits(standing: Standing, counts: Any, former: FormerState | None) -> Iterator[str]:
    """In the order in which people act: what a device may have signed, what persons must agree to, then what is left."""
    if not counts.is_registered:
        yield f"no house account: fleet treasury rotate {standing.chain_id} registers it"
    by_state = _by_state(standing)
    payouts = [each for each in standing.instructions if each.state == "handed_out" and each.purpose != "drain"]
    if payouts and former == "compromised":
        yield f"the cancel of what its device was given before: fleet releases cancel {payouts[0].id}"
    elif by_state.get("handed_out"):
        yield "the treasury's device: fleet signer sign (or cancel it: fleet releases cancel ID)"
    if by_state.get("cancelling"):
        yield "the device's signature of a cancel: fleet signer sign"
    if by_state.get("awaiting_approval"):
        yield f"approvals of {by_state['awaiting_approval']} instruction(s): fleet signer approve"
    if by_state.get("signed") or by_state.get("broadcast") or counts.nonces:
        yield f"{counts.nonces} nonce(s) to be spent by a deep block"
    if former is None:
        return
    if counts.sweeps:
        yield f"{counts.sweeps} sweep(s) that were signed to it before, to settle"
    yield from _waits_for_moves(standing, former, is_ordered=former == "compromised" or counts.ordered_at is not None)
    if former != "retired" and not any(_why_not_retired(standing)):
        yield f"nothing: fleet treasury rotate {standing.chain_id} --retire"


def _waits_for_moves(standing: Standing, former: FormerState, *, is_ordered: bool) -> Iterator[str]:
    payments = [each for each in standing.lying if not each.is_house]
    if former == "retired" and payments:
        again = f"fleet treasury rotate {standing.chain_id} --compromised --old {standing.address}"
        yield f"late coins lie there, which are moved as from a compromised one: {again}"
    elif payments and not is_ordered:
        yield f"its releases, or an order to move what lies there: fleet treasury rotate {standing.chain_id} --drain"
    elif payments:
        yield "its moves to the active treasury"
    elif any(each.purpose == "drain" for each in standing.instructions):
        yield "the move of the house's own coins, the last one"


def _why_not_retired(standing: Standing) -> Iterator[str]:
    for each in standing.lying:
        if not each.is_house:
            yield f"{each.amount:f} {each.symbol} of payments lie there"
        elif each.amount < 0:
            yield f"{-each.amount:f} {each.symbol} of it were lost and not covered: fleet ledger adjust cover"
    if standing.instructions:
        yield f"{len(standing.instructions)} instruction(s) are open"
    if standing.sweeps:
        yield f"{standing.sweeps} sweep(s) to it are open"
    if standing.open_nonces:
        yield f"{standing.open_nonces} nonce(s) that were handed out are not spent (R1)"


def _by_state(standing: Standing) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for each in standing.instructions:
        found[each.state] = found.get(each.state, 0) + 1
    return found

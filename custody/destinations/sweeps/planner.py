"""Which destinations are swept now: those whose ledger says that judged coins lie there (L11, L13)."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain.assets import to_amount
from custody.destinations.issuing import COLLECTION
from custody.destinations.sweeps.booked import facts_at
from custody.destinations.sweeps.treasury_room import TreasuryRoom
from custody.settings.chains import NATIVE, Chains
from custody.store.outbox import mirror

log = structlog.get_logger(__name__)

TOP_UP_TRANSFER: Final = "top_up_transfer"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A destination with coins that is not swept now, and why."""

    destination_id: UUID
    token: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs made, and what waits."""

    jobs: tuple[UUID, ...]
    waiting: tuple[Waiting, ...]


# Books with coins at a deposit address, and where the coins lie: the entries' own addresses, since coins may have
# come to another address than the payment's route (L10).
_CANDIDATES = text(
    """
    WITH places AS (
        SELECT e.chain_id, e.token, e.debit_address AS address, bool_or(f.live AND f.judged_at IS NOT NULL) AS is_judged
        FROM fleet.ledger_balances b
        JOIN public.funds_ledger_entries e ON e.payment_id = b.book_id AND e.chain_id = b.chain_id AND e.token = b.token
             AND e.debit = 'destination' AND e.reason = 'seen'
        JOIN fleet.chain_facts f ON f.id = e.fact_id
        WHERE b.book_kind = 'payment' AND b.destination > 0
        GROUP BY e.chain_id, e.token, e.debit_address)
    SELECT p.chain_id, p.token, p.address, t.decimals, d.id, d.status::text AS status, c.paused_reason
    FROM places p
    JOIN fleet.tokens t ON t.chain_id = p.chain_id AND t.token = p.token
    JOIN public.derived_destinations d ON d.chain_id = p.chain_id AND d.address = p.address
    LEFT JOIN fleet.chain_cursors c ON c.chain_id = p.chain_id
    LEFT JOIN fleet.deposit_accounts a ON a.id = d.deposit_account_id
    WHERE NOT EXISTS (
        SELECT FROM fleet.sweep_jobs j
        WHERE j.destination_id = d.id AND j.state IN ('planned', 'funding', 'transferring'))
    ORDER BY p.is_judged AND d.status <> 'quarantined' AND c.paused_reason IS NULL
             AND p.chain_id || ':' || p.token = ANY(:sweepable) DESC,
             a.state IS NOT DISTINCT FROM 'compromised' DESC, d.updated_at, d.id, p.token
    LIMIT :limit
    """
)
_LOCK = text(
    """
    SELECT d.status::text AS status,
           EXISTS (SELECT FROM fleet.sweep_jobs j WHERE j.destination_id = d.id
                   AND j.state IN ('planned', 'funding', 'transferring')) AS is_open
    FROM public.derived_destinations d WHERE d.id = :id FOR UPDATE OF d SKIP LOCKED
    """
)
_INSERT = text(
    """
    INSERT INTO fleet.sweep_jobs (destination_id, chain_id, token, strategy, amount_units, treasury)
    VALUES (:destination, :chain, :token, :strategy, :units, :treasury)
    ON CONFLICT (destination_id, token) WHERE state IN ('planned', 'funding', 'transferring') DO NOTHING
    RETURNING id
    """
)


def plan(connection: Connection, chains: Chains, *, limit: int) -> Plan:
    """Make a job for each destination with judged coins, at most one a destination, and mark it sweeping.

    A job moves what was judged when it was made. Coins not yet deep do not hold the deep ones back, or dust in
    each block would block every sweep (R12, R13); they are swept by the next job. Looks at ``limit`` places, first at
    those that nothing known keeps back: a hundred that wait hide none that can go.
    """
    made: list[UUID] = []
    waiting: list[Waiting] = []
    known = {chain.id: chain for chain in chains.chains}
    sweepable = [f"{chain.id}:{t.address}" for chain in chains.chains for t in chain.tokens if t.address != NATIVE]
    room = TreasuryRoom(connection, chains)
    for place in connection.execute(_CANDIDATES, {"limit": limit, "sweepable": sweepable}).all():
        chain = known.get(place.chain_id)
        reason = None
        if place.status == "quarantined":
            reason = "quarantined"
        elif place.paused_reason is not None:
            reason = f"chain_paused: {place.paused_reason}"
        elif chain is None or chain.token(place.token) is None:
            reason = "asset_not_in_chains_file"
        elif place.token == NATIVE:
            reason = "no_strategy_for_native"
        if reason is not None or chain is None:
            waiting.append(Waiting(place.id, place.token, reason or ""))
            continue
        destination = connection.execute(_LOCK, {"id": place.id}).one_or_none()
        if destination is None or destination.is_open or destination.status == "quarantined":
            continue
        facts = facts_at(
            connection,
            destination_id=place.id,
            chain_id=place.chain_id,
            token=place.token,
            address=place.address,
            decimals=place.decimals,
        )
        units = sum(fact.units for fact in facts if fact.is_judged)
        if units == 0:
            waiting.append(Waiting(place.id, place.token, "deposit_not_deep"))
            continue
        if (full := room.why_full(place.chain_id, place.token, to_amount(units, place.decimals))) is not None:
            waiting.append(Waiting(place.id, place.token, full))
            continue
        job = connection.execute(
            _INSERT,
            {
                "destination": place.id,
                "chain": place.chain_id,
                "token": place.token,
                "strategy": TOP_UP_TRANSFER,
                "units": units,
                "treasury": chain.treasury,
            },
        ).scalar_one_or_none()
        if job is None:
            continue
        connection.execute(
            text(
                "UPDATE public.derived_destinations SET status = 'sweeping', updated_at = clock_timestamp() "
                "WHERE id = :id"
            ),
            {"id": place.id},
        )
        mirror(connection, COLLECTION, place.id)
        made.append(job)
        log.info("sweep_planned", job=str(job), address=place.address, token=place.token, units=str(units))
    return Plan(tuple(made), tuple(waiting))

"""Which destinations are swept now: those whose ledger says that judged coins lie there (L11, L13)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain.assets import to_amount
from custody.destinations.derivation import DerivationError
from custody.destinations.forwarders import FLUSHED_STATES, treasury_of_forwarder
from custody.destinations.issuing import COLLECTION
from custody.destinations.sweeps.booked import facts_at
from custody.destinations.sweeps.strategy import CREATE2_FORWARDER
from custody.destinations.sweeps.treasury_room import TreasuryRoom
from custody.settings.chains import Chain, Chains
from custody.store.outbox import mirror
from custody.store.security_pauses import pauses_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A destination with coins of one token. ``units`` (smallest unit) were judged; ``reason``: why it waits whatever it costs.

    ``method``: what the address has for life (fleet.destination_methods, or ``create2_forwarder``); ``since``: when the oldest coins were judged;
    ``is_wanted``: a payout waits for them; ``treasury``: where they go, the active one, or the only one that a forwarder can pay.
    """

    destination_id: UUID
    chain_id: int
    token: str
    address: str
    decimals: int
    units: int
    derivation_index: int
    derivation_path: str
    account_fingerprint: str | None
    method: str | None
    since: datetime | None
    is_wanted: bool
    payment_ids: tuple[UUID, ...] = ()
    """Those whose coins lie there."""
    reason: str | None = None
    treasury: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a candidate is swept, and what it costs each: gas, and wei at the newest block's price. ``reason``: why it waits.

    ``refusals``: why it does not go by other strategies, by their names.
    """

    strategy: str
    gas: int
    cost_wei: int
    reason: str | None = None
    refusals: Mapping[str, str] = field(default_factory=dict[str, str])


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
    WITH paused AS MATERIALIZED (SELECT DISTINCT ON (payment_id) payment_id, gap_id FROM fleet.security_pauses_of(NULL)
        ORDER BY payment_id, since, gap_id),
    places AS (
        SELECT e.chain_id, e.token, e.debit_address AS address, bool_or(f.live AND f.judged_at IS NOT NULL) AS is_judged,
            min(f.judged_at) AS since, bool_or(p.escrow_state IN ('releasable', 'releasing')) AS is_wanted,
            (array_agg(s.gap_id ORDER BY s.gap_id) FILTER (WHERE s.gap_id IS NOT NULL))[1] AS gap, array_agg(DISTINCT b.book_id) AS payment_ids
        FROM fleet.ledger_balances b
        JOIN public.payments p ON p.id = b.book_id
        JOIN public.funds_ledger_entries e ON e.payment_id = b.book_id AND e.chain_id = b.chain_id AND e.token = b.token
             AND e.debit = 'destination' AND e.reason = 'seen'
        JOIN fleet.chain_facts f ON f.id = e.fact_id
        LEFT JOIN paused s ON s.payment_id = b.book_id
        WHERE b.book_kind = 'payment' AND b.destination > 0
        GROUP BY e.chain_id, e.token, e.debit_address)
    SELECT p.chain_id, p.token, p.address, p.since, coalesce(p.is_wanted, false) AS is_wanted, t.decimals, d.id,
        d.status::text AS status, d.derivation_index, d.derivation_path, a.xpub_fingerprint, c.paused_reason, p.gap, p.payment_ids,
        CASE WHEN a.kind = 'create2_forwarder' THEN a.kind ELSE m.method END AS method
    FROM places p
    JOIN fleet.tokens t ON t.chain_id = p.chain_id AND t.token = p.token
    JOIN public.derived_destinations d ON d.chain_id = p.chain_id AND d.address = p.address
    LEFT JOIN fleet.chain_cursors c ON c.chain_id = p.chain_id
    LEFT JOIN fleet.deposit_accounts a ON a.id = d.deposit_account_id
    LEFT JOIN fleet.destination_methods m ON m.destination_id = d.id
    WHERE NOT EXISTS (
        SELECT FROM fleet.sweep_jobs j
        WHERE j.destination_id = d.id AND j.state IN ('planned', 'funding', 'transferring'))
    ORDER BY p.is_judged AND d.status <> 'quarantined' AND c.paused_reason IS NULL AND p.gap IS NULL
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


def paused_by(gap: UUID) -> str:
    """Why coins stay where they are while a security gap of their payment is open (R7), and what unblocks it."""
    return f"security_gap: gap {gap} is open; two persons close it: fleet gaps resolve {gap}"


def candidates(connection: Connection, chains: Chains, *, limit: int) -> list[Candidate]:
    """The destinations with coins and no open job, those that nothing known keeps back first.

    Looks at ``limit`` places: a hundred that wait hide none that can go.
    """
    known = {chain.id: chain for chain in chains.chains}
    sweepable = [f"{chain.id}:{token.address}" for chain in chains.chains for token in chain.tokens]
    found: list[Candidate] = []
    for place in connection.execute(_CANDIDATES, {"limit": limit, "sweepable": sweepable}).all():
        chain = known.get(place.chain_id)
        candidate = _candidate(place, _judged_units(connection, place))
        reason = None
        if place.status == "quarantined":
            reason = "quarantined"
        elif place.gap is not None:
            reason = paused_by(place.gap)
        elif place.paused_reason is not None:
            reason = f"chain_paused: {place.paused_reason}"
        elif chain is None or chain.token(place.token) is None:
            reason = "asset_not_in_chains_file"
        elif candidate.units == 0:
            reason = "deposit_not_deep"
        if chain is not None:
            treasury = _treasury_of(chain, candidate)
            reason = reason or why_not_flushed(chain, treasury)
            candidate = replace(candidate, treasury=treasury)
        found.append(candidate if reason is None else replace(candidate, reason=reason))
    return found


def why_not_flushed(chain: Chain, treasury: str) -> str | None:
    """Why no forwarder is flushed to a treasury as it stands (R22), as a sentence; None for one that takes its own."""
    former = chain.former(treasury)
    if former is None or former.state in FLUSHED_STATES:
        return None
    return (
        f"other_treasury: the forwarder can pay {treasury} alone, which is {former.state}: its coins wait. Docs: "
        "treasury-rotation.md, Forwarders"
    )


def _treasury_of(chain: Chain, candidate: Candidate) -> str:
    """Where a candidate's coins go: to the active treasury, but those of a forwarder to the one that it was made for."""
    if candidate.method != CREATE2_FORWARDER:
        return chain.treasury
    with suppress(DerivationError):  # which its strategy says of it
        path, address = candidate.derivation_path, candidate.address
        return treasury_of_forwarder(chain.treasuries, path, address) or chain.treasury
    return chain.treasury


def plan(
    connection: Connection,
    chains: Chains,
    found: Sequence[Candidate],
    verdicts: Mapping[tuple[UUID, str], Verdict],
) -> Plan:
    """Make a job for each candidate that goes, at most one a destination, and mark it sweeping.

    A job moves what was judged when it was made. Coins not yet deep do not hold the deep ones back, or dust in
    each block would block every sweep (R12, R13); they are swept by the next job.
    """
    made: list[UUID] = []
    waiting: list[Waiting] = []
    room = TreasuryRoom(connection, chains)
    for candidate in found:
        place = (candidate.destination_id, candidate.token)
        verdict = verdicts.get(place)
        reason = candidate.reason or ("not_surveyed" if verdict is None else verdict.reason)
        if reason is not None or verdict is None:
            waiting.append(Waiting(*place, reason or ""))
            continue
        destination = connection.execute(_LOCK, {"id": candidate.destination_id}).one_or_none()
        if destination is None or destination.is_open or destination.status == "quarantined":
            continue
        if (paused := pauses_of(connection, candidate.payment_ids)) != []:  # opened while the chain was asked
            waiting.append(Waiting(*place, paused_by(paused[0].gap_id)))
            continue
        units = _judged_units(connection, candidate)
        if units == 0:
            waiting.append(Waiting(*place, "deposit_not_deep"))
            continue
        amount = to_amount(units, candidate.decimals)
        active = chains.chain(candidate.chain_id).treasury
        if candidate.treasury == active and (full := room.why_full(candidate.chain_id, candidate.token, amount)):
            waiting.append(Waiting(*place, full))
            continue
        job = connection.execute(
            _INSERT,
            {
                "destination": candidate.destination_id,
                "chain": candidate.chain_id,
                "token": candidate.token,
                "strategy": verdict.strategy,
                "units": units,
                "treasury": candidate.treasury,
            },
        ).scalar_one_or_none()
        if job is None:
            continue
        connection.execute(
            text(
                "UPDATE public.derived_destinations SET status = 'sweeping', updated_at = clock_timestamp() "
                "WHERE id = :id"
            ),
            {"id": candidate.destination_id},
        )
        mirror(connection, COLLECTION, candidate.destination_id)
        made.append(job)
        log.info(
            "sweep_planned",
            job=str(job),
            address=candidate.address,
            token=candidate.token,
            units=str(units),
            strategy=verdict.strategy,
        )
    return Plan(tuple(made), tuple(waiting))


def _candidate(place: Any, units: int) -> Candidate:
    return Candidate(
        destination_id=place.id,
        chain_id=place.chain_id,
        token=place.token,
        address=place.address,
        decimals=place.decimals,
        units=units,
        derivation_index=place.derivation_index,
        derivation_path=place.derivation_path,
        account_fingerprint=place.xpub_fingerprint,
        method=place.method,
        since=place.since,
        is_wanted=place.is_wanted,
        payment_ids=tuple(place.payment_ids),
    )


def _judged_units(connection: Connection, place: Any) -> int:
    facts = facts_at(
        connection,
        destination_id=place.destination_id if isinstance(place, Candidate) else place.id,
        chain_id=place.chain_id,
        token=place.token,
        address=place.address,
        decimals=place.decimals,
    )
    return sum(fact.units for fact in facts if fact.is_judged)

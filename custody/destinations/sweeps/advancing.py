"""One round of sweeping: plan, lease, look at the chain, act, give back (L15). Role: fleet_sweeps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import ChainClient, ChainUnavailable, WrongChain, effective_threshold
from custody.chain.lane_leases import LaneLost
from custody.destinations.keys.client import KeysAgentAway
from custody.destinations.sweeps import jobs
from custody.destinations.sweeps.batch_signing import BATCH_METHODS
from custody.destinations.sweeps.batch_sweeping import BatchSweeping
from custody.destinations.sweeps.choosing import Choosing
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.lane_sending import IntentSigner
from custody.destinations.sweeps.lane_tending import lanes_due, tend
from custody.destinations.sweeps.native_drain import NativeDrain
from custody.destinations.sweeps.payers import Payers, close_payers, open_payers
from custody.destinations.sweeps.planner import candidates, plan, why_not_flushed
from custody.destinations.sweeps.rotation import follow_treasury
from custody.destinations.sweeps.signing import SweepSigner
from custody.destinations.sweeps.strategy import CREATE2_FORWARDER, Depth, SweepRound, SweepStrategy, in_transaction
from custody.destinations.sweeps.top_up_transfer import TopUpTransfer
from custody.settings.chains import Chain, Chains
from custody.settings.thresholds import newest_threshold
from custody.store.work import bury

log = structlog.get_logger(__name__)

STRATEGIES: Final[Mapping[str, SweepStrategy]] = {
    strategy.name: strategy
    for strategy in (TopUpTransfer(), NativeDrain(), *(BatchSweeping(method) for method in BATCH_METHODS.values()))
}
SIGNERS: Final[Mapping[str, IntentSigner]] = {
    purpose: signer for strategy in STRATEGIES.values() for purpose, signer in strategy.signers.items()
}
_AGENT: Final = "keys_agent"
CLAIM_LIMIT: Final = 100
IN_FLIGHT_LIMIT: Final = 16  # nonces of one lane that no block holds: what geth's pool keeps of any account
PAYER_FLOAT_MAXIMUM_WEI: Final = 10**19  # ten coins: what a thief of a payer's key could burn at most
IDLE_LOOK_SECONDS: Final = 60  # how often a payer with nothing to send is looked at, for its coins and its nonce


@dataclass(frozen=True, slots=True)
class _Limits:
    jobs: int
    in_flight: int
    payer_float_wei: int


def run_once(
    engine: Engine,
    clients: Mapping[int, ChainClient],
    chains: Chains,
    signer: SweepSigner,
    *,
    limit: int = CLAIM_LIMIT,
    in_flight_limit: int = IN_FLIGHT_LIMIT,
    payer_float_maximum_wei: int = PAYER_FLOAT_MAXIMUM_WEI,
    choosing: Choosing | None = None,
) -> int:
    """Plan and advance sweeps once; return how many rows went forward (0: nothing to do before the next block).

    ``clients`` by chain id; ``limit`` jobs a round (setting claim_limit); ``in_flight_limit`` nonces of each gas payer that
    no block holds yet (setting sweep_in_flight_limit); above ``payer_float_maximum_wei`` a gas payer's coins are shown to
    an operator (R20). ``choosing`` remembers what it surveyed: keep it between rounds. A chain that does not answer
    delays its own jobs alone.
    """
    planned = _plan(engine, clients, chains, signer, limit, choosing or Choosing())
    limits = _Limits(limit, in_flight_limit, payer_float_maximum_wei)
    return planned + _advance(engine, clients, chains, signer, limits)


def _plan(
    engine: Engine,
    clients: Mapping[int, ChainClient],
    chains: Chains,
    signer: SweepSigner,
    limit: int,
    choosing: Choosing,
) -> int:
    """Make jobs of what goes; the chain is asked between two transactions, never inside one (L15)."""
    found = in_transaction(engine, lambda connection: candidates(connection, chains, limit=limit))
    try:
        verdicts = choosing.judge(clients, chains, signer, found)
    except KeysAgentAway as error:
        reason = f"keys_agent_away: {error}"
        log.warning("sweeps_not_planned", reason=reason)
        in_transaction(engine, lambda connection: _show_agent_away(connection, reason))
        return 0
    if verdicts:
        in_transaction(engine, _resolve_agent_away)
    planned = in_transaction(engine, lambda connection: plan(connection, chains, found, verdicts))
    for waiting in planned.waiting:
        log.debug("sweep_waits", destination=str(waiting.destination_id), reason=waiting.reason)
    return len(planned.jobs)


def _show_agent_away(connection: Connection, reason: str) -> None:
    """Coins wait and no job can say so: which way they go is the agent's to help find out."""
    bury(
        connection,
        queue=jobs.QUEUE,
        subject_kind=_AGENT,
        subject_id=_AGENT,
        reason=reason,
        unblocks="start the process keys-agent; destinations with coins are planned in the next round",
        attempts=1,
    )


def _resolve_agent_away(connection: Connection) -> None:
    connection.execute(
        text(
            "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue "
            "WHERE queue = :queue AND subject_kind = :kind AND subject_id = :kind AND resolved_at IS NULL"
        ),
        {"queue": jobs.QUEUE, "kind": _AGENT},
    )


def _advance(
    engine: Engine, clients: Mapping[int, ChainClient], chains: Chains, signer: SweepSigner, limits: _Limits
) -> int:
    """Lease due jobs and bring each as far as it goes without waiting for a block, and look after the payers' lanes;
    return the rows that went forward.
    """
    leased = in_transaction(engine, lambda connection: jobs.lease(connection, limits.jobs))
    due = in_transaction(engine, lambda connection: lanes_due(connection, IDLE_LOOK_SECONDS, signer.payers_met))
    if not leased and not due:
        return 0
    try:
        signer.meet()
    except KeysAgentAway as error:
        reason = f"keys_agent_away: {error}"
        log.warning("sweep_round_postponed", reason=reason)
        in_transaction(engine, lambda connection: jobs.postpone(connection, leased, reason))
        return 0
    by_chain: dict[int, list[SweepJob]] = defaultdict(list)
    for job in leased:
        by_chain[job.chain_id].append(job)
    known = {chain.id for chain in chains.chains}
    progressed = 0
    for chain_id in sorted({*by_chain, *(known & set(due))}):
        progressed += _advance_chain(
            engine, clients.get(chain_id), chains.chain(chain_id), signer, by_chain[chain_id], limits
        )
    return progressed


def _advance_chain(
    engine: Engine,
    client: ChainClient | None,
    chain: Chain,
    signer: SweepSigner,
    leased: Sequence[SweepJob],
    limits: _Limits,
) -> int:
    if client is None:
        in_transaction(engine, lambda connection: jobs.postpone(connection, leased, "no client for the chain"))
        return 0
    leased = in_transaction(engine, lambda connection: follow_treasury(connection, chain, leased))
    depth, agreed_number, paused = in_transaction(engine, lambda connection: _standing(connection, chain.id))
    accepted = _accepted(engine, chain, signer, leased, paused)
    if paused is not None:
        return 0
    work: SweepRound | None = None
    try:
        # A nonce or receipt of another chain would spoil a lane for good (R17).
        client.require_identity(chain.id, chain.genesis_hash)
        payers = open_payers(
            lambda take: in_transaction(engine, take), client, chain.id, signer.gas_payers, limits.in_flight
        )
        work = SweepRound(
            engine=engine,
            client=client,
            chain=chain,
            signer=signer,
            depth=depth,
            agreed_number=agreed_number,
            payers=payers,
            signers=SIGNERS,
            payer_float_maximum_wei=limits.payer_float_wei,
        )
        progressed = _round(work, accepted)
    except (ChainUnavailable, WrongChain) as error:
        reason = f"{type(error).__name__}: {error.reason}"
        log.warning("sweep_round_postponed", chain_id=chain.id, reason=reason)
        in_transaction(engine, lambda connection: jobs.postpone(connection, accepted, reason))
        progressed = 0 if work is None else work.progressed
    if work is not None:
        opened: Payers = work.payers
        in_transaction(engine, lambda connection: close_payers(connection, opened))
    return progressed


def _round(work: SweepRound, accepted: Sequence[SweepJob]) -> int:
    """The lanes first: what they find out decides what the jobs wait for, and which payer is used. Raises ChainUnavailable."""
    for lane in work.payers.lanes:
        with suppress(LaneLost):
            work.sending[lane.address] = tend(work, lane)
    work.payers = replace(work.payers, lanes=[lane for lane in work.payers.lanes if lane.address in work.sending])
    groups: dict[str, list[SweepJob]] = defaultdict(list)
    for job in accepted:
        groups[job.strategy].append(job)
    for strategy, group in sorted(groups.items()):
        work.jobs = group
        STRATEGIES[strategy].advance(work)
    in_transaction(work.engine, lambda connection: jobs.give_back(connection, accepted, work.reasons))
    return work.progressed


def _standing(connection: Connection, chain_id: int) -> tuple[Depth, int | None, str | None]:
    """The depth that binds, the newest block that a quorum agrees on, and why the chain is paused, if it is."""
    newest = newest_threshold(connection, chain_id)
    threshold = effective_threshold(chain_id, None if newest is None else newest.value_blocks)
    cursor = connection.execute(
        text("SELECT agreed_number, paused_reason FROM fleet.chain_cursors WHERE chain_id = :id"), {"id": chain_id}
    ).one_or_none()
    depth = Depth(threshold, None if newest is None else newest.history_id)
    return (depth, None, None) if cursor is None else (depth, cursor.agreed_number, cursor.paused_reason)


def _accepted(
    engine: Engine, chain: Chain, signer: SweepSigner, leased: Sequence[SweepJob], paused: str | None
) -> list[SweepJob]:
    """The jobs that may go on; the others are given back with the reason they wait for."""
    refusals: dict[UUID, str] = {}
    for job in leased:
        if paused is not None:
            refusals[job.id] = f"chain_paused: {paused}"
        elif job.strategy != CREATE2_FORWARDER and job.account_fingerprint not in signer.accounts:
            refusals[job.id] = f"other_deposit_account: the keys agent has the seeds of {', '.join(signer.accounts)}"
        elif (
            job.strategy == CREATE2_FORWARDER
            and job.state == "planned"
            and (why := why_not_flushed(chain, job.treasury))
        ):
            refusals[job.id] = why
        elif job.treasury not in chain.treasuries:
            refusals[job.id] = "treasury_changed: the chains file names another treasury than this job"
    for reason in sorted(set(refusals.values())):
        refused = [job for job in leased if refusals.get(job.id) == reason]
        in_transaction(engine, lambda connection, g=refused, r=reason: jobs.postpone(connection, g, r))
    return [job for job in leased if job.id not in refusals]

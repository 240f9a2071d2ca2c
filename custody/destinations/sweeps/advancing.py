"""One round of sweeping: plan, lease, look at the chain, act, give back (L15). Role: fleet_sweeps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import ChainClient, ChainUnavailable, WrongChain, effective_threshold
from custody.destinations.keys.client import KeysAgentAway
from custody.destinations.sweeps import jobs
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.planner import plan
from custody.destinations.sweeps.rotation import follow_treasury
from custody.destinations.sweeps.signing import SweepSigner
from custody.destinations.sweeps.strategy import Depth, SweepRound, SweepStrategy, in_transaction
from custody.destinations.sweeps.top_up_transfer import TopUpTransfer
from custody.ledger.house import house_account
from custody.settings.chains import Chains
from custody.settings.thresholds import newest_threshold

log = structlog.get_logger(__name__)

STRATEGIES: Final[Mapping[str, SweepStrategy]] = {strategy.name: strategy for strategy in (TopUpTransfer(),)}
CLAIM_LIMIT: Final = 100
IN_FLIGHT_LIMIT: Final = 16
PAYER_FLOAT_MAXIMUM_WEI: Final = 10**19  # ten coins: what a thief of the payer's key could burn at most


def run_once(
    engine: Engine,
    clients: Mapping[int, ChainClient],
    chains: Chains,
    signer: SweepSigner,
    *,
    limit: int = CLAIM_LIMIT,
    in_flight_limit: int = IN_FLIGHT_LIMIT,
    payer_float_maximum_wei: int = PAYER_FLOAT_MAXIMUM_WEI,
) -> int:
    """Plan and advance sweeps once; return how many rows went forward (0: nothing to do before the next block).

    ``clients`` by chain id; ``limit`` jobs a round (setting claim_limit); ``in_flight_limit`` top-ups that no block
    holds yet, a chain (setting sweep_in_flight_limit); above ``payer_float_maximum_wei`` the gas payer's coins are
    shown to an operator (R20). A chain that does not answer delays its own jobs alone.
    """
    planned = in_transaction(engine, lambda connection: plan(connection, chains, limit=limit))
    for waiting in planned.waiting:
        log.debug("sweep_waits", destination=str(waiting.destination_id), reason=waiting.reason)
    return len(planned.jobs) + advance(
        engine,
        clients,
        chains,
        signer,
        limit=limit,
        in_flight_limit=in_flight_limit,
        payer_float_maximum_wei=payer_float_maximum_wei,
    )


def advance(
    engine: Engine,
    clients: Mapping[int, ChainClient],
    chains: Chains,
    signer: SweepSigner,
    *,
    limit: int = CLAIM_LIMIT,
    in_flight_limit: int = IN_FLIGHT_LIMIT,
    payer_float_maximum_wei: int = PAYER_FLOAT_MAXIMUM_WEI,
) -> int:
    """Lease due jobs and bring each as far as it goes without waiting for a block; return the rows that went forward."""
    leased = in_transaction(engine, lambda connection: jobs.lease(connection, limit))
    if not leased:
        return 0
    try:
        signer.meet()
    except KeysAgentAway as error:
        reason = f"keys_agent_away: {error}"
        log.warning("sweep_round_postponed", reason=reason)
        in_transaction(engine, lambda connection: jobs.postpone(connection, leased, reason))
        return 0
    groups: dict[tuple[int, str], list[SweepJob]] = defaultdict(list)
    for job in leased:
        groups[job.chain_id, job.strategy].append(job)
    progressed = 0
    for (chain_id, strategy), group in sorted(groups.items()):
        work = _prepare(engine, clients, chains, signer, chain_id, group, in_flight_limit, payer_float_maximum_wei)
        if work is None:
            continue
        try:
            # A nonce or receipt of another chain would spoil a lane for good (R17).
            work.client.require_identity(work.chain.id, work.chain.genesis_hash)
            STRATEGIES[strategy].advance(work)
        except (ChainUnavailable, WrongChain) as error:
            reason = f"{type(error).__name__}: {error.reason}"
            log.warning("sweep_round_postponed", chain_id=chain_id, reason=reason)
            in_transaction(engine, lambda connection, g=group, r=reason: jobs.postpone(connection, g, r))
        else:
            in_transaction(
                engine,
                lambda connection, g=group, reasons=work.reasons: jobs.give_back(connection, g, reasons),
            )
        progressed += work.progressed
    return progressed


def _prepare(
    engine: Engine,
    clients: Mapping[int, ChainClient],
    chains: Chains,
    signer: SweepSigner,
    chain_id: int,
    group: Sequence[SweepJob],
    in_flight_limit: int,
    payer_float_maximum_wei: int,
) -> SweepRound | None:
    """What a round on one chain needs, or None after its jobs were given back with the reason they wait for."""
    chain = chains.chain(chain_id)
    client = clients.get(chain_id)

    group = in_transaction(engine, lambda connection: follow_treasury(connection, chain, group))

    def read(connection: Connection) -> tuple[UUID | None, Depth, int | None, str | None]:
        newest = newest_threshold(connection, chain_id)
        threshold = effective_threshold(chain_id, None if newest is None else newest.value_blocks)
        cursor = connection.execute(
            text("SELECT agreed_number, paused_reason FROM fleet.chain_cursors WHERE chain_id = :id"),
            {"id": chain_id},
        ).one_or_none()
        return (
            house_account(connection, chain_id, signer.gas_payer, "gas_payer"),
            Depth(threshold, None if newest is None else newest.history_id),
            None if cursor is None else cursor.agreed_number,
            None if cursor is None else cursor.paused_reason,
        )

    house_book, depth, agreed_number, paused = in_transaction(engine, read)
    refusals: dict[UUID, str] = {}
    for job in group:
        if job.account_fingerprint not in signer.accounts:
            refusals[job.id] = f"other_deposit_account: the keys agent has the seeds of {', '.join(signer.accounts)}"
        elif job.treasury not in chain.treasuries:
            refusals[job.id] = "treasury_changed: the chains file names another treasury than this job"
    if paused is not None:
        refusals = {job.id: f"chain_paused: {paused}" for job in group}
    elif house_book is None:
        reason = f"house_account_missing: register the gas payer {signer.gas_payer} as a house account"
        refusals = {job.id: reason for job in group}
    refused = [job for job in group if job.id in refusals]
    if client is None:
        in_transaction(engine, lambda connection: jobs.postpone(connection, group, "no client for the chain"))
        return None
    if refused:
        for reason in sorted(set(refusals.values())):
            in_transaction(
                engine,
                lambda connection, r=reason: jobs.postpone(
                    connection, [job for job in refused if refusals[job.id] == r], r
                ),
            )
    accepted = [job for job in group if job.id not in refusals]
    if house_book is None or not accepted:
        return None
    return SweepRound(
        engine=engine,
        client=client,
        chain=chain,
        signer=signer,
        house_book=house_book,
        depth=depth,
        agreed_number=agreed_number,
        in_flight_limit=in_flight_limit,
        jobs=accepted,
        payer_float_maximum_wei=payer_float_maximum_wei,
    )

"""Which way each destination is swept, from what it would cost now: the node's estimates of the real calls, never constants.

An address that once used a method which excludes another keeps it. The chains file may name a strategy for a token or a
chain. Then the economic gate: coins at rest are cheaper than gas that eats them.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid4

import structlog

from custody.chain import CallRequest, ChainClient, ChainUnavailable, ExecutionReverted, to_amount
from custody.chain.erc20 import encode_transfer
from custody.destinations.keys.client import KeysAgentAway, SigningPostponed
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps.batch_method import BatchMethod
from custody.destinations.sweeps.batch_signing import BATCH_METHODS
from custody.destinations.sweeps.batches import Batch, Item
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.planner import Candidate, Verdict
from custody.destinations.sweeps.signing import SweepSigner
from custody.destinations.sweeps.strategy import CREATE2_FORWARDER, NATIVE_DRAIN, TOP_UP_TRANSFER
from custody.settings.chains import NATIVE, Chain, Chains

log = structlog.get_logger(__name__)

SURVEY_SECONDS: Final = 60  # an estimate is asked again after so long: gas of a call changes with the chain's rules
SAMPLE: Final = 3  # of single transfers; a batch is estimated whole

_Group = tuple[int, str, str | None, str]
"""Chain, token, the method that its addresses have for life, and the treasury that they go to."""


@dataclass(frozen=True, slots=True)
class Economics:
    """The gate: sweep at ``value_multiple`` times the cost, or after ``max_age``, or when a payout waits for the coins."""

    value_multiple: int = 20
    max_age: timedelta = timedelta(days=7)
    gather: timedelta = timedelta()
    """How long coins wait for others to go with them, unless a batch is full: ten cost half of what ten alone would."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A way that a group of addresses can be swept now: gas for each, as estimated."""

    strategy: str
    gas: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The cheapest ways first, why others are none, and the price of gas (wei)."""

    offers: tuple[Offer, ...]
    refusals: Mapping[str, str]
    gas_price: int


@dataclass(frozen=True, slots=True)
class _Reach:
    client: ChainClient
    chain: Chain
    signer: SweepSigner


class Choosing:
    """Surveys groups of candidates and judges each. Remembers surveys for SURVEY_SECONDS."""

    def __init__(self, economics: Economics = Economics()) -> None:
        self._economics = economics
        self._known: dict[tuple[_Group, int], tuple[int, Survey]] = {}

    def judge(
        self, clients: Mapping[int, ChainClient], chains: Chains, signer: SweepSigner, found: Sequence[Candidate]
    ) -> dict[tuple[UUID, str], Verdict]:
        """A verdict for each candidate that nothing else keeps back. Reads chains, asks the keys agent (L15).

        Raises KeysAgentAway. A chain that does not answer delays its own candidates.
        """
        groups: dict[_Group, list[Candidate]] = defaultdict(list)
        for each in found:
            if each.reason is None:
                groups[each.chain_id, each.token, each.method, each.treasury].append(each)
        verdicts: dict[tuple[UUID, str], Verdict] = {}
        if groups:
            signer.meet()
        for group, members in groups.items():
            chain = chains.chain(group[0])
            chain = chain.at(group[3] or chain.treasury)
            client = clients.get(chain.id)
            try:
                if client is None:
                    raise LookupError("no client for the chain")
                survey = self._survey(group, _Reach(client, chain, signer), members)
            except (ChainUnavailable, LookupError, SigningPostponed, ExecutionReverted) as error:
                for each in members:
                    verdicts[each.destination_id, each.token] = Verdict("", 0, 0, f"not_surveyed: {error}")
                continue
            for each in members:
                verdicts[each.destination_id, each.token] = self._verdict(chain, each, survey, len(members))
        return verdicts

    def _survey(self, group: _Group, reach: _Reach, members: Sequence[Candidate]) -> Survey:
        # What each costs falls with their number: 10 are within a tenth of 100 (sweeping.md), 1 is twice that.
        key = (group, min(len(members), 64).bit_length())
        now = time.monotonic_ns() // 1_000_000_000
        known = self._known.get(key)
        if known is not None and known[0] + SURVEY_SECONDS > now:
            return known[1]
        survey = _surveyed(reach, group, members)
        self._known[key] = (now, survey)
        log.info(
            "sweeps_surveyed",
            chain_id=group[0],
            token=group[1],
            destinations=len(members),
            offers={offer.strategy: offer.gas for offer in survey.offers},
            refusals=dict(survey.refusals),
        )
        return survey

    def _verdict(self, chain: Chain, candidate: Candidate, survey: Survey, count: int) -> Verdict:
        if not survey.offers:
            why = "; ".join(f"{name}: {reason}" for name, reason in survey.refusals.items())
            return Verdict("", 0, 0, f"no_strategy: {why}", survey.refusals)
        offer = survey.offers[0]
        cost = offer.gas * survey.gas_price
        reason = self._why_not_worth_it(chain, candidate, cost) or self._why_gathering(candidate, count)
        return Verdict(offer.strategy, offer.gas, cost, reason, survey.refusals)

    def _why_gathering(self, candidate: Candidate, count: int) -> str | None:
        since, gather = candidate.since, self._economics.gather
        if candidate.token == NATIVE or since is None or since + gather <= datetime.now(UTC):
            return None
        if any(count >= batch.limit for batch in BATCH_METHODS.values()):
            return None
        return f"gathering: {gather.seconds} seconds for others to go with it"

    def _why_not_worth_it(self, chain: Chain, candidate: Candidate, cost_wei: int) -> str | None:
        value = value_in_wei(chain, candidate)
        if value is None or value >= self._economics.value_multiple * cost_wei or candidate.is_wanted:
            return None
        if candidate.since is not None and candidate.since + self._economics.max_age <= datetime.now(UTC):
            return None
        return (
            f"not_worth_it: worth {value} wei, its gas {cost_wei} wei; it goes at {self._economics.value_multiple} times "
            f"that, after {self._economics.max_age.days} days, or when a payout waits for it"
        )


def value_in_wei(chain: Chain, candidate: Candidate) -> int | None:
    """What the candidate's coins are worth in the chain's own, None where no price is known."""
    if candidate.token == NATIVE:
        return candidate.units
    token = chain.token(candidate.token)
    if token is None or token.coin_price is None:
        return None
    return int(to_amount(candidate.units, candidate.decimals) * token.coin_price * Decimal(10**18))


def _surveyed(reach: _Reach, group: _Group, members: Sequence[Candidate]) -> Survey:
    base_fee, priority_fee = reach.client.fees()
    gas_price = base_fee + priority_fee
    _, token_address, method, _ = group
    if method == CREATE2_FORWARDER:
        return _forwarders(reach, members, gas_price)
    if token_address == NATIVE:
        calls = [CallRequest(reach.chain.treasury, value=1, sender=each.address) for each in members[:SAMPLE]]
        return _only(NATIVE_DRAIN, _mean(reach, calls), gas_price)
    token = reach.chain.token(token_address)
    only = None if token is None else token.sweep_strategy
    wished = only or reach.chain.sweep_strategy
    offers: list[Offer] = []
    refusals: dict[str, str] = {}
    for batch in BATCH_METHODS.values():
        if batch.name == CREATE2_FORWARDER or (wished is not None and wished != batch.name):
            continue
        refusal = _method_refusal(method, batch) or _offer(reach, batch, members, offers)
        if refusal is not None:
            refusals[batch.name] = refusal
    # What the chain wishes may not be had for a token (EIP-3009 for Tether), what a token must have may not for an address.
    if wished in {None, TOP_UP_TRANSFER} or (not offers and (only is None or method is not None)):
        top_ups = [CallRequest(each.address, value=1, sender=reach.signer.gas_payers[0]) for each in members[:SAMPLE]]
        transfers = [
            CallRequest(token_address, encode_transfer(reach.chain.treasury, each.units), sender=each.address)
            for each in members[:SAMPLE]
        ]
        gas = _mean(reach, top_ups), _mean(reach, transfers)
        offers.append(Offer(TOP_UP_TRANSFER, (gas[0] or 0) + (gas[1] or 0)))
    return Survey(tuple(sorted(offers, key=lambda offer: offer.gas)), refusals, gas_price)


def _forwarders(reach: _Reach, members: Sequence[Candidate], gas_price: int) -> Survey:
    """The one way of addresses without a key, whatever the chains file wishes for others."""
    offers: list[Offer] = []
    refusal = _offer(reach, BATCH_METHODS[CREATE2_FORWARDER], members, offers)
    return Survey(tuple(offers), {} if refusal is None else {CREATE2_FORWARDER: refusal}, gas_price)


def _method_refusal(lifetime: str | None, batch: BatchMethod) -> str | None:
    if lifetime is not None and batch.lifetime is not None and batch.lifetime != lifetime:
        return f"the address is swept by {lifetime} for life"
    return None


def _offer(reach: _Reach, batch: BatchMethod, members: Sequence[Candidate], offers: list[Offer]) -> str | None:
    """Estimate one real batch of these; why the method is none now, or None with an offer made."""
    try:
        if (why := batch.why_not(reach)) is not None:
            return why
        trial = [_as_job(each, batch.name, reach.chain) for each in members[: batch.limit]]
        items = batch.look(reach, trial)
        fit = [(job, item) for job, item in zip(trial, items, strict=True) if isinstance(item, Item)]
        if not fit:
            return next((item.reason for item in items if not isinstance(item, Item)), "none of the addresses is fit")
        made = _trial(batch, fit)
        call = batch.compose(reach, made)
        failures = batch.failures(reach, made, call, reach.signer.gas_payers[0])
        if failures:
            made = made.without(set(failures))
            if not made.jobs:
                return next(iter(failures.values()))
            call = batch.compose(reach, made)
        offers.append(Offer(batch.name, batch.estimate(reach, call, reach.signer.gas_payers[0]) // len(made.jobs)))
    except (ShapeRefused, ValueError, ExecutionReverted) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _trial(batch: BatchMethod, fit: Sequence[tuple[SweepJob, Item]]) -> Batch:
    jobs, items = tuple(job for job, _ in fit), tuple(item for _, item in fit)
    return Batch(uuid4(), batch.name, jobs[0].token, jobs, items, None)


def _only(strategy: str, gas: int | None, gas_price: int) -> Survey:
    # What reverts is told from what is dear by the strategy itself, destination by destination.
    return Survey((Offer(strategy, gas or 0),), {}, gas_price)


def _mean(reach: _Reach, calls: Sequence[CallRequest]) -> int | None:
    found = [each for each in reach.client.estimates(calls) if not isinstance(each, ExecutionReverted)]
    return sum(found) // len(found) if found else None


def _as_job(candidate: Candidate, strategy: str, chain: Chain) -> SweepJob:
    return SweepJob(
        id=uuid4(),
        destination_id=candidate.destination_id,
        chain_id=candidate.chain_id,
        token=candidate.token,
        strategy=strategy,
        amount_units=candidate.units,
        treasury=chain.treasury,
        state="planned",
        attempts=0,
        address=candidate.address,
        derivation_index=candidate.derivation_index,
        derivation_path=candidate.derivation_path,
        account_fingerprint=candidate.account_fingerprint,
        lease_token=None,
    )


__all__ = ["Choosing", "Economics", "KeysAgentAway", "Offer", "Survey", "value_in_wei"]

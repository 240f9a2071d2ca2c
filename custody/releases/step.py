"""The releases step: what its worker runs each time its queue is rung (R9: it makes no approval and no signature)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Engine

from custody.chain import ChainClient, ChainUnavailable, WrongChain, connections
from custody.chain.nodes import ChainNodes
from custody.cutovers import Domain, cut_over_to, require_beginnings
from custody.ledger import LedgerRefusal
from custody.payments import TransitionRefused
from custody.policy import AddressBook, PolicyRefused, SignedFolder, accept, require_genesis_treasuries
from custody.policy.safekeeping import signed_folder
from custody.releases import rows
from custody.releases.approving import approve_due, judge_approvals
from custody.releases.broadcast import broadcast_signed
from custody.releases.cancelling import answer_requests, send_cancels
from custody.releases.disputes import DisputeWatch, draft_after_disputes
from custody.releases.drains import follow_rotations, reserve_drain
from custody.releases.fee_payouts import reserve_fees
from custody.releases.fees import NO_FEES, FeeRates
from custody.releases.finality import end_deep_ones
from custody.releases.gate import ReleaseStopped
from custody.releases.grouping import AS_USUAL, Grouping, group_waiting
from custody.releases.hand_out import hand_out_next
from custody.releases.instructions import FIRST, candidates, draft_release, reserve
from custody.releases.refunds import draft_refunds, reserve_refund
from custody.releases.rows import Instruction
from custody.releases.safe_finality import end_safe_ones
from custody.releases.safe_rejection import send_rejections
from custody.releases.safe_treasury import Safes, SafeTreasury, safes_of
from custody.releases.security_stops import draft_after_gaps, stop_paused
from custody.releases.signing import judge_submissions
from custody.releases.sources import (
    MAY_BE_PAID,
    Sources,
    SourceUnreadable,
    references,
)
from custody.releases.surplus import order_surplus
from custody.releases.treasuries import paying_treasuries
from custody.safe import ReleasePayer
from custody.settings.chains import Chains, load_chains
from custody.settings.environment import FleetSettings, Store
from custody.store.engine import transaction
from custody.store.mongo import open_mongo

log = structlog.get_logger(__name__)

APPROVAL_LIFETIME_SECONDS: Final = (
    86_400  # a day: persons of two time zones see it, and nobody signs last week's intent
)


@dataclass
class Step:
    """The releases worker's connections and limits, built once a process (after its fork)."""

    engine: Engine
    chains: Chains
    nodes: Mapping[int, ChainNodes]
    sources: Sources
    release_max_total_fee_wei: int
    release_in_flight_limit: int
    signed: SignedFolder | None = None
    """Where the signed genesis and policy lie; None where no approvals are required (R17)."""
    approval_lifetime_seconds: int = APPROVAL_LIFETIME_SECONDS
    auto_release_hours: int | None = None
    """Hours after its delivery that a request which nobody disputes is paid; None: only when its buyer completed it."""
    surplus_refund_minimum: Decimal | None = None
    """Whole tokens from which on a surplus is ordered back to its buyer; None: never by itself."""
    rates: FeeRates = NO_FEES
    """What the house keeps of a release, in basis points."""
    grouping: Grouping = AS_USUAL
    """When several payments of one seller are paid by one transfer."""
    payer: ReleasePayer | None = None
    safes: Safes = field(default_factory=dict[tuple[int, str], SafeTreasury])
    """Treasuries that are Safes, as the genesis in force pins them."""
    _after: UUID = field(default=FIRST, init=False)
    _dispute_watch: DisputeWatch | None = field(default=None, init=False)

    @property
    def _disputes(self) -> DisputeWatch:
        if self._dispute_watch is None or self._dispute_watch.sources is not self.sources:
            self._dispute_watch = DisputeWatch(self.engine, self.sources)
        return self._dispute_watch

    def run_once(self, limit: int) -> int:
        """Find, reserve, judge submissions, send, end, hand out: at most ``limit`` rows each; rows progressed.

        A marketplace store or a chain that cannot be read holds back what depends on it, and nothing else.
        """
        self.sources.follow_cutovers()
        progressed = self._disputes.run_once(limit)  # they freeze, whatever the policy's files are like
        progressed += stop_paused(self.engine, limit)
        try:
            book = self._signed_book()
            progressed += self._order_and_draft(limit, book) + self._reserve(limit, book)
            progressed += group_waiting(self.engine, self.signed, limit, self.grouping) + self._approve(limit)
        except PolicyRefused as error:
            # Nothing new is promised, approved, handed out or sent; what is out already can still end.
            log.error("releases_policy_refused", reason=str(error))
            self.safes = {}
        progressed += judge_submissions(self.engine, limit, self.safes)
        for nodes in self.nodes.values():
            progressed += broadcast_signed(
                self.engine, nodes, self.sources, limit, signed=self.signed, safes=self.safes
            )
            progressed += answer_requests(self.engine, nodes, limit, ceiling_wei=self.release_max_total_fee_wei)
            progressed += send_cancels(self.engine, nodes, limit)
            progressed += send_rejections(self.engine, nodes, self.safes, limit)
            try:
                progressed += end_deep_ones(self.engine, nodes, limit)
                progressed += end_safe_ones(self.engine, nodes, limit)
            except (ChainUnavailable, WrongChain) as error:
                log.warning("releases_chain_unavailable", chain_id=nodes.chain.id, reason=str(error))
                continue
            for treasury in paying_treasuries(nodes.chain):
                progressed += hand_out_next(
                    self.engine,
                    nodes,
                    self.sources,
                    treasury=treasury,
                    signed=self.signed,
                    ceiling_wei=self.release_max_total_fee_wei,
                    in_flight_limit=self.release_in_flight_limit,
                    safe=self.safes.get((nodes.chain.id, treasury)),
                )
        return progressed

    def close(self) -> None:
        """Close the connections to MongoDB and the nodes; the engine is its giver's."""
        self.sources.close()
        for nodes in self.nodes.values():
            for client in nodes.clients:
                client.close()

    def _signed_book(self) -> AddressBook | None:
        """The signed address book, with every new version of the files accepted. Raises PolicyRefused."""
        if self.signed is None:
            return None
        with transaction(self.engine) as connection:
            in_force = accept(connection, self.signed, rows.now(connection))
        require_genesis_treasuries(in_force.genesis.genesis, self.chains)
        self.safes = safes_of(in_force.genesis.genesis, self.payer)
        return in_force.book

    def _approve(self, limit: int) -> int:
        if self.signed is None:
            return 0
        return judge_approvals(self.engine, self.signed, limit) + approve_due(
            self.engine,
            self.signed,
            limit,
            fee_ceiling_wei=self.release_max_total_fee_wei,
            lifetime_seconds=self.approval_lifetime_seconds,
        )

    def _order_and_draft(self, limit: int, book: AddressBook | None) -> int:
        """Make the instructions of whatever orders one: completed requests, the timer, disputes, refund orders."""
        moved = follow_rotations(
            self.engine,
            self.chains,
            limit,
            fee_ceiling_wei=self.release_max_total_fee_wei,
            book=book,
            rates=self.rates,
        )
        moved += draft_after_disputes(self.engine, self.chains, limit, book=book, rates=self.rates)
        moved += draft_after_gaps(self.engine, self.chains, limit, book=book, rates=self.rates)
        if self.surplus_refund_minimum is not None:
            moved += order_surplus(self.engine, self.surplus_refund_minimum, limit)
        return moved + draft_refunds(self.engine, self.chains, limit, book=book) + self._find(limit, book)

    def _find(self, limit: int, book: AddressBook | None) -> int:
        """Draft releases of payments whose request is completed, or delivered long enough; a page of payments a round."""
        with transaction(self.engine) as connection:
            page = candidates(connection, limit, self._after)
            named = references(connection, page)
        self._after = page[-1] if len(page) == limit else FIRST
        if not page:
            return 0
        try:
            readings = self.sources.read(list(named.values()))
        except SourceUnreadable as error:
            log.warning("releases_not_looked_for", reason=f"source_unreadable: {error}", payments=len(page))
            return 0
        drafted = 0
        for payment_id in page:
            reading = readings[payment_id]
            if not reading.is_due(self.auto_release_hours) or reading.why_it_stops() is not None:
                continue
            with transaction(self.engine) as connection:
                try:
                    draft_release(connection, payment_id, self.chains, book=book, rates=self.rates)
                    drafted += 1
                except ReleaseStopped as error:
                    log.info("release_stopped", payment_id=str(payment_id), reason=str(error.stops[0]))
        return drafted

    def _reserve(self, limit: int, book: AddressBook | None) -> int:
        """Reserve what was drafted, once the marketplace says that the seller may be paid."""
        with transaction(self.engine) as connection:
            drains = rows.lease(connection, "w.state = 'drafted' AND w.purpose = 'drain'", {}, limit)
            leased = rows.lease(connection, "w.state = 'drafted' AND w.purpose <> 'drain'", {}, limit)
            named = references(connection, [each.payment_ids[0] for each in leased])
        reserved = sum(self._reserve_one(instruction, book) for instruction in drains)
        if not leased:
            return reserved
        try:
            readings = self.sources.read(list(named.values()))
        except SourceUnreadable as error:
            for instruction in leased:
                self._hold(instruction, f"source_unreadable: {error}")
            return reserved
        for instruction in leased:
            reading = readings[instruction.payment_ids[0]]
            why = reading.why_it_stops(instruction.purpose)
            if why is None and instruction.cause is None and reading.status not in MAY_BE_PAID:
                why = (
                    f"request_not_completed: the purchase request is {reading.status}; the buyer must confirm the "
                    "delivery first."
                )
            if why is not None:
                self._hold(instruction, why)
                continue
            reserved += self._reserve_one(instruction, book)
        return reserved

    def _reserve_one(self, leased: Instruction, book: AddressBook | None) -> int:
        try:
            with transaction(self.engine) as connection:
                instruction = rows.lock_leased(connection, leased)
                if instruction is None:
                    return 0
                if instruction.is_drain:
                    reserved = reserve_drain(connection, instruction)
                elif instruction.purpose == "refund":
                    reserved = reserve_refund(connection, instruction, self.chains)
                elif instruction.purpose == "release":
                    reserved = reserve(connection, instruction, self.chains, book=book, rates=self.rates)
                else:
                    reserved = reserve_fees(connection, instruction, self.chains, book=book)
                if self.signed is None:
                    rows.move(connection, reserved, "ready")
        except ReleaseStopped as error:
            reason = "; ".join(str(stop) for stop in error.stops)
        except (LedgerRefusal, TransitionRefused) as error:
            reason = f"books_refused: {error}"
        else:
            return 1
        self._hold(leased, reason)
        return 0

    def _hold(self, instruction: Instruction, reason: str) -> None:
        with transaction(self.engine) as connection:
            rows.hold(connection, instruction, reason)
        log.info("release_waits", instruction_id=str(instruction.id), reason=reason)


def run_once(
    engine: Engine,
    clients: Mapping[int, Sequence[ChainClient]],
    sources: Sources,
    settings: FleetSettings,
    limit: int,
    *,
    chains: Chains | None = None,
) -> int:
    """One round over given connections: see Step.run_once. ``clients`` are the nodes of each chain by its id."""
    configured = chains or load_chains(settings.path("chains_file"))
    return Step(
        engine,
        configured,
        {chain_id: ChainNodes(configured.chain(chain_id), found) for chain_id, found in clients.items()},
        sources,
        settings.release_max_total_fee_wei,
        settings.release_in_flight_limit,
        signed_folder(settings, configured),
        settings.approval_lifetime_seconds,
        settings.auto_release_hours,
        settings.surplus_refund_minimum,
        FeeRates(settings.platform_fee_basis_points, settings.provider_fee_basis_points),
        Grouping(settings.release_group_maximum, settings.release_group_seconds),
        ReleasePayer.from_settings(settings),
    ).run_once(limit)


def build(engine: Engine, settings: FleetSettings) -> Step:
    """The step of this process over its own engine. Raises SettingsError that names what is missing."""
    chains = load_chains(settings.path("chains_file"))
    sources = _sources(engine, settings)
    return Step(
        engine,
        chains,
        {chain.id: ChainNodes(chain, [ChainClient(each) for each in connections(chain)]) for chain in chains.chains},
        sources,
        settings.release_max_total_fee_wei,
        settings.release_in_flight_limit,
        signed_folder(settings, chains),
        settings.approval_lifetime_seconds,
        settings.auto_release_hours,
        settings.surplus_refund_minimum,
        FeeRates(settings.platform_fee_basis_points, settings.provider_fee_basis_points),
        Grouping(settings.release_group_maximum, settings.release_group_seconds),
        ReleasePayer.from_settings(settings),
    )


def _sources(engine: Engine, settings: FleetSettings) -> Sources:
    """Raises SettingsError for a store that two persons have not cut over to, and without MONGO_URL while it is needed."""
    beginnings: dict[Domain, Store] = {"marketplace": settings.repo_marketplace, "dispute": settings.repo_dispute}
    with transaction(engine) as connection:
        require_beginnings(connection, beginnings)
        stores = beginnings | cut_over_to(connection)
    if any(store != "pg" for store in stores.values()):
        settings.require("mongo_url")
    opens = None
    if settings.mongo_url is not None:
        opens = partial(open_mongo, settings.secret("mongo_url"), application="fleet-releases")
    return Sources(
        engine, None, settings.mongo_database, settings.repo_dispute, settings.repo_marketplace, open_client=opens
    )

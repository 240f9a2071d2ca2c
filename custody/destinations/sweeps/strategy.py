"""What a way to sweep must offer, and what one round of it works with."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from custody.chain import ChainClient, ExecutionReverted
from custody.chain.lane_leases import LaneLost
from custody.chain.lanes import LaneBlocked
from custody.destinations.keys.client import KeysAgentAway, SigningPostponed
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps.jobs import QUEUE, LeaseLost, SweepJob
from custody.destinations.sweeps.signing import SweepSigner
from custody.ledger import LedgerRefusal
from custody.settings.chains import Chain
from custody.store.engine import BATCH_ATTEMPTS, attempts, is_retryable, transaction
from custody.store.work import bury

if TYPE_CHECKING:
    from custody.destinations.sweeps.lane_sending import IntentSigner, LaneSending
    from custody.destinations.sweeps.payers import Payers

log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")

TOP_UP_TRANSFER: Final = "top_up_transfer"
NATIVE_DRAIN: Final = "native_drain"
EIP3009_BATCH: Final = "eip3009_batch"
EIP7702_BATCH: Final = "eip7702_batch"
CREATE2_FORWARDER: Final = "create2_forwarder"


@dataclass(frozen=True, slots=True)
class Depth:
    """The confirmations that bind (blocks), and the history row they come from."""

    threshold: int
    history_id: UUID | None


class Reach(Protocol):
    """What a method needs to look at a chain and to have keys sign: a SweepRound, or a survey before there are jobs."""

    @property
    def client(self) -> ChainClient: ...
    @property
    def chain(self) -> Chain: ...
    @property
    def signer(self) -> SweepSigner: ...


@dataclass(slots=True, kw_only=True)
class SweepRound:
    """One look at one chain: its gas payers' lanes, and the leased jobs of one strategy.

    ``signers``: who signs an intent of a payer's lane, by its purpose; ``sending`` of each payer that this round has, by its
    address.
    """

    engine: Engine
    client: ChainClient
    chain: Chain
    signer: SweepSigner
    depth: Depth
    agreed_number: int | None
    payers: "Payers"
    signers: "Mapping[str, IntentSigner]"
    payer_float_maximum_wei: int
    jobs: Sequence[SweepJob] = ()
    sending: "dict[str, LaneSending]" = field(default_factory=dict)
    progressed: int = 0
    reasons: dict[UUID, str] = field(default_factory=dict[UUID, str])

    def wait(self, job: SweepJob, reason: str) -> None:
        """Say why the job goes no further in this round."""
        self.reasons[job.id] = reason

    @contextmanager
    def apart(self, job: SweepJob) -> Generator[None]:
        """One destination never stops the others: what is refused for ``job`` becomes its reason, and dead work."""
        try:
            yield
        except LeaseLost:
            return
        except (LaneBlocked, LaneLost) as error:
            self.wait(job, f"lane_blocked: {error}")
        except KeysAgentAway as error:
            self.wait(job, f"keys_agent_away: {error}")
        except SigningPostponed as error:
            self.wait(job, f"gas_payer_day_spent: {error}")
        except (LedgerRefusal, ShapeRefused, ExecutionReverted, LookupError, ValueError, DBAPIError) as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            reason = f"{type(error).__name__}: {error}"
            log.error("sweep_refused", job=str(job.id), address=job.address, reason=reason)
            self.wait(job, reason)
            self.apply(
                lambda connection: bury(
                    connection,
                    queue=QUEUE,
                    subject_kind="sweep_job",
                    subject_id=job.id,
                    reason=f"{job.address}: {reason}",
                    unblocks="correct what the reason names; the job is tried again in each round",
                    attempts=job.attempts + 1,
                )
            )

    def step(self) -> None:
        """Count one row that went forward."""
        self.progressed += 1

    def apply(self, work: Callable[[Connection], _Result]) -> _Result:
        """Run ``work`` in one transaction, again after a deadlock (L17)."""
        return in_transaction(self.engine, work)


class SweepStrategy(Protocol):
    """A way to bring coins from destinations to the treasury.

    ``advance`` moves each job of the round as far as it goes without waiting for a block, books what is final, and
    leaves the others with a reason. It may raise ChainUnavailable or WrongChain: the jobs are then tried again
    later. A crash between any two of its statements loses nothing and sweeps nothing twice.
    """

    @property
    def name(self) -> str:
        """What fleet.sweep_jobs.strategy says."""
        ...

    @property
    def signers(self) -> "Mapping[str, IntentSigner]":
        """Who signs the strategy's intents on a payer's lane, by purpose."""
        ...

    def advance(self, work: SweepRound) -> None:
        """Do one round."""
        ...


def in_transaction(engine: Engine, work: Callable[[Connection], _Result]) -> _Result:
    """Run ``work`` in one transaction; deadlocks and serialization failures repeat it, at most BATCH_ATTEMPTS times."""
    for attempt in attempts():
        try:
            with transaction(engine) as connection:
                return work(connection)
        except DBAPIError as error:
            if attempt == BATCH_ATTEMPTS or not is_retryable(error):
                raise
    raise AssertionError("attempts() ended without a result")

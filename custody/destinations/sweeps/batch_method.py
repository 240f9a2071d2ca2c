"""What a way to sweep many destinations with one transaction must offer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from custody.chain.lanes import LaneTransaction
from custody.destinations.keys.authorizations import AskedAuthorizations
from custody.destinations.keys.authorizations import Item as AskedItem
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps.batches import Batch, Item
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.signing import BatchCall
from custody.destinations.sweeps.strategy import Reach
from custody.trezor import Signature


@dataclass(frozen=True, slots=True)
class Unfit:
    """A destination that cannot be in the batch. ``is_final``: it never can, and is quarantined with the reason."""

    reason: str
    is_final: bool


class BatchMethod(Protocol):
    """A batch method. All but ``accepts`` read the chain or ask the keys agent; none runs inside a transaction (L15)."""

    @property
    def name(self) -> str:
        """What fleet.sweep_jobs.strategy says."""
        ...

    @property
    def lifetime(self) -> str | None:
        """What fleet.destination_methods says of its addresses, None where it excludes no other method."""
        ...

    @property
    def limit(self) -> int:
        """Destinations in one transaction."""
        ...

    def why_not(self, reach: Reach) -> str | None:
        """Why this chain has no such batch now: a contract is missing, or is not the one that was built."""
        ...

    def look(self, reach: Reach, members: Sequence[SweepJob]) -> list[Item | Unfit]:
        """What each destination's key is to sign, or why the destination is left out."""
        ...

    def stands(self, stored: Item, fresh: Item) -> bool:
        """Whether what was stored for a destination may still be signed, by what ``look`` says now."""
        ...

    def compose(self, reach: Reach, batch: Batch) -> BatchCall:
        """Have the keys sign what is stored and make the call. Raises ShapeRefused, KeysAgentAway."""
        ...

    def recompose(self, reach: Reach, batch: Batch, intent: LaneTransaction) -> BatchCall:
        """The call of an intent that a crash left without bytes. Raises as ``compose``."""
        ...

    def failures(self, reach: Reach, batch: Batch, call: BatchCall, payer: str) -> Mapping[UUID, str]:
        """Simulate the call of ``payer``; which jobs would not be swept, and why. Raises ExecutionReverted."""
        ...

    def estimate(self, reach: Reach, call: BatchCall, payer: str) -> int:
        """The gas that the call needs so that no destination in it is short. Raises ExecutionReverted."""
        ...

    def accepts(self, job: SweepJob, transfers: Sequence[Outgoing]) -> bool:
        """Whether what left the destination is what was meant."""
        ...


def signed_by_accounts(
    reach: Reach,
    members: Sequence[tuple[SweepJob, AskedItem]],
    asked: Callable[[str, list[AskedItem]], AskedAuthorizations],
    digest_of: Callable[[SweepJob, AskedItem], bytes],
) -> list[Signature]:
    """One signature a member, in order, by requests of one deposit account each; each signer is compared.

    ``asked`` makes the request of an account's items. Raises ShapeRefused.
    """
    from custody.trezor.transaction import recover_signer

    found: dict[UUID, Signature] = {}
    accounts = list(dict.fromkeys(job.account_fingerprint or "" for job, _ in members))
    for account in accounts:
        own = [(job, item) for job, item in members if (job.account_fingerprint or "") == account]
        for (job, item), signature in zip(
            own, reach.signer.authorize(asked(account, [item for _, item in own])), strict=True
        ):
            signer = recover_signer(digest_of(job, item), signature)
            if signer != job.address:
                raise ShapeRefused(f"signer: expected {job.address}, the agent signs as {signer}")
            found[job.id] = signature
    return [found[job.id] for job, _ in members]

"""CREATE2 forwarders: addresses without a key, which our batcher makes and flushes in one transaction (EIP-1014, ERC-1167).

The salt comes from the destination's path, and the address must be the one that the treasury's own batcher makes of it.
A later sweep finds the forwarder there and flushes it again. Native coin goes the same way, told by the forwarder's log.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from custody.chain.lanes import LaneTransaction
from custody.destinations.contracts import deploy_and_sweep_many_call, sweep_contracts
from custody.destinations.derivation import DerivationError
from custody.destinations.forwarders import salt_of_path
from custody.destinations.sweeps.batch_method import Unfit
from custody.destinations.sweeps.batcher_calls import (
    BATCH_LIMIT,
    GAS_EACH,
    batcher_failures,
    whole_balance_went,
    why_no_batcher,
)
from custody.destinations.sweeps.batches import Batch, Item
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.signing import BatchCall
from custody.destinations.sweeps.strategy import CREATE2_FORWARDER, Reach


class Create2Forwarder:
    """The method; see BatchMethod. Nothing is signed but the gas payer's transaction."""

    name = CREATE2_FORWARDER
    lifetime = None  # an address is a forwarder from its issue on: no row needs to say so
    limit = BATCH_LIMIT

    def why_not(self, reach: Reach) -> str | None:
        """The treasury's batcher is there and takes our payers' calls."""
        return why_no_batcher(reach)

    def look(self, reach: Reach, members: Sequence[SweepJob]) -> list[Item | Unfit]:
        """An address that this treasury's batcher makes of its salt; before that nothing, then the forwarder, is there."""
        contracts = sweep_contracts(reach.chain.treasury)
        codes = reach.client.codes([job.address for job in members])
        found: list[Item | Unfit] = []
        for job in members:
            try:
                is_ours = contracts.forwarder(salt_of_path(job.derivation_path)) == job.address
            except DerivationError as error:
                found.append(Unfit(f"no_forwarder: {error}", is_final=False))
                continue
            code = codes[job.address]
            if not is_ours:
                found.append(
                    Unfit(f"other_treasury: no forwarder of {reach.chain.treasury}, which binds now", is_final=False)
                )
            elif code and code != contracts.forwarder_code:
                found.append(Unfit(f"foreign_code: the address runs 0x{code[:23].hex()}", is_final=True))
            else:
                found.append(Item())
        return found

    def stands(self, stored: Item, fresh: Item) -> bool:
        """Whether a forwarder is there already changes nothing: the same call makes it or finds it."""
        return stored == fresh

    def compose(self, reach: Reach, batch: Batch) -> BatchCall:
        """deployAndSweepMany of all salts."""
        salts = [salt_of_path(job.derivation_path) for job in batch.jobs]
        data = deploy_and_sweep_many_call(batch.token, salts, GAS_EACH)
        return BatchCall(sweep_contracts(reach.chain.treasury).batcher, data)

    def recompose(self, reach: Reach, batch: Batch, intent: LaneTransaction) -> BatchCall:
        """The stored call."""
        return BatchCall(intent.recipient, intent.data)

    def failures(self, reach: Reach, batch: Batch, call: BatchCall, payer: str) -> Mapping[UUID, str]:
        """What the batcher's own simulation says of each forwarder."""
        return batcher_failures(reach, batch, call, payer)

    def estimate(self, reach: Reach, call: BatchCall, payer: str) -> int:
        """The batcher reverts rather than leave a forwarder short of gas, so the node's estimate holds for all."""
        return reach.client.estimate_gas(call.request(payer))

    def accepts(self, job: SweepJob, transfers: Sequence[Outgoing]) -> bool:
        """The whole balance went to the treasury."""
        return whole_balance_went(job, transfers)

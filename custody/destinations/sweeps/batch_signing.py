"""The batch methods there are, and who signs their transactions on a gas payer's lane."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from custody.chain.lanes import LaneTransaction
from custody.destinations.sweeps import batches
from custody.destinations.sweeps.batch_method import BatchMethod
from custody.destinations.sweeps.batches import Batch
from custody.destinations.sweeps.create2_forwarder import Create2Forwarder
from custody.destinations.sweeps.eip3009_batch import Eip3009Batch
from custody.destinations.sweeps.eip7702_batch import Eip7702Batch
from custody.destinations.sweeps.fees import GasTerms, batch_gas_limit_for
from custody.destinations.sweeps.signing import BatchCall
from custody.destinations.sweeps.strategy import SweepRound

BATCH_METHODS: Final[Mapping[str, BatchMethod]] = {
    method.name: method for method in (Eip7702Batch(), Eip3009Batch(), Create2Forwarder())
}


class BatchSigner:
    """Signs batches for the lanes of gas payers; see IntentSigner. The same call each time: what was stored says which."""

    def gas_limit(self, work: SweepRound, intent: LaneTransaction) -> int:
        """The limit for the real calldata. Raises ExecutionReverted, FeesTooHigh, LookupError."""
        batch = _batch_of(work, intent)
        return batch_gas_limit_for(
            BATCH_METHODS[batch.strategy].estimate(work, self._call(work, batch, intent), intent.sender)
        )

    def sign(self, work: SweepRound, intent: LaneTransaction, terms: GasTerms) -> bytes:
        """The raw transaction at these terms. Raises ShapeRefused, SigningPostponed, LookupError."""
        batch = _batch_of(work, intent)
        call = self._call(work, batch, intent)
        return work.signer.sign_batch(intent, call, treasury=batch.jobs[0].treasury, gas=terms)

    def why_pointless(self, connection: Connection, intent: LaneTransaction) -> str | None:
        """A batch whose jobs all ended otherwise."""
        return (
            None if batches.read(connection, intent.subject_id) is not None else "pointless: none of its jobs is open"
        )

    def _call(self, work: SweepRound, batch: Batch, intent: LaneTransaction) -> BatchCall:
        return BATCH_METHODS[batch.strategy].recompose(work, batch, intent)


def _batch_of(work: SweepRound, intent: LaneTransaction) -> Batch:
    batch = work.apply(lambda connection: batches.read(connection, intent.subject_id))
    if batch is None:
        raise LookupError(f"batch {intent.subject_id} has no open jobs")
    return batch

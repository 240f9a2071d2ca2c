"""What the two ways through our batcher share: whether it is there, what its simulation says, and what counts as swept."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from custody.chain import CallRequest
from custody.chain.erc20 import selector
from custody.destinations.contracts import Outcome, read_outcomes, sweep_contracts
from custody.destinations.sweeps.batches import Batch
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.signing import BatchCall
from custody.destinations.sweeps.strategy import Reach

BATCH_LIMIT: Final = 50  # a hundred is 1 % cheaper each, and one transaction that fails twice as dear
GAS_EACH: Final = 150_000  # three times what the dearest usual token takes: one that burns its gas burns no more

_IS_OPERATOR: Final = selector("isOperator(address)")
_WHY: Final = {
    Outcome.EMPTY: "drained: the token says that nothing lies at the address",
    Outcome.REFUSED: "transfer_reverts: the token refuses this address",
    Outcome.FOREIGN_CODE: "foreign_code: the address runs other code than our delegate",
}


def why_no_batcher(reach: Reach) -> str | None:
    """R8: the code there is the pinned build, whose immutable treasury is the genesis's; and it takes our payers' calls."""
    contracts = sweep_contracts(reach.chain.treasury)
    codes = reach.client.codes([contracts.batcher, contracts.delegate])
    if not codes[contracts.batcher]:
        return f"contracts_missing: no batcher at {contracts.batcher}; see fleet contracts deploy"
    if codes[contracts.batcher] != contracts.batcher_code or codes[contracts.delegate] != contracts.delegate_code:
        return f"contracts_differ: the code at {contracts.batcher} or {contracts.delegate} is not the pinned build"
    for payer in reach.signer.gas_payers:
        asked = CallRequest(contracts.batcher, _IS_OPERATOR + bytes.fromhex(payer[2:]).rjust(32, b"\0"))
        if not any(reach.client.call(asked)):
            return f"not_operator: the batcher does not admit {payer}; see fleet contracts operators"
    return None


def batcher_failures(reach: Reach, batch: Batch, call: BatchCall, payer: str) -> Mapping[UUID, str]:
    """What the batcher's own simulation says of each destination that would not be swept. Raises ExecutionReverted."""
    outcomes = read_outcomes(reach.client.call(call.request(payer)), len(batch.jobs))
    return {
        job.id: _WHY[outcome] for job, outcome in zip(batch.jobs, outcomes, strict=True) if outcome is not Outcome.SWEPT
    }


def whole_balance_went(job: SweepJob, transfers: Sequence[Outgoing]) -> bool:
    """The whole balance went to the treasury, which may be more than was judged when the job was made."""
    return (
        len(transfers) == 1
        and transfers[0].log.recipient == job.treasury
        and transfers[0].log.amount >= job.amount_units
    )

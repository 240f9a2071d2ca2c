"""Our contracts that sweep (``contracts/``): where they are on every chain, their calls, and whether they are there.

All follows from the treasury alone (R8, R20): no node and no database is asked where a key may be lent to.
"""

from custody.destinations.contracts.addresses import (
    CREATE2_DEPLOYER,
    SweepContracts,
    create2_address,
    sweep_contracts,
)
from custody.destinations.contracts.calls import (
    Outcome,
    deploy_and_sweep_many_call,
    read_outcomes,
    set_operators_call,
    sweep_many_call,
)

__all__ = [
    "CREATE2_DEPLOYER",
    "Outcome",
    "SweepContracts",
    "create2_address",
    "deploy_and_sweep_many_call",
    "read_outcomes",
    "set_operators_call",
    "sweep_contracts",
    "sweep_many_call",
]

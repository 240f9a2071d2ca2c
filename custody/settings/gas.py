"""What may be paid for gas, and when a transaction that no block takes is outbid: a chain's ``gas`` table in the chains file.

The maxima here are what the keys agent signs at most, whatever a file says. Wei, wei per gas, gas and blocks.
"""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

GWEI: Final = 10**9
MAX_FEE_PER_GAS_WEI: Final = 500 * GWEI  # above it a sweep waits: coins at rest are cheaper than this block
MAX_PRIORITY_FEE_WEI: Final = 50 * GWEI
GAS_LIMIT_MAXIMUM: Final = 1_000_000  # dearest known case is 250k (sweeping.md); more is not a token transfer
TOTAL_FEE_MAXIMUM_WEI: Final = (
    250_000 * MAX_FEE_PER_GAS_WEI
)  # that dearest case in the dearest block: an eighth of a coin


class GasSettings(BaseModel):
    """One chain's fee caps, its gas payers' floor, and the patience with a block that takes no transaction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_fee_per_gas_wei: Annotated[int, Field(ge=1, le=MAX_FEE_PER_GAS_WEI, strict=True)] = MAX_FEE_PER_GAS_WEI
    max_priority_fee_wei: Annotated[int, Field(ge=0, le=MAX_PRIORITY_FEE_WEI, strict=True)] = MAX_PRIORITY_FEE_WEI
    total_fee_maximum_wei: Annotated[int, Field(ge=1, le=TOTAL_FEE_MAXIMUM_WEI, strict=True)] = TOTAL_FEE_MAXIMUM_WEI
    payer_floor_wei: Annotated[int, Field(ge=0, strict=True)] = 10**16
    """An operator is told when a payer has less: about a hundred sweeps at 5 gwei are left then."""
    replace_after_blocks: Annotated[int, Field(ge=1, le=1_000, strict=True)] = 3
    """Blocks that the lowest open nonce may wait for one that takes it, before it is outbid by an eighth."""

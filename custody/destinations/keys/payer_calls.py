"""The calls that the gas payer signs for a batch: our batcher's sweeps, and Multicall3 with nothing inside but transfers
to the treasury that their owners signed (R20). Pure.
"""

from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address

from custody.chain.addresses import ZERO_ADDRESS
from custody.chain.erc20 import selector
from custody.destinations.contracts import SweepContracts, sweep_contracts
from custody.destinations.contracts.calls import DEPLOY_AND_SWEEP_MANY, SWEEP_MANY
from custody.destinations.contracts.multicall3 import MULTICALL3
from custody.destinations.forwarders import FLUSHED_STATES
from custody.destinations.keys.set_code import AUTHORIZATIONS_MAXIMUM, PayerTransaction, SetCodeTransaction, call_of
from custody.destinations.keys.shapes import KnownChain, ShapeRefused
from custody.destinations.sweeps.fees import (
    BATCH_GAS_LIMIT_MAXIMUM,
    MAX_FEE_PER_GAS_WEI,
    TOTAL_FEE_MAXIMUM_WEI,
)

AGGREGATE3: Final = selector("aggregate3((address,bool,bytes)[])")
AGGREGATE3_TYPES: Final = ["(address,bool,bytes)[]"]
TRANSFER_WITH_AUTHORIZATION: Final = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)
TRANSFER_TYPES: Final = [
    "address", "address", "uint256", "uint256", "uint256", "bytes32", "uint8", "bytes32", "bytes32",
]  # fmt: skip
GAS_EACH_MAXIMUM: Final = 1_000_000  # what one destination may take; a token that needs more is not swept in batches

_BATCHER_CALLS: Final = {
    SWEEP_MANY: ["address", "address[]", "uint256"],
    DEPLOY_AND_SWEEP_MANY: ["address", "bytes32[]", "uint256"],
}


def require_batch_call(transaction: PayerTransaction, *, chain: KnownChain, treasury: str) -> None:
    """Raise ShapeRefused unless this is a batch that can bring coins to the binding treasury and nowhere else.

    Or to a former treasury that the signed genesis names, from its own forwarders alone, which can pay nobody else (R22).
    """
    call = call_of(transaction)
    if call.chain_id != chain.id:
        raise ShapeRefused(f"chain: expected {chain.id}, got {call.chain_id}")
    is_former = chain.former.get(treasury) in FLUSHED_STATES
    if treasury != chain.treasury and not is_former:
        raise ShapeRefused(f"treasury: {treasury} is asked for, but {chain.treasury} binds on chain {chain.id}")
    if call.value != 0:
        raise ShapeRefused(f"value: expected 0 beside a batch, got {call.value} wei")
    if call.gas_limit > BATCH_GAS_LIMIT_MAXIMUM:
        raise ShapeRefused(f"gas limit: expected at most {BATCH_GAS_LIMIT_MAXIMUM}, got {call.gas_limit}")
    if not 0 < call.max_fee_per_gas <= MAX_FEE_PER_GAS_WEI:
        raise ShapeRefused(f"max fee: expected 1 to {MAX_FEE_PER_GAS_WEI} wei per gas, got {call.max_fee_per_gas}")
    if call.max_total_fee_wei > TOTAL_FEE_MAXIMUM_WEI:
        raise ShapeRefused(f"total fee: expected at most {TOTAL_FEE_MAXIMUM_WEI} wei, got {call.max_total_fee_wei}")
    contracts = sweep_contracts(treasury)
    if is_former and (call.to != contracts.batcher or call.data[:4] != DEPLOY_AND_SWEEP_MANY):
        raise ShapeRefused(
            f"treasury: {treasury} is {chain.former[treasury]}: only its own forwarders are flushed to it, by {contracts.batcher}"
        )
    if call.to == contracts.batcher:
        _require_batcher_call(call.data, chain)
        if isinstance(transaction, SetCodeTransaction):
            _require_delegations(transaction, chain, contracts)
    elif call.to == MULTICALL3 and not isinstance(transaction, SetCodeTransaction):
        _require_transfers(call.data, chain)
    else:
        raise ShapeRefused(f"to: expected the batcher {contracts.batcher} or Multicall3, got {call.to}")


def _require_batcher_call(data: bytes, chain: KnownChain) -> None:
    types = _BATCHER_CALLS.get(data[:4])
    if types is None:
        raise ShapeRefused(f"data: expected sweepMany or deployAndSweepMany, got selector 0x{data[:4].hex()}")
    token, places, gas_each = _decoded(types, data)
    token = to_checksum_address(token)
    if token != ZERO_ADDRESS and token not in chain.tokens:
        raise ShapeRefused(f"token: {token} is not known on chain {chain.id}")
    if not 0 < len(places) <= AUTHORIZATIONS_MAXIMUM:
        raise ShapeRefused(f"destinations: expected 1 to {AUTHORIZATIONS_MAXIMUM}, got {len(places)}")
    if gas_each > GAS_EACH_MAXIMUM:
        raise ShapeRefused(f"gas of a destination: expected at most {GAS_EACH_MAXIMUM}, got {gas_each}")


def _require_delegations(transaction: SetCodeTransaction, chain: KnownChain, contracts: SweepContracts) -> None:
    if transaction.call.data[:4] != SWEEP_MANY:
        raise ShapeRefused("data: expected sweepMany beside authorizations")
    for each in transaction.authorizations:
        if (each.authorization.chain_id, each.authorization.delegate) != (chain.id, contracts.delegate):
            raise ShapeRefused(
                f"authorization: expected our delegate {contracts.delegate} on chain {chain.id}, got "
                f"{each.authorization.delegate} on {each.authorization.chain_id}"
            )


def _require_transfers(data: bytes, chain: KnownChain) -> None:
    if data[:4] != AGGREGATE3:
        raise ShapeRefused(f"data: expected aggregate3, got selector 0x{data[:4].hex()}")
    [calls] = _decoded(AGGREGATE3_TYPES, data)
    if not 0 < len(calls) <= AUTHORIZATIONS_MAXIMUM:
        raise ShapeRefused(f"calls: expected 1 to {AUTHORIZATIONS_MAXIMUM}, got {len(calls)}")
    for target, allows_failure, inner in calls:
        token = to_checksum_address(target)
        if token not in chain.tokens:
            raise ShapeRefused(f"call: {token} is no token that is known on chain {chain.id}")
        if not allows_failure or inner[:4] != TRANSFER_WITH_AUTHORIZATION:
            raise ShapeRefused("call: expected transferWithAuthorization that may fail, and nothing else")
        _sender, recipient, value, *_ = _decoded(TRANSFER_TYPES, inner)
        if to_checksum_address(recipient) != chain.treasury or value == 0:
            raise ShapeRefused(f"call: expected a transfer above zero to the treasury {chain.treasury}")


def _decoded(types: list[str], data: bytes) -> tuple[Any, ...]:
    """The arguments of calldata in its one canonical form: bytes that no decoder reads could hide anything."""
    try:
        found = decode(types, data[4:])
        if encode(types, found) != data[4:]:
            raise ShapeRefused("data: expected the canonical encoding of its arguments")
    except (DecodingError, OverflowError) as error:
        raise ShapeRefused(f"data: {type(error).__name__}: expected {', '.join(types)}") from None
    return found

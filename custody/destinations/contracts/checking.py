"""Whether our contracts are on a chain as they must be, and whether the batcher admits our gas payers (R20).

One node is asked, not two: only our code can ever be at these addresses (EIP-1014), so a node that lies can at most make
a sweep wait or fail, and what was swept is believed from logs at depth alone.
"""

from collections.abc import Collection
from dataclasses import dataclass

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from custody.chain import CallRequest, ChainClient, ExecutionReverted
from custody.destinations.contracts.addresses import CREATE2_DEPLOYER, SweepContracts
from custody.destinations.contracts.calls import OPERATORS
from custody.destinations.contracts.deployment import is_create2_deployer
from custody.destinations.contracts.multicall3 import MULTICALL3, MULTICALL3_CODE_HASH

DEPLOY_FIRST = "run fleet contracts deploy"
NAME_FIRST = "the treasury names operators: fleet contracts operators"


@dataclass(frozen=True, slots=True)
class ContractsCheck:
    """What a chain has. ``faults``: sentences, none if sweeps may use the contracts; ``operators`` as the batcher says."""

    chain_id: int
    contracts: SweepContracts
    is_deployed: bool
    operators: tuple[str, ...]
    faults: tuple[str, ...]


def check_contracts(client: ChainClient, contracts: SweepContracts, payers: Collection[str]) -> ContractsCheck:
    """Compare code, with it each immutable, and operators with what must be there. ``payers``: our gas payers' addresses.

    Raises ChainUnavailable.
    """
    faults: list[str] = []
    for name, address, expected in (
        ("batcher", contracts.batcher, contracts.batcher_code),
        ("delegate", contracts.delegate, contracts.delegate_code),
    ):
        found = client.code(address)
        if not found:
            faults.append(f"no {name} at {address}: {DEPLOY_FIRST}")
        elif found != expected:
            faults.append(
                f"{name} {address}: expected code 0x{keccak(expected).hex()} (treasury {contracts.treasury}), the node "
                f"shows 0x{keccak(found).hex()}: this node lies, or the chain is no EVM of ours; use neither"
            )
    if faults:
        return ContractsCheck(client.chain.chain_id, contracts, is_deployed=False, operators=(), faults=tuple(faults))
    operators = _operators(client, contracts)
    if operators is None:
        faults.append(f"batcher {contracts.batcher}: it does not say who its operators are; this node lies")
    else:
        ours = {to_checksum_address(payer) for payer in payers}
        faults += [f"gas payer {payer} is no operator: {NAME_FIRST}" for payer in sorted(ours - set(operators))]
        faults += [
            f"operator {operator} is none of our gas payers: if its key is not in the keys agent, {NAME_FIRST}"
            for operator in operators
            if operator not in ours
        ]
    return ContractsCheck(
        client.chain.chain_id, contracts, is_deployed=True, operators=operators or (), faults=tuple(faults)
    )


def multicall3_fault(client: ChainClient) -> str | None:
    """Why Multicall3 must not be used on this chain; None if it is the genuine one. Raises ChainUnavailable."""
    code = client.code(MULTICALL3)
    if not code:
        return f"no Multicall3 at {MULTICALL3} on chain {client.chain.chain_id}"
    found = f"0x{keccak(code).hex()}"
    if found == MULTICALL3_CODE_HASH:
        return None
    return (
        f"Multicall3 at {MULTICALL3} on chain {client.chain.chain_id} has the code {found}, the genuine one has "
        f"{MULTICALL3_CODE_HASH}: anybody can have put it there, its deployer's key is known"
    )


def deployer_fault(client: ChainClient) -> str | None:
    """Why our contracts cannot be deployed on this chain yet; None if they can. Raises ChainUnavailable."""
    if is_create2_deployer(client.code(CREATE2_DEPLOYER)):
        return None
    return (
        f"no CREATE2 deployer at {CREATE2_DEPLOYER} on chain {client.chain.chain_id}: it is put there by a transaction "
        "that everybody knows (docs/custody/sweep-contracts.md)"
    )


def _operators(client: ChainClient, contracts: SweepContracts) -> tuple[str, ...] | None:
    try:
        [found] = decode(["address[]"], client.call(CallRequest(to=contracts.batcher, data=OPERATORS)))
    except (ExecutionReverted, DecodingError):
        return None
    return tuple(to_checksum_address(operator) for operator in found)

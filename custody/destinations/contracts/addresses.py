"""Where our contracts are, and which code must be there: computed from the treasury and the committed build.

The batcher comes from the CREATE2 deployer that all chains share (EIP-1014), the delegate is the batcher's first
creation, a forwarder the batcher's ERC-1167 clone of the delegate. So one treasury has the same addresses on every chain.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

import rlp
from eth_typing import ChecksumAddress
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

CREATE2_DEPLOYER: Final = to_checksum_address("0x4e59b44847b379578588920cA78FbF26c0B4956C")
"""Takes a salt and creation code as calldata. It has no owner; the same code is at the same address on every chain."""

DEPLOYMENT_SALT: Final = bytes(32)
SALT_BYTES: Final = 32
TREASURIES_KEPT: Final = 32  # as many as a fleet has chains

_DELEGATION_PREFIX: Final = bytes.fromhex("ef0100")  # EIP-7702
_CLONE_BEFORE: Final = bytes.fromhex("363d3d373d3d3d363d73")  # ERC-1167, around the address of what it runs
_CLONE_AFTER: Final = bytes.fromhex("5af43d82803e903d91602b57fd5bf3")
_CLONE_CREATION: Final = bytes.fromhex("3d602d80600a3d3981f3")


@dataclass(frozen=True, slots=True)
class ContractBuild:
    """One file of contracts/built. ``immutables``: where in the runtime code each one's 32-byte word stands."""

    name: str
    bytecode: bytes
    runtime: bytes
    immutables: Mapping[str, tuple[int, ...]]

    def code(self, **values: bytes) -> bytes:
        """The runtime code as deployed with these immutables; each up to 32 bytes, padded on the left.

        Raises ValueError unless exactly the contract's own immutables are given.
        """
        if values.keys() != self.immutables.keys():
            raise ValueError(f"{self.name} has the immutables {', '.join(sorted(self.immutables))}")
        code = bytearray(self.runtime)
        for name, places in self.immutables.items():
            for place in places:
                code[place : place + 32] = values[name].rjust(32, b"\0")
        return bytes(code)


@dataclass(frozen=True, slots=True)
class SweepContracts:
    """One treasury's contracts, the same on every chain. ``deployment`` is the calldata for CREATE2_DEPLOYER."""

    treasury: ChecksumAddress
    batcher: ChecksumAddress
    delegate: ChecksumAddress
    batcher_code: bytes
    delegate_code: bytes
    deployment: bytes

    @property
    def delegation(self) -> bytes:
        """The code of an account that is delegated to our delegate (EIP-7702): 23 bytes."""
        return _DELEGATION_PREFIX + to_canonical_address(self.delegate)

    @property
    def forwarder_code(self) -> bytes:
        """The code of a forwarder that is there: 45 bytes (ERC-1167)."""
        return _CLONE_BEFORE + to_canonical_address(self.delegate) + _CLONE_AFTER

    def forwarder(self, salt: bytes) -> ChecksumAddress:
        """Where the forwarder of a 32-byte salt is or will be. Raises ValueError for another length."""
        return create2_address(self.batcher, salt, _CLONE_CREATION + self.forwarder_code)


@lru_cache(maxsize=TREASURIES_KEPT)
def sweep_contracts(treasury: str) -> SweepContracts:
    """The contracts whose immutable treasury is this. Pure: no chain is asked."""
    word = to_canonical_address(treasury).rjust(32, b"\0")
    batcher_build, delegate_build = build("SweepBatcher"), build("SweepDelegate")
    initcode = batcher_build.bytecode + word
    batcher = create2_address(CREATE2_DEPLOYER, DEPLOYMENT_SALT, initcode)
    # A contract's own creations count from 1 (EIP-161).
    delegate = to_checksum_address(keccak(rlp.encode([to_canonical_address(batcher), 1]))[12:])
    there = to_canonical_address(delegate)
    return SweepContracts(
        treasury=to_checksum_address(treasury),
        batcher=batcher,
        delegate=delegate,
        batcher_code=batcher_build.code(
            TREASURY=word,
            DELEGATE=there,
            DELEGATED_CODE_HASH=keccak(_DELEGATION_PREFIX + there),
            FORWARDER_CODE_HASH=keccak(_CLONE_BEFORE + there + _CLONE_AFTER),
        ),
        delegate_code=delegate_build.code(TREASURY=word, BATCHER=to_canonical_address(batcher)),
        deployment=DEPLOYMENT_SALT + initcode,
    )


def create2_address(creator: str, salt: bytes, initcode: bytes) -> ChecksumAddress:
    """Where CREATE2 puts a contract (EIP-1014). Raises ValueError unless the salt has 32 bytes."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"salt: expected {SALT_BYTES} bytes, got {len(salt)}")
    return to_checksum_address(keccak(b"\xff" + to_canonical_address(creator) + salt + keccak(initcode))[12:])


@lru_cache(maxsize=8)
def build(name: str) -> ContractBuild:
    """The committed build of a contract of ours. Raises FileNotFoundError for a name that has none."""
    said = json.loads(resources.files("contracts").joinpath("built", f"{name}.json").read_text("utf-8"))
    return ContractBuild(
        name=said["contract"],
        bytecode=bytes.fromhex(said["bytecode"][2:]),
        runtime=bytes.fromhex(said["runtime"][2:]),
        immutables={immutable: tuple(places) for immutable, places in said["immutables"].items()},
    )

"""The transaction that puts our contracts on a chain, for a wallet of the operator's own to sign (R6, R17, R20).

No key of the fleet may sign it: the keys agent signs sweeps alone. Whoever deploys cannot change what is deployed.
"""

from typing import Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

CREATE2_DEPLOYER_SENDER: Final = to_checksum_address("0x3fAB184622Dc19b6109349B94811493BF2a45362")
CREATE2_DEPLOYER_CODE_HASH: Final = "0x2fa86add0aed31f33a762c9d88e807c475bd51d0f52bd0955754b2608f7e4989"
CREATE2_DEPLOYER_TRANSACTION: Final = bytes.fromhex(
    "f8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf31ba022222222222222222222"
    "22222222222222222222222222222222222222222222a02222222222222222222222222222222222222222222222222222222222222222"
)
"""Signed by nobody (r and s are made up), valid on every chain that takes transactions without a chain id."""


def is_create2_deployer(code: bytes) -> bool:
    """Whether the code at CREATE2_DEPLOYER is the one that everybody uses."""
    return "0x" + keccak(code).hex() == CREATE2_DEPLOYER_CODE_HASH

"""Multicall3, as it is on every chain where it is genuine: a batcher of calls that anybody may use.

Never a spender and never a delegate: whoever calls it acts as it.
"""

from typing import Final

from eth_utils.address import to_checksum_address

MULTICALL3: Final = to_checksum_address("0xcA11bde05977b3631167028862bE2a173976CA11")
MULTICALL3_DEPLOYER: Final = to_checksum_address("0x05f32B3cC3888453ff71B01135B34FF8e41263F2")
"""Its key is known to others: at nonce 0 it made the genuine one, and on a chain without that, it makes anything."""
MULTICALL3_CODE_HASH: Final = "0xd5c15df687b16f2ff992fc8d767b4216323184a2bbc6ee2f9c398c318e770891"
"""keccak-256 of its runtime code."""

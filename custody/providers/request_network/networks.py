"""Request Network's names of chains. Webhooks carry a name, never a chain id, nor always the API's."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CHAIN_IDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "mainnet": 1,
        "ethereum": 1,  # in webhooks, where the API says mainnet
        "optimism": 10,
        "bsc": 56,
        "matic": 137,
        "polygon": 137,
        "base": 8453,
        "arbitrum-one": 42_161,
        "sepolia": 11_155_111,
        "tron": 728_126_428,
        "private": 31_337,  # a development chain, in the contracts package's own address tables
        "anvil": 31_337,
    }
)


def chain_id(network: str) -> int | None:
    """The EIP-155 chain id behind a network's name (in any case), or None for a name not known here."""
    return CHAIN_IDS.get(network.strip().lower())

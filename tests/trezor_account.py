"""The published phrase of all Trezor emulators, its first account, and transactions for it to sign."""

from __future__ import annotations

from custody.trezor import (
    UnsignedTransaction,
    encode_erc20_transfer,
)

SEED = "all all all all all all all all all all all all"
FIRST_PATH = "m/44'/60'/0'/0/0"
ADDRESS = "0x73d0385F4d8E00C5e6504C6030F47BF6212736A8"
XPUB = "xpub6CNFa58kEQJu2hwMVoofpDEKVVSg6gfwqBqE2zHAianaUnQkrJzJJ42iLDp7Dmg2aP88qCKoFZ4jidk3tECdQuF4567NGHDfe7iBRwHxgke"
USDC = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
GWEI = 10**9

TRANSFER = UnsignedTransaction(1, 7, GWEI, 30 * GWEI, 65_000, USDC, 0, encode_erc20_transfer(ADDRESS, 1_234_500_000))
COINS = UnsignedTransaction(31337, 0, 0, 3 * GWEI, 21_000, USDC, 10**18)
LONG_CALL = UnsignedTransaction(1, 300, GWEI, 30 * GWEI, 900_000, USDC, 5, bytes(range(256)) * 5 + bytes(224))

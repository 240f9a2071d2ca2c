"""Blocks as the watcher's scan hands them on, read from a test's own chain."""

from typing import Any

from eth_utils.address import to_checksum_address

from custody.chain.blocks import BlockTransaction, ScannedBlock, read_header
from custody.chain.logs import read_log
from tests.integration.chain_fixtures import ChainWorld
from tests.marketplace import CHAIN_ID


def scanned(world: ChainWorld, treasury: str, number: int) -> ScannedBlock:
    """The canonical block at a height, every log of it, and the treasury as it was after it."""
    raw: dict[str, Any] = world.rpc("eth_getBlockByNumber", hex(number), True)
    logs = world.rpc("eth_getLogs", {"blockHash": raw["hash"]})
    return ScannedBlock(
        read_header(raw),
        tuple(
            BlockTransaction(
                each["hash"],
                int(each["transactionIndex"], 16),
                to_checksum_address(each["from"]),
                to_checksum_address(each["to"]) if each["to"] else None,
                int(each["value"], 16),
                int(each["nonce"], 16),
                bytes.fromhex(each["input"][2:]),
            )
            for each in raw["transactions"]
        ),
        tuple(read_log(each, CHAIN_ID) for each in logs),
        int(world.rpc("eth_getBalance", treasury, hex(number)), 16),
        int(world.rpc("eth_getTransactionCount", treasury, hex(number)), 16),
    )

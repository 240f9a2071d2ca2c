"""The chain: assets and addresses, decoded logs and receipts, depth, and the client of a node.

Importing this package does not import web3; building a ChainClient does.
"""

from custody.chain.addresses import ZERO_ADDRESS, InvalidAddress, parse_address
from custody.chain.assets import NATIVE, Asset, InvalidAmount, TokenTraits, to_amount, to_units
from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.connection import ChainConnection, connections
from custody.chain.depth import UnknownChain, confirmations, effective_threshold, floor
from custody.chain.errors import (
    AlreadyKnown,
    ChainError,
    ChainUnavailable,
    ExecutionReverted,
    InsufficientFunds,
    NonceTooLow,
    Rejected,
    ReplacementUnderpriced,
    SendOutcomeUnknown,
    SendRefused,
    WrongChain,
)
from custody.chain.logs import (
    FeeProxyLog,
    MalformedLog,
    TransferLog,
    payment_reference,
    reference_topic,
)
from custody.chain.receipts import InboundTransfer, MalformedReceipt, Receipt, inbound_transfers, read_receipt
from custody.chain.rpc import CallRequest, ChainClient

__all__ = [
    "NATIVE",
    "ZERO_ADDRESS",
    "AlreadyKnown",
    "Asset",
    "BlockHeader",
    "CallRequest",
    "ChainClient",
    "ChainConnection",
    "ChainError",
    "ChainUnavailable",
    "ExecutionReverted",
    "FeeProxyLog",
    "InboundTransfer",
    "InsufficientFunds",
    "InvalidAddress",
    "InvalidAmount",
    "MalformedLog",
    "MalformedReceipt",
    "NonceTooLow",
    "Receipt",
    "ReceiptsAndHeaders",
    "Rejected",
    "ReplacementUnderpriced",
    "SendOutcomeUnknown",
    "SendRefused",
    "TokenTraits",
    "TransferLog",
    "UnknownChain",
    "WrongChain",
    "confirmations",
    "connections",
    "effective_threshold",
    "floor",
    "inbound_transfers",
    "parse_address",
    "payment_reference",
    "read_receipt",
    "reference_topic",
    "to_amount",
    "to_units",
]

"""What nodes say when they refuse a transaction, and what the fleet does then: one table.

JSON-RPC gives no error codes for it, only words, and each client has its own. Words read in the sources of
go-ethereum (also BNB's and Polygon's forks, op-geth, Nitro), Erigon, Nethermind, Besu, Reth and Anvil. An L2's
sequencer passes its own client's words on behind a sentence of its own, so a phrase is looked for inside a message.
"""

import re
from types import MappingProxyType
from typing import Final, Literal

from custody.chain.errors import (
    AlreadyKnown,
    BytesInvalid,
    DelegationBusy,
    FeeOverNodeCap,
    FeeTooLow,
    GasLimitTooHigh,
    GasLimitTooLow,
    InsufficientFunds,
    NonceTooHigh,
    NonceTooLow,
    PoolFull,
    Rejected,
    ReplacementUnderpriced,
    SendRefused,
)

# Looked up in this order, in lower case, as parts of the node's message. A phrase that is part of another
# one's message comes after it.
PHRASES: Final = MappingProxyType(
    {
        "already known": AlreadyKnown,  # geth, Reth, Erigon
        "alreadyknown": AlreadyKnown,  # Nethermind
        "already_exists": AlreadyKnown,  # Erigon's pool
        "known transaction": AlreadyKnown,  # Besu, older geth
        "transaction already imported": AlreadyKnown,  # Anvil
        "already in mempool": AlreadyKnown,
        "existing tx with same hash": AlreadyKnown,  # Erigon
        "replacement transaction underpriced": ReplacementUnderpriced,  # geth, Reth, Anvil, Besu
        "replacement_underpriced": ReplacementUnderpriced,
        "could not replace existing tx": ReplacementUnderpriced,  # Erigon
        "replacementnotallowed": ReplacementUnderpriced,  # Nethermind
        "nonce too low": NonceTooLow,  # geth, Reth, Anvil, Besu, Nitro
        "nonce_too_low": NonceTooLow,  # Besu's reason code
        "nonce is too low": NonceTooLow,
        "nonce below sender account nonce": NonceTooLow,  # Besu's plugins
        "oldnonce": NonceTooLow,  # Nethermind
        "nonce too high": NonceTooHigh,  # geth's state, Nitro's sequencer, Anvil, Besu
        "nonce_too_high": NonceTooHigh,  # Besu's reason code
        "noncegap": NonceTooHigh,  # Nethermind
        "noncetoofarinfuture": NonceTooHigh,  # Nethermind
        "nonce is too distant from current sender nonce": NonceTooHigh,  # Besu
        "an invalid transaction with a lower nonce exists": NonceTooHigh,  # Besu
        "gapped-nonce tx from delegated accounts": NonceTooHigh,  # geth, Reth (EIP-7702)
        "in-flight transaction limit reached for delegated": DelegationBusy,  # geth, Reth (EIP-7702)
        "authority already reserved": DelegationBusy,  # geth, Reth (EIP-7702)
        "delegatorhaspendingtx": DelegationBusy,  # Nethermind (EIP-7702)
        "notcurrentnoncefordelegation": DelegationBusy,  # Nethermind (EIP-7702)
        "address already reserved": DelegationBusy,  # geth: the account is in another of its pools
        "insufficient funds": InsufficientFunds,  # geth, Reth, Anvil, Erigon, Nitro
        "insufficientfunds": InsufficientFunds,  # Nethermind
        "upfront cost exceeds account balance": InsufficientFunds,  # Besu
        "upfront_cost_exceeds_balance": InsufficientFunds,  # Besu's reason code
        "intrinsic gas too low": GasLimitTooLow,  # geth, Reth, Anvil, Erigon
        "intrinsic gas exceeds gas limit": GasLimitTooLow,  # Besu
        "insufficient gas for floor data gas cost": GasLimitTooLow,  # geth (EIP-7623)
        "gas floor exceeds the gas limit": GasLimitTooLow,  # Reth (EIP-7623)
        "gas limit exceeds block gas limit": GasLimitTooHigh,  # Besu
        "exceeds block gas limit": GasLimitTooHigh,  # geth, Reth
        "gaslimitexceeded": GasLimitTooHigh,  # Nethermind
        "transaction gas limit too high": GasLimitTooHigh,  # geth, Reth, Anvil (EIP-7825)
        "intrinsic gas too high": GasLimitTooHigh,  # Anvil
        "max fee per gas less than block base fee": FeeTooLow,  # geth, Reth, Anvil, Nitro
        "gas price below current base fee": FeeTooLow,  # Besu
        "gas price below configured minimum gas price": FeeTooLow,  # Besu
        "transaction gas price below minimum": FeeTooLow,  # geth, Polygon
        "transaction underpriced": FeeTooLow,  # geth, Reth
        "underpriced": FeeTooLow,  # Erigon
        "fee too low": FeeTooLow,  # Erigon
        "feetoolow": FeeTooLow,  # Nethermind; also FeeTooLowToCompete
        "exceeds the configured cap": FeeOverNodeCap,  # geth's --rpc.txfeecap
        "transaction fee cap exceeded": FeeOverNodeCap,  # Besu
        "txpool is full": PoolFull,  # geth, Reth
        "sub-pool is full": PoolFull,  # Erigon
        "account limit exceeded": PoolFull,  # geth
        "future transaction tries to replace pending": PoolFull,  # geth
        "spammer": PoolFull,  # Erigon
        "invalid sender": BytesInvalid,  # geth, Reth, Erigon
        "failedtoresolvesender": BytesInvalid,  # Nethermind
        "invalid signature": BytesInvalid,  # Besu
        "invalid chain id": BytesInvalid,  # geth
        "wrong chainid": BytesInvalid,  # Besu
        "transaction type not supported": BytesInvalid,  # geth
        "notsupportedtxtype": BytesInvalid,  # Nethermind
        "oversized data": BytesInvalid,  # geth, Reth
        "max priority fee per gas higher than max fee": BytesInvalid,  # geth
        "max priority fee per gas exceeds max fee": BytesInvalid,  # Besu
    }
)

Doing = Literal["sent", "look", "outbid", "wait_for_coins", "close_gap", "send_again", "cancel", "tell_operator"]
"""What a lane does after a refusal.

``sent``: as good as taken. ``look``: some transaction has used the nonce; receipts say which. ``outbid``: sign again with
higher fees. ``wait_for_coins``, ``send_again``: the same bytes later. ``close_gap``: earlier nonces first. ``cancel``: these
bytes can be in no block, so the nonce is spent on nothing. ``tell_operator``: wait, and say the node's words.
"""

DOES: Final = MappingProxyType[type[SendRefused], Doing](
    {
        AlreadyKnown: "sent",
        NonceTooLow: "look",
        ReplacementUnderpriced: "outbid",
        FeeTooLow: "outbid",
        InsufficientFunds: "wait_for_coins",
        NonceTooHigh: "close_gap",
        PoolFull: "send_again",
        DelegationBusy: "send_again",
        GasLimitTooLow: "cancel",
        GasLimitTooHigh: "cancel",
        BytesInvalid: "cancel",
        FeeOverNodeCap: "tell_operator",
        Rejected: "tell_operator",
    }
)


def classify(words: str) -> type[SendRefused]:
    """Return the class of a node's refusal; Rejected when its words are not in the table."""
    said = words.lower()
    for phrase, kind in PHRASES.items():
        # At the start of a word only: "unknown transaction type" is no known transaction.
        if re.search(rf"(?<![a-z]){re.escape(phrase)}", said):
            return kind
    return Rejected


def does(refusal: SendRefused) -> Doing:
    """Return what the fleet does after this refusal."""
    return DOES[type(refusal)]

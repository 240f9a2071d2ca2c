"""What can go wrong between the fleet and a node. No message carries a URL's secret part."""


class ChainError(Exception):
    """Base of every error of a chain connection; `url` is masked.

    `reason` is for people: the node's own words where it had any, without secrets and cut to a line.
    """

    def __init__(self, chain_id: int, url: str, reason: str) -> None:
        self.chain_id = chain_id
        self.url = url
        self.reason = reason
        super().__init__(chain_id, url, reason)

    def __str__(self) -> str:
        return f"chain {self.chain_id} at {self.url}: {self.reason}"


class ChainUnavailable(ChainError):
    """A read got no usable answer: no connection, no answer in time, too long or malformed. Try later."""


class SendOutcomeUnknown(ChainUnavailable):
    """A transaction was sent and no usable answer came: the node may have it.

    Look for its hash, resend the same bytes; never sign others for its nonce.
    """


class WrongChain(ChainError):
    """The node is of another chain than the connection is pinned to (R17). Nothing is read from it."""


class ExecutionReverted(ChainError):
    """A call or a gas estimate reverted; `data` is the revert data, empty when the contract gave none."""

    def __init__(self, chain_id: int, url: str, reason: str, data: bytes = b"") -> None:
        super().__init__(chain_id, url, reason)
        self.data = data

    def __reduce__(self) -> tuple[type["ExecutionReverted"], tuple[int, str, str, bytes]]:
        return type(self), (self.chain_id, self.url, self.reason, self.data)


class SendRefused(ChainError):
    """The node answered that it does not take a transaction; `reason` holds its words."""


class AlreadyKnown(SendRefused):
    """The node has these very bytes already: as good as sent."""


class NonceTooLow(SendRefused):
    """The nonce is used: by this transaction, mined meanwhile, or by another one. Reconcile first."""


class ReplacementUnderpriced(SendRefused):
    """Another transaction waits on this nonce and the new fees are not enough above its own."""


class InsufficientFunds(SendRefused):
    """The sender cannot pay value + gas limit * max fee."""


class NonceTooHigh(SendRefused):
    """The node misses a transaction of an earlier nonce, and keeps none for later."""


class FeeTooLow(SendRefused):
    """Neither the next block nor the node's pool takes fees as low as these."""


class GasLimitTooLow(SendRefused):
    """The gas limit does not pay for the transaction's own bytes."""


class GasLimitTooHigh(SendRefused):
    """The gas limit is above what a block, or one transaction (EIP-7825), may use."""


class PoolFull(SendRefused):
    """The node's pool has no place for it now."""


class DelegationBusy(SendRefused):
    """A delegated account, or one that is about to be, has a transaction in the pool already (EIP-7702)."""


class FeeOverNodeCap(SendRefused):
    """The whole fee is above what the node's own operator lets through it."""


class BytesInvalid(SendRefused):
    """No block of this chain can hold these bytes: signature, chain id, type or size."""


class Rejected(SendRefused):
    """Any other refusal."""

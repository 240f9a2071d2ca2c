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


class Rejected(SendRefused):
    """Any other refusal."""

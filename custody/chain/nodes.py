"""The nodes of one chain, and what they agree on: below the quorum nothing is handed out or ended (L13, R17)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from custody.chain.depth import confirmations
from custody.chain.errors import AlreadyKnown, ChainUnavailable, SendRefused
from custody.chain.receipts import Receipt
from custody.chain.rpc import ChainClient
from custody.settings.chains import Chain

_Value = TypeVar("_Value")

QUORUM: Final = 2
QUORUM_DEVELOPMENT: Final = 1


@dataclass(frozen=True, slots=True)
class Mined:
    """A receipt that a quorum has in a canonical block, with the least depth any of them gives it, in blocks."""

    receipt: Receipt
    depth: int
    head_number: int


class ChainNodes:
    """Every configured node of a chain. All methods raise ChainUnavailable when too few answer alike."""

    def __init__(self, chain: Chain, clients: Sequence[ChainClient]) -> None:
        self.chain = chain
        self.clients = tuple(clients)
        self.quorum = QUORUM_DEVELOPMENT if chain.is_development else QUORUM

    def require_identity(self) -> None:
        """A quorum of nodes is of this very chain (id and genesis, R17). Raises WrongChain if any is not."""
        self._agreed(lambda client: client.require_identity(self.chain.id, self.chain.genesis_hash))

    def any(self, read: Callable[[ChainClient], _Value]) -> _Value:
        """The first answer of any node: for values the fleet caps or the chain itself checks (fees, gas)."""
        failure: ChainUnavailable | None = None
        for client in self.clients:
            try:
                return read(client)
            except ChainUnavailable as error:
                failure = error
        assert failure is not None
        raise failure

    def nonce(self, address: str, block: int | None = None) -> int:
        """How many mined transactions an account has sent (after ``block``, the newest when None).

        The highest count that a quorum of nodes reaches.
        """
        found = self._each(lambda client: client.nonce(address, "latest" if block is None else block))
        return sorted(found, reverse=True)[self.quorum - 1]

    def code(self, address: str) -> bytes:
        """The account's code, as a quorum says."""
        return self._agreed(lambda client: client.code(address))

    def mined(self, transaction_hashes: Sequence[str]) -> Mapping[str, Mined]:
        """Receipts in canonical blocks that a quorum agrees on, by hash."""
        answers = self._each(lambda client: client.receipts_and_headers(transaction_hashes))
        found: dict[str, Mined] = {}
        for transaction_hash in transaction_hashes:
            votes: dict[tuple[str, int], list[Mined]] = {}
            for answer in answers:
                receipt = answer.canonical(transaction_hash)
                if receipt is not None:
                    depth = confirmations(answer.head.number, receipt.block_number)
                    votes.setdefault((receipt.block_hash, receipt.status), []).append(
                        Mined(receipt, depth, answer.head.number)
                    )
            for agreeing in votes.values():
                if len(agreeing) >= self.quorum and all(vote.receipt == agreeing[0].receipt for vote in agreeing):
                    found[transaction_hash] = min(agreeing, key=lambda vote: vote.depth)
        return found

    def any_has_receipt(self, transaction_hashes: Sequence[str]) -> bool:
        """Whether a single node has a receipt of one of them, canonical or not."""
        return any(
            answer.receipts for answer in self._each(lambda client: client.receipts_and_headers(transaction_hashes))
        )

    def send(self, raw: bytes) -> str:
        """Broadcast to every node; one that takes it, or has it, is enough. Raises SendRefused, ChainUnavailable."""
        failure: SendRefused | ChainUnavailable | None = None
        sent: str | None = None
        for client in self.clients:
            try:
                sent = client.send_raw(raw)
            except AlreadyKnown:
                sent = sent or "known"
            except (SendRefused, ChainUnavailable) as error:
                failure = error
        if sent is None:
            assert failure is not None
            raise failure
        return sent

    def _each(self, read: Callable[[ChainClient], _Value]) -> list[_Value]:
        answers: list[_Value] = []
        failure: ChainUnavailable | None = None
        for client in self.clients:
            try:
                answers.append(read(client))
            except ChainUnavailable as error:
                failure = error
        if len(answers) < self.quorum:
            raise failure or self._too_few(len(answers))
        return answers

    def _agreed(self, read: Callable[[ChainClient], _Value]) -> _Value:
        answers = self._each(read)
        for answer in answers:
            if answers.count(answer) >= self.quorum:
                return answer
        raise self._too_few(1)

    def _too_few(self, agreeing: int) -> ChainUnavailable:
        return ChainUnavailable(
            self.chain.id, f"{len(self.clients)} nodes", f"quorum: {agreeing} of {self.quorum} agree"
        )

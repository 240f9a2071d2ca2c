"""The nodes of one chain, and what they agree on: below the quorum nothing is handed out or ended (L13, R17)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final, TypeVar

from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.depth import confirmations
from custody.chain.errors import AlreadyKnown, ChainUnavailable, SendRefused, WrongChain
from custody.chain.receipts import Receipt
from custody.chain.rpc import ChainClient
from custody.settings.chains import Chain

_Value = TypeVar("_Value")

QUORUM: Final = 2
FUTURE_SECONDS: Final = 60  # a head this far ahead of our clock is as wrong as an old one
STRAGGLER_SECONDS: Final = 0.1  # how long a quorum that has answered waits for the others
IDENTITY_SECONDS: Final = 30.0  # a node whose answers are used often shows its identity again this often


def quorum_of(nodes: int, *, is_development: bool) -> int:
    """How many of a chain's nodes must agree (L13): two; only a development chain may do with the one it has (R17)."""
    return max(1, min(QUORUM, nodes)) if is_development else QUORUM


def why_stale(chain: Chain, head: BlockHeader, now: int) -> str | None:
    """Why a head says nothing about the present (L13), None if it may be used; ``now`` in seconds since the epoch.

    Development chains stand still legally.
    """
    if chain.is_development:
        return None
    age = now - head.timestamp
    if age > chain.max_head_age_seconds:
        return f"the newest block is {age} s old, more than {chain.max_head_age_seconds} s: the node is stuck"
    if age < -FUTURE_SECONDS:
        return f"the newest block is {-age} s in the future: the node or this machine's clock is wrong"
    return None


@dataclass(frozen=True, slots=True)
class Mined:
    """A receipt that a quorum has in a canonical block, with the least depth any of them gives it, in blocks."""

    receipt: Receipt
    depth: int
    head_number: int


class ChainNodes:
    """Every configured node of a chain, asked all at once. Build it after a fork.

    All methods but ``answers`` raise ChainUnavailable when too few answer alike.
    """

    def __init__(self, chain: Chain, clients: Sequence[ChainClient]) -> None:
        self.chain = chain
        self.clients = tuple(clients)
        self.quorum = quorum_of(len(self.clients), is_development=chain.is_development)
        self._pool: ThreadPoolExecutor | None = None
        self._asked: dict[ChainClient, Future[Any]] = {}
        self._identified_until: dict[ChainClient, float] = {}

    def close(self) -> None:
        """Close the connections to the nodes."""
        if self._pool is not None:
            self._pool.shutdown()
        for client in self.clients:
            client.close()

    def require_identity(self) -> None:
        """A quorum of nodes is of this very chain (id and genesis, R17). Raises WrongChain if any is not."""
        self.agreed(lambda client: client.require_identity(self.chain.id, self.chain.genesis_hash))

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
        found = self.each(lambda client: client.nonce(address, "latest" if block is None else block))
        return sorted(found, reverse=True)[self.quorum - 1]

    def common_height(self) -> int:
        """The greatest height that a quorum of nodes has reached. Heads that say nothing about now do not count (L13)."""
        now = int(time())
        stale: str | None = None
        heights: list[int] = []
        for head in self.each(lambda client: client.head()):
            if (why := why_stale(self.chain, head, now)) is None:
                heights.append(head.number)
            else:
                stale = why
        if len(heights) < self.quorum:
            raise ChainUnavailable(self.chain.id, f"{len(self.clients)} nodes", stale or "too few of them answer")
        return sorted(heights, reverse=True)[self.quorum - 1]

    def code(self, address: str) -> bytes:
        """The account's code, as a quorum says."""
        return self.agreed(lambda client: client.code(address))

    def mined(self, transaction_hashes: Sequence[str]) -> Mapping[str, Mined]:
        """Receipts in canonical blocks that a quorum agrees on, by hash."""
        answers = self.each(lambda client: client.receipts_and_headers(transaction_hashes))
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

    def answers(
        self, transaction_hashes: Collection[str], heights: Collection[int]
    ) -> tuple[list[tuple[str, ReceiptsAndHeaders]], list[str]]:
        """What each node of this very chain (R17) says, by its masked URL, and in words why others said nothing.

        One batched request a node. Once a quorum has answered, a slow node keeps them waiting for STRAGGLER_SECONDS
        at most.
        """

        def read(client: ChainClient) -> tuple[str, ReceiptsAndHeaders]:
            now = monotonic()
            if self._identified_until.get(client, now) <= now:
                client.require_identity(self.chain.id, self.chain.genesis_hash)
                self._identified_until[client] = now + IDENTITY_SECONDS
            try:
                return client.chain.masked_url, client.receipts_and_headers(transaction_hashes, heights)
            except ChainUnavailable:
                self._identified_until.pop(client, None)  # who answers next may be another
                raise

        said = self._ask(read, patient=False)
        answered = [answer for answer in said if not isinstance(answer, ChainUnavailable | WrongChain)]
        return answered, [str(answer) for answer in said if isinstance(answer, ChainUnavailable | WrongChain)]

    def any_has_receipt(self, transaction_hashes: Sequence[str]) -> bool:
        """Whether a single node has a receipt of one of them, canonical or not."""
        return any(
            answer.receipts for answer in self.each(lambda client: client.receipts_and_headers(transaction_hashes))
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

    def each(self, read: Callable[[ChainClient], _Value]) -> list[_Value]:
        """Every node's own answer, a quorum of them at least. Raises WrongChain if any is of another chain."""
        answers: list[_Value] = []
        failure: ChainUnavailable | None = None
        for answer in self._ask(read):
            if isinstance(answer, WrongChain):
                raise answer
            if isinstance(answer, ChainUnavailable):
                failure = answer
            else:
                answers.append(answer)
        if len(answers) < self.quorum:
            raise failure or self._too_few(len(answers))
        return answers

    def _ask(
        self, read: Callable[[ChainClient], _Value], *, patient: bool = True
    ) -> list[_Value | ChainUnavailable | WrongChain]:
        """Each node's answer or failure. A patient caller waits for all of them."""
        if len(self.clients) == 1:
            return [_answer(read, self.clients[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self.clients), thread_name_prefix=f"nodes-{self.chain.id}")
        futures: dict[ChainClient, Future[_Value | ChainUnavailable | WrongChain]] = {}
        late: list[_Value | ChainUnavailable | WrongChain] = []
        for client in self.clients:
            before = self._asked.get(client)
            if before is not None and not before.done():
                # One question a node: a stuck one must not fill the pool.
                late.append(self._slow(client))
                continue
            # In the caller's context: the thread refuses the socket inside a transaction as well (L15).
            futures[client] = self._pool.submit(copy_context().run, _answer, read, client)
            self._asked[client] = futures[client]
        self._wait(list(futures.values()), patient=patient)
        return late + [future.result() if future.done() else self._slow(client) for client, future in futures.items()]

    def _wait(self, futures: Sequence[Future[_Value | ChainUnavailable | WrongChain]], *, patient: bool) -> None:
        waiting = set(futures)
        answered = 0
        while waiting and (patient or answered < self.quorum):
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            answered += sum(not isinstance(future.result(), ChainUnavailable | WrongChain) for future in done)
        wait(waiting, timeout=STRAGGLER_SECONDS)

    def _slow(self, client: ChainClient) -> ChainUnavailable:
        return ChainUnavailable(self.chain.id, client.chain.masked_url, "it has not answered yet")

    def agreed(self, read: Callable[[ChainClient], _Value]) -> _Value:
        """The answer that a quorum of nodes gives alike."""
        answers = self.each(read)
        for answer in answers:
            if answers.count(answer) >= self.quorum:
                return answer
        raise self._too_few(1)

    def _too_few(self, agreeing: int) -> ChainUnavailable:
        return ChainUnavailable(
            self.chain.id, f"{len(self.clients)} nodes", f"quorum: {agreeing} of {self.quorum} agree"
        )


def _answer(read: Callable[[ChainClient], _Value], client: ChainClient) -> _Value | ChainUnavailable | WrongChain:
    try:
        return read(client)
    except (ChainUnavailable, WrongChain) as error:
        return error

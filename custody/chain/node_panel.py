"""The nodes that watch one chain: which are sound, and what enough of them agree on (L13, R17).

Each node is asked on a thread of its own, and nobody waits long for a slow one. A node that is behind, silent, of another
chain, or whose answers contradict each other or a quorum is put aside with the reason, and asked again later.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import structlog

from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders, ScannedBlock
from custody.chain.bloom import may_hold
from custody.chain.errors import ChainError, ChainUnavailable
from custody.chain.nodes import quorum_of
from custody.chain.rpc import ChainClient
from custody.chain.scanning import ChangedMeanwhile, NodeAtFault, NodeReading, Watched, log_identity, read_window
from custody.settings.chains import Chain

log = structlog.get_logger(__name__)

PATIENCE_SECONDS: Final = 0.5  # how long the others are waited for once a quorum has answered
STRIKES: Final = 3  # answers in a row that do not fit: one may be a reorganisation that reached this node first
BEHIND_BLOCKS: Final = 8  # further behind its peers than block propagation explains
ASIDE_FIRST_SECONDS: Final = 5.0
ASIDE_MAXIMUM_SECONDS: Final = 300.0
FUTURE_SECONDS: Final = 60  # a head this far ahead of our clock is as wrong as an old one

State = Literal["healthy", "behind", "aside"]
_Value = TypeVar("_Value")


@dataclass(slots=True, eq=False)
class Node:
    """One configured node. ``place``: its position in the chains file, from 0."""

    place: int
    client: ChainClient
    state: State = "healthy"
    reason: str | None = None
    head: BlockHeader | None = None
    is_identified: bool = False
    strikes: int = 0
    asides: int = 0
    retry_at_seconds: float = 0.0
    pending: Future[Any] | None = None

    @property
    def url(self) -> str:
        return self.client.chain.masked_url


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the sound nodes show of a window. ``blocks``: those on whose hash enough of them agree, without a gap.

    ``is_agreed``: a quorum stands behind them; else fewer nodes than a quorum are sound, and these show them.
    ``waiting``: why there is nothing further, in an operator's words; None when the window simply ends at the head.
    """

    blocks: tuple[ScannedBlock, ...]
    head: BlockHeader | None
    finalized: int | None
    is_agreed: bool
    nodes: tuple[Node, ...]
    waiting: str | None = None


@dataclass(slots=True)
class NodePanel:
    """Every node of a chain. Used by one thread; not safe to share."""

    chain: Chain
    clients: Sequence[ChainClient]
    now_seconds: Callable[[], float] = time.time
    nodes: list[Node] = field(init=False)
    _pool: ThreadPoolExecutor = field(init=False)
    _watched: Watched = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = [Node(place, client) for place, client in enumerate(self.clients)]
        self._pool = ThreadPoolExecutor(len(self.nodes), thread_name_prefix=f"nodes-{self.chain.id}")
        self._watched = Watched.of(self.chain)

    @property
    def quorum(self) -> int:
        """How many nodes must agree (L13)."""
        return quorum_of(len(self.nodes), is_development=self.chain.is_development)

    def close(self) -> None:
        """Close every connection. A call that still runs is left to its own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for node in self.nodes:
            node.client.close()

    @property
    def sound(self) -> list[Node]:
        return [node for node in self.nodes if node.state == "healthy"]

    def read(self, first: int, last: int) -> Agreement:
        """Ask every node that is not aside for a window, and return what they agree on. Raises nothing of a node's."""
        tag = self.chain.finality_tag
        readings = self._ask(
            lambda node: read_window(node.client, self._watched, first, last, tag), is_window=last > first
        )
        for node, reading in readings.items():
            node.head = reading.head
        self._judge_heads(list(readings))
        sound = {node: reading for node, reading in readings.items() if node.state == "healthy"}
        quorum = self.quorum
        is_agreed = len(self.sound) >= quorum
        needed = quorum if is_agreed else 1
        if not sound:
            return Agreement((), None, None, is_agreed, (), self._none_sound())
        blocks: list[ScannedBlock] = []
        voters = list(sound)
        waiting = None
        for number in range(first, last + 1):
            block, agreeing, waiting = self._vote(sound, number, needed)
            if block is None:
                break
            voters = [node for node in voters if node in agreeing]
            if len(voters) < needed:
                break
            blocks.append(block)
        if not is_agreed:
            waiting = self._below_quorum()
        tagged = sorted((reading.finalized or 0 for node, reading in sound.items() if node in voters), reverse=True)
        heads = sorted((reading.head for reading in sound.values()), key=lambda head: head.number)
        return Agreement(
            tuple(blocks),
            heads[-1],
            tagged[needed - 1] if tag is not None and len(tagged) >= needed else None,
            is_agreed,
            tuple(voters),
            waiting,
        )

    def agreeing_reader(self, nodes: Sequence[Node]) -> "AgreeingReader":
        """A reader that takes from ``nodes`` only what they all say."""
        return AgreeingReader(self.chain, self, tuple(nodes[: self.quorum]))

    def each(self, nodes: Sequence[Node], read: Callable[[ChainClient], _Value]) -> list[_Value]:
        """Every node's answer, asked at once. Raises the first node's ChainUnavailable."""
        futures = [self._pool.submit(read, node.client) for node in nodes]
        wait(futures)
        return [future.result() for future in futures]

    # Asking -------------------------------------------------------------------------------------------------------

    def _ask(self, read: Callable[[Node], NodeReading], *, is_window: bool) -> dict[Node, NodeReading]:
        now = time.monotonic()
        asked: dict[Future[NodeReading], Node] = {}
        for node in self.nodes:
            if node.pending is not None:
                if not node.pending.done():
                    continue  # it still owes an answer
                node.pending = None
            if node.state != "healthy" and now < node.retry_at_seconds:
                continue
            asked[self._pool.submit(self._read_one, node, read)] = node
        open_futures = set(asked)
        answered: dict[Node, NodeReading] = {}
        while open_futures:
            patience = PATIENCE_SECONDS if len(answered) >= self.quorum else None
            done, open_futures = wait(open_futures, timeout=patience, return_when="FIRST_COMPLETED")
            if not done:
                for future in open_futures:
                    asked[future].pending = future
                    self._strike(asked[future], f"no answer within {PATIENCE_SECONDS} s of the others'")
                break
            for future in done:
                reading = self._outcome(asked[future], future, is_window=is_window)
                if reading is not None:
                    answered[asked[future]] = reading
        return answered

    def _read_one(self, node: Node, read: Callable[[Node], NodeReading]) -> NodeReading:
        if not node.is_identified:
            node.client.require_identity(self.chain.id, self.chain.genesis_hash)
            node.is_identified = True
        return read(node)

    def _outcome(self, node: Node, future: Future[NodeReading], *, is_window: bool) -> NodeReading | None:
        try:
            return future.result()
        except ChangedMeanwhile as error:
            self._strike(node, str(error))
        except NodeAtFault as error:
            self.put_aside(node, str(error))
        except ChainUnavailable as error:
            # A window may be too much for a node that is well: the caller makes it smaller.
            if is_window:
                self._strike(node, error.reason)
            else:
                self.put_aside(node, error.reason)
        except ChainError as error:  # WrongChain
            self.put_aside(node, error.reason)
        return None

    # Judging ------------------------------------------------------------------------------------------------------

    def _judge_heads(self, answered: Sequence[Node]) -> None:
        """Heads that are older than the clock allows or than their peers' put a node aside; the others are well again."""
        newest = max((node.head.number for node in answered if node.head is not None), default=0)
        for node in answered:
            assert node.head is not None
            stale = self.why_stale(node.head)
            if stale is not None:
                self.put_aside(node, stale, state="behind")
            elif node.head.number < newest - BEHIND_BLOCKS:
                self.put_aside(node, f"its newest block is {node.head.number}, its peers have {newest}", state="behind")
            elif node.state != "healthy":
                log.info("node_sound_again", chain_id=self.chain.id, url=node.url, after=node.reason)
                node.state, node.reason, node.strikes, node.asides = "healthy", None, 0, 0

    def why_stale(self, head: BlockHeader) -> str | None:
        """Why a head says nothing about the present (L13), None if it may be used. Development chains stand still legally."""
        if self.chain.is_development:
            return None
        age = int(self.now_seconds()) - head.timestamp
        if age > self.chain.max_head_age_seconds:
            return f"its newest block is {age} s old, more than {self.chain.max_head_age_seconds} s"
        if age < -FUTURE_SECONDS:
            return f"its newest block is {-age} s in the future: the node or this machine's clock is wrong"
        return None

    def _vote(
        self, sound: Mapping[Node, NodeReading], number: int, needed: int
    ) -> tuple[ScannedBlock | None, list[Node], str | None]:
        """The block at a height that enough nodes show, who shows it, and else what is waited for."""
        votes: dict[str, list[tuple[Node, ScannedBlock]]] = {}
        for node, reading in sound.items():
            place = number - reading.blocks[0].header.number if reading.blocks else 0
            if 0 <= place < len(reading.blocks):
                block = reading.blocks[place]
                votes.setdefault(block.header.hash, []).append((node, block))
        winner = next((shown for shown in votes.values() if len(shown) >= needed), None)
        if winner is None:
            if sum(len(shown) for shown in votes.values()) >= needed:
                return None, [], f"split: the nodes show {len(votes)} different blocks {number}"
            return None, [], None
        if len(votes) > 1 and sum(len(shown) >= needed for shown in votes.values()) > 1:
            return None, [], f"split: as many nodes show one block {number} as another"
        agreeing = [node for node, _ in winner]
        for shown in votes.values():
            if shown is not winner:
                for node, block in shown:
                    self._strike(node, f"it shows block {number} as {block.header.hash}, the others agree on another")
        self._compare_logs(winner, {node: sound[node].blooms[number] for node in agreeing})
        agreeing = [node for node in agreeing if node.state == "healthy"]
        return _united([block for _, block in winner]), agreeing, None

    def _compare_logs(self, shown: Sequence[tuple[Node, ScannedBlock]], blooms: Mapping[Node, bytes]) -> None:
        """Nodes with the same block must have the same logs; the block's bloom says who is wrong."""
        sets = {node: {log_identity(entry): entry for entry in block.logs} for node, block in shown}
        everything = {identity: entry for logs in sets.values() for identity, entry in logs.items()}
        for node, logs in sets.items():
            lacking = [entry for identity, entry in everything.items() if identity not in logs]
            if any(may_hold(blooms[node], entry.address, entry.topics[0]) for entry in lacking):
                self.put_aside(node, f"it lacks logs of block {lacking[0].block_number} that another node shows")

    def _strike(self, node: Node, reason: str) -> None:
        node.strikes += 1
        if node.strikes >= STRIKES:
            self.put_aside(node, reason)

    def put_aside(self, node: Node, reason: str, *, state: State = "aside") -> None:
        """Ask a node no more for a while; each time in a row twice as long."""
        if node.state == "healthy" or node.reason != reason:
            log.warning("node_put_aside", chain_id=self.chain.id, url=node.url, reason=reason, state=state)
        if state == "aside":
            node.asides += 1
            pause_seconds = min(ASIDE_FIRST_SECONDS * 2 ** (node.asides - 1), ASIDE_MAXIMUM_SECONDS)
            node.is_identified = False
        else:
            pause_seconds = 0.0  # it catches up by itself, and asking costs it nothing
        node.state, node.reason, node.strikes = state, reason, 0
        node.retry_at_seconds = time.monotonic() + pause_seconds

    def _none_sound(self) -> str:
        said = "; ".join(f"{node.url}: {node.reason or 'no answer yet'}" for node in self.nodes)
        return f"no node: {said}"

    def _below_quorum(self) -> str:
        said = "; ".join(f"{node.url}: {node.reason}" for node in self.nodes if node.state != "healthy")
        return f"quorum: {len(self.sound)} of {self.quorum} nodes are sound ({said or 'only so many are configured'})"


def _united(blocks: Sequence[ScannedBlock]) -> ScannedBlock:
    """One block of what several nodes show of it: every log that any has, and what they all say of the treasury."""
    first = blocks[0]
    logs = {log_identity(entry): entry for block in blocks for entry in block.logs}
    balances, nonces = {block.treasury_balance for block in blocks}, {block.treasury_nonce for block in blocks}
    return ScannedBlock(
        first.header,
        first.transactions,
        tuple(sorted(logs.values(), key=lambda entry: entry.log_index)),
        balances.pop() if len(balances) == 1 else None,
        nonces.pop() if len(nonces) == 1 else None,
    )


@dataclass(frozen=True, slots=True)
class AgreeingReader:
    """Reads receipts and headers from several nodes at once, and takes only what they all say.

    Raises ChainUnavailable where they contradict each other: a look then waits, and says so.
    """

    chain: Chain
    panel: NodePanel
    nodes: tuple[Node, ...]

    def receipts_and_headers(self, transaction_hashes: Sequence[str]) -> ReceiptsAndHeaders:
        """Receipts that every node has alike. One that some have and others do not yet, nobody has."""
        answers = self.panel.each(self.nodes, lambda client: client.receipts_and_headers(transaction_hashes))
        head = min((answer.head for answer in answers), key=lambda head: head.number)
        headers = _common([answer.headers for answer in answers])
        receipts = _common([answer.receipts for answer in answers])
        shown = [receipt for answer in answers for receipt in answer.receipts.values()]
        doubtful = [receipt for receipt in shown if receipt.transaction_hash not in receipts]
        if doubtful:
            # Not yet mined on one of them, or left out? The block says: who has it has its receipts.
            common = self.headers({receipt.block_number for receipt in doubtful})
            for receipt in doubtful:
                header = common.get(receipt.block_number)
                if header is not None and header.hash == receipt.block_hash:
                    raise self._contradiction(f"transaction {receipt.transaction_hash}, whose block they agree on")
        return ReceiptsAndHeaders(head, receipts, headers)

    def headers(self, numbers: Sequence[int] | set[int]) -> dict[int, BlockHeader]:
        """The blocks at these heights that every node has alike."""
        return _common(self.panel.each(self.nodes, lambda client: client.headers(numbers)))

    def _contradiction(self, what: str) -> ChainUnavailable:
        return ChainUnavailable(
            self.chain.id, f"{len(self.nodes)} nodes", f"quorum: they contradict each other on {what}"
        )


_Key = TypeVar("_Key")


def _common(answers: Sequence[Mapping[_Key, _Value]]) -> dict[_Key, _Value]:
    first, *others = answers
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}

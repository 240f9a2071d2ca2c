"""The nodes that watch one chain: which are sound, and what enough of them agree on (L13, R17).

Each node is asked on a thread of its own, and nobody waits long for a slow one. A node that is behind, silent, of another
chain, or whose answers contradict each other or a quorum is put aside with the reason, and asked again later.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar

import structlog

from custody.chain.agreeing_reader import AgreeingReader
from custody.chain.blocks import BlockHeader, ScannedBlock
from custody.chain.errors import ChainError, ChainUnavailable
from custody.chain.nodes import quorum_of, why_stale
from custody.chain.recipient_filter import RecipientFilter
from custody.chain.rpc import ChainClient
from custody.chain.scanning import (
    ChangedMeanwhile,
    NodeAtFault,
    NodeReading,
    Watched,
    content,
    find_logs,
    read_window,
    require_own_receipts,
)
from custody.settings.chains import Chain

log = structlog.get_logger(__name__)

PATIENCE_SECONDS: Final = 0.5  # how long the others are waited for once a quorum has answered
STRIKES: Final = 3  # answers in a row that do not fit: one may be a reorganisation that reached this node first
BEHIND_BLOCKS: Final = 8  # further behind its peers than block propagation explains
ASIDE_FIRST_SECONDS: Final = 5.0
ASIDE_MAXIMUM_SECONDS: Final = 300.0
REASON_MAXIMUM: Final = 500  # characters: a line for an operator

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
    doubts: int = 0
    """Answers about transactions that did not fit the others': who has some is asked last."""
    retry_at_seconds: float = 0.0
    pending: Future[Any] | None = None

    @property
    def url(self) -> str:
        return self.client.chain.masked_url


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the sound nodes show of a window. ``blocks``: those on whose content enough of them agree, without a gap.

    ``is_agreed``: a quorum is sound, and stands behind all of this; else fewer nodes are, and these show it. ``nodes``:
    who does; none while too few of a sound quorum answered. ``head``: the newest block that enough of them reach.
    ``waiting``: why there is nothing further, in an operator's words; None when the window simply ends at the head.
    ``is_refused``: a node that is sound gave no answer to this window of several blocks.
    """

    blocks: tuple[ScannedBlock, ...]
    head: BlockHeader | None
    finalized: int | None
    is_agreed: bool
    nodes: tuple[Node, ...]
    waiting: str | None = None
    is_refused: bool = False


@dataclass(slots=True)
class NodePanel:
    """Every node of a chain. Used by one thread; not safe to share."""

    chain: Chain
    clients: Sequence[ChainClient]
    now_seconds: Callable[[], float] = time.time
    recipients: RecipientFilter | None = None
    """Whose logs are asked for where the chain's providers force it; None: everybody's (L12)."""
    nodes: list[Node] = field(init=False)
    _pool: ThreadPoolExecutor = field(init=False)
    _watched: Watched = field(init=False)
    _refused: int = 0

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
        tag, recipients = self.chain.finality_tag, self.recipients
        readings = self._ask(
            lambda node: read_window(node.client, self._watched, first, last, tag, recipients), is_window=last > first
        )
        for node, reading in readings.items():
            node.head = reading.head
        self._judge_heads(list(readings))
        sound = {node: reading for node, reading in readings.items() if node.state == "healthy"}
        quorum = self.quorum
        is_agreed = len(self.sound) >= quorum
        needed = quorum if is_agreed else 1
        is_refused = self._refused > 0
        if not sound:
            return Agreement((), None, None, is_agreed, (), self._none_sound(), is_refused)
        heads = sorted((reading.head for reading in sound.values()), key=lambda head: head.number, reverse=True)
        if len(sound) < needed:
            # Fewer than a quorum decide nothing while the others are thought to be sound.
            waiting = f"quorum: {len(sound)} of {quorum} nodes answered"
            return Agreement((), heads[-1], None, is_agreed, (), waiting, is_refused)
        blocks: list[ScannedBlock] = []
        voters = list(sound)
        dissent: dict[Node, str] = {}
        waiting = None
        for number in range(first, last + 1):
            block, agreeing, waiting = self._vote(sound, number, needed, dissent)
            together = [node for node in voters if node in agreeing]
            if block is None or len(together) < needed:
                break
            voters = together
            blocks.append(block)
        for node, reason in dissent.items():
            self.strike(node, reason)
        if blocks:
            for node in voters:
                node.strikes = node.asides = 0
        if not is_agreed:
            waiting = self._below_quorum()
        tagged = sorted((reading.finalized or 0 for node, reading in sound.items() if node in voters), reverse=True)
        return Agreement(
            tuple(blocks),
            heads[needed - 1],
            tagged[needed - 1] if tag is not None else None,
            is_agreed,
            tuple(voters),
            waiting,
            is_refused,
        )

    @property
    def reach(self) -> int:
        """The highest block number that a quorum of the sound nodes has said it reaches; any of them below a quorum."""
        heads = sorted((node.head.number for node in self.sound if node.head is not None), reverse=True)
        needed = self.quorum if len(self.sound) >= self.quorum else 1
        return heads[needed - 1] if len(heads) >= needed else 0

    def find(self, recipients: RecipientFilter, first: int, last: int) -> tuple[list[str], int]:
        """The transactions that any sound node shows with logs of ``recipients`` in a range, and how many nodes answered.

        Raises ChainUnavailable where none did.
        """
        hashes: dict[str, None] = {}
        answered = 0
        failure = ChainUnavailable(self.chain.id, "every node", "no node is sound")
        for node in self.sound:
            try:
                found = find_logs(node.client, self._watched, first, last, recipients)
            except NodeAtFault as error:
                self.put_aside(node, str(error))
            except ChainUnavailable as error:
                failure = error
            else:
                answered += 1
                hashes |= dict.fromkeys(log.transaction_hash for log in found)
        if not answered:
            raise failure
        return list(hashes), answered

    def agreeing_reader(self, nodes: Sequence[Node]) -> AgreeingReader:
        """A reader that takes from ``nodes`` only what a quorum of them says; all of them where they are fewer."""
        asked = sorted(nodes, key=lambda node: (node.doubts, node.place))
        return AgreeingReader(self.chain, self, tuple(asked), min(self.quorum, len(asked)))

    def each(
        self, nodes: Sequence[Node], read: Callable[[ChainClient], _Value]
    ) -> tuple[dict[Node, _Value], dict[Node, ChainUnavailable]]:
        """Every node's answer or failure, all asked at once."""
        futures = {node: self._pool.submit(read, node.client) for node in nodes}
        wait(futures.values())
        answers: dict[Node, _Value] = {}
        failures: dict[Node, ChainUnavailable] = {}
        for node, future in futures.items():
            try:
                answers[node] = future.result()
            except ChainUnavailable as error:
                failures[node] = error
        return answers, failures

    # Asking -------------------------------------------------------------------------------------------------------

    def _ask(self, read: Callable[[Node], NodeReading], *, is_window: bool) -> dict[Node, NodeReading]:
        now = time.monotonic()
        self._refused = 0
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
                    self.strike(asked[future], f"no answer within {PATIENCE_SECONDS} s of the others'")
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
            self.strike(node, str(error))
        except NodeAtFault as error:
            self.put_aside(node, str(error))
        except ChainUnavailable as error:
            # A window may be too much for a node that is well: the caller makes it smaller.
            if is_window and node.state == "healthy":
                self._refused += 1
            else:
                self.put_aside(node, error.reason)
        except ChainError as error:  # WrongChain
            self.put_aside(node, error.reason)
        return None

    # Judging ------------------------------------------------------------------------------------------------------

    def _judge_heads(self, answered: Sequence[Node]) -> None:
        """Heads that are older than the clock allows or than their peers' put a node aside; the others are well again."""
        heads = sorted((node.head.number for node in answered if node.head is not None), reverse=True)
        # What a quorum reaches, where more than a quorum answered: else one that invents blocks would shut out all others.
        newest = heads[self.quorum - 1] if len(heads) > self.quorum else max(heads, default=0)
        for node in answered:
            assert node.head is not None
            stale = why_stale(self.chain, node.head, int(self.now_seconds()))
            if stale is not None:
                self.put_aside(node, stale, state="behind")
            elif node.head.number < newest - BEHIND_BLOCKS:
                self.put_aside(node, f"its newest block is {node.head.number}, its peers have {newest}", state="behind")
            elif node.state != "healthy":
                log.info("node_sound_again", chain_id=self.chain.id, url=node.url, after=node.reason)
                # On probation until it agrees with the others on a block.
                node.state, node.reason, node.strikes = "healthy", None, STRIKES - 1

    def _vote(
        self, sound: Mapping[Node, NodeReading], number: int, needed: int, dissent: dict[Node, str]
    ) -> tuple[ScannedBlock | None, list[Node], str | None]:
        """The block at a height that enough nodes show, who shows it, and else what is waited for.

        A hash stands for one content: nodes that show another one under the same hash have another block.
        """
        votes: dict[object, dict[Node, ScannedBlock]] = {}
        for node, reading in sound.items():
            place = number - reading.blocks[0].header.number if reading.blocks else 0
            if 0 <= place < len(reading.blocks):
                block = reading.blocks[place]
                votes.setdefault(content(block, reading.blooms[number]), {})[node] = block
        enough = [shown for shown in votes.values() if len(shown) >= needed]
        if len(enough) != 1:
            if sum(len(shown) for shown in votes.values()) < needed:
                return None, [], None
            return None, [], self._split(number, [shown for shown in votes.values() if enough == [] or shown in enough])
        [winner] = enough
        for shown in votes.values():
            if shown is not winner:
                for node, block in shown.items():
                    dissent.setdefault(
                        node, f"it shows block {number} as {block.header.hash}, the others agree on other content"
                    )
        return _united(list(winner.values())), list(winner), None

    def _split(self, number: int, groups: Sequence[Mapping[Node, ScannedBlock]]) -> str:
        """Why the chain waits. Nobody is blamed (L13), but for a node whose own receipts say otherwise than its logs."""
        shown = {node: block for group in groups for node, block in group.items()}
        hashes = {block.header.hash for block in shown.values()}
        if len(hashes) == len(groups):
            return f"split: the nodes show {len(groups)} different blocks {number}"
        tried = {
            node: self._pool.submit(require_own_receipts, node.client, self._watched, block, self.recipients)
            for node, block in shown.items()
        }
        wait(tried.values())
        for node, future in tried.items():
            error = future.exception()
            if isinstance(error, NodeAtFault):
                self.put_aside(node, str(error))
        return f"split: the nodes show block {number} with {len(groups)} different contents"

    def strike(self, node: Node, reason: str) -> None:
        """An answer of a node's that did not fit; a few in a row put it aside."""
        node.strikes += 1
        if node.strikes >= STRIKES:
            self.put_aside(node, reason)

    def put_aside(self, node: Node, reason: str, *, state: State = "aside") -> None:
        """Ask a node no more for a while; each time in a row twice as long."""
        reason = node.client.chain.redact(reason)[:REASON_MAXIMUM]  # it may quote the node, and that knows its own URL
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
    """One block that several nodes show alike, with what they all say of the treasury."""
    said = [(block.treasury_balance, block.treasury_nonce) for block in blocks]
    balance, nonce = _same(said)
    return replace(
        blocks[0],
        treasury_balance=balance,
        treasury_nonce=nonce,
        former={each: _same([block.former.get(each, (None, None)) for block in blocks]) for each in blocks[0].former},
    )


def _same(said: Sequence[tuple[int | None, int | None]]) -> tuple[int | None, int | None]:
    """A balance and a nonce as all of them say it; None for what they do not say alike."""
    balances, nonces = {each[0] for each in said}, {each[1] for each in said}
    return (balances.pop() if len(balances) == 1 else None, nonces.pop() if len(nonces) == 1 else None)

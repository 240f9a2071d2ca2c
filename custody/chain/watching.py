"""Watching a chain block by block: scan what is new, walk back where it was replaced, answer looks (L1, L12 to L14).

The blocks that a quorum agrees on are scanned in their order, each once. While fewer nodes are sound than a quorum, the
blocks they show are scanned ahead, so that money is seen; they are scanned again once a quorum is back. Nothing here costs
anything for a payment that waits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import cursor as cursors
from custody.chain import matching, scanned_blocks
from custody.chain.agreeing_reader import AgreeingReader
from custody.chain.answering import answer_looks
from custody.chain.blocks import BlockHeader, ScannedBlock
from custody.chain.depth import effective_threshold
from custody.chain.errors import ChainUnavailable
from custody.chain.fence import Fence
from custody.chain.issued_rescan import IssuedRescan
from custody.chain.looks import QUEUE, request_looks
from custody.chain.node_panel import Agreement, NodePanel
from custody.chain.scanned_blocks import ScannedHash
from custody.chain.unwinding import stop_for_move
from custody.settings.chains import Chain
from custody.settings.thresholds import newest_threshold
from custody.store.engine import forbid_inside_transaction, ring_relay, transaction
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)

WINDOW_MAXIMUM_BLOCKS: Final = 80  # with the other calls below a connection's max_batch
WINDOW_SHRINKS: Final = 4  # to so much less when a node does not bear it; doubled when all do
WINDOWS_LIMIT: Final = 25  # of one tick: looks are answered in between
PROGRESS_SECONDS: Final = 5.0  # how often a long catch-up says where it is
ANCESTOR_BLOCKS: Final = 64  # hashes compared in one request on the way back
NODES_SECONDS: Final = 5.0  # how often the nodes' state is written while nothing changes

BlockStep = Callable[[Connection, Chain, ScannedBlock], None]
"""What else is done about a block that a quorum agrees on, in the transaction that moves the cursor past it."""


@dataclass(frozen=True, slots=True)
class _Position:
    """Scanned so far: up to ``head`` by anyone's word, up to ``agreed`` by a quorum's."""

    head: ScannedHash
    agreed: ScannedHash | None
    finalized: int | None


@dataclass(slots=True)
class BlockWatch:
    """One chain's watch. Every write goes through ``fence``."""

    engine: Engine
    chain: Chain
    panel: NodePanel
    fence: Fence
    on_block: BlockStep | None = None
    _window: int = WINDOW_MAXIMUM_BLOCKS
    _known_from: int = 0
    """What a treasury sent before its chain was first watched is nobody's to judge here."""
    _is_reviewed: bool = False
    _nodes_said: object = None
    _nodes_at_seconds: float = 0.0
    _progress_at_seconds: float = field(default_factory=monotonic)
    _rescan: IssuedRescan | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.chain.recipient_filter:
            self._rescan = IssuedRescan(self.engine, self.chain, self.panel, self.fence)

    def tick(self, limit: int) -> int:
        """Scan what is new and answer up to ``limit`` looks; return how many looks moved on.

        Raises ChainUnavailable only when a look's nodes are all away; Fenced when another watcher has the chain.
        """
        if self._rescan is not None:
            self._rescan.refresh()
        agreement, position = self._scan()
        if not agreement.nodes:
            return 0
        if self._rescan is not None and position is not None:
            self._rescan.look_back(position.head.number)
        # Who answers must stand on what was scanned: no branch is believed that came and may go between two scans.
        anchor = None if position is None else position.head
        reader = self.panel.agreeing_reader(agreement.nodes)
        if agreement.is_agreed and not self._is_reviewed and reader.needed > 1:
            self._review()
        self._is_reviewed = agreement.is_agreed
        return answer_looks(
            self.engine,
            reader,
            self.chain,
            self.fence,
            limit,
            anchor=anchor,
            agreed=None if position is None else position.agreed,
            voices=reader.needed,
            is_quorum=agreement.is_agreed,
        )

    def quorum_reader(self) -> AgreeingReader | None:
        """Who speaks for the chain about what is booked at once; None below a quorum."""
        sound = self.panel.sound
        return self.panel.agreeing_reader(sound) if len(sound) >= self.panel.quorum else None

    def _review(self) -> None:
        """A quorum is there (again): whatever was seen before and is not deep yet may be one node's word, so look again."""
        with self.fence.transaction(self.engine) as connection:
            request_looks(
                connection,
                self.chain.id,
                cursors.facts_above(connection, self.chain.id, -1, is_judged=False),
                requested_by="quorum",
            )

    # Scanning -----------------------------------------------------------------------------------------------------

    def _scan(self) -> tuple[Agreement, _Position | None]:
        position = self._position()
        agreement = Agreement((), None, None, is_agreed=False, nodes=())
        doubt: str | None = None
        if position is None:
            agreement = self.panel.read(0, 0)
            position = self._begin(agreement)
        for _ in range(WINDOWS_LIMIT):
            if position is None:
                break
            base, is_quorum = self._base(position)
            size = self._size(base, agreement)
            agreement = self.panel.read(base.number + 1, base.number + size)
            self._adapt(size, agreement)
            if agreement.is_refused and not agreement.blocks and size > 1:
                continue  # fewer blocks at once
            if agreement.is_agreed != is_quorum or not agreement.nodes or agreement.head is None:
                break  # the next tick begins from another block, or with other nodes
            if self._was_replaced(base, agreement):
                doubt = self._walk_back(position, base, agreement)
                if doubt is not None:
                    break
                position = self._position()
                continue
            if not agreement.blocks:
                if agreement.head.number < base.number:
                    doubt = f"behind: the nodes' newest block is {agreement.head.number}, {base.number} was scanned"
                break
            position = self._take(position, agreement)
            if position.head.number >= agreement.head.number:
                break
            self._say_progress(position, agreement.head)
        self._say(doubt or agreement.waiting, has_cursor=position is not None)
        return agreement, position

    def _position(self) -> _Position | None:
        with transaction(self.engine) as connection:
            cursor = cursors.read_cursor(connection, self.chain.id)
            if cursor is None:
                return None
            head = ScannedHash(cursor.head_number, cursor.head_hash)
            if cursor.agreed_number is None:
                agreed = None
            elif cursor.agreed_number == cursor.head_number:
                agreed = head
            else:
                [agreed] = scanned_blocks.newest_below(connection, self.chain.id, cursor.agreed_number, 1) or [None]
            return _Position(head, agreed, cursor.finalized_number)

    def _base(self, position: _Position) -> tuple[ScannedHash, bool]:
        """The block to go on from, and whether a quorum is there to agree."""
        is_quorum = len(self.panel.sound) >= self.panel.quorum
        if not is_quorum:
            return position.head, False
        if position.agreed is not None:
            return position.agreed, True
        with transaction(self.engine) as connection:
            return scanned_blocks.oldest(connection, self.chain.id) or position.head, True

    def _size(self, base: ScannedHash, before: Agreement | None) -> int:
        """One block where the head is, a window where it is far: as many as there are, at most what the nodes bear."""
        newest = self.panel.reach
        if before is not None and before.head is not None:
            newest = max(newest, before.head.number)
        return max(1, min(self._window, newest - base.number))

    def _adapt(self, size: int, agreement: Agreement) -> None:
        if size > 1 and agreement.is_refused and not agreement.blocks:
            self._window = max(1, size // WINDOW_SHRINKS)
        elif size == self._window:
            self._window = min(WINDOW_MAXIMUM_BLOCKS, 2 * self._window)

    def _begin(self, agreement: Agreement) -> _Position | None:
        """The first block ever scanned: a window below the head, so that money paid just before is found."""
        if agreement.head is None or not agreement.nodes:
            return None
        number = max(0, agreement.head.number - cursors.watched_window(self.chain.id))
        forbid_inside_transaction("reading the first block")
        try:
            start = self.panel.agreeing_reader(agreement.nodes).headers({number}).get(number)
        except ChainUnavailable as error:
            log.warning("watch_waits", chain_id=self.chain.id, reason=str(error))
            return None
        if start is None:
            return None
        agreed = start.number if agreement.is_agreed else None
        with self.fence.transaction(self.engine) as connection:
            scanned_blocks.store(connection, self.chain.id, [start], agreed=agreement.is_agreed)
            cursors.move_cursor(connection, self.chain.id, start, agreed_number=agreed)
        self._known_from = agreement.head.number + 1
        at = ScannedHash(start.number, start.hash)
        return _Position(at, at if agreement.is_agreed else None, None)

    def _take(self, position: _Position, agreement: Agreement) -> _Position:
        """One transaction: what concerns us is asked for, the blocks are remembered, the cursor moves (L1, L12)."""
        blocks, chain_id = agreement.blocks, self.chain.id
        newest = blocks[-1]
        with self.fence.transaction(self.engine) as connection:
            wanted = dict.fromkeys(matching.concerned(connection, blocks))
            wanted |= dict.fromkeys(matching.misplaced(connection, chain_id, blocks))
            request_looks(connection, chain_id, wanted, requested_by="scan")
            if self.on_block is not None and agreement.is_agreed:
                for block in blocks:
                    if block.header.number >= self._known_from:
                        self.on_block(connection, self.chain, block)
            scanned_blocks.store(connection, chain_id, [block.header for block in blocks], agreed=agreement.is_agreed)
            window = cursors.watched_window(chain_id, self._threshold(connection))
            agreed = ScannedHash(newest.header.number, newest.header.hash) if agreement.is_agreed else position.agreed
            # Above: what was scanned ahead of a quorum, and is scanned again from the newest block that one agreed on.
            scanned_blocks.forget(
                connection,
                chain_id,
                above=newest.header.number,
                below=None if agreed is None else agreed.number - window,
            )
            cursors.move_cursor(
                connection,
                chain_id,
                newest.header,
                agreed_number=None if agreed is None else agreed.number,
                finalized_number=agreement.finalized,
                treasury_balance=newest.treasury_balance,
                treasury_nonce=newest.treasury_nonce,
            )
            rings = _facts_wait(connection, chain_id)
            if rings:
                ring(connection, "confirmations")
        if rings:
            ring_relay(self.engine)
        return _Position(ScannedHash(newest.header.number, newest.header.hash), agreed, agreement.finalized)

    def _threshold(self, connection: Connection) -> int:
        newest = newest_threshold(connection, self.chain.id)
        return effective_threshold(self.chain.id, None if newest is None else newest.value_blocks)

    # Reorganisations ------------------------------------------------------------------------------------------------

    @staticmethod
    def _was_replaced(base: ScannedHash, agreement: Agreement) -> bool:
        """Whether the block we stand on is no longer on the chain: one comparison finds a reorganisation of any depth."""
        if agreement.blocks:
            return agreement.blocks[0].header.parent_hash != base.hash
        head = agreement.head
        return head is not None and head.number == base.number and head.hash != base.hash

    def _walk_back(self, position: _Position, base: ScannedHash, agreement: Agreement) -> str | None:
        """Find the common ancestor, doubt everything above it, and go on from there. Returns why it cannot, or None."""
        try:
            ancestor = self._ancestor(base, agreement)
        except ChainUnavailable as error:
            return str(error)
        if ancestor is None or ancestor.number == base.number:
            return f"split: the nodes do not agree yet on what replaced block {base.number}"
        agreed = None if position.agreed is None else position.agreed.number
        # Only what a quorum agreed on was ever called deep.
        depth, chain_id = max(0, (ancestor.number if agreed is None else agreed) - ancestor.number), self.chain.id
        if agreed is not None and ancestor.number < agreed:
            if not agreement.is_agreed:
                return (
                    f"quorum: what is left of the nodes replaces blocks above {ancestor.number} that a quorum agreed on"
                )
            agreed = ancestor.number
        with self.fence.transaction(self.engine) as connection:
            threshold = self._threshold(connection)
            for move in cursors.booked_moves(connection, chain_id, ancestor.number):
                stop_for_move(connection, chain_id, ancestor, move)
            suspects = cursors.facts_above(connection, chain_id, ancestor.number)
            request_looks(connection, chain_id, suspects, requested_by="reorganisation")
            scanned_blocks.forget(connection, chain_id, above=ancestor.number)
            if depth > threshold:
                self._stop_for_depth(connection, ancestor, depth, threshold)
            cursors.move_cursor(connection, chain_id, ancestor, agreed_number=agreed)
        log.warning(
            "chain_reorganised", chain_id=chain_id, ancestor=ancestor.number, depth=depth, suspects=len(suspects)
        )
        return None

    def _stop_for_depth(self, connection: Connection, ancestor: BlockHeader, depth: int, threshold: int) -> None:
        """Deeper than what was called deep: the books follow the chain, and people decide whether to go on (L14, R10)."""
        reason = f"reorganisation: {depth} blocks above {ancestor.number} were replaced, the threshold is {threshold}"
        log.error("chain_paused", chain_id=self.chain.id, reason=reason)
        cursors.pause_chain(connection, self.chain.id, ancestor, reason)
        bury(
            connection,
            queue=QUEUE,
            subject_kind="chain",
            subject_id=str(self.chain.id),
            reason=reason,
            unblocks="see what became of the payments above that block; two persons let the chain go on",
            attempts=1,
        )

    def _ancestor(self, base: ScannedHash, agreement: Agreement) -> BlockHeader | None:
        forbid_inside_transaction("walking back to the common ancestor")
        reader = self.panel.agreeing_reader(agreement.nodes)
        number = base.number
        while True:
            with transaction(self.engine) as connection:
                known = scanned_blocks.newest_below(connection, self.chain.id, number, ANCESTOR_BLOCKS)
            if not known:
                break
            shown = reader.headers({each.number for each in known})
            for each in known:
                header = shown.get(each.number)
                if header is None:
                    return None  # the nodes do not agree on it yet: nothing is concluded
                if header.hash == each.hash:
                    return header
            number = known[-1].number - 1
        # Nothing that we remember stands: everything in the watched window is looked at again.
        lowest = max(0, min(number, base.number - cursors.watched_window(self.chain.id)))
        return reader.headers({lowest}).get(lowest)

    # Saying ---------------------------------------------------------------------------------------------------------

    def _say_progress(self, position: _Position, head: BlockHeader) -> None:
        now = monotonic()
        if now - self._progress_at_seconds >= PROGRESS_SECONDS:
            self._progress_at_seconds = now
            log.info(
                "catching_up",
                chain_id=self.chain.id,
                block=position.head.number,
                behind=head.number - position.head.number,
            )

    def _say(self, waiting: str | None, *, has_cursor: bool) -> None:
        """Write what the nodes are like, and what is waited for, where an operator sees it."""
        said = (waiting, [(node.state, node.reason) for node in self.panel.nodes])
        now = monotonic()
        if said == self._nodes_said and now - self._nodes_at_seconds < NODES_SECONDS:
            return
        if said != self._nodes_said and waiting is not None:
            log.warning("watch_waits", chain_id=self.chain.id, reason=waiting)
        with self.fence.transaction(self.engine) as connection:
            _write_nodes(connection, self.panel)
            if has_cursor:
                cursors.say_seen(connection, self.chain.id, waiting)
        self._nodes_said, self._nodes_at_seconds = said, now


def _facts_wait(connection: Connection, chain_id: int) -> bool:
    return connection.execute(
        text(
            "SELECT EXISTS (SELECT FROM fleet.chain_facts "
            "WHERE chain_id = :id AND live AND judged_at IS NULL AND direction = 'inbound')"
        ),
        {"id": chain_id},
    ).scalar_one()


def _write_nodes(connection: Connection, panel: NodePanel) -> None:
    nodes = panel.nodes
    connection.execute(
        text("DELETE FROM fleet.chain_nodes WHERE chain_id = :id AND place >= :count"),  # configured no longer
        {"id": panel.chain.id, "count": len(nodes)},
    )
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_nodes AS n (chain_id, place, url, state, reason, head_number)
            SELECT :chain_id, s.place, s.url, s.state, s.reason, s.head
            FROM unnest(CAST(:places AS smallint[]), CAST(:urls AS text[]), CAST(:states AS text[]),
                        CAST(:reasons AS text[]), CAST(:heads AS bigint[])) AS s (place, url, state, reason, head)
            ON CONFLICT (chain_id, place) DO UPDATE SET url = excluded.url, state = excluded.state,
                reason = excluded.reason, head_number = excluded.head_number, seen_at = clock_timestamp(),
                since = CASE WHEN n.state = excluded.state THEN n.since ELSE clock_timestamp() END
            """
        ),
        {
            "chain_id": panel.chain.id,
            "places": [node.place for node in nodes],
            "urls": [node.url for node in nodes],
            "states": [node.state for node in nodes],
            "reasons": [node.reason for node in nodes],
            "heads": [None if node.head is None else node.head.number for node in nodes],
        },
    )

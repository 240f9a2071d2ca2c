"""Looks answered: what the chain says about due transactions is read at once, and booked in batches (L1, L20, L21).

A look that fails waits and says why; it stops no other.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from custody.chain import facts, looks, native_proof
from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.depth import confirmations, floor
from custody.chain.detection import Detected, NodeContradicts, NotTogether, Sighting, detect_together, say_booked
from custody.chain.errors import ChainUnavailable
from custody.chain.fence import Fence
from custody.chain.logs import MalformedLog
from custody.chain.looks import Conclusion, Look
from custody.chain.native import Unproved
from custody.chain.scanned_blocks import ScannedHash
from custody.ledger import LedgerRefusal
from custody.payments.transitions import TransitionRefused
from custody.settings.chains import Chain
from custody.store.engine import attempts, forbid_inside_transaction, is_retryable, ring_relay, transaction

log = structlog.get_logger(__name__)

LOOKS_TOGETHER: Final = 100  # a block's worth in one transaction, which takes well under a second

# What may be wrong with one look alone; anything else stops the batch and is said loudly.
_LOOK_FAILURES: Final = (MalformedLog, Unproved, LedgerRefusal, TransitionRefused, LookupError, DBAPIError)

_Answer = tuple[Look, Sighting]


class OtherBranch(Exception):
    """What was read is not of the branch that was scanned: the next scan sees to it. Nothing was changed."""


class Reader(Protocol):
    """Who answers for the chain: one node, or several of which only the common word counts."""

    def receipts_and_headers(
        self, transaction_hashes: Sequence[str], /, *, values: bool = False
    ) -> ReceiptsAndHeaders: ...

    def headers(self, numbers: set[int], /) -> dict[int, BlockHeader]: ...

    def balances_at(self, places: Sequence[tuple[str, str]], /) -> dict[tuple[str, str], int]: ...


def answer_looks(
    engine: Engine,
    reader: Reader,
    chain: Chain,
    fence: Fence,
    limit: int,
    *,
    anchor: ScannedHash | None = None,
    agreed: ScannedHash | None = None,
    voices: int = 1,
    is_quorum: bool = True,
) -> int:
    """Answer up to ``limit`` due looks; return how many moved on.

    ``anchor``: the block up to which the chain was scanned. The reader must still have it when everything else is read, or
    nothing it says counts: what it shows is of a branch that no scan has seen, and would miss if it went again.
    ``agreed``: the newest block that a quorum agreed on; ``voices``: how many nodes the reader needs to say the same.
    Where ``is_quorum`` is False these are fewer than a quorum: they must have that block, or nothing they say counts.
    Three batched requests: head and receipts, the headers of their blocks, the anchor's; none when nothing is due. Raises
    ChainUnavailable, Fenced.
    """
    with transaction(engine) as connection:
        due = looks.due_looks(connection, chain.id, limit)
        if not due:
            return 0
        standing = facts.blocks_of(connection, chain.id, [look.transaction_hash for look in due])
    heights = {number for blocks in standing.values() for number, _ in blocks}
    forbid_inside_transaction("reading receipts")
    if not is_quorum and agreed is not None and not _is_anchored(reader, agreed):
        log.warning(
            "looks_wait", chain_id=chain.id, reason=f"the node does not have block {agreed.number} {agreed.hash}"
        )
        return 0
    askable = [look for look in due if look.is_well_formed]
    moved = 0
    for look in due:
        if not look.is_well_formed:
            with fence.transaction(engine) as connection:
                looks.give_up(connection, look, "this is no transaction hash: expected 0x and 64 hex digits")
            moved += 1
    try:
        sightings = _read(engine, reader, chain, fence, askable, heights, anchor) if askable else {}
    except OtherBranch as error:
        log.warning("looks_wait", chain_id=chain.id, reason=str(error))
        return moved
    answers = [
        (
            look,
            replace(
                sightings[look.transaction_hash],
                voices=voices,
                agreed=None if agreed is None else agreed.number,
                is_quorum=is_quorum,
            ),
        )
        for look in askable
        if look.transaction_hash in sightings
    ]
    moved += sum(_answer(engine, chain, fence, batch) for batch in _batches(chain, answers, standing))
    if moved:
        ring_relay(engine)
    return moved


def _is_anchored(reader: Reader, anchor: ScannedHash) -> bool:
    header = reader.headers({anchor.number}).get(anchor.number)
    return header is not None and header.hash == anchor.hash


def _read(
    engine: Engine,
    reader: Reader,
    chain: Chain,
    fence: Fence,
    due: list[Look],
    heights: set[int],
    anchor: ScannedHash | None,
) -> dict[str, Sighting]:
    """Everything the chain says about the due transactions; one that chokes it does not stop the others."""
    try:
        return _read_batch(engine, reader, chain, [look.transaction_hash for look in due], heights, anchor)
    except ChainUnavailable:
        if len(due) == 1:
            with _look_failed(engine, fence, due[0]):
                raise
            return {}
    found: dict[str, Sighting] = {}
    _read_batch(engine, reader, chain, [], heights, anchor)  # raises if the nodes are away altogether
    for look in due:
        with _look_failed(engine, fence, look):
            found |= _read_batch(engine, reader, chain, [look.transaction_hash], heights, anchor)
    return found


def _read_batch(
    engine: Engine, reader: Reader, chain: Chain, hashes: list[str], heights: set[int], anchor: ScannedHash | None
) -> dict[str, Sighting]:
    found = reader.receipts_and_headers(hashes, values=True)
    headers = dict(found.headers)  # the head is one node's word
    missing = heights - headers.keys()
    if anchor is not None:
        missing.add(anchor.number)  # last, also where its height was read before
    if missing:
        shown = reader.headers(missing)
        if anchor is not None and (anchor.number not in shown or shown[anchor.number].hash != anchor.hash):
            raise OtherBranch(f"the chain that shows them does not have block {anchor.number} {anchor.hash}")
        headers |= shown
    receipts = {one: found.canonical(one) for one in hashes}
    rises = native_proof.read_rises(engine, reader, chain, filter(None, receipts.values()), headers)
    return {one: Sighting(one, receipts[one], found.head, headers, rises=rises.get(one, {})) for one in hashes}


def _batches(
    chain: Chain, answers: Sequence[_Answer], standing: Mapping[str, set[tuple[int, str]]]
) -> Iterator[list[_Answer]]:
    """What takes something back first, each alone (L1); then what can be booked together; then the rest, each alone."""
    together: list[_Answer] = []
    rest: list[list[_Answer]] = []
    for look, sighting in answers:
        blocks = standing.get(look.transaction_hash, set())
        if not all(_still_stands(sighting, number, block_hash) for number, block_hash in blocks):
            yield [(look, sighting)]
        elif look.attempts or sighting.receipt is None or facts.may_bring_native(chain, sighting.receipt):
            rest.append([(look, sighting)])  # what failed before fails alone
        else:
            together.append((look, sighting))
    for start in range(0, len(together), LOOKS_TOGETHER):
        yield together[start : start + LOOKS_TOGETHER]
    yield from rest


def _still_stands(sighting: Sighting, number: int, block_hash: str) -> bool:
    header, receipt = sighting.headers.get(number), sighting.receipt
    return header is not None and receipt is not None and header.hash == receipt.block_hash == block_hash


def _answer(engine: Engine, chain: Chain, fence: Fence, batch: Sequence[_Answer]) -> int:
    """One transaction of the database; returns how many looks moved on. If it fails, its halves are tried.

    So a look that fails ends alone, waits and says why, and stops no other.
    """
    for attempt in attempts():
        try:
            with fence.transaction(engine) as connection:
                moved, results = _answer_inside(connection, chain, batch)
        except (NodeContradicts, NotTogether, *_LOOK_FAILURES) as error:
            if is_retryable(error) and attempt < max(attempts()):
                continue
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            if len(batch) == 1:
                _say_failed(engine, fence, batch[0][0], error)
                return 0
            break
        for result in results:
            say_booked(chain.id, result)
        return moved
    half = len(batch) // 2
    return _answer(engine, chain, fence, batch[:half]) + _answer(engine, chain, fence, batch[half:])


def _answer_inside(connection: Connection, chain: Chain, batch: Sequence[_Answer]) -> tuple[int, list[Detected]]:
    current = looks.lock_looks(connection, [look for look, _ in batch])
    answers = [(look, sighting) for look, sighting in batch if look.id in current]
    if not answers:
        return 0, []
    results = detect_together(connection, chain, [sighting for _, sighting in answers])
    conclusions: list[Conclusion] = []
    moved = 0
    for (look, sighting), result in zip(answers, results, strict=True):
        if sighting.receipt is None:
            is_taken_back = result.reversed_facts > 0
            looks.try_later(connection, look, "no block holds the transaction", start_over=is_taken_back)
            moved += is_taken_back
            continue
        if result.standing:
            conclusions.append(Conclusion(look, "seen", f"{result.standing} transfers to issued addresses"))
            continue
        why = (
            "no transfer of an accepted token to an issued address"
            if sighting.receipt.succeeded
            else "the transaction was reverted"
        )
        # In a block that replaces this one it may do otherwise, and no fact of ours watches this block.
        least = floor(chain.id)
        if confirmations(sighting.head.number, sighting.receipt.block_number) < least:
            looks.try_later(connection, look, f"{why}; looked at again until its block has {least} confirmations")
        else:
            conclusions.append(Conclusion(look, "nothing_of_ours", why))
    looks.conclude(connection, conclusions)
    return moved + len(conclusions), results


@contextmanager
def _look_failed(engine: Engine, fence: Fence, look: Look) -> Generator[None]:
    """A look whose reading fails waits and says why; it stops no other."""
    try:
        yield
    except (ChainUnavailable, *_LOOK_FAILURES) as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        _say_failed(engine, fence, look, error)


def _say_failed(engine: Engine, fence: Fence, look: Look, error: Exception) -> None:
    why = f"{type(error).__name__}: {error}"
    log.warning("look_failed", transaction_hash=look.transaction_hash, reason=why)
    with fence.transaction(engine) as connection:
        looks.try_later(connection, look, why)

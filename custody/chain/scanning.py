"""Reading blocks whole from one node: one batched request a window, and every answer checked against the others.

Logs are asked for by contract and topic0, without recipients, so the request is the same for one payment and for a
million (L12); by recipient only where a chain's setting says that its providers force it. A node whose answers do not fit each other is at fault; whose blocks changed meanwhile is asked again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast

from custody.chain import wire
from custody.chain.blocks import BlockHeader, BlockTransaction, ScannedBlock, header_at, read_header
from custody.chain.bloom import BLOOM_BYTES, may_hold
from custody.chain.errors import ChainUnavailable
from custody.chain.logs import FEE_PROXY_TOPIC, NATIVE_FEE_PROXY_TOPIC, TRANSFER_TOPIC, Log, MalformedLog, read_log
from custody.chain.recipient_filter import RecipientFilter
from custody.chain.rpc import ChainClient
from custody.chain.safe_logs import EXECUTION_TOPICS
from custody.settings.chains import NATIVE, Chain

if TYPE_CHECKING:
    from custody.chain.transport import Answer, Call

HEAD_LEAD_BLOCKS: Final = 8  # how far a node's head may be ahead of what it shows: two machines behind one address


class NodeAtFault(Exception):
    """A node's answers contradict each other: it leaves something out, or invents it. The message says what."""


class ChangedMeanwhile(Exception):
    """The answers are of different blocks: the chain moved between two calls of one request. Ask again."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What of a chain's logs concerns the fleet: each contract with the events that it is watched for."""

    treasuries: tuple[str, ...]
    """The active one first."""
    events: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, chain: Chain) -> "Watched":
        events = {token.address: frozenset({TRANSFER_TOPIC}) for token in chain.tokens if token.address != NATIVE}
        events[chain.fee_proxy] = frozenset({FEE_PROXY_TOPIC})
        if chain.native_fee_proxy is not None:
            events[chain.native_fee_proxy] = frozenset({NATIVE_FEE_PROXY_TOPIC})
        events |= {each: EXECUTION_TOPICS for each in chain.treasuries if chain.at(each).safe is not None}
        return cls(chain.treasuries, events)

    @property
    def topics(self) -> list[str]:
        return sorted(frozenset[str]().union(*self.events.values()))


@dataclass(frozen=True, slots=True)
class NodeReading:
    """What one node shows of a window: its head, and the window's blocks as far as it has them, without a gap.

    `finalized` is the number of the block that the node tags as the setting asks; None where it is not asked.
    `blooms` holds the blocks' logs blooms by number.
    """

    head: BlockHeader
    finalized: int | None
    blocks: tuple[ScannedBlock, ...]
    blooms: Mapping[int, bytes]


def read_window(
    client: ChainClient,
    watched: Watched,
    first: int,
    last: int,
    tag: str | None = None,
    recipients: RecipientFilter | None = None,
) -> NodeReading:
    """Read the blocks `first` to `last` by one request of last - first + 1 + 4 calls, one more with a finality `tag`.

    A second request is made only for blocks whose bloom promises logs that the answer lacks. With ``recipients`` there is a
    call more for each of their questions, in further requests where they are many; what a bloom promises is then anybody's,
    and a log that a node leaves out is known by the other nodes' word alone. Raises ChainUnavailable,
    NodeAtFault, ChangedMeanwhile.
    """
    numbers = range(first, last + 1)
    everything: dict[str, object] = {
        "fromBlock": hex(first),
        "toBlock": hex(last),
        "address": sorted(watched.events),
        "topics": [watched.topics],
    }
    queries = [everything] if recipients is None else recipients.questions(watched.events, first, last)
    tagged: list[Call] = [] if tag is None else [("eth_getBlockByNumber", [tag, False])]
    calls: list[Call] = [
        ("eth_getBlockByNumber", ["latest", False]),
        *tagged,
        *(("eth_getBlockByNumber", [hex(number), True]) for number in numbers),
        *(("eth_getLogs", [query]) for query in queries),
        *(
            (method, [treasury, hex(last)])
            for treasury in watched.treasuries
            for method in ("eth_getBalance", "eth_getTransactionCount")
        ),
    ]
    answers = _ask_all(client, calls)
    try:
        return _reading(client, watched, numbers, tag, answers, recipients, len(queries))
    except (wire.MalformedAnswer, MalformedLog) as error:
        reason = str(error)
    raise NodeAtFault(reason)


def _ask_all(client: ChainClient, calls: Sequence["Call"]) -> list["Answer"]:
    """The calls' answers, by as many requests as the connection's ``max_batch`` makes of them: usually one."""
    answers: list[Answer] = []
    for start in range(0, len(calls), client.chain.max_batch):
        answers += client.ask(calls[start : start + client.chain.max_batch])
    return answers


def find_logs(client: ChainClient, watched: Watched, first: int, last: int, recipients: RecipientFilter) -> list[Log]:
    """The logs that ``recipients`` ask for in blocks ``first`` to ``last``, held against nothing: hints where to look.

    Raises ChainUnavailable, NodeAtFault.
    """
    queries = recipients.questions(watched.events, first, last)
    answers = _ask_all(client, [("eth_getLogs", [query]) for query in queries])
    try:
        found = [
            read_log(wire.member(raw, "log"), client.chain.chain_id)
            for answer in answers
            for raw in wire.items(_result(client, answer, "logs"), "logs")
        ]
    except (wire.MalformedAnswer, MalformedLog) as error:
        reason = str(error)
    else:
        return [log for log in found if log.event in watched.events.get(log.address, ()) and recipients.holds(log)]
    raise NodeAtFault(reason)


def _reading(
    client: ChainClient,
    watched: Watched,
    numbers: range,
    tag: str | None,
    answers: Sequence["Answer"],
    recipients: RecipientFilter | None,
    queries: int,
) -> NodeReading:
    head = read_header(_result(client, answers[0], "the newest block"))
    at = 1
    finalized = None
    if tag is not None:
        # A chain that has finalized nothing yet answers null or an error.
        tagged = answers[at]
        finalized = 0 if tagged.error is not None or tagged.result is None else read_header(tagged.result).number
        if finalized > head.number + HEAD_LEAD_BLOCKS:
            raise NodeAtFault(f"it calls block {finalized} {tag}, its newest is {head.number}")
        at += 1
    raws: list[Mapping[str, object]] = []
    for number, answer in zip(numbers, answers[at:], strict=False):
        raw = _result(client, answer, f"block {number}")
        if header_at(number)(raw) is None:
            if head.number > number + HEAD_LEAD_BLOCKS:
                raise ChangedMeanwhile(f"it does not show block {number}, though it says its newest is {head.number}")
            break
        raws.append(wire.member(raw, "block"))
    if not raws:
        return NodeReading(head, finalized, (), {})
    at += len(numbers)
    headers = [read_header(raw) for raw in raws]
    if head.number < headers[-1].number:
        head = headers[-1]  # mined between the two calls
    for before, header in pairwise(headers):
        if header.parent_hash != before.hash:
            raise ChangedMeanwhile(f"its block {header.number} does not follow its block {before.number}")
    shown = [
        raw for answer in answers[at : at + queries] for raw in wire.items(_result(client, answer, "logs"), "logs")
    ]
    logs = _logs(client, watched, headers, shown, recipients)
    blooms = {header.number: _bloom(raw) for header, raw in zip(headers, raws, strict=True)}
    _require_logs(client, watched, headers, logs, blooms, is_whole=recipients is None)
    whole = len(raws) == len(numbers)
    blocks = [
        ScannedBlock(
            header,
            _transactions(raw, header, watched.treasuries, {log.transaction_hash for log in logs[header.number]}),
            tuple(logs[header.number]),
            None,
            None,
        )
        for header, raw in zip(headers, raws, strict=True)
    ]
    if whole:
        # A node that keeps no state of that block says so; the next block's is as good.
        said = answers[at + queries :]
        states = [_account(*said[2 * place : 2 * place + 2]) for place in range(len(watched.treasuries))]
        blocks[-1] = replace(
            blocks[-1],
            treasury_balance=states[0][0],
            treasury_nonce=states[0][1],
            former=dict(zip(watched.treasuries[1:], states[1:], strict=True)),
        )
    return NodeReading(head, finalized, tuple(blocks), blooms)


def _account(balance: "Answer", nonce: "Answer") -> tuple[int | None, int | None]:
    """An account's coins and nonce, None for what the node does not say."""
    return (
        None if balance.error or balance.result is None else wire.quantity(balance.result, "balance"),
        None if nonce.error or nonce.result is None else wire.quantity(nonce.result, "nonce", wire.COUNT_MAXIMUM),
    )


def _result(client: ChainClient, answer: "Answer", what: str) -> object:
    if answer.error is not None:
        raise ChainUnavailable(client.chain.chain_id, client.chain.masked_url, f"{what}: {answer.error.words}")
    return answer.result


def _logs(
    client: ChainClient,
    watched: Watched,
    headers: Sequence[BlockHeader],
    shown: Sequence[object],
    recipients: RecipientFilter | None,
) -> dict[int, list[Log]]:
    """The logs by block number. A log of a block above `headers` was mined between two calls, and comes again."""
    by_number: dict[int, list[Log]] = {header.number: [] for header in headers}
    hashes = {header.number: header.hash for header in headers}
    for raw in shown:
        log = read_log(wire.member(raw, "log"), client.chain.chain_id)
        if log.event is None or log.event not in watched.events.get(log.address, ()):
            if log.address in watched.events and log.event in watched.topics:
                continue  # the filter is a product: a token may emit the proxy's event, which means nothing
            raise NodeAtFault(f"it answered a log of {log.address} that nobody asked for")
        if recipients is not None and not recipients.holds(log):
            raise NodeAtFault(f"it answered a log of {log.address} to or from somebody that nobody asked for")
        if log.block_number > headers[-1].number:
            continue
        if hashes.get(log.block_number) != log.block_hash:
            raise ChangedMeanwhile(f"a log is of block {log.block_hash}, which is not its block {log.block_number}")
        # What the treasury sends to one of our addresses is answered to two questions.
        if recipients is None or log not in by_number[log.block_number]:
            by_number[log.block_number].append(log)
    for logs in by_number.values():
        logs.sort(key=lambda log: log.log_index)
        if len({log.log_index for log in logs}) != len(logs):
            raise NodeAtFault("it answered two logs with one index")
    return by_number


def _bloom(raw: Mapping[str, object]) -> bytes:
    bloom = wire.data(raw.get("logsBloom"), "logsBloom")
    if len(bloom) != BLOOM_BYTES:
        raise wire.MalformedAnswer(f"logsBloom: expected {BLOOM_BYTES} bytes, got {len(bloom)}")
    return bloom


def _require_logs(
    client: ChainClient,
    watched: Watched,
    headers: Sequence[BlockHeader],
    logs: Mapping[int, Sequence[Log]],
    blooms: Mapping[int, bytes],
    *,
    is_whole: bool,
) -> None:
    """Hold each block's logs against its bloom: what it excludes cannot be there, what it promises should be.

    ``is_whole``: the logs of everybody were asked for; of a few recipients' a bloom promises nothing.
    """
    doubtful: dict[int, set[str]] = {}
    for header in headers:
        bloom, emitters = blooms[header.number], {log.address for log in logs[header.number]}
        for log in logs[header.number]:
            if not may_hold(bloom, log.address, log.topics):
                raise NodeAtFault(f"it shows a log of {log.address} in block {header.number}, which its bloom excludes")
        for contract, topics in watched.events.items() if is_whole else ():
            if contract not in emitters and any(may_hold(bloom, contract, [topic]) for topic in topics):
                doubtful.setdefault(header.number, set()).add(contract)
    if not doubtful:
        return
    # A bloom promises more than there is now and then; the receipts say whether it did.
    answers = client.ask([("eth_getBlockReceipts", [hex(number)]) for number in doubtful])
    for (number, contracts), answer in zip(doubtful.items(), answers, strict=True):
        if answer.error is None and answer.result is not None:
            missing = _emitters(client, watched, answer.result) & contracts
            if missing:
                raise NodeAtFault(f"its logs of block {number} lack those of {', '.join(sorted(missing))}")


def _emitters(client: ChainClient, watched: Watched, receipts: object) -> set[str]:
    return {log.address for log in _receipt_logs(client, watched, receipts)}


def _receipt_logs(client: ChainClient, watched: Watched, receipts: object) -> list[Log]:
    found: list[Log] = []
    for receipt in wire.items(receipts, "receipts"):
        for raw in wire.items(wire.member(receipt, "receipt").get("logs"), "logs"):
            log = read_log(wire.member(raw, "log"), client.chain.chain_id)
            if log.event is not None and log.event in watched.events.get(log.address, ()):
                found.append(log)
    return found


def require_own_receipts(
    client: ChainClient, watched: Watched, block: ScannedBlock, recipients: RecipientFilter | None = None
) -> None:
    """Compare the logs that a node showed of a block with its receipts of it.

    Raises NodeAtFault where they differ, ChainUnavailable, ChangedMeanwhile.
    """
    number = block.header.number
    [answer] = client.ask([("eth_getBlockReceipts", [hex(number)])])
    try:
        logs = _receipt_logs(client, watched, _result(client, answer, f"receipts of block {number}"))
    except (wire.MalformedAnswer, MalformedLog) as error:
        reason = str(error)
    else:
        logs = [log for log in logs if recipients is None or recipients.holds(log)]
        if any(log.block_hash != block.header.hash for log in logs):
            raise ChangedMeanwhile(f"its receipts are of another block {number} than it showed before")
        if {log_identity(log) for log in logs} == {log_identity(log) for log in block.logs}:
            return
        reason = f"its logs of block {number} are not those of its own receipts"
    raise NodeAtFault(reason)


def _transactions(
    raw: Mapping[str, object], header: BlockHeader, treasuries: Sequence[str], emitting: set[str]
) -> tuple[BlockTransaction, ...]:
    """Those that carry native coin or come from a treasury; the others only move what their logs say."""
    found: list[BlockTransaction] = []
    senders = {treasury.lower() for treasury in treasuries}
    for value in wire.items(raw.get("transactions"), "transactions"):
        item = wire.member(value, "transaction")
        transaction_hash = wire.hash32(item.get("hash"), "hash")
        emitting.discard(transaction_hash)
        value_wei = wire.quantity(item.get("value"), "value")
        if value_wei == 0 and str(item.get("from")).lower() not in senders:
            continue
        if wire.hash32(item.get("blockHash"), "blockHash") != header.hash:
            raise NodeAtFault(f"transaction {transaction_hash} is not of the block {header.number} that lists it")
        to = item.get("to")
        is_treasury = str(item.get("from")).lower() in senders
        found.append(
            BlockTransaction(
                hash=transaction_hash,
                index=wire.quantity(item.get("transactionIndex"), "transactionIndex"),
                sender=wire.address(item.get("from"), "from"),
                to=None if to is None else wire.address(to, "to"),
                value=value_wei,
                nonce=wire.quantity(item.get("nonce"), "nonce"),
                data=wire.data(item.get("input"), "input") if is_treasury else b"",
            )
        )
    if emitting:
        raise NodeAtFault(f"block {header.number} lacks the transactions {', '.join(sorted(emitting))} of its own logs")
    return tuple(found)


def log_identity(log: Log) -> tuple[object, ...]:
    """What makes a log the same on two nodes."""
    return cast(tuple[object, ...], (log.transaction_hash, log.log_index, log.address, log.topics, log.data))


def content(block: ScannedBlock, bloom: bytes) -> tuple[object, ...]:
    """What of a block is the same on every node that has it: nodes with one hash and other content are not of one mind."""
    return (
        block.header,
        bloom,
        tuple(log_identity(log) for log in block.logs),
        tuple((one.hash, one.index, one.sender, one.to, one.value) for one in block.transactions),
    )

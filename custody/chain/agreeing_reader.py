"""Receipts and headers as enough nodes have them at that moment: what too few say alike, nobody said (L13, R17)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.errors import ChainUnavailable
from custody.chain.receipts import Receipt
from custody.settings.chains import Chain

if TYPE_CHECKING:
    from custody.chain.node_panel import Node, NodePanel
    from custody.chain.rpc import ChainClient

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class AgreeingReader:
    """Reads from as many nodes as must agree, and from the others where these do not or one of them fails.

    Raises ChainUnavailable where too few answer or agree: a look then waits, and says so.
    """

    chain: Chain
    panel: "NodePanel"
    nodes: tuple["Node", ...]
    needed: int

    def receipts_and_headers(self, transaction_hashes: Sequence[str], *, values: bool = False) -> ReceiptsAndHeaders:
        """The receipts that enough nodes have alike, each in a block that is canonical on them, with those blocks.

        One that some have and others, whose chain has not that block, do not, nobody has yet.
        """

        def is_settled(answers: Mapping["Node", ReceiptsAndHeaders]) -> bool:
            return all(len({answer.canonical(one) for answer in answers.values()}) == 1 for one in transaction_hashes)

        answers = self._ask(lambda client: client.receipts_and_headers(transaction_hashes, values=values), is_settled)
        receipts: dict[str, Receipt] = {}
        standing = _Standing(self, answers, transaction_hashes)
        for one in transaction_hashes:
            receipt = self._verdict(one, answers, standing)
            if receipt is not None:
                receipts[one] = receipt
        heads = sorted((answer.head for answer in answers.values()), key=lambda head: head.number, reverse=True)
        headers = self.headers({receipt.block_number for receipt in receipts.values()}, known=answers)
        return ReceiptsAndHeaders(heads[self.needed - 1], receipts, headers)

    def headers(
        self, numbers: Collection[int], *, known: Mapping["Node", ReceiptsAndHeaders] | None = None
    ) -> dict[int, BlockHeader]:
        """The blocks at these heights that enough nodes have alike; none where they differ."""
        wanted = sorted(set(numbers))
        if not wanted:
            return {}
        if known is not None:
            agreed = self._common(wanted, {node: answer.headers for node, answer in known.items()})
            if len(agreed) == len(wanted):
                return agreed

        def is_settled(answers: Mapping["Node", Mapping[int, BlockHeader]]) -> bool:
            return all(len({answer.get(number) for answer in answers.values()}) == 1 for number in wanted)

        return self._common(wanted, self._ask(lambda client: client.headers(wanted), is_settled))

    def head(self) -> BlockHeader:
        """The newest block that enough nodes have said they reach, and have alike."""
        number = self.panel.reach
        header = self.headers({number}).get(number)
        if header is None:
            raise self._contradiction(len(self.nodes), f"block {number}")
        return header

    def balances(self, addresses: Collection[str], block_hash: str) -> dict[str, int]:
        """Accounts' native coins, wei, after the block of that hash, as enough nodes say."""
        found = self.balances_at([(address, block_hash) for address in addresses])
        return {address: wei for (address, _), wei in found.items()}

    def balances_at(self, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The native coin, wei, of each (address, block hash), as enough nodes say."""
        wanted = list(dict.fromkeys(places))
        answers = self._ask(
            lambda client: client.balances_at(wanted),
            lambda found: all(len({answer[one] for answer in found.values()}) == 1 for one in wanted),
        )
        balances: dict[tuple[str, str], int] = {}
        for one in wanted:
            said = [answer[one] for answer in answers.values()]
            enough = {wei for wei in said if said.count(wei) >= self.needed}
            if len(enough) != 1:
                raise self._contradiction(len(answers), f"the balance of {one[0]}")
            balances[one] = enough.pop()
        return balances

    def _contradiction(self, nodes: int, what: str) -> ChainUnavailable:
        return ChainUnavailable(self.chain.id, f"{nodes} nodes", f"quorum: they contradict each other on {what}")

    def _common(
        self, numbers: Sequence[int], answers: Mapping["Node", Mapping[int, BlockHeader]]
    ) -> dict[int, BlockHeader]:
        found: dict[int, BlockHeader] = {}
        for number in numbers:
            voices: dict[BlockHeader, list[Node]] = {}
            for node, headers in answers.items():
                if number in headers:
                    voices.setdefault(headers[number], []).append(node)
            header = _winner(voices, self.needed)
            if header is None:
                continue
            found[number] = header
            for other, nodes in voices.items():
                for node in nodes:
                    if other != header:
                        node.doubts += 1
                        self.panel.strike(node, f"it has another block {number} than the others")
        return found

    def _verdict(
        self, transaction_hash: str, answers: Mapping["Node", ReceiptsAndHeaders], standing: "_Standing"
    ) -> Receipt | None:
        voices: dict[Receipt | None, list[Node]] = {}
        for node, answer in answers.items():
            receipt = answer.canonical(transaction_hash)
            if receipt is not None or standing.is_on(node, transaction_hash):
                voices.setdefault(receipt, []).append(node)
        if not any(voices):
            return None
        enough = [receipt for receipt, nodes in voices.items() if len(nodes) >= self.needed]
        if len(voices) > 1 and len(enough) != 1:
            raise self._contradiction(len(answers), f"transaction {transaction_hash}, whose block they have")
        if not enough:
            return None  # not yet in a block that enough of them have
        [verdict] = enough
        for receipt, nodes in voices.items():
            if receipt != verdict:
                for node in nodes:
                    node.doubts += 1
                    self.panel.put_aside(
                        node, f"its receipt of transaction {transaction_hash} is not what the others agree on"
                    )
        return verdict

    def _ask(
        self, read: Callable[["ChainClient"], _Value], is_settled: Callable[[Mapping["Node", _Value]], bool]
    ) -> Mapping["Node", _Value]:
        answers, failures = self.panel.each(self.nodes[: self.needed], read)
        others = self.nodes[self.needed :]
        if others and (failures or not is_settled(answers)):
            more, more_failures = self.panel.each(others, read)
            answers |= more
            failures |= more_failures
        if len(answers) < self.needed:
            raise next(iter(failures.values()))
        for node, error in failures.items():
            # The others could answer it.
            node.doubts += 1
            self.panel.put_aside(node, error.reason)
        return answers


class _Standing:
    """On which nodes the blocks stand that others show a transaction in: there, no receipt says that it is not in it."""

    def __init__(
        self,
        reader: AgreeingReader,
        answers: Mapping["Node", ReceiptsAndHeaders],
        transaction_hashes: Sequence[str],
    ) -> None:
        self._shown: dict[str, set[tuple[int, str]]] = {}
        silent: dict[Node, None] = {}
        for one in transaction_hashes:
            receipts = {node: answer.canonical(one) for node, answer in answers.items()}
            places = {(each.block_number, each.block_hash) for each in receipts.values() if each is not None}
            if places and None in receipts.values():
                self._shown[one] = places
                silent |= {node: None for node, receipt in receipts.items() if receipt is None}
        self._headers: dict[Node, dict[int, BlockHeader]] = {}
        if silent:
            numbers = {number for places in self._shown.values() for number, _ in places}
            self._headers, _ = reader.panel.each(list(silent), lambda client: client.headers(numbers))

    def is_on(self, node: "Node", transaction_hash: str) -> bool:
        headers = self._headers.get(node, {})
        return any(
            number in headers and headers[number].hash == block_hash
            for number, block_hash in self._shown.get(transaction_hash, ())
        )


def _winner(voices: Mapping[BlockHeader, Sequence["Node"]], needed: int) -> BlockHeader | None:
    """What enough nodes say, if they say but one thing."""
    enough = [header for header, nodes in voices.items() if len(nodes) >= needed]
    return enough[0] if len(enough) == 1 else None

"""Logs asked for by recipient, where a provider answers no other question (L12).

Usually one question a block serves any number of addresses. A provider that forces recipient filters is asked for the
Transfers to every issued address, and for the proxies' events by every issued reference, in OR lists of bounded length:
the cost grows with what was ever issued. A filter also knows nothing of what is issued later, so `issued_rescan` asks
again for that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from custody.chain.logs import FEE_PROXY_TOPIC, NATIVE_FEE_PROXY_TOPIC, TRANSFER_TOPIC, Log
from custody.chain.safe_logs import EXECUTION_TOPICS

PROXY_TOPICS: Final = frozenset({FEE_PROXY_TOPIC, NATIVE_FEE_PROXY_TOPIC})


def padded(address: str) -> str:
    """An address as a log's topic, in lower case."""
    return "0x" + address[2:].lower().rjust(64, "0")


@dataclass(frozen=True, slots=True)
class RecipientFilter:
    """Whose logs are asked for. Topics are 0x and 64 hex digits, in lower case; ``size`` > 0 of them a question."""

    recipients: frozenset[str]
    """Padded addresses: the Transfer's `to`."""
    references: frozenset[str]
    """The proxy events' reference topic."""
    senders: frozenset[str]
    """Padded addresses: the Transfer's `from`. The treasury's outflows are watched as well (L5)."""
    size: int

    def without(self, known: "RecipientFilter") -> "RecipientFilter":
        """What of this ``known`` does not ask for."""
        return RecipientFilter(
            self.recipients - known.recipients,
            self.references - known.references,
            self.senders - known.senders,
            self.size,
        )

    @property
    def is_empty(self) -> bool:
        return not (self.recipients or self.references or self.senders)

    def holds(self, log: Log) -> bool:
        """Whether the log is one of those asked for."""
        topics = log.topics
        if log.event in PROXY_TOPICS:
            return len(topics) > 1 and topics[1] in self.references
        if log.event in EXECUTION_TOPICS:
            return True
        # An event of another shape is the token's fault, and the look at its transaction says so.
        return (len(topics) > 2 and topics[2] in self.recipients) or (len(topics) > 1 and topics[1] in self.senders)

    def questions(self, events: Mapping[str, frozenset[str]], first: int, last: int) -> list[dict[str, object]]:
        """The filters of the eth_getLogs that ask for all of it, in blocks ``first`` to ``last``.

        ``events``: each watched contract with its events' topic0. None is made with an empty list, which would ask for
        everything.
        """
        tokens = sorted(contract for contract, topics in events.items() if TRANSFER_TOPIC in topics)
        proxies = sorted(contract for contract, topics in events.items() if topics & PROXY_TOPICS)
        proxy_topics = sorted({topic for contract in proxies for topic in events[contract]})
        asked: list[tuple[list[str], Sequence[object]]] = []
        if tokens:
            asked += [(tokens, [TRANSFER_TOPIC, None, part]) for part in self._parts(self.recipients)]
            asked += [(tokens, [TRANSFER_TOPIC, part]) for part in self._parts(self.senders)]
        if proxies:
            asked += [(proxies, [proxy_topics, part]) for part in self._parts(self.references)]
        if safes := sorted(contract for contract, topics in events.items() if topics & EXECUTION_TOPICS):
            asked.append((safes, [sorted(EXECUTION_TOPICS)]))  # a treasury's own, which nobody else makes many of
        return [
            {"fromBlock": hex(first), "toBlock": hex(last), "address": contracts, "topics": topics}
            for contracts, topics in asked
        ]

    def _parts(self, topics: Iterable[str]) -> list[list[str]]:
        ordered = sorted(topics)
        return [ordered[start : start + self.size] for start in range(0, len(ordered), self.size)]

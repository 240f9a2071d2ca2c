"""How one node is asked and its answers are decoded: whatever is no usable answer becomes ChainUnavailable."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from custody.chain import wire
from custody.chain.connection import ChainConnection
from custody.chain.errors import ChainUnavailable, ExecutionReverted, WrongChain
from custody.chain.logs import MalformedLog
from custody.chain.receipts import MalformedReceipt

if TYPE_CHECKING:
    from custody.chain.transport import Answer, Call

_Value = TypeVar("_Value")
_REVERTED: Final = 3


class NodeReads:
    """Single reads, batches cut at the connection's ``max_batch``, and one way to decode."""

    def __init__(self, chain: ChainConnection) -> None:
        from custody.chain.transport import Transport

        self.chain = chain
        self._transport = Transport(chain)

    def close(self) -> None:
        """Close the connections to the node."""
        self._transport.close()

    def ask(self, calls: Sequence["Call"]) -> list["Answer"]:
        """Return each call's own answer or error, of one batched request that the caller keeps below `max_batch`."""
        return self._transport.read(calls)

    def _read(self, method: str, params: list[object], read: Callable[[object], _Value]) -> _Value:
        [answer] = self._transport.read([(method, params)])
        return self._decode(method, answer, read)

    def _read_batch(self, calls: Sequence[tuple["Call", Callable[[object], object]]]) -> list[object]:
        values: list[object] = []
        for start in range(0, len(calls), self.chain.max_batch):
            part = calls[start : start + self.chain.max_batch]
            answers = self._transport.read([call for call, _ in part])
            for (call, read), answer in zip(part, answers, strict=True):
                values.append(self._decode(call[0], answer, read))
        return values

    def _read_batch_or_reverted(
        self, calls: Sequence[tuple["Call", Callable[[object], _Value]]]
    ) -> list[_Value | ExecutionReverted]:
        values: list[_Value | ExecutionReverted] = []
        for start in range(0, len(calls), self.chain.max_batch):
            part = calls[start : start + self.chain.max_batch]
            answers = self._transport.read([call for call, _ in part])
            for (call, read), answer in zip(part, answers, strict=True):
                try:
                    values.append(self._decode(call[0], answer, read))
                except ExecutionReverted as reverted:
                    values.append(reverted)
        return values

    def _decode(self, method: str, answer: "Answer", read: Callable[[object], _Value]) -> _Value:
        if answer.error is not None:
            if answer.error.code == _REVERTED or "revert" in answer.error.words.lower():
                raise ExecutionReverted(
                    self.chain.chain_id, self.chain.masked_url, answer.error.words, answer.error.data
                )
            raise self._unavailable(f"{method}: {answer.error.words}")
        try:
            return read(answer.result)
        except (wire.MalformedAnswer, MalformedLog, MalformedReceipt, ValueError) as error:
            reason = f"{method}: {error}"
        raise self._unavailable(reason)

    def _unavailable(self, reason: str) -> ChainUnavailable:
        # A malformed answer is quoted, and a node knows its own URL.
        return ChainUnavailable(self.chain.chain_id, self.chain.masked_url, self.chain.redact(reason))

    def _wrong_chain(self, reason: str) -> WrongChain:
        return WrongChain(self.chain.chain_id, self.chain.masked_url, reason)

"""JSON-RPC over web3's HTTPProvider: one request, one list of answers, every failure a ChainUnavailable.

Imports web3, so it is itself imported only where a client is built.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import requests
from eth_typing import URI
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from typing_extensions import override
from web3 import HTTPProvider
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint, RPCResponse

from custody.chain import wire
from custody.chain.connection import ChainConnection
from custody.chain.errors import ChainUnavailable
from custody.chain.http_session import open_session

_RECURSION_LIMIT: Final = 1_000
# web3 imports py_ecc, which raises the limit to 100,000 for pairings that the fleet never computes. With that, a node's
# deeply nested JSON ends the process by a segmentation fault (seen on Python 3.11.2) in place of a RecursionError.
sys.setrecursionlimit(_RECURSION_LIMIT)

Call: TypeAlias = tuple[str, list[object]]

_RETRIED_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
_LIMIT_EXCEEDED: Final = frozenset({-32005, 429})  # EIP-1474's code; what some providers answer instead
_FIRST_WAIT: Final = 0.1  # seconds before the second try; doubled, with as much jitter, up to _LONGEST_WAIT
_LONGEST_WAIT: Final = 2.0
_MAX_WORDS: Final = 300  # of a node's message that are kept: a line, not a page of HTML


@dataclass(frozen=True, slots=True)
class NodeError:
    """A JSON-RPC error object. `words` is cut, printable and without secrets."""

    code: int
    words: str
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's outcome; exactly one of the two is meant."""

    result: object
    error: NodeError | None = None


class _Provider(HTTPProvider):
    """web3's, but a batch's answers are taken by the ids that were sent: web3 sorts by whatever ids came, or hopes."""

    @override
    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse] | RPCResponse:
        data = self.encode_batch_rpc_request(batch_requests)
        raw = self._request_session_manager.make_post_request(
            cast(URI, self.endpoint_uri), data, **cast(dict[str, Any], self.get_request_kwargs())
        )
        answers: object = self.decode_rpc_response(raw)
        ids = [call["id"] for call in json.loads(data)]
        if not isinstance(answers, list) or len(answers) != len(ids):
            return cast(RPCResponse, answers)
        by_id = {answer["id"]: answer for answer in cast(list[dict[str, Any]], answers)}
        return [cast(RPCResponse, by_id[one]) for one in ids]


class _WorthRetrying(ChainUnavailable):
    """A failure that another try may not meet."""


class Transport:
    """Carries calls to one node. `read` repeats what failed, `send` never does."""

    def __init__(self, chain: ChainConnection) -> None:
        self._chain = chain
        self._session = open_session(chain)
        self._provider = _Provider(
            chain.url,
            # A redirect could lead reads anywhere, and would carry the request body there.
            request_kwargs={"timeout": (chain.connect_timeout, chain.timeout), "allow_redirects": False},
            session=self._session,
            exception_retry_configuration=None,
        )

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()

    def read(self, calls: Sequence[Call]) -> list[Answer]:
        """Return the answers of one request, in order, after up to `read_attempts` tries.

        One call goes plain, several as one batch. Raises ChainUnavailable.
        """
        if not calls:
            return []
        retrying = Retrying(
            stop=stop_after_attempt(self._chain.read_attempts),
            wait=wait_exponential_jitter(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT, jitter=_FIRST_WAIT),
            retry=retry_if_exception_type(_WorthRetrying),
            reraise=True,
        )
        try:
            return retrying(self._exchange, calls)
        except _WorthRetrying as error:
            reason = error.reason
        raise self._unavailable(reason)

    def send(self, method: str, params: list[object]) -> Answer:
        """Return the answer of one call, tried once. Raises ChainUnavailable."""
        [answer] = self._exchange_once([(method, params)])
        return answer

    def _exchange(self, calls: Sequence[Call]) -> list[Answer]:
        answers = self._exchange_once(calls)
        for answer in answers:
            if answer.error is not None and answer.error.code in _LIMIT_EXCEEDED:
                raise self._worth_retrying(answer.error.words)
        return answers

    def _exchange_once(self, calls: Sequence[Call]) -> list[Answer]:
        # Raised behind the handlers, not inside: the libraries' errors carry the URL, and a chained
        # exception would print it.
        try:
            raw = self._request(calls)
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            failure = self._failure(f"HTTP status {status}", again=status in _RETRIED_STATUS)
        except requests.Timeout:
            failure = self._worth_retrying(f"no answer within {self._chain.timeout} s")
        except requests.ConnectionError as error:
            failure = self._worth_retrying(f"no connection ({_cause(error)})")
        except requests.RequestException as error:
            failure = self._unavailable(f"{type(error).__name__}: {self._words(str(error))}")
        except (Web3Exception, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            failure = self._unavailable("the answer is no JSON-RPC answer")
        else:
            if len(raw) == len(calls):
                return [self._answer(one) for one in raw]
            failure = self._unavailable(f"{len(calls)} calls got {len(raw)} answers")
        raise failure

    def _request(self, calls: Sequence[Call]) -> list[object]:
        if len(calls) == 1:
            method, params = calls[0]
            return [self._provider.make_request(RPCEndpoint(method), params)]
        batch: list[tuple[RPCEndpoint, object]] = [(RPCEndpoint(method), params) for method, params in calls]
        answers: object = self._provider.make_batch_request(batch)
        if isinstance(answers, list):
            return cast(list[object], answers)
        # A node that refuses the whole batch answers one error object.
        return [answers] * len(calls)

    def _answer(self, raw: object) -> Answer:
        if not isinstance(raw, Mapping) or ("result" not in raw and "error" not in raw):
            raise self._unavailable("the answer is no JSON-RPC answer")
        answer = cast(Mapping[str, object], raw)
        error = answer.get("error")
        if error is None:
            return Answer(answer.get("result"))
        details = cast(Mapping[str, object], error) if isinstance(error, Mapping) else {"message": error}
        code = details.get("code")
        return Answer(
            None,
            NodeError(
                code if isinstance(code, int) else 0,
                self._words(str(details.get("message", "error without a message"))),
                _revert_data(details.get("data")),
            ),
        )

    def _words(self, text: str) -> str:
        return self._chain.redact(text)[:_MAX_WORDS]

    def _failure(self, reason: str, *, again: bool) -> ChainUnavailable:
        return self._worth_retrying(reason) if again else self._unavailable(reason)

    def _unavailable(self, reason: str) -> ChainUnavailable:
        return ChainUnavailable(self._chain.chain_id, self._chain.masked_url, reason)

    def _worth_retrying(self, reason: str) -> _WorthRetrying:
        return _WorthRetrying(self._chain.chain_id, self._chain.masked_url, reason)


def _cause(error: BaseException) -> str:
    """Return the innermost error's name: urllib3's own messages carry the URL's path."""
    inner: object = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    return type(reason).__name__


def _revert_data(value: object) -> bytes:
    try:
        return wire.data(value, "data")
    except wire.MalformedAnswer:
        return b""

"""Request Network's API of payments: one page of those of one kind in a window of time.

Source: Request Network's OpenAPI of v2, ``GET /v2/payments``. It wants at least one filter beside the dates, so each
kind of payment is asked for by itself. Nothing it answers is believed: a payment it lists is a hint.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from custody.settings.environment import SettingsError, read_secret_file
from custody.store.engine import forbid_inside_transaction

KINDS: Final = ("direct", "conversion", "crosschain", "recurring")
PAGE_LIMIT: Final = 100  # payments a request
TIMEOUT_SECONDS: Final = 5.0  # of a whole answer; two of them fit between a door's last look at the clock and its end
ATTEMPTS: Final = 2  # requests a page in one step; the schedule tries again
RETRY_SECONDS: Final = 2.0  # before the second: after 429 as after anything that may pass
BODY_LIMIT_BYTES: Final = 4_194_304  # a page of 100 payments is about 0.2 MB

_DEPTH_LIMIT: Final = (
    50  # a payment nests three deep; parsers recurse, and what others imported may let them go too far
)
_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_KEY: Final = re.compile(r"[\x21-\x7e]{8,256}")


class ApiAway(Exception):
    """The API gave no page. The message says what it did, and never shows the key."""

    def __init__(self, said: str, *, may_pass: bool) -> None:
        super().__init__(said)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Page:
    """Payments as they were listed; a number with a point is its own text, digit by digit."""

    payments: list[dict[str, Any]]
    has_more: bool


class Pace:
    """Keeps requests ``interval_seconds`` apart: the key has one rate for everybody who uses it."""

    def __init__(
        self,
        interval_seconds: float,
        *,
        now_seconds: Callable[[], float] = time.monotonic,
        sleep_seconds: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._now_seconds = now_seconds
        self._sleep_seconds = sleep_seconds
        self._next_seconds: float | None = None

    def wait(self) -> None:
        """Return once a request may be made."""
        if self._next_seconds is not None and (rest := self._next_seconds - self._now_seconds()) > 0:
            self._sleep_seconds(rest)
        self._next_seconds = self._now_seconds() + self._interval_seconds


class PaymentsApi:
    """Asks, at its pace, one page at a time. Raises SettingsError for a key that no header holds."""

    def __init__(
        self,
        url: str,
        key: str,
        pace: Pace,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        if not _KEY.fullmatch(key):
            raise SettingsError(
                "REQUEST_NETWORK_API_KEY_FILE: expected one line of 8 to 256 printable ASCII characters"
            )
        self._url = f"{url.rstrip('/')}/v2/payments"
        self._headers = {"x-api-key": key, "accept": "application/json", "accept-encoding": "identity"}
        self._pace = pace
        # No redirect: the key goes to nobody else. No connection kept: minutes lie between two passes.
        self._client = httpx.Client(
            trust_env=False,
            timeout=timeout_seconds,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
        )
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds

    def page(self, kind: str, window: tuple[datetime, datetime], offset: int) -> Page:
        """The page that starts at the payment number ``offset`` of that kind in the window. Raises ApiAway."""
        forbid_inside_transaction("Request Network's API")
        asked = {
            "type": kind,
            "fromDate": _written(window[0]),
            "toDate": _written(window[1]),
            "limit": str(PAGE_LIMIT),
            "offset": str(offset),
        }
        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ApiAway) and error.may_pass),
            wait=wait_exponential(multiplier=self._retry_seconds),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        return _read_page(attempts(self._ask, asked))

    def _ask(self, asked: dict[str, str]) -> bytes:
        self._pace.wait()
        deadline_seconds = time.monotonic() + self._timeout_seconds
        try:
            with self._client.stream("GET", self._url, params=asked, headers=self._headers) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code)
                return _read_body(answer, deadline_seconds)
        except httpx.TimeoutException:
            raise ApiAway(f"no answer within {self._timeout_seconds:g} s", may_pass=True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ApiAway(f"it cannot be reached: {type(error).__name__}", may_pass=True) from None


def read_api_key(path: Path) -> str:
    """The key in ``path``. Raises SettingsError."""
    return read_secret_file(path, what="REQUEST_NETWORK_API_KEY_FILE")


def _read_body(answer: httpx.Response, deadline_seconds: float) -> bytes:
    body = bytearray()
    for chunk in answer.iter_raw():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise ApiAway(f"it answered more than {BODY_LIMIT_BYTES} bytes", may_pass=False)
        # The library's time limit is for each read alone: who sends a byte a second would never be late.
        if time.monotonic() > deadline_seconds:
            raise ApiAway("its answer did not come to an end in time", may_pass=True)
    return bytes(body)


def _refusal(status: int) -> ApiAway:
    if status in {401, 403}:
        return ApiAway(f"it refused the key ({status})", may_pass=False)
    if status == 429:
        return ApiAway("it was asked too often (429)", may_pass=True)
    return ApiAway(f"it answered with status {status}", may_pass=status >= 500)


def _read_page(body: bytes) -> Page:
    garbage = ApiAway(
        "it answered something else than a page: expected payments, at most as many as asked for, and "
        "pagination.hasMore, true only with payments",
        may_pass=False,
    )
    if _depth(body) > _DEPTH_LIMIT:
        raise garbage
    try:
        # Text keeps every digit, and is written into the journal as it came.
        answer = json.loads(body.decode("utf-8", "strict"), parse_float=str, parse_constant=_refuse_constant)
    except ValueError:
        raise garbage from None
    payments = answer.get("payments") if isinstance(answer, dict) else None
    pagination = answer.get("pagination") if isinstance(answer, dict) else None
    has_more = pagination.get("hasMore") if isinstance(pagination, dict) else None
    if (
        not isinstance(payments, list)
        or not all(isinstance(payment, dict) for payment in payments)
        or len(payments) > PAGE_LIMIT
        or not isinstance(has_more, bool)
        or (has_more and not payments)
    ):
        raise garbage
    return Page(payments, has_more)


def _depth(body: bytes) -> int:
    """How deep the brackets outside of texts nest."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_TEXT.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

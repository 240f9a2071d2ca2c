"""The HTTP session web3's provider sends through: bounded answers, a whole deadline, no ambient settings.

Imported where a client is built, not before: requests and web3 are heavy.
"""

import logging
import time
from typing import Final

import requests
from requests.adapters import HTTPAdapter
from typing_extensions import override
from urllib3.exceptions import HTTPError, ReadTimeoutError

from custody.chain.connection import ChainConnection

_CHUNK: Final = 64 * 1024
# Loggers of the libraries below us that write request URLs, some at DEBUG.
_LOGGERS: Final = ("web3.providers.HTTPProvider", "urllib3.connectionpool")


class AnswerTooLong(requests.RequestException):
    """The answer is longer than the connection's `max_body`."""


class AnswerTooSlow(requests.Timeout):
    """The whole answer did not arrive within the connection's `timeout`."""


class BoundedAdapter(HTTPAdapter):
    """Reads answers in chunks, up to `max_body` bytes (after decompression) and `timeout` seconds."""

    def __init__(self, chain: ChainConnection) -> None:
        self._max_body = chain.max_body
        self._timeout = chain.timeout
        super().__init__(max_retries=0)

    @override
    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send, and return the response with its body already read. Raises AnswerTooLong, AnswerTooSlow."""
        deadline = time.monotonic() + self._timeout
        response = super().send(request, stream=True, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        try:
            body = self._read(response, deadline)
        except BaseException:
            response.close()
            raise
        # requests has no public way to hand over a body that was read with a limit.
        response._content = body
        return response

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        try:
            # read1 returns with what one receive brought; read would wait for a whole chunk, and a node
            # that drips bytes would never let the deadline be looked at.
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > self._max_body:
                    raise AnswerTooLong(f"more than {self._max_body} bytes")
                if time.monotonic() > deadline:
                    raise AnswerTooSlow(f"not complete after {self._timeout} s")
        except ReadTimeoutError as error:
            raise AnswerTooSlow(str(error)) from error
        except HTTPError as error:
            raise requests.ConnectionError(error) from error
        return bytes(body)


class _RedactingFilter(logging.Filter):
    def __init__(self, chain: ChainConnection) -> None:
        super().__init__()
        self.chain = chain

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        redacted = self.chain.redact(message)
        if redacted != message:
            record.msg, record.args = redacted, ()
        return True


def open_session(chain: ChainConnection) -> requests.Session:
    """Return a session for one connection.

    `trust_env` is off: neither a proxy variable nor a .netrc decides where the fleet's reads go.
    """
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", BoundedAdapter(chain))
    session.mount("https://", BoundedAdapter(chain))
    _keep_out_of_logs(chain)
    return session


def _keep_out_of_logs(chain: ChainConnection) -> None:
    if not chain.secrets:
        return
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        known = [present for present in logger.filters if isinstance(present, _RedactingFilter)]
        if all(present.chain.url != chain.url for present in known):
            logger.addFilter(_RedactingFilter(chain))

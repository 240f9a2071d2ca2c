"""The signer API under uvicorn, for tests."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from tests.conftest import Database
from workers.signer_api.application import create_application
from workers.signer_api.rate_limit import RateLimit

TOKEN = "a" * 16 + "0123456789abcdef" * 3


@contextmanager
def serving(
    database: Database, limit: RateLimit | None = None, *, around: Callable[[ASGIApp], ASGIApp] = lambda inner: inner
) -> Generator[str]:
    """The API under uvicorn, with its own database role; ``around`` puts something before it."""
    application = create_application(
        database.engine("fleet_signer_api"), TOKEN, rate_limit=limit or RateLimit(per_second=1e6, burst=1e6)
    )
    server = uvicorn.Server(uvicorn.Config(around(application), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


def post(api: str, path: str, body: Any, *, content: bytes | None = None) -> httpx.Response:
    if content is not None:
        return httpx.post(f"{api}{path}", content=content, headers=bearer())
    return httpx.post(f"{api}{path}", json=body, headers=bearer())

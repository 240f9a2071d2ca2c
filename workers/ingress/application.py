"""The ASGI application: one ``POST /webhooks/...`` a provider, and ``GET /healthz``.

Answers carry a status and nothing else, so that they tell a stranger nothing. Anything but 2xx makes the
sender try again (Request Network four times in about 21 s): a delivery that cannot be written is never accepted, and
one whose signature is right is never refused for what its body says.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from custody.providers.interface import Door
from workers.ingress.health import DatabaseHealth
from workers.ingress.journal import Journal, JournalFull, NotJournalled
from workers.ingress.refusals import Refusals
from workers.ingress.rotation import Secrets, SecretsAway

HEALTH_PATH: Final = "/healthz"
REQUEST_DEADLINE_SECONDS: Final = 4.0  # the sender gives 5 s; the rest is the network's
RETRY_AFTER_SECONDS: Final = 1  # the sender's own first delay
_RETRY: Final = {"retry-after": str(RETRY_AFTER_SECONDS)}


class BodyTooLarge(Exception):
    """The body is over the limit; nothing more of it is read."""


@dataclass(frozen=True)
class OpenDoor:
    """A provider's door, and the secrets that its senders prove themselves with."""

    provider: str
    door: Door
    secrets: Secrets


class Webhooks:
    """Takes one delivery of one provider: limits, signature, journal, answer."""

    def __init__(self, journal: Journal, opened: OpenDoor, body_limit: int) -> None:
        """``body_limit`` in bytes."""
        self._journal = journal
        self._door = opened.door
        self._secrets = opened.secrets
        self._body_limit = body_limit
        self._refusals = Refusals(opened.provider)

    async def __call__(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_SECONDS):
                return await self._take(request)
        except BodyTooLarge:
            # The rest of the body is not read: the connection ends with the answer.
            return Response(status_code=413, headers={"connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except JournalFull:
            self._refusals.note("journal_full")
        except (NotJournalled, SecretsAway):
            pass  # the journal and the secrets have told why
        except TimeoutError:
            self._refusals.note("delivery_late")
            # Whatever of the body is still to come is not read.
            return Response(status_code=503, headers={**_RETRY, "connection": "close"})
        return Response(status_code=503, headers=_RETRY)

    async def _take(self, request: Request) -> Response:
        headers = request.headers.raw
        body = await read_body(request, self._body_limit)
        if not self._door.is_authentic(headers, body, await self._secrets.of(headers, body)):
            self._refusals.note("signature_refused")
            return Response(status_code=401)
        await self._journal.write(self._door.read_delivery(headers, body))
        return Response(status_code=self._door.accepted)


async def read_body(request: Request, limit: int) -> bytes:
    """The raw body, of at most ``limit`` bytes. Raises BodyTooLarge as soon as it is known to be longer."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise BodyTooLarge
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise BodyTooLarge
        body += chunk
    return bytes(body)


def build_application(
    journal: Journal, doors: Sequence[OpenDoor], health: DatabaseHealth, body_limit: int
) -> Starlette:
    """The application; ``body_limit`` in bytes. The journal runs while the application does."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        journal.start()
        try:
            yield
        finally:
            await journal.stop()
            await health.close()
            for opened in doors:
                await opened.secrets.close()

    async def healthz(_: Request) -> Response:
        there = await health.is_there()
        return JSONResponse({"process": "ok", "database": "ok" if there else "away"}, status_code=200 if there else 503)

    application = Starlette(
        routes=[
            *(Route(opened.door.path, _taker(journal, opened, body_limit), methods=["POST"]) for opened in doors),
            Route(HEALTH_PATH, healthz, methods=["GET"]),
        ],
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False
    return application


def _taker(journal: Journal, opened: OpenDoor, body_limit: int) -> Callable[[Request], Awaitable[Response]]:
    webhooks = Webhooks(journal, opened, body_limit)

    async def take(request: Request) -> Response:
        return await webhooks(request)

    return take

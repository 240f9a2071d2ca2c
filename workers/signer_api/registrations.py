"""Registration of marketplace Trezors at the signer API: challenges given and answers kept, nothing judged (R6, R9)."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Protocol, TypeVar
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from custody.registration import RegistrationRefused, hand_in, open_challenge
from custody.registration.challenges import HandedIn, registration_state
from custody.store.engine import ring_relay, transaction
from workers.signer_api.submissions import SubmissionRefused

log = structlog.get_logger(__name__)

LABEL_CHARACTERS: Final = 64

_Handler = Callable[[Request], Awaitable[Response]]
_Body = TypeVar("_Body", bound=BaseModel)


class Parsed(Protocol):
    """Reads a request's body as a form; refuses with a sentence."""

    async def __call__(self, request: Request, form: type[_Body]) -> _Body:
        """The form."""
        ...


class ChallengeBody(BaseModel):
    """Asks for a challenge with the code of an invitation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    invitation: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class RegistrationBody(BaseModel):
    """The proof: a signature by index 0 of the account's xpub over the text that holds the nonce.

    An extended private key is refused by the first letters of ``xpub``, before anything keeps it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    xpub: Annotated[str, Field(pattern=r"^xpub[1-9A-HJ-NP-Za-km-z]{100,110}$")]
    address: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
    device_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    device_model: Annotated[str, Field(pattern=r"^[A-Z0-9]{4}$")]
    device_label: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$", max_length=LABEL_CHARACTERS)] | None = None
    signature: Annotated[str, Field(pattern=r"^0x[0-9a-f]{130}$")]


class Registrations:
    """The endpoints, over an engine of role fleet_signer_api."""

    def __init__(self, engine: Engine, parsed: Parsed) -> None:
        self._engine = engine
        self._parsed = parsed

    def routes(self, opened: Callable[[_Handler], _Handler], watched: Callable[[_Handler], _Handler]) -> list[Route]:
        """The routes: what is written behind ``opened``, what is read behind ``watched``. An invitation needs no session."""
        return [
            Route("/v1/registrations/challenge", opened(self.challenge), methods=["POST"]),
            Route("/v1/registrations", opened(self.register), methods=["POST"]),
            Route("/v1/registrations/{id}", watched(self.show), methods=["GET"]),
        ]

    async def challenge(self, request: Request) -> Response:
        body = await self._parsed(request, ChallengeBody)
        return JSONResponse(await run_in_threadpool(self._challenge, body), status_code=201)

    async def register(self, request: Request) -> Response:
        body = await self._parsed(request, RegistrationBody)
        made = await run_in_threadpool(self._register, body)
        log.info("registration_handed_in", registration=str(made), address=body.address)
        return JSONResponse({"id": str(made), "state": "received"}, status_code=202)

    async def show(self, request: Request) -> Response:
        try:
            registration_id = UUID(request.path_params["id"])
        except ValueError:
            raise SubmissionRefused(404, "There is no such registration.") from None
        found = await run_in_threadpool(self._show, registration_id)
        if found is None:
            raise SubmissionRefused(404, "There is no such registration.")
        return JSONResponse(found)

    def _challenge(self, body: ChallengeBody) -> dict[str, Any]:
        try:
            with transaction(self._engine) as connection:
                made = open_challenge(connection, body.invitation)
        except RegistrationRefused as error:
            raise SubmissionRefused(403, str(error)) from None
        # Hex and times: never a text to sign (R6).
        return {
            "nonce": made.nonce,
            "user_id": str(made.user_id),
            "account": made.account,
            "expires_at": made.expires_at.isoformat(),
        }

    def _register(self, body: RegistrationBody) -> UUID:
        claim = HandedIn(
            nonce=body.nonce,
            xpub=body.xpub,
            address=body.address,
            device_fingerprint=body.device_fingerprint,
            device_model=body.device_model,
            device_label=body.device_label,
            signature=bytes.fromhex(body.signature[2:]),
        )
        try:
            with transaction(self._engine) as connection:
                made = hand_in(connection, claim)
        except RegistrationRefused as error:
            raise SubmissionRefused(409, str(error)) from None
        ring_relay(self._engine)
        return made

    def _show(self, registration_id: UUID) -> dict[str, Any] | None:
        with transaction(self._engine) as connection:
            return registration_state(connection, registration_id)

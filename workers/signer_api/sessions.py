"""Logging in at the signer API, and the guard in front of everything else (R6).

A caller without a session reaches only what needs none: the health check, this API's description, a login and a
registration by invitation.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Engine, text
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from custody.registration import ApiPlace
from custody.sessions import (
    Identities,
    LoginClaim,
    LoginRefused,
    Session,
    end_session,
    find_session,
    log_in,
    open_challenge,
)
from custody.store.engine import transaction
from workers.signer_api.registrations import Parsed
from workers.signer_api.submissions import SubmissionRefused

log = structlog.get_logger(__name__)

SESSION_SECONDS: Final = (
    3_600  # a signing session at the desk; a stolen session file is worth no more, and signs nothing
)
_Handler = Callable[[Request], Awaitable[Response]]


class LoginBody(BaseModel):
    """A signature over the LOGIN text that holds the nonce, by the device with that address. No text, no token."""

    model_config = ConfigDict(extra="forbid", strict=True)

    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    address: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
    signature: Annotated[str, Field(pattern=r"^0x[0-9a-f]{130}$")]


class Sessions:
    """The endpoints, over an engine of role fleet_signer_api. ``seconds``: how long a session lasts."""

    def __init__(
        self, engine: Engine, place: ApiPlace, identities: Identities, parsed: Parsed, *, seconds: int
    ) -> None:
        self._engine = engine
        self._place = place
        self._identities = identities
        self._parsed = parsed
        self._seconds = seconds

    def routes(self, opened: Callable[[_Handler], _Handler], guarded: Callable[[_Handler], _Handler]) -> list[Route]:
        """The routes: logging in behind ``opened``, who one is and logging out behind ``guarded``."""
        return [
            Route("/v1/session/challenge", opened(self.challenge), methods=["POST"]),
            Route("/v1/session", _by_method(POST=opened(self.login), GET=guarded(self.show), DELETE=guarded(self.end)),
                  methods=["POST", "GET", "DELETE"]),
        ]  # fmt: skip

    def of(self, authorization: str) -> Session | None:
        """The session that a header names, or None. Raises NoIdentities."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        identities = self._identities()
        with transaction(self._engine) as connection:
            return find_session(connection, token, identities)

    async def challenge(self, _request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._challenge), status_code=201)

    async def login(self, request: Request) -> Response:
        body = await self._parsed(request, LoginBody)
        try:
            opened = await run_in_threadpool(self._log_in, LoginClaim(body.nonce, body.address, body.signature))
        except LoginRefused as error:
            log.warning("signer_login_refused", address=body.address, reason=str(error))
            raise SubmissionRefused(403, str(error)) from None
        identity = opened.identity
        log.info("signer_logged_in", address=identity.address, role=identity.role, person=identity.person)
        answer = {
            "token": opened.token,
            "address": identity.address,
            "role": identity.role,
            "person": identity.person,
            "expires_at": opened.expires_at.isoformat(),
        }
        return JSONResponse(answer, status_code=201, headers={"Cache-Control": "no-store"})

    async def show(self, request: Request) -> Response:
        session = session_of(request)
        return JSONResponse(
            {
                "address": session.identity.address,
                "role": session.identity.role,
                "person": session.identity.person,
                "opened_at": session.opened_at.isoformat(),
                "expires_at": session.expires_at.isoformat(),
            }
        )

    async def end(self, request: Request) -> Response:
        session = session_of(request)
        await run_in_threadpool(self._end, session)
        log.info("signer_logged_out", address=session.identity.address)
        return JSONResponse({"ended": True})

    def _challenge(self) -> dict[str, Any]:
        try:
            with transaction(self._engine) as connection:
                made = open_challenge(connection)
        except LoginRefused as error:
            raise SubmissionRefused(429, str(error)) from None
        # Hex and a time: never a text to sign (R6).
        return {"nonce": made.nonce, "expires_at": made.expires_at.isoformat()}

    def _log_in(self, claim: LoginClaim) -> Any:
        return log_in(self._engine, self._place, self._identities, claim, seconds=self._seconds)

    def _end(self, session: Session) -> None:
        with transaction(self._engine) as connection:
            end_session(connection, session.id, by=session.identity.address, reason="logged out")


def session_of(request: Request) -> Session:
    """The session of a guarded request."""
    session: Session = request.state.session
    return session


def require_person(session: Session, person: str, approver: str) -> None:
    """Only a person's own session hands in what is theirs (R6). Raises SubmissionRefused."""
    identity = session.identity
    if (identity.person, identity.address) != (person, approver):
        raise SubmissionRefused(
            403,
            f"This session is {identity.person or identity.role}'s ({identity.address}); {person}'s approval is handed "
            f"in from a session of their own device: fleet signer login --as {person}.",
        )


def require_signer(connection: Connection, session: Session, instruction_id: UUID) -> None:
    """Only whose device signs for the instruction's treasury is at the desk with it. Raises SubmissionRefused."""
    treasury = connection.execute(
        text("SELECT treasury FROM fleet.release_instructions WHERE id = :id"), {"id": instruction_id}
    ).scalar_one_or_none()
    if treasury is None:
        raise SubmissionRefused(404, f"There is no instruction {instruction_id}.")
    if treasury not in session.identity.treasuries:
        raise SubmissionRefused(
            403,
            f"This session is {session.identity.person or session.identity.role}'s ({session.identity.address}), whose "
            f"device does not sign for {treasury}: log in with its own, or an owner's: fleet signer login.",
        )


def _by_method(**handlers: _Handler) -> _Handler:
    async def endpoint(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return endpoint

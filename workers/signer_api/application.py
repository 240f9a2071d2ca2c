"""The ASGI application of the signer API. Every answer is JSON; every refusal is a sentence in ``error``."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog
from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from custody.registration import ApiPlace
from custody.sessions import Identities, NoIdentities, Session
from custody.store.engine import ring_relay, transaction
from workers.signer_api.approvals import (
    K_MAXIMUM,
    ApprovalBody,
    Subject,
    open_actions,
    submit_approval,
    unsigned_entries,
)
from workers.signer_api.evidence import WAITING_STATES, instruction_with_evidence, open_instructions, seals_from
from workers.signer_api.leases import LeaseBody, Leases
from workers.signer_api.openapi import SEAL_NUMBER_DIGITS, document
from workers.signer_api.rate_limit import LOGIN_BURST, LOGINS_PER_SECOND, RateLimit
from workers.signer_api.registrations import Registrations
from workers.signer_api.sessions import SESSION_SECONDS, Sessions, require_person, require_signer, session_of
from workers.signer_api.submissions import RejectionBody, SignatureBody, SubmissionRefused, submit

log = structlog.get_logger(__name__)

BODY_LIMIT_BYTES: Final = 4_096  # a signature is under 200 bytes, a reason at most 500 characters

_Body = TypeVar("_Body", bound=BaseModel)
_Handler = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def create_application(
    engine: Engine,
    place: ApiPlace,
    identities: Identities,
    *,
    session_seconds: int = SESSION_SECONDS,
    rate_limit: RateLimit | None = None,
    login_limit: RateLimit | None = None,
) -> Starlette:
    """The API over an engine of role fleet_signer_api, known to devices as ``place``, for who is in ``identities``."""
    api = _Api(engine, rate_limit or RateLimit(), login_limit or RateLimit(LOGINS_PER_SECOND, LOGIN_BURST))
    api.sessions = Sessions(engine, place, identities, api.parsed, seconds=session_seconds)
    return Starlette(
        routes=[
            Route("/healthz", api.healthz, methods=["GET"]),
            Route("/openapi.json", _described, methods=["GET"]),
            Route("/v1/instructions", api.guarded(api.open_ones), methods=["GET"]),
            Route("/v1/instructions/{id}", api.guarded(api.show), methods=["GET"]),
            Route("/v1/instructions/{id}/lease", api.guarded(api.lease), methods=["POST"]),
            Route("/v1/seals", api.guarded(api.seals), methods=["GET"]),
            Route("/v1/instructions/{id}/signature", api.guarded(api.signature), methods=["POST"]),
            Route("/v1/instructions/{id}/rejection", api.guarded(api.rejection), methods=["POST"]),
            *Registrations(engine, api.parsed).routes(api.opened, api.watched),
            *api.sessions.routes(api.opened, api.guarded),
            Route("/v1/instructions/{id}/approval", api.guarded(api.approval), methods=["POST"]),
            Route("/v1/address-book/unsigned", api.guarded(api.unsigned_entries), methods=["GET"]),
            Route("/v1/address-book/{id}/approval", api.guarded(api.entry_approval), methods=["POST"]),
            Route("/v1/actions", api.guarded(api.open_actions), methods=["GET"]),
            Route("/v1/actions/{id}/approval", api.guarded(api.action_approval), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _no_route},
    )


async def _described(_request: Request) -> Response:
    return JSONResponse(document())


async def _no_route(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = "There is no such path." if error.status_code == 404 else "The path takes another method."
    return _error(error.status_code, sentence, dict(error.headers or {}))


class _Api:
    sessions: Sessions

    def __init__(self, engine: Engine, rate_limit: RateLimit, login_limit: RateLimit) -> None:
        self._engine = engine
        self._rate_limit = rate_limit
        self._login_limit = login_limit
        self._leases = Leases()

    def opened(self, handler: _Handler) -> _Handler:
        """The handler for callers without a session, behind the stricter rate limit."""
        return self._answering(self._login_limit, handler)

    def watched(self, handler: _Handler) -> _Handler:
        """The handler for callers without a session that only look."""
        return self._answering(self._rate_limit, handler)

    def guarded(self, handler: _Handler) -> _Handler:
        """The handler behind rate limit and session, which it finds by ``session_of``."""

        async def with_session(request: Request) -> Response:
            session = await run_in_threadpool(self.sessions.of, request.headers.get("authorization", ""))
            if session is None:
                log.warning("signer_api_unauthorised", caller=_caller(request))
                sentence = "There is no open session: log in with your device, fleet signer login."
                return _error(401, sentence, {"WWW-Authenticate": "Bearer"})
            request.state.session = session
            return await handler(request)

        return self._answering(self._rate_limit, with_session)

    def _answering(self, limit: RateLimit, handler: _Handler) -> _Handler:
        async def endpoint(request: Request) -> Response:
            if not limit.allows(_caller(request)):
                return _error(429, "Too many requests; wait a second.", {"Retry-After": "1"})
            try:
                return await handler(request)
            except (_Refused, SubmissionRefused) as error:
                return _error(error.status, str(error))
            except NoIdentities as error:
                log.error("signer_api_identities", error=str(error))
                return _error(503, "The fleet's signed files are refused; nobody can log in.", {"Retry-After": "1"})
            except DBAPIError as error:
                log.error("signer_api_database", error=type(error).__name__)
                return _error(503, "The database does not answer; try again.", {"Retry-After": "1"})

        return endpoint

    async def healthz(self, _request: Request) -> Response:
        try:
            await run_in_threadpool(self._ping)
        except DBAPIError:
            return _error(503, "The database does not answer.")
        return JSONResponse({"status": "ok"})

    async def open_ones(self, request: Request) -> Response:
        found = await run_in_threadpool(self._list)
        own = session_of(request).identity.treasuries  # an approver's device signs for none, and is shown all
        return JSONResponse(
            {
                "instructions": [
                    {**self._leased(each), "of_another_device": bool(own) and each["treasury"] not in own}
                    for each in found
                ]
            }
        )

    async def show(self, request: Request) -> Response:
        found = await run_in_threadpool(self._show, _instruction_id(request))
        if found is None:
            raise _Refused(404, "There is no such instruction.")
        return JSONResponse(self._leased(found))

    async def lease(self, request: Request) -> Response:
        instruction_id = _instruction_id(request)
        body = _parse(LeaseBody, await _read_body(request))
        await run_in_threadpool(self._require_signer, request, instruction_id)
        if body.seconds and await run_in_threadpool(self._state, instruction_id) not in WAITING_STATES:
            raise _Refused(409, "Only an instruction that is handed out is signed.")
        standing = self._leases.take(instruction_id, body)
        if standing is not None and standing.signer != body.signer:
            raise _Refused(409, f"{standing.signer} is signing it, until {standing.until:%H:%M:%S} UTC at the latest.")
        return JSONResponse({"lease": None if standing is None else standing.as_json()})

    async def seals(self, request: Request) -> Response:
        given = request.query_params.get("from")
        if given is not None and not (given.isascii() and given.isdigit() and len(given) <= SEAL_NUMBER_DIGITS):
            raise _Refused(422, "from: expected the number of a seal.")
        return JSONResponse({"seals": await run_in_threadpool(self._seals, None if given is None else int(given))})

    async def signature(self, request: Request) -> Response:
        return await self._take(request, SignatureBody)

    async def rejection(self, request: Request) -> Response:
        return await self._take(request, RejectionBody)

    async def approval(self, request: Request) -> Response:
        return await self._approve(request, "release_instruction")

    async def entry_approval(self, request: Request) -> Response:
        return await self._approve(request, "address_book_entry")

    async def action_approval(self, request: Request) -> Response:
        return await self._approve(request, "operator_action")

    async def open_actions(self, _request: Request) -> Response:
        return JSONResponse({"actions": await run_in_threadpool(self._actions)})

    async def unsigned_entries(self, request: Request) -> Response:
        asked = request.query_params.get("fewer_than", "1")
        if not (asked.isascii() and asked.isdecimal() and 1 <= int(asked[:3]) <= K_MAXIMUM):
            raise _Refused(422, f"fewer_than: expected a whole number from 1 to {K_MAXIMUM}, the k of your genesis.")
        return JSONResponse({"entries": await run_in_threadpool(self._unsigned, int(asked))})

    async def _approve(self, request: Request, subject: Subject) -> Response:
        subject_id = _instruction_id(request)
        body = await self.parsed(request, ApprovalBody)
        require_person(session_of(request), body.person, body.approver)
        made = await run_in_threadpool(self._submit_approval, subject, subject_id, body)
        log.info("approval_received", subject=subject, subject_id=str(subject_id), person=body.person)
        return JSONResponse(made, status_code=200 if made["repeated"] else 202)

    async def _take(self, request: Request, form: type[SignatureBody] | type[RejectionBody]) -> Response:
        instruction_id = _instruction_id(request)
        body = await self.parsed(request, form)
        made = await run_in_threadpool(self._submit, instruction_id, body, session_of(request))
        log.info("signer_answered", instruction_id=str(instruction_id), form=form.__name__, **made)
        return JSONResponse(made, status_code=200 if made["repeated"] else 202)

    async def parsed(self, request: Request, form: type[_Body]) -> _Body:
        """The request's body as ``form``, or a refusal with its sentence."""
        return _parse(form, await _read_body(request))

    def _require_signer(self, request: Request, instruction_id: UUID) -> None:
        with transaction(self._engine) as connection:
            require_signer(connection, session_of(request), instruction_id)

    def _ping(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def _list(self) -> list[dict[str, Any]]:
        with transaction(self._engine) as connection:
            return open_instructions(connection)

    def _seals(self, number: int | None) -> list[dict[str, Any]]:
        with transaction(self._engine) as connection:
            return seals_from(connection, number)

    def _leased(self, found: dict[str, Any]) -> dict[str, Any]:
        leases = [lease.as_json() for lease in self._leases.of(UUID(found["id"]))]
        return {**found, "lease": leases[0] if leases else None, "leases": leases}

    def _state(self, instruction_id: UUID) -> str | None:
        with transaction(self._engine) as connection:
            return connection.execute(
                text("SELECT state FROM fleet.release_instructions WHERE id = :id"), {"id": instruction_id}
            ).scalar_one_or_none()

    def _show(self, instruction_id: UUID) -> dict[str, Any] | None:
        with transaction(self._engine) as connection:
            return instruction_with_evidence(connection, instruction_id)

    def _submit(self, instruction_id: UUID, body: SignatureBody | RejectionBody, session: Session) -> dict[str, Any]:
        with transaction(self._engine) as connection:
            made = submit(connection, instruction_id, body, by=session.identity.address)
        ring_relay(self._engine)
        return made

    def _submit_approval(self, subject: Subject, subject_id: UUID, body: ApprovalBody) -> dict[str, Any]:
        with transaction(self._engine) as connection:
            made = submit_approval(connection, subject, subject_id, body)
        ring_relay(self._engine)
        return made

    def _actions(self) -> list[dict[str, Any]]:
        with transaction(self._engine) as connection:
            return open_actions(connection)

    def _unsigned(self, fewer_than: int) -> list[dict[str, Any]]:
        with transaction(self._engine) as connection:
            return unsigned_entries(connection, fewer_than)


def _caller(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                raise _Refused(413, f"The body is over {BODY_LIMIT_BYTES} bytes.")
    except ClientDisconnect as error:
        raise _Refused(400, "The body ended early.") from error
    return bytes(body)


def _parse(form: type[_Body], body: bytes) -> _Body:
    try:
        return form.model_validate(json.loads(body))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise _Refused(422, f"The body is refused: {'; '.join(lines)}.") from None
    except (ValueError, RecursionError):
        raise _Refused(400, "The body is no JSON.") from None


def _instruction_id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise _Refused(404, "There is no such instruction.") from None


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)

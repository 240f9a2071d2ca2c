"""The signer API described by OpenAPI 3.1: what each path takes and answers, for people and for fuzzers."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from workers.signer_api.approvals import K_MAXIMUM, ApprovalBody
from workers.signer_api.leases import LeaseBody
from workers.signer_api.registrations import ChallengeBody, RegistrationBody
from workers.signer_api.sessions import LoginBody
from workers.signer_api.submissions import RejectionBody, SignatureBody

VERSION: Final = "1"
SEAL_NUMBER_DIGITS: Final = 18  # below a bigint's end
_ERRORS: Final = {
    400: "the body is no JSON, or ended early",
    401: "there is no open session: log in first",
    403: "the login or the invitation is refused, or the session is another person's",
    404: "there is no such thing",
    409: "it is in another state, or was answered otherwise",
    413: "the body is too long",
    422: "the body or a parameter has another form than the schema",
    429: "too many requests, or too many answers wait to be judged",
    503: "the database does not answer; try again",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``answers``: the statuses of success; ``query``: parameters by name with their schema."""

    method: str
    path: str
    summary: str
    answers: tuple[int, ...] = (200,)
    body: type[BaseModel] | None = None
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    is_guarded: bool = True


OPERATIONS: Final = (
    Operation("get", "/healthz", "Whether the API and its database answer.", is_guarded=False),
    Operation("get", "/openapi.json", "This document.", is_guarded=False),
    Operation("get", "/v1/instructions", "Open instructions, those that wait for a signer first."),
    Operation("get", "/v1/instructions/{id}", "One instruction with the evidence behind it."),
    Operation("post", "/v1/instructions/{id}/lease", "Tell others who is signing it.", (200,), LeaseBody),
    Operation(
        "post", "/v1/instructions/{id}/signature", "Hand in the treasury's signature.", (200, 202), SignatureBody
    ),
    Operation("post", "/v1/instructions/{id}/rejection", "Say that it is not signed, and why.", (202,), RejectionBody),
    Operation("post", "/v1/instructions/{id}/approval", "Hand in a person's approval.", (200, 202), ApprovalBody),
    Operation(
        "get",
        "/v1/seals",
        "The ledger's seals from one on, oldest first; without a number the newest.",
        query=(("from", {"type": "integer", "minimum": 0, "maximum": 10**SEAL_NUMBER_DIGITS - 1}),),
    ),
    Operation(
        "get",
        "/v1/address-book/unsigned",
        "Address book entries that still want signatures.",
        query=(("fewer_than", {"type": "integer", "minimum": 1, "maximum": K_MAXIMUM}),),
    ),
    Operation("post", "/v1/address-book/{id}/approval", "Sign an address book entry.", (200, 202), ApprovalBody),
    Operation("post", "/v1/session/challenge", "Ask for a nonce to log in with.", (201,), is_guarded=False),
    Operation(
        "post", "/v1/session", "Log in: a device's signature over the LOGIN text.", (201,), LoginBody, is_guarded=False
    ),
    Operation("get", "/v1/session", "Whose session this is, and until when."),
    Operation("delete", "/v1/session", "Log out: the session ends at once."),
    Operation(
        "post",
        "/v1/registrations/challenge",
        "Ask for a nonce to register a device with.",
        (201,),
        ChallengeBody,
        is_guarded=False,
    ),
    Operation(
        "post",
        "/v1/registrations",
        "Hand in the proof of a device's account.",
        (202,),
        RegistrationBody,
        is_guarded=False,
    ),
    Operation("get", "/v1/registrations/{id}", "What became of a registration.", is_guarded=False),
    Operation("get", "/v1/actions", "Operators' actions that wait for signatures."),
    Operation("post", "/v1/actions/{id}/approval", "Sign an operator's action.", (200, 202), ApprovalBody),
)


def document() -> dict[str, Any]:
    """The OpenAPI document: JSON answers everywhere, every refusal a sentence in ``error``."""
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = _described(each)
    bodies = {each.body for each in OPERATIONS if each.body is not None}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Amanat signer API", "version": VERSION},
        "paths": paths,
        "components": {
            "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Refusal": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                },
                **{body.__name__: body.model_json_schema() for body in sorted(bodies, key=lambda body: body.__name__)},
            },
        },
    }


def _described(each: Operation) -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    answer = {"application/json": {"schema": {"type": "object"}}}
    described: dict[str, Any] = {
        "summary": each.summary,
        "responses": {
            **{str(status): {"description": "done", "content": answer} for status in each.answers},
            **{str(status): {"description": why, "content": refusal} for status, why in _ERRORS.items()},
        },
    }
    parameters = [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in each.query]
    if "{id}" in each.path:
        parameters.append(
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        )
    if parameters:
        described["parameters"] = parameters
    if each.body is not None:
        schema = {"$ref": f"#/components/schemas/{each.body.__name__}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if each.is_guarded:
        described["security"] = [{"session": []}]
    return described

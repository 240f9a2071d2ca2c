"""The signer API against what its own description allows and forbids: no 500, no undeclared answer, nothing written."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.applications import Starlette
from starlette.routing import Route

from custody.registration import ApiPlace
from tests.counts import Counts, declared
from tests.policy_files import key
from tests.release_scene import Scene
from tests.signer_api_server import SIGNER, bearer, known, open_sessions
from tests.signer_api_server import UNHURRIED as UNLIMITED
from workers.signer_api.application import create_application
from workers.signer_api.openapi import OPERATIONS, document

EXAMPLES = declared(1_000, 5)
UNHURRIED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
)
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture
def application(approved_scene: Scene) -> Starlette:
    open_sessions(approved_scene.database)
    return create_application(
        approved_scene.database.engine("fleet_signer_api"),
        ApiPlace("127.0.0.1:8481", None),
        known(approved_scene.database),
        rate_limit=UNLIMITED,
        login_limit=UNLIMITED,
    )


@pytest.fixture
def described(application: Starlette) -> Any:
    schema = schemathesis.openapi.from_asgi("/openapi.json", application)
    schema.config.generation.update(with_security_parameters=False)  # the right token: what lies behind it is asked
    return schema


def test_every_route_is_described_and_no_other(application: Starlette) -> None:
    served = {
        (method.lower(), route.path)
        for route in application.routes
        if isinstance(route, Route)
        for method in (route.methods or ())
        if method != "HEAD"
    }
    assert served == {(each.method, each.path) for each in OPERATIONS}
    assert set(document()["paths"]) == {each.path for each in OPERATIONS}


def rows(scene: Scene) -> tuple[int, int]:
    [found] = scene.market.execute(
        "SELECT (SELECT count(*) FROM fleet.approvals) AS approvals, "
        "(SELECT count(*) FROM fleet.signature_submissions) AS submissions"
    )
    return found.approvals, found.submissions


def test_whatever_is_sent_is_answered_as_described(approved_scene: Scene, described: Any, counts: Counts) -> None:
    """Bodies, ids and parameters by the schema and against it, at instructions that exist and that do not."""
    payment = approved_scene.payment()
    approved_scene.run()
    standing = str(approved_scene.instruction(payment).id)
    before = rows(approved_scene)
    asked: dict[str, int] = {}

    for each in described.get_all_operations():
        operation = each.ok()
        cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(
            generation_mode=GenerationMode.NEGATIVE
        )

        @UNHURRIED
        @given(case=cases)
        def run(case: Any) -> None:
            label = str(case.operation.label)
            # Every second one asks for an instruction that exists.
            if "id" in (case.path_parameters or {}) and asked.get(label, 0) % 2:
                case.path_parameters["id"] = standing
            asked[label] = asked.get(label, 0) + 1
            who = "cyd" if label.startswith("DELETE") else SIGNER  # who logs out is needed no more
            if asked[label] % 3 and label.endswith("/approval") and isinstance(case.body, dict):
                case.body |= {"person": "ada", "approver": key("ada").address}
                who = "ada"
            case.call_and_validate(headers=bearer(who), checks=CHECKS)

        run()
    assert {each.lower() for each in asked} == {f"{each.method} {each.path}".lower() for each in OPERATIONS} - {
        "get /openapi.json"  # the fuzzer has read it already
    }
    assert rows(approved_scene) == before
    counts("requests by the schema and against it, each answered as described", sum(asked.values()))

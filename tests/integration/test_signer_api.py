"""The signer API's own refusals: it takes three numbers, from who has logged in, at a bounded pace."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tests.release_scene import UNITS, Scene
from tests.signer_api_server import TOKEN, bearer, post, serving
from workers.signer import SignerApiError, SignerClient
from workers.signer_api.application import BODY_LIMIT_BYTES
from workers.signer_api.rate_limit import RateLimit


@pytest.fixture(name="api")
def _api(scene: Scene) -> Iterator[str]:
    with serving(scene.database) as url:
        yield url


def _good_body(scene: Scene, payment: UUID) -> dict[str, Any]:
    signature = scene.sign(payment)
    return {"y_parity": signature.y_parity, "r": f"0x{signature.r:064x}", "s": f"0x{signature.s:064x}"}


def test_the_api_takes_three_numbers_and_nothing_else(scene: Scene, api: str) -> None:
    payment = scene.payment()
    scene.run()
    path = f"/v1/instructions/{scene.instruction(payment).id}/signature"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"y_parity": 27}, "y_parity"),
        ({"y_parity": True}, "y_parity"),
        ({"y_parity": "0"}, "y_parity"),
        ({"r": "0x1"}, "r:"),
        ({"s": 5}, "s:"),
        ({"to": "0x00"}, "to"),
        ({"unsigned_bytes": "0x00"}, "unsigned_bytes"),
    ]
    for change, words in refused:
        answer = post(api, path, _good_body(scene, payment) | change)
        assert (answer.status_code, words in answer.json()["error"]) == (422, True), change
    assert scene.submissions(payment) == []


def test_the_same_signature_twice_is_one_submission_and_one_payout(scene: Scene, api: str) -> None:
    payment = scene.payment()
    scene.run()
    path = f"/v1/instructions/{scene.instruction(payment).id}/signature"
    body = _good_body(scene, payment)
    first, second = post(api, path, body), post(api, path, body)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["submission_id"] == second.json()["submission_id"]
    scene.run()
    assert post(api, path, body).json()["state"] == "accepted"
    late = post(api, path, body | {"y_parity": 1 - body["y_parity"]})
    assert late.status_code == 409
    assert "final" in late.json()["error"]
    assert scene.paid_to(payment) == UNITS


def test_a_second_signature_that_slipped_in_is_refused(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    good = scene.sign(payment)
    scene.submit(payment, good)
    scene.submit(payment, good)
    scene.run()
    assert [state for state, _ in scene.submissions(payment)] == ["accepted", "refused"]
    assert scene.paid_to(payment) == UNITS


def test_the_door_is_shut_without_a_session_and_names_its_limits(scene: Scene, api: str) -> None:
    assert httpx.get(f"{api}/healthz").json() == {"status": "ok"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = httpx.get(f"{api}/v1/instructions", headers=headers)
        assert answer.status_code == 401
    payment = scene.payment()
    scene.run()
    path = f"/v1/instructions/{scene.instruction(payment).id}"
    assert post(api, f"{path}/rejection", {"reason": "x" * 501}).status_code == 422
    assert post(api, f"{path}/rejection", {"reason": "x" * BODY_LIMIT_BYTES}).status_code == 413
    assert post(api, f"{path}/signature", None, content=b"{").status_code == 400
    assert post(api, f"{path}/signature", None, content=b"[" * 2_000).status_code == 400
    assert post(api, f"/v1/instructions/{UUID(int=1)}/signature", _good_body(scene, payment)).status_code == 404
    assert post(api, "/v1/instructions/nonsense/signature", {}).status_code == 404


def test_a_caller_in_a_hurry_is_told_to_wait(scene: Scene) -> None:
    with serving(scene.database, RateLimit(per_second=0.001, burst=2)) as url:
        answers = [httpx.get(f"{url}/v1/instructions", headers=bearer()).status_code for _ in range(3)]
    assert answers == [200, 200, 429]


def test_the_apis_role_can_do_nothing_else(scene: Scene) -> None:
    for statement in (
        "UPDATE fleet.release_instructions SET state = 'signed'",
        "UPDATE fleet.signature_submissions SET state = 'accepted'",
        "DELETE FROM fleet.signature_submissions",
        "INSERT INTO fleet.chain_transactions DEFAULT VALUES",
        "SELECT * FROM public.users",
    ):
        with (
            scene.database.engine("fleet_signer_api").connect() as connection,
            pytest.raises(ProgrammingError, match="permission denied"),
        ):
            connection.execute(text(statement))


def test_plain_http_to_another_machine_is_refused() -> None:
    with pytest.raises(SignerApiError, match="https"):
        SignerClient("http://custody.example:8481")

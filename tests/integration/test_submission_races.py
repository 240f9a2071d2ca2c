"""R1, R24: however many hand in signatures of one instruction at once, and however many workers look, it is paid once."""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from custody.releases import build
from tests.counts import ROUNDS_A_PART, Counts, declared, parts
from tests.release_scene import AMOUNT, UNITS, Scene
from tests.signer_api_server import SIGNER, post, serving

RACES = declared(ROUNDS_A_PART, 2)  # of a part
SIGNERS = 24
WORKERS = 8
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def api(scene: Scene) -> Iterator[str]:
    with serving(scene.database) as url:
        yield url


def body_of(y_parity: int, r: int, s: int) -> dict[str, Any]:
    return {"y_parity": y_parity, "r": f"0x{r:064x}", "s": f"0x{s:064x}"}


@pytest.mark.parametrize("part", parts(1_000))
def test_thirty_two_at_once_hand_in_and_look_and_the_seller_is_paid_once(
    scene: Scene, api: str, counts: Counts, part: int
) -> None:
    """Two signers' machines and their repeats, one with the malleated twin, one with another digest's signature."""
    counts("races of 24 submissions against 8 workers", RACES)
    steps = [build(scene.database.engine("fleet_releases"), scene.settings) for _ in range(WORKERS)]
    answers: Counter[int] = Counter()
    for _ in range(RACES):
        scene.empty_block()
        payment = scene.payment()
        scene.run()
        instruction = scene.instruction(payment)
        assert instruction.state == "handed_out"
        good, other = scene.sign(payment), scene.sign_hash(bytes(32))
        bodies = [
            body_of(good.y_parity, good.r, good.s),
            body_of(1 - good.y_parity, good.r, CURVE_ORDER - good.s),
            body_of(other.y_parity, other.r, other.s),
        ]
        gate = Barrier(SIGNERS + WORKERS)

        def hand_in(
            number: int, gate: Barrier = gate, bodies: list[dict[str, Any]] = bodies, path: Any = instruction.id
        ) -> int:
            gate.wait()
            # Most are the good one: who comes first is anybody's guess.
            body = bodies[{7: 1, 15: 2}.get(number, 0)]
            return post(api, f"/v1/instructions/{path}/signature", body, who=SIGNER).status_code

        def look(step: Any, gate: Barrier = gate) -> None:
            gate.wait()
            for _ in range(3):
                step.run_once(10)

        with ThreadPoolExecutor(SIGNERS + WORKERS) as pool:
            handing_in = [pool.submit(hand_in, number) for number in range(SIGNERS)]
            for done in [pool.submit(look, step) for step in steps]:
                done.result()
            answers.update(each.result() for each in handing_in)
        scene.due_now()
        scene.run()
        if scene.instruction(payment).state == "handed_out":
            # The other digest's signature came first, was refused, and the place is free again.
            scene.submit(payment, good)
            scene.run()
        assert scene.instruction(payment).state == "final"
        assert scene.paid_to(payment) == UNITS
        assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
        assert [state for state, _ in scene.submissions(payment)].count("accepted") == 1
    for step in steps:
        step.close()
    sys.stdout.write(f"part {part}: {RACES} races: {dict(answers)}\n")
    scene.require_books_equal_chain()

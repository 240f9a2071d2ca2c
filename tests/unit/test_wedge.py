"""A worker that is up but deaf is told from one that is idle, busy, or whose broker is away."""

import pytest
import redis

from workers.wedge import WEDGED_SECONDS, WedgeWatch


def looks(silent: float | None, waiting: int, times: int = 2) -> list[bool]:
    watch = WedgeWatch(lambda: silent, lambda: waiting)
    return [watch.is_wedged() for _ in range(times)]


def test_silence_with_messages_waiting_is_a_wedge_at_the_second_look() -> None:
    assert looks(WEDGED_SECONDS, 1, 3) == [False, True, True]


@pytest.mark.parametrize(("silent", "waiting"), [(WEDGED_SECONDS - 1, 5), (WEDGED_SECONDS * 10, 0), (None, 5)])
def test_a_worker_that_is_busy_idle_or_new_is_left_alone(silent: float | None, waiting: int) -> None:
    assert looks(silent, waiting, 4) == [False] * 4


def test_a_message_taken_between_two_looks_starts_the_count_anew() -> None:
    queue = iter([1, 0, 1, 1])
    watch = WedgeWatch(lambda: WEDGED_SECONDS, lambda: next(queue))
    assert [watch.is_wedged() for _ in range(4)] == [False, False, False, True]


def test_a_broker_that_is_away_is_no_wedge() -> None:
    def away() -> int:
        raise redis.ConnectionError("refused")

    watch = WedgeWatch(lambda: WEDGED_SECONDS * 2, away)
    assert [watch.is_wedged() for _ in range(3)] == [False] * 3

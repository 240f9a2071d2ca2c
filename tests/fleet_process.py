"""A process of the fleet, started by a test as the fleet starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

_T = TypeVar("_T")

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


def wait_for(what: Callable[[], _T], *, seconds: float = 60) -> _T:
    """``what()`` as soon as it is true. Fails with the last answer after ``seconds``."""
    attempts: Any = Retrying(
        retry=retry_if_result(lambda found: not found),
        wait=wait_fixed(0.05),
        stop=stop_after_delay(seconds),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    found: _T = attempts(what)
    assert found, f"not within {seconds} s; the last answer was {found!r}"
    return found


class FleetProcess:
    """``python ARGUMENTS`` with the given settings and nothing else; a session of its own, so that it dies whole."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env={name: os.environ[name] for name in INHERITED if name in os.environ} | dict(environment),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def said(self, words: str) -> bool:
        """Whether the log holds these words. Fails when the process has ended without them."""
        text = self.log.read_text(encoding="utf-8")
        if words not in text and self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}:\n{text[-3000:]}")
        return words in text

    def wait_until_it_said(self, words: str, *, seconds: float = 60) -> None:
        wait_for(lambda: self.said(words), seconds=seconds)

    def kill(self) -> None:
        """SIGKILL to it and every child, as a power cut would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=15)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

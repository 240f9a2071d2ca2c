"""A server of the embedded kind that a test owns alone: killed as a power cut would, and started again on the same data."""

import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from workers.embedded.server import EmbeddedServer, wait_until
from workers.embedded.state_folder import StateFolder


class Killable:
    """``without``: options of its command, each with its value, that are left out."""

    def __init__(self, server: EmbeddedServer, folder: Path, *, without: tuple[str, ...] = ()) -> None:
        self._server = server
        self._folder = StateFolder.open(folder)
        self._without = without
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        server.prepare(self._folder, self._port, {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._server.url(self._folder, self._port)

    def start(self, *, settled: bool = True) -> None:
        """Returns once it answers, recovery included."""
        program = self._server.program(self._folder, self._port, {})
        arguments = list(program.argv)
        for option in self._without:
            place = arguments.index(option)
            del arguments[place : place + 2]
        with (self._folder.logs / f"{self._server.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments, env={"PATH": os.defpath, **program.env}, cwd=program.cwd, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if settled:
            wait_until(self._server, self._server.answers, self.url)
            self._server.settle(self._folder, self._port)
            wait_until(self._server, self._server.probe, self.url)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


@contextmanager
def killable(server: EmbeddedServer, folder: Path, *, without: tuple[str, ...] = ()) -> Generator[Killable]:
    made = Killable(server, folder, without=without)
    try:
        yield made
    finally:
        made.kill()

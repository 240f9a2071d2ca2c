"""An Anvil of a test's own, for tests that reorganise or stop it; others share the running fleet's."""

import os
import re
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from queue import Queue

from tests.conftest import STATE_DIR
from workers.embedded import anvil
from workers.embedded.state_folder import StateFolder

START_SECONDS = 30
_LISTENING = re.compile(r"Listening on (127\.0\.0\.1:\d+)")


@contextmanager
def running_anvil(*arguments: str) -> Generator[str]:
    """Start Anvil on a port of its own choice and yield its URL once it listens."""
    folder = StateFolder.open(STATE_DIR)
    anvil.prepare(folder, 0, os.environ)
    process = subprocess.Popen(
        [
            str(anvil.binary(folder, os.environ)),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--accounts",
            "0",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    listening: Queue[str] = Queue()
    # Reads on to the end, so that a full pipe never stops the node.
    reader = threading.Thread(target=_read_lines, args=(process, listening), daemon=True)
    reader.start()
    try:
        yield f"http://{listening.get(timeout=START_SECONDS)}"
    finally:
        process.kill()
        process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()


def _read_lines(process: "subprocess.Popen[str]", listening: "Queue[str]") -> None:
    for line in process.stdout or ():
        if found := _LISTENING.search(line):
            listening.put(found[1])

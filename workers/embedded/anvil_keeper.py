"""Run Anvil and keep its chain: `python anvil_keeper.py STATE_FILE PORT INTERVAL -- ANVIL ARGS…`.

Anvil's own `--state` overwrites its file in place, so a kill in that moment would lose the chain. This
parent asks it for its state and replaces the file whole. A killed keeper takes Anvil with it (Linux), a
dead Anvil ends the keeper; the supervisor then starts both again from the file. What was mined since the
last copy is gone, like a short reorg. Standard library only: it runs without site packages.
"""

from __future__ import annotations

import ctypes
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

DUMP_SECONDS = 30
"""Longest time one copy of the state may take."""

PAUSE_FACTOR = 20
"""The pause after a copy is at least this many times what it took: a long chain costs at most 5 % of one
core."""

MAX_STATE_BYTES = 512 * 1024 * 1024
"""Largest answer accepted; a development chain that outgrows it has to be started anew."""

STOP_SECONDS = 10
"""How long Anvil may take to end on SIGTERM."""

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def read_state(port: int) -> bytes:
    """Anvil's chain as the JSON text that `--load-state` takes; OSError when it does not answer in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DUMP_SECONDS)
    try:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "anvil_dumpState", "params": [False]})
        connection.request("POST", "/", body, {"content-type": "application/json"})
        answer = connection.getresponse().read(MAX_STATE_BYTES + 1)
    finally:
        connection.close()
    if len(answer) > MAX_STATE_BYTES:
        msg = f"the chain's state is larger than {MAX_STATE_BYTES} bytes"
        raise OSError(msg)
    return gzip.decompress(bytes.fromhex(json.loads(answer)["result"].removeprefix("0x")))


def keep(state: Path, port: int) -> None:
    """Replace the file STATE by the chain as it is now, whole or not at all."""
    _replace(state, read_state(port))


def keep_first_genesis(state: Path) -> None:
    """Take every block 0 but the oldest out of the file STATE.

    Anvil makes a new block 0 at each start and hands all of them out with its state; loaded, any of them may become the
    genesis block, and with it the chain another chain (R17).
    """
    content = json.loads(state.read_text(encoding="utf-8"))
    first = [block for block in content["blocks"] if int(block["header"]["number"], 16) == 0]
    if len(first) < 2:
        return
    oldest = min(first, key=lambda block: int(block["header"]["timestamp"], 16))
    content["blocks"] = [oldest] + [block for block in content["blocks"] if block not in first]
    _replace(state, json.dumps(content).encode())


def _replace(state: Path, content: bytes) -> None:
    temporary = state.with_name(f".{state.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(state)


def _try_to_keep(state: Path, port: int) -> None:
    try:
        keep(state, port)
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        sys.stderr.write(f"the chain was not copied to {state}: {type(error).__name__}: {error}\n")


def main(arguments: list[str]) -> int:
    """Run Anvil until it ends or this process is told to; return the exit code."""
    cut = arguments.index("--")
    state, port, interval = Path(arguments[0]), int(arguments[1]), float(arguments[2])
    command = arguments[cut + 1 :]
    if state.exists():
        keep_first_genesis(state)
        command += ["--load-state", str(state)]
    anvil = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no thread yet
    stopping, ended = threading.Event(), threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopping.set()
        ended.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def watch() -> None:
        anvil.wait()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    pause = interval
    while not ended.wait(pause):
        begun = time.monotonic()
        _try_to_keep(state, port)
        pause = max(interval, PAUSE_FACTOR * (time.monotonic() - begun))
    if not stopping.is_set():
        return 1
    _try_to_keep(state, port)
    anvil.terminate()
    try:
        anvil.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        anvil.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

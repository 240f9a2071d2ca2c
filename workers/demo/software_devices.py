"""The software Trezors of a demo: each a process of its own that alone knows its seed."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from workers.embedded.trezor_device import Model

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 20.0


@contextmanager
def software_device(state_dir: Path, seed_file: Path, name: str, model: Model = Model.ONE) -> Generator[str]:
    """A device over the seed in ``seed_file``, whose buttons press themselves; yields its path. Ends with the block."""
    ready = state_dir / f"software_device_{name}.json"
    ready.unlink(missing_ok=True)
    with (state_dir / "logs" / f"software_device_{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "workers.embedded.trezor_device"),
                *("--seed-file", str(seed_file), "--press", "yes", "--ready-file", str(ready), "--model", model.value),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the software device of {name} did not start; see its log in {state_dir / 'logs'}")
            time.sleep(0.05)
        yield str(json.loads(ready.read_text(encoding="utf-8"))["path"])
    finally:
        end(process)
        ready.unlink(missing_ok=True)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process of ours to end, and make sure that it does."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""Where the tests' servers keep their data: in memory where there is enough, since databases come and go with each test."""

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
FREE_BYTES_MINIMUM: Final = 6 * 2**30
"""A run of three processes needs about 2 GB; less free memory than this is left to others."""

PROCESS: Final = os.environ.get("PYTEST_XDIST_WORKER", "")
"""The name of this pytest process, empty where there is one alone: each has servers of its own."""


def state_folder(name: str, variable: str) -> Path:
    """The state folder ``name`` of this process: below the path in ``variable`` if it is set, else in memory or ``.fleet``.

    Packages that are fetched are kept in the checkout, and shared by all processes and runs.
    """
    given = os.environ.get(variable)
    kept = Path(".fleet").resolve()
    in_memory = MEMORY / f"amanat-fleet-{os.getuid()}-{sha256(str(kept).encode()).hexdigest()[:12]}"
    has_room = MEMORY.is_dir() and (in_memory.exists() or shutil.disk_usage(MEMORY).free >= FREE_BYTES_MINIMUM)
    folder = (Path(given).resolve() if given else (in_memory if has_room else kept) / name) / PROCESS
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    share_packages(folder)
    return folder


def share_packages(folder: Path) -> None:
    """Have a state folder use the npm packages that the checkout's tests have fetched already."""
    packages = Path(".fleet").resolve() / "test-packages"
    packages.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "npm").exists():
        (folder / "npm").symlink_to(packages)


def forget(folder: Path) -> None:
    """Give the memory back, once nothing runs there any more. What lies on a disk stays for who looks after the failure."""
    if folder.is_relative_to(MEMORY):
        shutil.rmtree(folder)

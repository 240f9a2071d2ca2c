"""Where the embedded services keep what they keep.

One folder (default `./.fleet`, mode 0700) holds data, secrets, logs and records. Unix sockets live in a
short folder beside it, because a socket's path is limited to about 100 bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from workers.embedded.errors import EmbeddedServiceError, StateFolderBusyError

LOCK_SECONDS = 120.0
"""Longest wait for another command on the same folder: one cold start on a slow machine, with margin."""

LOCK_POLL_SECONDS = 0.05
"""How often a taken lock is tried again; flock has no timeout of its own."""

SECRET_BYTES = 24
"""Random bytes of a generated password: 192 bits."""

SOCKET_PATH_BYTES = 100
"""Longest path of a unix socket that every platform takes (macOS: 104 with its NUL, Linux: 108)."""

PASSED_THROUGH = 0o711
"""The folder's mode where PostgreSQL has to run as another user: it may be passed through, not listed."""

_UNSAFE_IN_PATH = frozenset("\n\r;#\"'\\")


@dataclass(frozen=True)
class StateFolder:
    """The folders of one fleet. Make it with `StateFolder.open`."""

    root: Path
    run: Path

    @classmethod
    def open(cls, state_dir: Path | str) -> StateFolder:
        """Create (mode 0700) and return the folder; EmbeddedServiceError if its path or owner cannot be
        used."""
        root = Path(state_dir).expanduser().resolve()
        if _UNSAFE_IN_PATH.intersection(str(root)):
            msg = (
                f"The state folder {str(root)!r} has a quote, backslash, line break, ';' or '#' in its "
                "path, which "
                "the supervisor's configuration cannot hold; set FLEET_STATE_DIR to a plainer path."
            )
            raise EmbeddedServiceError(msg)
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(root.stat().st_mode) != PASSED_THROUGH:
            root.chmod(0o700)
        run = run_folder(root)
        folder = cls(root, run)
        for path in (folder.logs, folder.programs.parent, folder.programs, folder.records):
            path.mkdir(exist_ok=True, mode=0o700)
        return folder

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def programs(self) -> Path:
        """One file a supervised program: its arguments and environment, mode 0600."""
        return self.root / "supervision" / "programs"

    @property
    def records(self) -> Path:
        """One file a started process: its pid and start time, written by the process itself."""
        return self.root / "supervision" / "records"

    @property
    def mark(self) -> str:
        """What this folder's processes carry in their environment, so that they can be told from others'."""
        return _digest(self.root)

    def data(self, name: str) -> Path:
        """A service's own folder, mode 0700."""
        path = self.root / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path

    @contextmanager
    def lock(self, name: str, seconds: float = LOCK_SECONDS) -> Generator[None]:
        """Hold the lock NAME across processes and threads; StateFolderBusyError after `seconds`."""
        with file_lock(self.root / f"{name}.lock", seconds):
            yield


def run_folder(root: Path) -> Path:
    """The short folder for sockets, `$TMPDIR/fleet-<uid>-<8 hex>`, mode 0700 and ours, or
    EmbeddedServiceError."""
    path = Path(tempfile.gettempdir()) / f"fleet-{os.geteuid()}-{_digest(root)[:8]}"
    path.mkdir(exist_ok=True, mode=0o700)
    found = path.lstat()
    # Anyone may create names in /tmp: a link or somebody else's folder here would be handed our sockets.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        msg = f"{path} must be a folder of this user with mode 0700, and is not; remove it or set TMPDIR."
        raise EmbeddedServiceError(msg)
    longest = path / "supervisor.sock"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES:
        msg = f"The socket path {longest} is longer than {SOCKET_PATH_BYTES} bytes; set TMPDIR to a shorter one."
        raise EmbeddedServiceError(msg)
    return path


@contextmanager
def file_lock(path: Path, seconds: float = LOCK_SECONDS) -> Generator[None]:
    """Hold an exclusive lock on PATH; StateFolderBusyError if another holder keeps it longer than
    `seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        attempts = Retrying(
            stop=stop_after_delay(seconds),
            wait=wait_fixed(LOCK_POLL_SECONDS),
            retry=retry_if_exception_type(BlockingIOError),
        )
        try:
            attempts(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except RetryError:
            msg = f"Another command has held {path} for {seconds:.0f} s; wait for it or end it, then try again."
            raise StateFolderBusyError(msg) from None
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write TEXT to PATH with mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def secret(path: Path) -> str:
    """The secret kept in PATH (mode 0600), made on first use. It has letters, digits, '-' and '_' only."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(SECRET_BYTES))
    return path.read_text(encoding="utf-8").strip()


def _digest(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]

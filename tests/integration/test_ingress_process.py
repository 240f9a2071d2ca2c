"""The ingress as a process: what it answered with 200 outlives a kill -9, and wrong settings end it with 2."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from sqlalchemy import text
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.conftest import Database
from tests.webhooks import SECRET, body_of, closed_port, signed_headers, write_secrets

COMMAND = [sys.executable, "-m", "workers.ingress"]
ACKNOWLEDGED_BEFORE_KILL = 100


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **{name.upper(): value for name, value in settings.items()}}


def test_what_was_answered_with_200_outlives_a_kill(database: Database, tmp_path: Path) -> None:
    port = closed_port()
    process = subprocess.Popen(
        COMMAND,
        env=environment(
            database_url=database.url("fleet_ingress"),
            request_network_webhook_secrets_file=str(write_secrets(tmp_path / "secrets", SECRET)),
            ingress_port=str(port),
        ),
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    acknowledged: set[str] = set()
    enough = threading.Event()

    def deliver(worker: int) -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
            for n in range(100_000):
                key = f"{worker}-{n}"
                body = body_of({"event": "payment.failed", "key": key})
                headers = signed_headers(body, delivery=key)
                try:
                    answer = client.post("/webhooks/request-network", content=body, headers=headers)
                except httpx.TransportError:
                    return  # killed
                assert answer.status_code == 200
                acknowledged.add(key)
                if len(acknowledged) >= ACKNOWLEDGED_BEFORE_KILL:
                    enough.set()

    try:
        with ThreadPoolExecutor(8) as pool:
            for attempt in Retrying(
                retry=retry_if_exception_type(httpx.TransportError),
                wait=wait_fixed(0.05),
                stop=stop_after_delay(30),
                reraise=True,
            ):
                with attempt:
                    assert httpx.get(f"{url}/healthz", trust_env=False, timeout=20).status_code == 200
            running = [pool.submit(deliver, worker) for worker in range(8)]
            assert enough.wait(60)
            process.send_signal(signal.SIGKILL)
            for one in running:
                one.result()
    finally:
        process.kill()
        process.wait(20)
    with database.engine().connect() as connection:
        journalled = set(connection.execute(text("SELECT delivery_key FROM fleet.webhook_deliveries")).scalars())
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_KILL
    assert acknowledged <= journalled


def test_a_missing_setting_ends_it_with_its_name() -> None:
    ended = subprocess.run(COMMAND, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "DATABASE_URL is not set" in ended.stderr
    assert "Traceback" not in ended.stderr

"""Webhooks as Request Network sends them, and a running ingress to send them to."""

import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn

from custody.providers.request_network.signature import sign
from custody.settings.environment import load_settings
from workers.ingress.server import configure

SECRET = "5e" * 32
OLD_SECRET = "01" * 32


def paying_event(
    request_id: str | None,
    reference: str | None,
    transaction_hash: str | None,
    *,
    event: str = "payment.confirmed",
    **fields: Any,
) -> dict[str, Any]:
    """The official sample of payment.confirmed, with our payment's names."""
    return {
        "event": event,
        "requestId": request_id,
        "requestID": request_id,
        "paymentReference": reference,
        "explorer": "https://scan.request.network/request/01",
        "amount": "100.0",
        "totalAmountPaid": "100.0",
        "expectedAmount": "100.0",
        "timestamp": "2026-01-12T16:01:00.000Z",
        "txHash": transaction_hash,
        "payerAddress": None,
        "network": "private",
        "currency": "USDC",
        "paymentCurrency": "USDC",
        "isCryptoToFiat": False,
        "subStatus": "",
        "paymentProcessor": "request-network",
        "fees": [{"type": "network", "amount": "0.02", "currency": "ETH"}],
    } | fields


def body_of(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def signed_headers(body: bytes, *, secret: str = SECRET, delivery: str | None = None) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "x-request-network-signature": sign(body, secret),
        "x-request-network-delivery": delivery or uuid4().hex,
        "x-request-network-retry-count": "0",
    }


def write_secrets(path: Path, *secrets: str) -> Path:
    path.write_text("".join(f"{secret}\n" for secret in secrets), encoding="utf-8")
    path.chmod(0o600)
    return path


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def running_ingress(database_url: str, secrets_file: Path, **settings: Any) -> Generator[str]:
    """The ingress with uvicorn in a thread; its base URL."""
    config = configure(
        load_settings(database_url=database_url, request_network_webhook_secrets_file=secrets_file, **settings)
    )
    server = _Server(config)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert server.ready.wait(20), "the ingress did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the ingress did not stop"

"""The webhook that takes alarms: one signed POST a batch, answered with any 2xx.

    X-Amanat-Signature: t=UNIX_SECONDS,v1=HEX     HEX = HMAC-SHA256(secret, "UNIX_SECONDS." + body)

A receiver computes the same over the raw body, compares in constant time, refuses what is older than
REPLAY_WINDOW_SECONDS, and ignores an alarm's id that it has seen: what it did not answer in time comes again.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from custody.alarms.rows import Alarm
from custody.providers.hmac_signature import sign
from custody.settings.environment import SettingsError, read_secret_file
from custody.store.engine import forbid_inside_transaction

SIGNATURE_HEADER: Final = "x-amanat-signature"
REPLAY_WINDOW_SECONDS: Final = 300
"""What a receiver is to refuse: each try is signed anew, so a fresh one is never older than clocks differ."""
TIMEOUT_SECONDS: Final = 5.0  # for connecting, sending and the answer's first bytes, each
BODY_LIMIT_BYTES: Final = 65_536
_SECRET: Final = re.compile(r"[\x21-\x7e]{32,256}")


class NotDelivered(Exception):
    """The receiver did not take the batch. The message says what it did, and shows neither its URL nor the secret."""


def read_alarm_secret(path: Path) -> str:
    """The secret in ``path``. Raises SettingsError."""
    secret = read_secret_file(path, what="ALARM_WEBHOOK_SECRET_FILE")
    if not _SECRET.fullmatch(secret):
        raise SettingsError(
            "ALARM_WEBHOOK_SECRET_FILE: expected one line of 32 to 256 printable ASCII characters without blanks; "
            "make one with: openssl rand -hex 32"
        )
    return secret


def as_document(alarm: Alarm) -> dict[str, Any]:
    """An alarm as the receiver and ``fleet alarms --json`` have it."""
    return {
        "id": str(alarm.id),
        "kind": alarm.kind,
        "subject": {"kind": alarm.subject_kind, "id": alarm.subject_id},
        "sentence": alarm.said,
        "payment_id": alarm.payment,
        "raised_at": alarm.raised_at.astimezone(UTC).isoformat(),
    }


def body_of(batch: Sequence[Alarm], *, environment: str, open_alarms: int) -> tuple[bytes, int]:
    """The body with as many of the batch, from its first on, as BODY_LIMIT_BYTES takes; and how many those are."""
    count = len(batch)
    while True:
        body = json.dumps(
            {
                "environment": environment,
                "open": open_alarms,
                "alarms": [as_document(each) for each in batch[:count]],
            },
            separators=(",", ":"),
        ).encode("ascii")
        if len(body) <= BODY_LIMIT_BYTES or count == 1:
            return body, count
        count = max(1, count // 2)


class AlarmWebhook:
    """Posts batches of alarms to one URL. ``secret`` signs them; ``environment`` says whose alarms they are."""

    def __init__(self, url: str, secret: str, *, environment: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._secret = secret
        self._environment = environment
        self._timeout_seconds = timeout_seconds
        # No redirect: alarms go to nobody else. No connection kept: one that is idle for hours is dead when needed.
        self._client = httpx.Client(
            trust_env=False,
            timeout=timeout_seconds,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
        )

    def post(self, batch: Sequence[Alarm], *, open_alarms: int, now: datetime) -> int:
        """Post the first of the batch, oldest first; how many the receiver took. Raises NotDelivered."""
        forbid_inside_transaction("the alarms' webhook")
        body, count = body_of(batch, environment=self._environment, open_alarms=open_alarms)
        at = str(int(now.timestamp()))
        headers = {
            "content-type": "application/json",
            SIGNATURE_HEADER: f"t={at},v1={sign(at.encode('ascii') + b'.' + body, self._secret)}",
        }
        try:
            # The answer's body is nobody's: it is not read.
            with self._client.stream("POST", self._url, content=body, headers=headers) as answer:
                status = answer.status_code
        except httpx.TimeoutException:
            raise NotDelivered(f"the webhook gave no answer within {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotDelivered(f"the webhook cannot be reached: {type(error).__name__}") from None
        if not 200 <= status <= 299:
            raise NotDelivered(f"the webhook answered with status {status}; expected 2xx")
        return count

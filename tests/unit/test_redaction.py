"""Keys stay out of logs; keys and money stay out of what goes to Sentry."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from custody.settings.redaction import MASK, is_key_name, is_money_name, without_keys_and_money, without_passwords
from workers.telemetry.logging import configure_logging

PRIVATE_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.mark.parametrize(
    "name",
    ["private_key", "gasPayerKey", "DATABASE_PASSWORD", "deposit_seed", "mnemonic", "x-api-key", "Authorization",
     "signer_api_token", "webhook_secret", "sentry_dsn", "passphrase", "xprv"],
)  # fmt: skip
def test_names_of_keys(name: str) -> None:
    assert is_key_name(name)


@pytest.mark.parametrize(
    "name",
    ["token", "token_address", "idempotency_key", "delivery_key", "payment_id", "transaction_hash", "lease_token"],
)
def test_names_that_people_need_to_read(name: str) -> None:
    assert not is_key_name(name)


def test_names_of_money() -> None:
    assert all(is_money_name(name) for name in ("amount", "amount_units", "value_wei", "maxTotalFee", "held"))
    assert not any(is_money_name(name) for name in ("payment_id", "chain_id", "attempts"))


def test_passwords_in_urls() -> None:
    text = "cannot reach postgresql://fleet_relay:hunter2@db:5432/amanat or redis://:p%40ss@v:6379/0"
    assert without_passwords(text) == (
        f"cannot reach postgresql://fleet_relay:{MASK}@db:5432/amanat or redis://:{MASK}@v:6379/0"
    )


def test_texts_for_a_third_party() -> None:
    phrase = "legal winner thank year wave sausage worth useful legal winner thank yellow"
    cleaned = without_keys_and_money(
        f"0x{PRIVATE_KEY} {phrase}; refused 1250.75 USDC, 1250750000 units, chain 31337\n"
        "DETAIL:  Failing row contains (7, 99).\nhttps://node.example/v3/0123456789abcdef0123 away"
    )
    for secret in (PRIVATE_KEY, phrase, "1250", "99", "0123456789abcdef"):
        assert secret not in cleaned
    assert "chain 31337" in cleaned
    assert "https://node.example/" in cleaned


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process logs, as JSON."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(level="info", log_format="json")
    yield stream
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = before
    root.setLevel(level)


def test_a_log_line_is_one_json_event_with_its_context_and_without_keys(lines: io.StringIO) -> None:
    log: Any = structlog.get_logger("custody.releases")
    with structlog.contextvars.bound_contextvars(task_id="t-1", payment_id="p-1"):
        log.info("release_reserved", private_key=PRIVATE_KEY, where={"seed": ["a", "b"], "url": "redis://:pw@h/0"})
        logging.getLogger("a.library").warning("lost %s", "redis://:pw@h/0")
        log.debug("not_at_this_level")
        try:
            raise ValueError("redis://:pw@h/0")
        except ValueError:
            log.exception("step_failed")
    rows = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [row["event"] for row in rows] == ["release_reserved", f"lost redis://:{MASK}@h/0", "step_failed"]
    assert all((row["task_id"], row["payment_id"]) == ("t-1", "p-1") for row in rows)
    assert rows[0]["where"] == {"seed": MASK, "url": f"redis://:{MASK}@h/0"}
    assert "ValueError" in rows[2]["exception"]
    assert PRIVATE_KEY not in lines.getvalue()
    assert ":pw@" not in lines.getvalue()

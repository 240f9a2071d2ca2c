"""Verification: journalled deliveries are linked to payments, and looks at transactions asked for (L20).

Nothing is posted here: the watcher's ``detect()`` credits what the chain holds. Each delivery ends in a state
of its own with a reason an operator can read, whoever sent it and whatever its body was.
"""

from collections import defaultdict
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from custody.providers.events import MalformedEvent
from custody.providers.interface import Named
from custody.providers.table import BY_NAME
from custody.providers.verdict import Verdict
from custody.store.engine import attempts, is_retryable, transaction
from custody.store.work import backoff_seconds, bury

log = structlog.get_logger(__name__)

WORK_ATTEMPTS_LIMIT: Final = 20  # tries of a row before an operator is asked; the setting's default
_ERROR_LIMIT: Final = 500  # characters of an error that are kept with its row
# What a row's content or its write can raise. A worker's time limit is not among them: it ends the batch.
_ROW_ERRORS: Final = (
    SQLAlchemyError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

_CLAIM: Final = text(
    """
    SELECT id, provider, body, is_test, attempts FROM fleet.webhook_deliveries
    WHERE state = 'received' AND run_after <= clock_timestamp()
    ORDER BY run_after, id LIMIT :limit FOR UPDATE SKIP LOCKED
    """
)
# A look that found nothing is worth another try once its transaction is named again; one that is done, or
# waits its turn, is not disturbed, however often the same delivery is sent.
_LOOK: Final = text(
    """
    INSERT INTO fleet.chain_looks (chain_id, transaction_hash, payment_id, requested_by)
    VALUES (:chain_id, :transaction_hash, :payment_id, 'webhook')
    ON CONFLICT (chain_id, transaction_hash) DO UPDATE
    SET state = 'due', attempts = 0, run_after = clock_timestamp(), updated_at = clock_timestamp(),
        payment_id = COALESCE(chain_looks.payment_id, excluded.payment_id)
    WHERE chain_looks.state IN ('missing', 'nothing_of_ours')
    """
)
_SETTLE: Final = text(
    """
    UPDATE fleet.webhook_deliveries
    SET state = :state, reason = :reason, event = :event, payment_id = :payment_id, last_error = NULL,
        look_id = (SELECT id FROM fleet.chain_looks WHERE chain_id = :chain_id AND transaction_hash = :transaction_hash),
        processed_at = clock_timestamp()
    WHERE id = :id
    """
)
_POSTPONE: Final = text(
    """
    UPDATE fleet.webhook_deliveries
    SET attempts = :attempts, last_error = :error,
        run_after = clock_timestamp() + make_interval(secs => :seconds)
    WHERE id = :id
    """
)
_DIE: Final = text(
    """
    UPDATE fleet.webhook_deliveries
    SET state = 'dead', attempts = :attempts, last_error = :error, reason = :reason,
        processed_at = clock_timestamp()
    WHERE id = :id
    """
)


def run_once(engine: Engine, limit: int, *, attempts_limit: int = WORK_ATTEMPTS_LIMIT) -> int:
    """Verify up to ``limit`` due deliveries in one transaction; how many were taken (0: none is due).

    A row that fails unexpectedly is undone alone, tried again later, and after ``attempts_limit`` tries is
    dead and shown to an operator. A deadlock repeats the batch (L17). Raises DBAPIError without a database.
    """
    for attempt in attempts():
        try:
            with transaction(engine) as connection:
                return _run_batch(connection, limit, attempts_limit)
        except DBAPIError as error:
            if not is_retryable(error):
                raise
            log.info("verification_repeated", attempt=attempt)
    return 0


def _run_batch(connection: Connection, limit: int, attempts_limit: int) -> int:
    claimed = connection.execute(_CLAIM, {"limit": limit}).all()
    verdicts: list[tuple[Row[Any], Verdict]] = []
    failed: list[tuple[Row[Any], Exception]] = []
    events: defaultdict[str, list[tuple[Row[Any], Named]]] = defaultdict(list)
    for row in claimed:
        try:
            event = _read(row)
        except _ROW_ERRORS as error:
            failed.append((row, error))
            continue
        if isinstance(event, Verdict):
            verdicts.append((row, event))
        else:
            events[row.provider].append((row, event))
    for name, read in events.items():
        found = BY_NAME[name].link(connection, [event for _, event in read])
        verdicts.extend((row, verdict) for (row, _), verdict in zip(read, found, strict=True))
    # Two batches that ask for the same looks in the same order cannot deadlock.
    verdicts.sort(key=_lock_order)
    for row, verdict in verdicts:
        error = _settled_alone(connection, row.id, verdict)
        if error is not None:
            failed.append((row, error))
        else:
            log.info(
                "delivery_verified",
                delivery_id=str(row.id),
                state=verdict.state,
                webhook_event=verdict.event,
                payment_id=str(verdict.payment_id) if verdict.payment_id else None,
            )
    for row, error in failed:
        _give_back(connection, row, error, attempts_limit)
    return len(claimed)


def _read(row: Row[Any]) -> Named | Verdict:
    """The event in a delivery, or what becomes of the delivery without one."""
    provider = BY_NAME.get(row.provider)
    if provider is None:
        raise LookupError(f"no provider is called {row.provider}: expected one of {', '.join(BY_NAME)}")
    try:
        event = provider.parse(row.body)
    except MalformedEvent as error:
        return Verdict("test" if row.is_test else "malformed", str(error))
    return Verdict("test", "a test delivery: moves no money", event.event) if row.is_test else event


def _settled_alone(connection: Connection, delivery_id: UUID, verdict: Verdict) -> Exception | None:
    """Write one verdict behind a savepoint of its own; the error that undid it, or None.

    Raises what is not the row's fault: a lost connection, or a lock that the batch is repeated for.
    """
    try:
        with connection.begin_nested():
            _settle(connection, delivery_id, verdict)
    except _ROW_ERRORS as error:
        if isinstance(error, DBAPIError) and (error.connection_invalidated or is_retryable(error)):
            raise
        return error
    return None


def _lock_order(item: tuple[Row[Any], Verdict]) -> tuple[int, str]:
    look = item[1].look
    return (look.chain_id, look.transaction_hash) if look is not None else (0, "")


def _settle(connection: Connection, delivery_id: UUID, verdict: Verdict) -> None:
    look = verdict.look
    named = {
        "chain_id": look.chain_id if look else None,
        "transaction_hash": look.transaction_hash if look else None,
    }
    if look is not None:
        connection.execute(_LOOK, named | {"payment_id": look.payment_id})
    connection.execute(
        _SETTLE,
        named
        | {
            "id": delivery_id,
            "state": verdict.state,
            "reason": verdict.reason,
            "event": verdict.event,
            "payment_id": verdict.payment_id,
        },
    )


def _give_back(connection: Connection, row: Row[Any], error: Exception, attempts_limit: int) -> None:
    tried = row.attempts + 1
    said = f"{type(error).__name__}: {error}".replace("\x00", "?")[:_ERROR_LIMIT]
    log.error("delivery_failed", delivery_id=str(row.id), attempts=tried, error=type(error).__name__)
    if tried < attempts_limit:
        connection.execute(
            _POSTPONE, {"id": row.id, "attempts": tried, "error": said, "seconds": backoff_seconds(tried)}
        )
        return
    reason = f"verification failed {tried} times, last with {said}"
    connection.execute(_DIE, {"id": row.id, "attempts": tried, "error": said, "reason": reason})
    bury(
        connection,
        queue="webhooks",
        subject_kind="webhook_delivery",
        subject_id=row.id,
        reason=reason,
        unblocks="repair what the error names, then set the delivery back to state received with attempts 0",
        attempts=tried,
    )

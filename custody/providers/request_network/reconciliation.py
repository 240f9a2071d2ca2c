"""Reconciliation: what Request Network's API lists becomes hints, since a webhook is dropped after about 21 s.

One step is one page: read where the last one ended, ask, then journal what is new and move on in one transaction. A
stop loses nothing; a page that is read twice is journalled once. Windows overlap, because payments appear late.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.providers.delivery import Delivery
from custody.providers.request_network import PAYMENTS
from custody.providers.request_network.listed_payments import journal_entry
from custody.providers.request_network.payments_api import KINDS, ApiAway, Page, PaymentsApi
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

FIRST_WINDOW: Final = timedelta(days=7)  # how far back the first run looks
OVERLAP: Final = timedelta(hours=2)  # an indexer of theirs was seen 15 minutes behind
WINDOW_MAXIMUM: Final = timedelta(days=1)  # beside the overlap
RECENT: Final = timedelta(minutes=1)  # what is younger is left to its webhook
OFFSET_LIMIT: Final = 100_000  # payments of one kind in a window; more is an API that never ends
_ERROR_LIMIT: Final = 500  # characters

_BEGIN: Final = text(
    "INSERT INTO fleet.reconciliation_cursors (source, reconciled_to) VALUES (:source, :to) ON CONFLICT DO NOTHING"
)
_READ: Final = text(
    """
    SELECT reconciled_to, window_from, window_to, kind_index, page_offset, version
    FROM fleet.reconciliation_cursors WHERE source = :source
    """
)
_MOVE: Final = text(
    """
    UPDATE fleet.reconciliation_cursors
    SET reconciled_to = :reconciled_to, window_from = :window_from, window_to = :window_to, kind_index = :kind_index,
        page_offset = :page_offset, version = version + 1, failing_since = NULL, last_error = NULL,
        updated_at = clock_timestamp()
    WHERE source = :source AND version = :version
    """
)
_FAIL: Final = text(
    """
    UPDATE fleet.reconciliation_cursors
    SET failing_since = coalesce(failing_since, clock_timestamp()), last_error = :said, updated_at = clock_timestamp()
    WHERE source = :source
    """
)
_JOURNAL: Final = text(
    """
    WITH journalled AS (
        INSERT INTO fleet.webhook_deliveries (provider, delivery_key, body_sha256, headers, body, is_test)
        SELECT :source, given.delivery_key, given.body_sha256, '{}', given.body, false
        FROM unnest(CAST(:keys AS text[]), CAST(:digests AS bytea[]), CAST(:bodies AS bytea[]))
            AS given (delivery_key, body_sha256, body)
        WHERE NOT EXISTS (
            SELECT FROM fleet.webhook_deliveries known
            WHERE known.provider = :source AND known.delivery_key = given.delivery_key)
        ON CONFLICT DO NOTHING
        RETURNING 1
    ), rung AS (
        INSERT INTO fleet.outbox (queue) SELECT 'webhooks' WHERE EXISTS (SELECT FROM journalled)
    )
    SELECT count(*) FROM journalled
    """
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which window the next page is."""

    reconciled_to: datetime
    window: tuple[datetime, datetime]
    kind_index: int
    page_offset: int
    version: int

    def after(self, page: Page) -> dict[str, object]:
        """The cursor once that page is journalled."""
        place: dict[str, object] = {
            "reconciled_to": self.reconciled_to,
            "window_from": self.window[0],
            "window_to": self.window[1],
            "kind_index": self.kind_index,
            "page_offset": 0,
            "version": self.version,
            "source": PAYMENTS,
        }
        if page.has_more:
            return place | {"page_offset": self.page_offset + len(page.payments)}
        if self.kind_index + 1 < len(KINDS):
            return place | {"kind_index": self.kind_index + 1}
        return place | {"reconciled_to": self.window[1], "window_from": None, "window_to": None, "kind_index": 0}


def reconcile(engine: Engine, api: PaymentsApi, now: Callable[[], datetime]) -> int:
    """Read one page and journal what is new in it. 1 if there was a page to read, 0 if nothing is due or the API is away.

    ``now``: the present time, with a time zone.
    """
    with transaction(engine) as connection:
        place = _next_place(connection, now())
    if place is None:
        return 0
    try:
        if place.page_offset > OFFSET_LIMIT:
            raise ApiAway(f"it lists more than {OFFSET_LIMIT} payments of one kind in a window", may_pass=False)
        page = api.page(KINDS[place.kind_index], place.window, place.page_offset)
    except ApiAway as error:
        log.warning("payments_not_listed", reason=str(error), window_from=place.window[0].isoformat())
        with transaction(engine) as connection:
            connection.execute(_FAIL, {"source": PAYMENTS, "said": str(error)[:_ERROR_LIMIT]})
        return 0
    entries = [journal_entry(payment) for payment in page.payments]
    with transaction(engine) as connection:
        if connection.execute(_MOVE, place.after(page)).rowcount == 0:
            return 0  # another worker read this page: what it found is journalled
        new = _journal(connection, entries)
    log.info("payments_listed", payments=len(entries), new=new, kind=KINDS[place.kind_index])
    return 1


def _next_place(connection: Connection, now: datetime) -> _Place | None:
    connection.execute(_BEGIN, {"source": PAYMENTS, "to": now - FIRST_WINDOW})
    row = connection.execute(_READ, {"source": PAYMENTS}).one()
    if row.window_from is not None:
        # A version of the fleet with fewer kinds may have gone before.
        kind_index = row.kind_index if row.kind_index < len(KINDS) else 0
        window = (row.window_from, row.window_to)
        return _Place(row.reconciled_to, window, kind_index, row.page_offset, row.version)
    if now - row.reconciled_to < RECENT:
        return None
    window = (row.reconciled_to - OVERLAP, min(now, row.reconciled_to + WINDOW_MAXIMUM))
    return _Place(row.reconciled_to, window, 0, 0, row.version)


def _journal(connection: Connection, entries: list[Delivery]) -> int:
    # In the order of their keys: two that write the same ones cannot deadlock.
    ordered = sorted(entries, key=lambda entry: (entry.key, entry.body_sha256))
    return connection.execute(
        _JOURNAL,
        {
            "source": PAYMENTS,
            "keys": [entry.key for entry in ordered],
            "digests": [entry.body_sha256 for entry in ordered],
            "bodies": [entry.body for entry in ordered],
        },
    ).scalar_one()

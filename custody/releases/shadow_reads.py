"""Where a domain is written to both stores (``REPO_<DOMAIN>=dual``), MongoDB decides and Postgres is read beside it.

What the two say is compared each time and counted: a domain is cut over only when they agreed. A shadow decides nothing
and delays nothing but its own count.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from custody.cutovers import Domain
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

SHOWN_CHARACTERS: Final = 500  # of what each store said of the last difference

_COUNT: Final = text(
    """
    INSERT INTO fleet.shadow_reads AS s (domain, compared, mismatched, agreed, last_mismatch, last_mismatch_at)
    VALUES (:domain, :compared, :mismatched, CASE WHEN :mismatched > 0 THEN 0 ELSE :compared END, :last,
        CASE WHEN :mismatched > 0 THEN clock_timestamp() END)
    ON CONFLICT (domain) DO UPDATE SET
        compared = s.compared + excluded.compared, mismatched = s.mismatched + excluded.mismatched,
        agreed = CASE WHEN excluded.mismatched > 0 THEN 0 ELSE s.agreed + excluded.compared END,
        last_mismatch = coalesce(excluded.last_mismatch, s.last_mismatch),
        last_mismatch_at = coalesce(excluded.last_mismatch_at, s.last_mismatch_at), updated_at = clock_timestamp()
    """
)


def compare(engine: Engine, domain: Domain, mongo: Mapping[UUID, object], postgres: Mapping[UUID, object]) -> int:
    """Count how many payments' answers were compared, and return how many differ. Never raises for the database."""
    differing = [payment for payment, said in mongo.items() if postgres.get(payment) != said]
    last: dict[str, Any] | None = None
    if differing:
        payment = differing[-1]
        last = {
            "payment": str(payment),
            "mongo": str(mongo[payment])[:SHOWN_CHARACTERS],
            "postgres": str(postgres.get(payment))[:SHOWN_CHARACTERS],
        }
        log.warning("shadow_read_differs", domain=domain, payments=len(differing), payment_id=str(payment))
    try:
        with transaction(engine) as connection:
            connection.execute(
                _COUNT,
                {
                    "domain": domain,
                    "compared": len(mongo),
                    "mismatched": len(differing),
                    "last": None if last is None else Jsonb(last),
                },
            )
    except DBAPIError as error:
        log.warning("shadow_reads_not_counted", domain=domain, error=type(error.orig).__name__)
    return len(differing)

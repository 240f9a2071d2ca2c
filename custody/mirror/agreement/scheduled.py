"""Verification by the schedule: one range of one collection a ring, so that mirroring never waits long for it."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from pymongo.database import Database
from sqlalchemy import Connection, Engine, text

from custody.mirror.agreement import keeping
from custody.mirror.agreement.digests import Range, digest_documents, digest_rows, nameless, next_range
from custody.mirror.agreement.keeping import Counts
from custody.mirror.agreement.plan import Plan
from custody.mirror.agreement.reading import reading, snapshot
from custody.mirror.agreement.verifying import Outcome, count_nameless, count_range, judge, readable_plans
from custody.mirror.applying import _is_there
from custody.store.engine import transaction
from custody.store.mongo import Document

ROUND_DOCUMENTS: Final = 4_000
"""Rows a ring: under a second of the mirror's process, which mirrors nothing meanwhile (20,000 took 3.6 s on two busy cores).
With a ring every 10 s a million documents take 42 minutes."""

_NEXT: Final = text(
    """
    SELECT name, coalesce(a.next_start, '') AS next_start, a.running
    FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS known (name, place)
    LEFT JOIN fleet.mirror_agreements a ON a.collection = known.name
    ORDER BY coalesce(a.next_start, '') = '', a.finished_at NULLS FIRST, place LIMIT 1
    """
)
_GO_ON: Final = text(
    """
    INSERT INTO fleet.mirror_agreements AS a (collection, next_start, running)
    VALUES (:collection, :next_start, CAST(:running AS jsonb))
    ON CONFLICT (collection) DO UPDATE SET next_start = EXCLUDED.next_start, running = EXCLUDED.running,
        touched_at = clock_timestamp()
    """
)


def verify_next(engine: Engine, database: Database[Document], *, size: int = ROUND_DOCUMENTS) -> Outcome | None:
    """Verify and heal the next range: of the collection under way, else of the one whose digest is oldest.

    None when MongoDB is away: the next ring tries again.
    """
    if not _is_there(database):
        return None
    began = datetime.now(UTC)
    with reading(engine) as connection:
        known = readable_plans(connection)
        due = connection.execute(_NEXT, {"names": list(known)}).one()
    plan = known[due.name]
    running: dict[str, Any] = due.running or {"began": began.isoformat(), "digest": ""}
    outcome = Outcome(plan.collection, left_out=plan.left_out)
    with snapshot(database) as session:
        with reading(engine) as connection:
            within = next_range(connection, plan, due.next_start, size)
            rows = digest_rows(connection, plan, within)
            lost = nameless(connection, plan) if within.is_last else ([], 0)
        documents = digest_documents(database, plan, within, session)
    judge(engine, database, plan, outcome, count_range(outcome, rows, documents), began, heal=True)
    count_nameless(outcome, *lost)
    outcome.digest = sha256(bytes.fromhex(running["digest"]) + documents.digest).digest()
    with transaction(engine) as connection:
        keeping.resolve_others(connection, plan.collection, within, [each for each, _ in outcome.looks])
        _keep(connection, plan, within, outcome, running)
    return outcome


def _keep(connection: Connection, plan: Plan, within: Range, outcome: Outcome, running: dict[str, Any]) -> None:
    total = Counts(**running.get("counted", {}))
    total.add(outcome.counted)
    if within.is_last:
        began = datetime.fromisoformat(running["began"])
        keeping.finish(connection, plan.collection, total, began=began, digest=outcome.digest, left_out=plan.left_out)
        return
    now = {**running, "counted": total.as_json(), "digest": outcome.digest.hex()}
    values = {"collection": plan.collection, "next_start": within.end, "running": json.dumps(now)}
    connection.execute(_GO_ON, values)

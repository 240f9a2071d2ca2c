"""A gap's document once more, from what MongoDB says of it now, as the follower itself would look at it again."""

from bson import ObjectId
from pymongo.database import Database
from sqlalchemy import Engine, text

from custody.mirror import gaps
from custody.mirror.agreement.verifying import readable_plans
from custody.mirror.backfill.references import Resolver
from custody.mirror.backfill.running import owning
from custody.mirror.collections import COLLECTIONS
from custody.mirror.following.applying import apply_changes
from custody.mirror.following.changes import read_parts
from custody.mirror.following.positions import EVERYTHING, read
from custody.mirror.following.rights import OP
from custody.store.mongo import Document


def replay(engine: Engine, database: Database[Document], gap: gaps.Gap) -> str | None:
    """Follow the gap's document once more. None when the gap is closed now, else what stands against it.

    Raises GapRefused for a gap that is no document's of following, or that only persons close.
    """
    if gap.op != OP or gap.collection not in COLLECTIONS or not ObjectId.is_valid(gap.object_id or ""):
        raise gaps.GapRefused(f"gap {gap.id} is of {gap.op!r} in {gap.collection}: expected a document's of {OP!r}")
    if gap.severity == "security":
        raise gaps.GapRefused(f"gap {gap.id} is a security gap: two persons close it (fleet gaps resolve)")
    with owning(engine) as connection:
        read_at = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        plans = readable_plans(connection)
        following = read(connection, EVERYTHING)
    wanted = {gap.collection: {ObjectId(gap.object_id): None}}
    for part in read_parts(database, wanted, None):
        with owning(engine) as connection:
            for collection, changes in part:
                began = read_at if following is None else following.started_at
                apply_changes(connection, plans[collection], changes, Resolver(), read_at, began)
    with owning(engine) as connection:
        found = gaps.one(connection, gap.id)
    return None if found.resolved_at is not None else found.reason

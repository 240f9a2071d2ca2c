"""The fleet's values written to MongoDB again, where two persons asked for it after somebody had changed them (R7, R10).

A usual write sets what the fleet changes, and once what is set once. This one sets both, and takes away what the fleet
does not have; what the backend owns of the document stays as it is.
"""

from functools import cache
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.marks import Owner
from custody.mirror.collections.plan import plan_of
from custody.mirror.documents import Write

_DUE: Final = text(
    "SELECT action_id, document_id FROM fleet.mirror_restorations "
    "WHERE collection = :collection AND document_id = ANY (:ids) AND written_at IS NULL"
)
_WRITTEN: Final = text(
    "UPDATE fleet.mirror_restorations SET written_at = clock_timestamp() WHERE action_id = ANY (:ids)"
)


def due(connection: Connection, collection: str, document_ids: list[UUID]) -> dict[UUID, list[UUID]]:
    """Of these rows, those whose values two persons want to be written again, each with the ids of their actions."""
    found: dict[UUID, list[UUID]] = {}
    for row in connection.execute(_DUE, {"collection": collection, "ids": document_ids}):
        found.setdefault(row.document_id, []).append(row.action_id)
    return found


def written(connection: Connection, action_ids: list[UUID]) -> None:
    """What these actions asked for stands in MongoDB."""
    if action_ids:
        connection.execute(_WRITTEN, {"ids": action_ids})


def restoring(collection: str, write: Write) -> Write:
    """The same write with every value that the fleet owns, whoever changed it."""
    ours = {name: value for name, value in write.create_only.items() if is_ours(collection, name)}
    rest = {name: value for name, value in write.create_only.items() if name not in ours}
    return Write(
        write.object_id,
        {**ours, **write.fleet},
        rest,
        write.creates,
        is_versioned=write.is_versioned and bool(write.fleet),
        restores=True,
    )


@cache
def is_ours(collection: str, name: str) -> bool:
    """Whether the fleet owns a field that it writes (``a.b``): all but those that the mapping gives to MongoDB (R7)."""
    part, owner = COLLECTIONS[collection], None
    for place, each in enumerate(name.split(".")):
        step = next((one for one in plan_of(part) if one.alias == each), None)
        if step is None:
            return place == 0 or owner is not Owner.MONGO  # not mapped: the fleet's own, such as an entry's hash
        owner = step.owner or owner
        if step.nested is None or step.owner is not None:
            break
        part = step.nested
    return owner in {Owner.FLEET, Owner.CREATE_ONLY}

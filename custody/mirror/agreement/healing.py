"""What is done about a difference (R7): Postgres follows MongoDB in fields that MongoDB owns, the mirror writes again what the
fleet owns, and a value of the fleet's that somebody changed in MongoDB is a security gap that nothing heals."""

import json
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, cast

from bson import json_util
from sqlalchemy import Connection, Engine, Table, text

from custody.cutovers import is_cut_over
from custody.mirror.agreement.looking import FieldDifference, Look, Verdict
from custody.mirror.agreement.plan import Plan
from custody.mirror.agreement.rows import IdMapReferences
from custody.mirror.claims import _GAP, PAYLOAD_LENGTH_MAXIMUM
from custody.mirror.collections.document import Rows, Unmappable, to_rows
from custody.mirror.collections.marks import Owner
from custody.mirror.documents import SUBJECTS
from custody.store.engine import transaction
from custody.store.models import Base
from custody.store.outbox import mirror

OP: Final = "verify"
CREATED_BY_FLEET: Final = frozenset(SUBJECTS) - {"purchaserequests"}
"""Collections whose missing documents the mirror makes."""


# A gap that was to be written again is not accepted: it is asked anew while the values differ. Nor is a difference whose
# values did not fit into the gap.
_ACCEPTED: Final = text(
    """
    SELECT EXISTS (
        SELECT FROM public.pg_dualwrite_gaps g
        JOIN fleet.mirror_differences d ON d.collection = g.collection AND d.object_id = g.legacy_object_id
        WHERE g.collection = :collection AND g.op IN (:op, 'follow') AND g.legacy_object_id = :object_id
          AND g.severity = 'security' AND g.reason = :reason AND g.payload = CAST(:payload AS jsonb) AND NOT g.payload ? 'too_long'
          AND starts_with(g.resolved_by, 'action:') AND d.resolved_at IS NULL AND d.first_seen_at <= g.resolved_at
          AND NOT EXISTS (SELECT FROM fleet.mirror_restorations r WHERE 'action:' || r.action_id = g.resolved_by))
    """
)
# Following looks at each change at once, and says the same of it.
_IS_FOLLOWED: Final = text(
    """
    SELECT EXISTS (
        SELECT FROM public.pg_dualwrite_gaps g
        WHERE g.collection = :collection AND g.op = 'follow' AND g.legacy_object_id = :object_id
          AND g.severity = 'security' AND g.reason = :reason AND g.resolved_at IS NULL)
    """
)
_MAY_UPDATE: Final = text("SELECT has_column_privilege(:table, :column, 'UPDATE')")
_MAY_REPLACE: Final = text(
    "SELECT has_table_privilege(:table, 'INSERT') AND has_table_privilege(:table, 'DELETE') AND :column = ''"
)


class Deed(Enum):
    """What was done."""

    HEALED = "healed"
    ASKED = "the mirror writes it again"
    SECURITY = "security gap"
    ACCEPTED = "left as it is by two persons"
    LEFT = "left to a person"


def is_behind(found: Look) -> bool:
    """Whether the mirror has not yet brought the row's present state: then MongoDB's older value is nobody's doing."""
    theirs, ours = found.mongo_changed_at, found.postgres_changed_at
    return found.collection in SUBJECTS and theirs is not None and ours is not None and theirs < _milliseconds(ours)


def _milliseconds(at: Any) -> Any:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def security_fields(found: Look) -> list[FieldDifference]:
    """The differing fields that only somebody who wrote to MongoDB himself can have made."""
    changed = found.owned_by(Owner.CREATE_ONLY)
    return changed if is_behind(found) else [*changed, *found.owned_by(Owner.FLEET)]


def settle(engine: Engine, plan: Plan, found: Look, *, heal: bool) -> Deed:
    """Do what ``found`` calls for. Without ``heal`` only security gaps are written: those are never kept to oneself."""
    if found.verdict is Verdict.NO_DOCUMENT and found.row_id and plan.collection in CREATED_BY_FLEET and heal:
        with transaction(engine) as connection:
            mirror(connection, plan.collection, found.row_id)
        return Deed.ASKED
    if found.verdict is not Verdict.FIELDS or found.row_id is None or found.document is None:
        return Deed.LEFT
    changed = security_fields(found)
    if changed:
        with transaction(engine) as connection:
            if not _is_accepted(connection, gap := _gap(found, changed)):
                if not connection.execute(_IS_FOLLOWED, gap).scalar_one():
                    connection.execute(_GAP, gap)
                return Deed.SECURITY
    if not heal:
        return Deed.ACCEPTED if changed else Deed.LEFT
    with transaction(engine) as connection:
        if is_behind(found):
            mirror(connection, plan.collection, found.row_id)
        # What Postgres alone decides takes nothing from MongoDB any more (docs/mirror.md).
        is_closed = is_cut_over(connection, plan.collection)
        healed = Deed.LEFT if is_closed else _heal(connection, plan, found, _ours_to_heal(found))
    if changed:
        return Deed.ACCEPTED
    return Deed.ASKED if is_behind(found) else healed


def _ours_to_heal(found: Look) -> list[FieldDifference]:
    # The time of a change that the mirror has yet to bring is not taken back.
    return [each for each in found.owned_by(Owner.MONGO) if not (is_behind(found) and each.name == "updatedAt")]


def _is_accepted(connection: Connection, gap: dict[str, Any]) -> bool:
    """Whether two persons have left this very difference as it is, and it was never gone since."""
    return connection.execute(_ACCEPTED, gap).scalar_one()


def said_of(changed: Sequence[FieldDifference]) -> tuple[str, str]:
    """The reason and the payload of a security gap: the fields, and both values of each."""
    values = {each.name: {"mongo": each.mongo, "postgres": each.postgres} for each in changed}
    payload = json_util.dumps(values, json_options=json_util.RELAXED_JSON_OPTIONS)
    if len(payload) > PAYLOAD_LENGTH_MAXIMUM:
        payload = json.dumps({"too_long": len(payload)})
    names = ", ".join(each.name for each in changed)
    return f"{names}: MongoDB holds another value than the fleet wrote", payload.replace("\\u0000", "\\ufffd")


def _gap(found: Look, changed: list[FieldDifference]) -> dict[str, Any]:
    reason, payload = said_of(changed)
    return {
        "collection": found.collection,
        "op": OP,
        "object_id": found.object_id,
        "payload": payload,
        "severity": "security",
        "reason": reason,
    }


def _heal(connection: Connection, plan: Plan, found: Look, fields: list[FieldDifference]) -> Deed:
    assert found.document is not None
    try:
        rows = to_rows(found.document, IdMapReferences(connection))
    except Unmappable:
        return Deed.LEFT  # it refers to a document that has no row: that one is reported itself
    if not _may_write(connection, plan, fields):
        return Deed.LEFT
    own = [column for each in fields if each.leaf.table is plan.document.table for column in each.leaf.columns]
    if own and not _update(connection, plan, found, {name: rows.columns[name] for name in own}):
        return Deed.LEFT  # it was changed since it was looked at: the next look judges it anew
    for each in fields:
        if each.leaf.table is not plan.document.table:
            _replace_children(connection, plan, found, each.leaf.table, rows)
    return Deed.HEALED


def _may_write(connection: Connection, plan: Plan, fields: list[FieldDifference]) -> bool:
    """Whether the session's role may write all of these: of some tables only an administrator may (R9)."""
    for each in fields:
        table = f"public.{each.leaf.table.__tablename__}"
        if each.leaf.table is not plan.document.table:
            statement, names = _MAY_REPLACE, [""]
        else:
            statement, names = _MAY_UPDATE, list(each.leaf.columns)
        if not all(connection.execute(statement, {"table": table, "column": name}).scalar_one() for name in names):
            return False
    return True


def _update(connection: Connection, plan: Plan, found: Look, values: dict[str, Any]) -> bool:
    table = cast(Table, plan.document.table.__table__)
    statement = table.update().where(table.c.id == found.row_id).values(values)
    if found.postgres_changed_at is not None:
        statement = statement.where(table.c.updated_at == found.postgres_changed_at)
    return connection.execute(statement).rowcount == 1


def _replace_children(connection: Connection, plan: Plan, found: Look, child: type[Base], rows: Rows) -> None:
    table = cast(Table, child.__table__)
    parent = plan.children[child]
    connection.execute(table.delete().where(table.c[parent] == found.row_id))
    if made := rows.children.get(child):
        connection.execute(table.insert(), [{**each, parent: found.row_id} for each in made])

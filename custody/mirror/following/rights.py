"""What the follower may do with a collection's rows, worked out from the mapping: R7 for its role."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Final

from pydantic import BaseModel

from custody.mirror.backfill.targets import Target, target_of
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import Document
from custody.mirror.collections.marks import Owner
from custody.mirror.collections.plan import plan_of

OP: Final = "follow"
"""Of its gaps in pg_dualwrite_gaps."""

UNREAD: Final = {
    "users": frozenset({"email", "password"}),
    "telegramsessions": frozenset({"token_hash", "init_data_fingerprint"}),
}
"""Credentials: the role writes them and cannot read them."""

_UNREAD_TABLES: Final = frozenset({"public.user_passkeys"})

_WRITTEN_BY_BOTH: Final = frozenset({"purchaserequests"})
"""Its status is MongoDB's, and the fleet moves it: a row that the mirror has still to write is newer than its document."""


@cache
def followed(collection: str) -> Target:
    """A collection's place in Postgres without what the fleet owns: neither written nor inserted, so that defaults stand."""
    whole = target_of(collection)
    return replace(
        whole,
        columns=tuple(
            each for each in whole.columns if each.owner is not Owner.FLEET or each.name == "legacy_object_id"
        ),
        children=tuple(
            replace(each, is_unread=each.table in _UNREAD_TABLES)
            for each in whole.children
            if each.owner is not Owner.FLEET
        ),
        unread=UNREAD.get(collection, frozenset()),
        judged=True,
        yields=collection in _WRITTEN_BY_BOTH,
    )


@cache
def owners_of(collection: str) -> frozenset[Owner]:
    """Who owns any of its fields."""
    whole = target_of(collection)
    own = {each.owner for each in whole.columns if each.name != "legacy_object_id"}
    return frozenset(own | {each.owner for each in whole.children})


def is_guarded(collection: str) -> bool:
    """Whether any of its fields is not MongoDB's to change."""
    return bool(owners_of(collection) - {Owner.MONGO})


def is_made_by_fleet(collection: str) -> bool:
    """Whether the fleet alone makes its documents: one of its fields is required, and the fleet's."""
    kind = COLLECTIONS[collection]
    return any(step.owner is Owner.FLEET and kind.model_fields[step.name].is_required() for step in plan_of(kind))


@cache
def is_removable(collection: str) -> bool:
    """Whether a row may go when its document does: all of it is MongoDB's, and no other collection refers to it."""
    return not is_guarded(collection) and collection not in _referred_to()


@cache
def _referred_to() -> frozenset[str]:
    return frozenset(name for kind in COLLECTIONS.values() for name in _references(kind))


def _references(part: type[BaseModel]) -> Iterator[str]:
    for step in plan_of(part):
        if step.refers is not None:
            yield step.refers.collection
        if step.triple is not None:
            yield step.triple.collection
        if step.chosen is not None:
            yield from step.chosen.collections.values()
        if step.nested is not None:
            yield from _references(step.nested)


def time_field(kind: type[Document]) -> str:
    """The field that says when a document was last written; a kind that nothing changes has none but its beginning."""
    return "updatedAt" if "updated_at" in kind.model_fields else "createdAt"

"""A document class's fields as the steps that bring it over, worked out once a class instead of for every document."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from custody.mirror.collections.marks import Child, Column, Inlined, Owner, Polymorphic, Refers, RefersBy
from custody.mirror.collections.values import Stored


@dataclass(frozen=True, slots=True)
class Step:
    """One field. At most one of ``inlined``, ``child``, ``triple`` and ``chosen`` is set; a child's items may have ``refers``."""

    name: str
    alias: str
    """The field's name in MongoDB."""
    column: str
    """Without the prefix of what it is inlined in."""
    is_list: bool
    owner: Owner | None
    stored: Stored | None
    inlined: Inlined | None
    child: Child | None
    triple: Polymorphic | None
    chosen: RefersBy | None
    refers: Refers | None
    nested: type[BaseModel] | None
    """The document inside it, for a part or a list of parts."""


@cache
def plan_of(part: type[BaseModel]) -> tuple[Step, ...]:
    """The steps of a document or of a part of one, in the order of its fields."""
    return tuple(_step(name, info) for name, info in part.model_fields.items())


@cache
def referring_of(part: type[BaseModel]) -> tuple[Step, ...]:
    """Those of its steps that refer to another document, themselves or in what they hold."""
    return tuple(
        step
        for step in plan_of(part)
        if step.refers or step.triple or step.chosen or (step.nested is not None and referring_of(step.nested))
    )


@cache
def aliases_of(part: type[BaseModel]) -> frozenset[str]:
    """The field names in MongoDB."""
    return frozenset(step.alias for step in plan_of(part))


def _step(name: str, info: FieldInfo) -> Step:
    column = mark_of(info, Column)
    return Step(
        name=name,
        alias=alias_of(name, info),
        column=name if column is None else column.name,
        is_list=get_origin(info.annotation) is list,
        owner=mark_of(info, Owner),
        stored=mark_of(info, Stored),
        inlined=mark_of(info, Inlined),
        child=mark_of(info, Child),
        triple=mark_of(info, Polymorphic),
        chosen=mark_of(info, RefersBy),
        refers=mark_of(info, Refers),
        nested=nested_type(info.annotation),
    )


def alias_of(name: str, info: FieldInfo) -> str:
    """A field's name in MongoDB."""
    return info.alias or to_camel(name)


def mark_of(info: FieldInfo, kind: type[Any]) -> Any:
    """The field's mark of a kind, None without one."""
    for mark in marks_of(info):
        if isinstance(mark, kind):
            return mark
    return None


def marks_of(info: FieldInfo) -> Iterable[Any]:
    """The field's own marks, then those of the types inside it (``Money | None``, ``list[Sweep]``)."""
    yield from info.metadata
    yield from _inner_marks(info.annotation)


def _inner_marks(annotation: Any) -> Iterable[Any]:
    yield from getattr(annotation, "__metadata__", ())
    if get_origin(annotation) not in (None, Literal, list, dict):
        for argument in get_args(annotation):
            yield from _inner_marks(argument)


def nested_type(annotation: Any) -> type[BaseModel] | None:
    """The document inside an annotation, None without one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Literal:
        return None
    for argument in get_args(annotation):
        found = nested_type(argument)
        if found is not None:
            return found
    return None

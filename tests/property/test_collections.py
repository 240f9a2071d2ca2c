"""Every collection there and back: what a document becomes in Postgres is that document again, and the other way round."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from uuid import UUID

import pytest
from annotated_types import Ge, Gt, Le, MaxLen
from bson import BSON, Decimal128, Int64, ObjectId
from bson.codec_options import CodecOptions
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from custody.mirror.collections import COLLECTIONS, NOT_MIGRATED
from custody.mirror.collections import values as kinds
from custody.mirror.collections.document import (
    Document,
    Nested,
    Rows,
    Unmappable,
    as_stored,
    from_rows,
    read,
    to_rows,
    unknown_fields,
)
from custody.store import models
from tests.counts import declared

_CODEC: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True, tzinfo=UTC)


class Bijection:
    """Every document has a row: its UUID is the ObjectId and the collection's number."""

    def uuid(self, collection: str, object_id: ObjectId) -> UUID:
        return UUID(bytes=object_id.binary + list(COLLECTIONS).index(collection).to_bytes(4))

    def object_id(self, collection: str, row_id: UUID) -> ObjectId:
        assert int.from_bytes(row_id.bytes[12:]) == list(COLLECTIONS).index(collection)
        return ObjectId(row_id.bytes[:12])


IDS: Final = Bijection()

# Documents as any writer may have left them ---------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
_OBJECT_IDS = st.binary(min_size=12, max_size=12).map(ObjectId)
_TIMES = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds it
_LEAF = st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | _TEXT | _OBJECT_IDS
_KEYS = st.sampled_from(["a", "b", "evidence.url", "\N{SNOWMAN}"])
_JSON = _LEAF | st.lists(_LEAF, max_size=2) | st.dictionaries(_KEYS, st.lists(_LEAF, max_size=2), max_size=2)


def _amounts(decimals: int, whole: int, minimum: Decimal) -> st.SearchStrategy[Any]:
    exact = st.decimals(minimum, Decimal(10) ** whole - 1, places=decimals).filter(
        lambda value: len(value.normalize().as_tuple().digits) <= kinds.DECIMAL128_DIGITS
    )
    return st.one_of(
        exact.map(lambda value: Decimal128(value.normalize())),
        exact.map(lambda value: format(value.normalize(), "f")),
        st.integers(int(minimum) + 1, 10**9),
        # What JavaScript wrote: a double, whose shortest text is the amount.
        st.integers(1, 10**9).map(lambda units: units / 100),
    )


def _of(annotation: Any, marks: list[Any]) -> st.SearchStrategy[Any]:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        if annotation in _KINDS:
            return _KINDS[annotation](marks)
        return _of(inner, [*more, *marks])
    if type(None) in get_args(annotation) and get_origin(annotation) is not Literal:
        (one,) = [part for part in get_args(annotation) if part is not type(None)]
        return st.none() | _of(one, marks)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is list:
        return st.lists(_of(get_args(annotation)[0], []), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, Nested):
        return documents(annotation)
    for kind, strategy in _KINDS.items():
        if get_args(kind)[0] is annotation and set(map(id, kind.__metadata__)) <= set(map(id, marks)):
            return strategy(marks)
    raise TypeError(annotation)


def _bounded_text(marks: list[Any]) -> st.SearchStrategy[str]:
    if any(getattr(mark, "pattern", None) for mark in _flat(marks)):
        return st.sampled_from(["draft", "published", "archived"])
    longest = next((mark.max_length for mark in _flat(marks) if isinstance(mark, MaxLen)), 20)
    return _TEXT.map(lambda value: value[:longest])


def _wholes(marks: list[Any]) -> st.SearchStrategy[Any]:
    low = next((int(mark.ge) for mark in _flat(marks) if isinstance(mark, Ge)), -(2**31))  # type: ignore[call-overload]
    high = next((int(mark.le) for mark in _flat(marks) if isinstance(mark, Le)), 2**31 - 1)  # type: ignore[call-overload]
    numbers = st.integers(low, high)
    return numbers | numbers.map(Int64) | numbers.map(float)


def _flat(marks: list[Any]) -> list[Any]:
    return [each for mark in marks for each in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


_Strategy = Callable[[list[Any]], st.SearchStrategy[Any]]
_KINDS: Final[dict[Any, _Strategy]] = {
    kinds.Money: lambda marks: _amounts(
        18, 16, Decimal("1e-18") if any(isinstance(m, Gt) for m in _flat(marks)) else Decimal(0)
    ),
    kinds.OfferPrice: lambda _: _amounts(8, 10, Decimal(0)),
    kinds.Uint256: lambda _: st.integers(0, kinds.UINT256_MAXIMUM).map(str),
    kinds.Whole: _wholes,
    kinds.Time: lambda _: _TIMES,
    kinds.Text: _bounded_text,
    kinds.Flag: lambda _: st.booleans(),
    kinds.Id: lambda _: _OBJECT_IDS | _OBJECT_IDS.map(str),
    kinds.MixedId: lambda _: (
        _OBJECT_IDS | _OBJECT_IDS.map(str) | st.tuples(st.sampled_from(kinds.TEMPLATE_PREFIXES), _TEXT).map("".join)
    ),
    kinds.IdText: lambda _: _OBJECT_IDS | _TEXT,
    kinds.Json: lambda _: _JSON,
}


def documents(kind: type[Nested]) -> st.SearchStrategy[dict[str, Any]]:
    """Raw documents: fields in any of their spellings; those with a default missing, null, or there."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, info in kind.model_fields.items():
        alias = "_id" if name == "id" and issubclass(kind, Document) else info.alias or name
        strategy = _OBJECT_IDS if alias == "_id" else _of(info.annotation, list(info.metadata))
        if info.is_required():
            required[alias] = strategy.filter(lambda value: value is not None)
        else:
            optional[alias] = strategy | st.none()
    return st.fixed_dictionaries(required, optional=optional)


_LEAN = settings(max_examples=declared(1_000, 5), suppress_health_check=[HealthCheck.too_slow], deadline=None)

# There and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", COLLECTIONS)
@_LEAN
@given(data=st.data())
def test_a_document_comes_back_as_it_was(collection: str, data: st.DataObject) -> None:
    kind = COLLECTIONS[collection]
    raw: Mapping[str, Any] = BSON.encode(data.draw(documents(kind))).decode(_CODEC)
    document = read(kind, raw)
    rows = to_rows(document, IDS)
    back = from_rows(kind, rows, IDS)
    assert as_stored(read(kind, back)) == as_stored(document)
    # The same bytes for a document that MongoDB holds in the form we write.
    assert BSON.encode(back).decode(_CODEC) == BSON.encode(from_rows(kind, to_rows(read(kind, back), IDS), IDS)).decode(
        _CODEC
    )
    # And the row is the row again.
    assert to_rows(read(kind, back), IDS) == rows


@pytest.mark.parametrize("collection", COLLECTIONS)
@_LEAN
@given(data=st.data())
def test_what_is_null_stays_null_and_never_becomes_zero(collection: str, data: st.DataObject) -> None:
    kind = COLLECTIONS[collection]
    raw = {name: value for name, value in data.draw(documents(kind)).items() if value is not None}
    columns = to_rows(read(kind, raw), IDS).columns
    nullable = {column.name for column in kind.table.__table__.columns if column.nullable} - {"legacy_object_id"}
    for column, value in columns.items():
        if value is None:
            assert column in nullable, f"{column} is NOT NULL"


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_column_is_written_or_not_the_documents(collection: str) -> None:
    """A column that no field reaches is the fleet's own or has a default in Postgres."""
    kind = COLLECTIONS[collection]
    raw = _smallest(kind)
    rows = to_rows(read(kind, raw), IDS)
    table = kind.table.__table__
    assert set(rows.columns) <= {column.name for column in table.columns}
    for column in table.columns:
        if column.name not in rows.columns and not column.primary_key:
            assert column.nullable or column.server_default is not None, column.name
    for child, made in rows.children.items():
        for row in made:
            assert set(row) <= {column.name for column in child.__table__.columns}


def _smallest(kind: type[Document]) -> dict[str, Any]:
    # Its first try is the smallest already; looking for smaller ones takes seconds.
    return find(documents(kind), lambda _: True, settings=settings(phases=[Phase.generate], database=None))


def test_every_table_of_both_stores_has_its_collection() -> None:
    reached = {kind.table for kind in COLLECTIONS.values()}
    for kind in COLLECTIONS.values():
        for info in kind.model_fields.values():
            reached |= {mark.table for mark in info.metadata if hasattr(mark, "parent")}
    postgres_only = {
        models.IdMapping, models.DualWriteGap, models.PaymentQuote, models.ConfigSettingHistory, models.UserRefreshToken,
    }  # fmt: skip
    everything = {mapper.class_ for mapper in models.Base.registry.mappers}
    assert everything == reached | postgres_only
    assert not set(COLLECTIONS) & set(NOT_MIGRATED)


# What is refused --------------------------------------------------------------------------------------------------

_OBJECT_ID: Final = ObjectId("65f000000000000000000001")
_PAYMENT: Final[dict[str, Any]] = {
    "_id": _OBJECT_ID, "purchaseRequestId": _OBJECT_ID, "sellerOfferId": "template-tc-1", "buyerId": _OBJECT_ID,
    "sellerId": _OBJECT_ID, "amount": {"amount": 12.5, "currency": "USDT"},
    "createdAt": datetime(2026, 1, 1, tzinfo=UTC), "updatedAt": datetime(2026, 1, 1, tzinfo=UTC),
}  # fmt: skip
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no amount": ({"amount": None}, "amount"),
    "NULL is not zero": ({"amount": {"amount": None}}, "amount.amount"),
    "zero": ({"amount": {"amount": 0}}, "amount.amount"),
    "not a number": ({"amount": {"amount": float("nan")}}, "amount.amount"),
    "text that is none": ({"amount": {"amount": "12,5"}}, "amount.amount"),
    "true": ({"amount": {"amount": True}}, "amount.amount"),
    "more decimals than the column has": ({"amount": {"amount": "0.0000000000000000001"}}, "amount.amount"),
    "more than the column holds": ({"amount": {"amount": Decimal128("1E21")}}, "amount.amount"),
    "an unknown status": ({"status": "released"}, "status"),
    "an unknown provider": ({"provider": "decentralized"}, "provider"),
    "a string that is no template's": ({"sellerOfferId": "offer-1"}, "sellerOfferId"),
    "no buyer": ({"buyerId": None}, "buyerId"),
    "a buyer that is no id": ({"buyerId": "12"}, "buyerId"),
    "a text for a date": ({"createdAt": "2026-01-01"}, "createdAt"),
    "half a confirmation": ({"blockchain": {"confirmations": 1.5}}, "blockchain.confirmations"),
    "a NUL in a text": ({"providerPaymentId": "a\x00"}, "providerPaymentId"),
    "a NUL deep inside": ({"metadata": {"a": [{"b": "\x00"}]}}, "metadata"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_field_is_named_and_nothing_is_guessed(case: str) -> None:
    changed, where = REFUSED[case]
    with pytest.raises(Unmappable) as refused:
        read(COLLECTIONS["payments"], {**_PAYMENT, **changed})
    assert refused.value.where == where


def test_a_reference_whose_row_is_not_there_yet_is_named() -> None:
    class Nobody(Bijection):
        def uuid(self, collection: str, object_id: ObjectId) -> UUID | None:  # type: ignore[override]
            return None if collection == "users" else super().uuid(collection, object_id)

    with pytest.raises(Unmappable, match=r"buyerId: users 65f0.* was not brought over yet"):
        to_rows(read(COLLECTIONS["payments"], _PAYMENT), Nobody())


def test_a_double_is_read_by_its_shortest_text() -> None:
    payment = read(COLLECTIONS["payments"], {**_PAYMENT, "amount": {"amount": 0.1 + 0.2}})
    assert to_rows(payment, IDS).columns["amount"] == Decimal("0.30000000000000004")
    payment = read(COLLECTIONS["payments"], {**_PAYMENT, "amount": {"amount": 1234.1}})
    assert to_rows(payment, IDS).columns["amount"] == Decimal("1234.1")


def test_fields_that_nobody_knows_are_said() -> None:
    assert unknown_fields(COLLECTIONS["payments"], {**_PAYMENT, "quote": {}, "__v": 0, "riskScore": 1}) == ["riskScore"]


def test_extended_json_is_what_the_column_gets() -> None:
    payment = read(COLLECTIONS["payments"], {**_PAYMENT, "metadata": {"seen": _OBJECT_ID, "none": None}})
    column = to_rows(payment, IDS).columns["metadata"]
    assert json.loads(json.dumps(column)) == {"seen": {"$oid": str(_OBJECT_ID)}, "none": None}
    assert (
        from_rows(COLLECTIONS["payments"], Rows({**to_rows(payment, IDS).columns}), IDS)["metadata"]["seen"]
        == _OBJECT_ID
    )

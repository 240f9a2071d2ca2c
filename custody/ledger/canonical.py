"""Canonical bytes of an entry, made here and not by the database: who proves a ledger does not ask it for hashes.

Every field is its length (4 bytes, big endian; -1 for NULL) and its UTF-8 text, so that no two different entries have the
same bytes. That is also how PostgreSQL's binary COPY sends a row of texts: rows are hashed as they arrive.

What is hashed, over the fields in the order of ``ENTRY_FIELDS``:

- the content hash, over the first 15: what a repeat of the same post must repeat;
- the entry hash, SHA-256(0x00 || hash of the entry before || content hash || the next 6): the link of the book's chain;
- the leaf of a seal, SHA-256(0x00 || all 36): every column of the row. The entry hash is one of them, but leaves out
  columns that no rule of the ledger reads (the payment's seller, its purchase request); a seal covers those too.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from struct import Struct
from typing import Any, Final, LiteralString

from psycopg import Connection as Driver
from psycopg import sql
from sqlalchemy import Connection

_MICROSECONDS: Final[LiteralString] = (
    "CASE WHEN isfinite(created_at) THEN (extract(epoch FROM created_at) * 1000000)::bigint::text"
    " ELSE created_at::text END"
)

_CONTENT: Final[dict[str, LiteralString]] = {
    "book_kind": "book_kind",
    "book_id": "book_id::text",
    "chain_id": "chain_id::text",
    "token": "token",
    "entry_type": "entry_type::text",
    "reason": "reason",
    "debit": "debit",
    "credit": "credit",
    "amount": "trim_scale(amount)::text",  # whole tokens, no trailing zeros
    "debit_address": "debit_address",
    "credit_address": "credit_address",
    "fact_id": "fact_id::text",
    "instruction_id": "instruction_id::text",
    "reverses_entry_id": "reverses_entry_id::text",
    "idempotency_key": "idempotency_key",
}
_LINK: Final[dict[str, LiteralString]] = {
    "book_seq": "book_seq::text",
    "id": "id::text",
    "metadata": "metadata::text",
    "poster_role": "poster_role",
    "created_at": _MICROSECONDS,  # microseconds since 1970
    "tx_id": "tx_id::text",
}
_HASHES: Final[dict[str, LiteralString]] = {
    "content_hash": "encode(content_hash, 'hex')",
    "prev_hash": "encode(prev_hash, 'hex')",
    "entry_hash": "encode(entry_hash, 'hex')",
}
_REST: Final[dict[str, LiteralString]] = {
    "legacy_object_id": "legacy_object_id",
    "payment_id": "payment_id::text",
    "purchase_request_ref_kind": "purchase_request_ref_kind::text",
    "purchase_request_id": "purchase_request_id::text",
    "purchase_request_external_ref": "purchase_request_external_ref",
    "seller_offer_ref_kind": "seller_offer_ref_kind::text",
    "seller_offer_id": "seller_offer_id::text",
    "seller_offer_external_ref": "seller_offer_external_ref",
    "seller_ref_kind": "seller_ref_kind::text",
    "seller_id": "seller_id::text",
    "seller_external_ref": "seller_external_ref",
    "currency": "currency",
}

_EXPRESSIONS: Final[dict[str, LiteralString]] = _CONTENT | _LINK | _HASHES | _REST
ENTRY_FIELDS: Final = tuple(_EXPRESSIONS)
"""Every column of funds_ledger_entries, in the order in which they are hashed."""

PLACE: Final[Mapping[str, int]] = {name: place for place, name in enumerate(ENTRY_FIELDS)}
NO_HASH: Final = bytes(32)
"""What the first entry of a book links to."""

_LENGTH: Final = Struct(">i")
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00"
_COPY_HEADER_BYTES: Final = 19  # signature, flags, length of an extension (none)
_COPY_END: Final = b"\xff\xff"
# What a reader needs of every row, before its fields and of a fixed length: id and tx_id. Behind the count of columns
# (2 bytes) each has its length (4 bytes) before it.
_HEAD: Final[tuple[LiteralString, ...]] = (
    "coalesce(uuid_send(id), decode(repeat('00', 16), 'hex'))",
    "int8send(coalesce(tx_id, (-9223372036854775807)::bigint))",
)
_KEY: Final = slice(6, 22)
_TX: Final = Struct(">q")
_TX_AT: Final = 26
_HEAD_BYTES: Final = 34
NO_TX: Final = -9223372036854775807
"""The tx_id of an entry that has none: before every window."""


def field_bytes(values: Sequence[str | None]) -> bytes:
    """Length-prefixed texts, equal to the SQL function fleet.field_bytes."""
    parts: list[bytes] = []
    for value in values:
        if value is None:
            parts.append(_LENGTH.pack(-1))
        else:
            encoded = value.encode()
            parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


class EntryRow:
    """One row of the ledger. ``canonical``: its fields as bytes, taken apart only when one is asked for.

    ``key``: the 16 bytes of its id. ``tx_id``: its transaction, NO_TX for entries of before the fleet.
    """

    __slots__ = ("_content_end", "_fields", "_link_end", "canonical", "key", "tx_id")

    def __init__(self, canonical: bytes, key: bytes, tx_id: int) -> None:
        self.canonical = canonical
        self.key = key
        self.tx_id = tx_id
        self._fields: list[bytes | None] | None = None
        self._content_end = self._link_end = 0

    @property
    def fields(self) -> list[bytes | None]:
        """Every field, in the order of ENTRY_FIELDS. Raises ValueError when these are not the bytes of an entry."""
        if self._fields is None:
            self._take_apart()
        assert self._fields is not None
        return self._fields

    def text(self, name: str) -> str | None:
        """A field as text, or None for NULL."""
        value = self.fields[PLACE[name]]
        return None if value is None else value.decode("utf-8", "replace")

    def content_hash(self) -> bytes:
        """SHA-256 over the content fields."""
        _ = self.fields
        return sha256(self.canonical[: self._content_end]).digest()

    def entry_hash(self, previous: bytes, content_hash: bytes) -> bytes:
        """The link of the book's chain after ``previous``."""
        _ = self.fields
        return sha256(b"\x00" + previous + content_hash + self.canonical[self._content_end : self._link_end]).digest()

    def leaf(self) -> bytes:
        """The leaf hash of the whole row (RFC 6962)."""
        return sha256(b"\x00" + self.canonical).digest()

    def _take_apart(self) -> None:
        fields: list[bytes | None] = []
        ends: list[int] = []
        canonical, at = self.canonical, 0
        add, length_at = fields.append, _LENGTH.unpack_from
        for count in (len(_CONTENT), len(_LINK), len(_HASHES) + len(_REST)):
            for _ in range(count):
                (size,) = length_at(canonical, at)
                at += 4
                if size < 0:
                    add(None)
                else:
                    end = at + size
                    add(canonical[at:end])
                    at = end
            ends.append(at)
        if at != len(canonical):
            raise ValueError("these are not the bytes of a ledger entry")
        self._content_end, self._link_end = ends[0], ends[1]
        self._fields = fields


def entry_from_texts(values: Mapping[str, str | None]) -> EntryRow:
    """The row with these fields; every field of ENTRY_FIELDS and no other must be there (ValueError)."""
    if set(values) != set(ENTRY_FIELDS):
        raise ValueError(f"expected the {len(ENTRY_FIELDS)} fields of an entry: {', '.join(ENTRY_FIELDS)}")
    return EntryRow(field_bytes([values[name] for name in ENTRY_FIELDS]), b"", NO_TX)


def driver_of(connection: Connection) -> Driver[Any]:
    """psycopg's connection behind SQLAlchemy's: COPY is not in SQLAlchemy."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, Driver)
    return driver


def read_entries(connection: Connection, after_from: sql.Composable) -> Iterator[EntryRow]:
    """Stream entries of ``public.funds_ledger_entries AS e``; ``after_from`` is what follows (WHERE, ORDER BY).

    Memory is one row's. Nothing else may run on the connection until the end.
    """
    columns = sql.SQL(", ".join((*_HEAD, *_EXPRESSIONS.values())))
    query = sql.SQL("COPY (SELECT {} FROM public.funds_ledger_entries AS e {}) TO STDOUT (FORMAT BINARY)")
    with driver_of(connection).cursor() as cursor, cursor.copy(query.format(columns, after_from)) as copy:
        for chunk in copy:  # one message a row; the first has the header before it, the last is the end mark
            data = bytes(chunk)
            if data.startswith(_COPY_HEADER):
                data = data[_COPY_HEADER_BYTES:]
            if data and not data.startswith(_COPY_END):
                yield EntryRow(data[_HEAD_BYTES:], data[_KEY], _TX.unpack_from(data, _TX_AT)[0])

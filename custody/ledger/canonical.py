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
from typing import Any, Final, LiteralString, NamedTuple

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
_ID: Final = PLACE["id"]
NO_HASH: Final = bytes(32)
"""What the first entry of a book links to."""

_LENGTH: Final = Struct(">i")
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00"
_COPY_HEADER_BYTES: Final = 19  # signature, flags, length of an extension (none)
_COPY_END: Final = b"\xff\xff"
_FIELD_COUNT_BYTES: Final = 2


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


class EntryRow(NamedTuple):
    """One row of the ledger. ``canonical``: its fields as bytes; the two ends are offsets into it."""

    canonical: bytes
    content_end: int
    link_end: int
    fields: list[bytes | None]

    def text(self, name: str) -> str | None:
        """A field as text, or None for NULL."""
        value = self.fields[PLACE[name]]
        return None if value is None else value.decode("utf-8", "replace")

    def id_bytes(self) -> bytes:
        """The 16 bytes of the entry's id."""
        return bytes.fromhex((self.fields[_ID] or b"").replace(b"-", b"").decode())

    def content_hash(self) -> bytes:
        """SHA-256 over the content fields."""
        return sha256(self.canonical[: self.content_end]).digest()

    def entry_hash(self, previous: bytes, content_hash: bytes) -> bytes:
        """The link of the book's chain after ``previous``."""
        return sha256(b"\x00" + previous + content_hash + self.canonical[self.content_end : self.link_end]).digest()

    def leaf(self) -> bytes:
        """The leaf hash of the whole row (RFC 6962)."""
        return sha256(b"\x00" + self.canonical).digest()


def entry_row(canonical: bytes) -> EntryRow:
    """Take canonical bytes apart. Raises ValueError when they are not those of one entry."""
    fields: list[bytes | None] = []
    ends: list[int] = []
    at = 0
    length_at = _LENGTH.unpack_from
    try:
        for count in (len(_CONTENT), len(_LINK), len(_HASHES) + len(_REST)):
            for _ in range(count):
                (size,) = length_at(canonical, at)
                at += 4
                if size < 0:
                    fields.append(None)
                else:
                    fields.append(canonical[at : at + size])
                    at += size
            ends.append(at)
    except Exception as error:
        raise ValueError("these are not the bytes of a ledger entry") from error
    if at != len(canonical):
        raise ValueError("these are not the bytes of a ledger entry")
    return EntryRow(canonical, ends[0], ends[1], fields)


def entry_from_texts(values: Mapping[str, str | None]) -> EntryRow:
    """The row with these fields; every field of ENTRY_FIELDS and no other must be there (ValueError)."""
    if set(values) != set(ENTRY_FIELDS):
        raise ValueError(f"expected the {len(ENTRY_FIELDS)} fields of an entry: {', '.join(ENTRY_FIELDS)}")
    return entry_row(field_bytes([values[name] for name in ENTRY_FIELDS]))


def driver_of(connection: Connection) -> Driver[Any]:
    """psycopg's connection behind SQLAlchemy's: COPY is not in SQLAlchemy."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, Driver)
    return driver


def read_entries(connection: Connection, after_from: sql.Composable) -> Iterator[EntryRow]:
    """Stream entries of ``public.funds_ledger_entries AS e``; ``after_from`` is what follows (WHERE, ORDER BY).

    Memory is one row's. Nothing else may run on the connection until the end.
    """
    columns = sql.SQL(", ".join(_EXPRESSIONS.values()))
    query = sql.SQL("COPY (SELECT {} FROM public.funds_ledger_entries AS e {}) TO STDOUT (FORMAT BINARY)")
    with driver_of(connection).cursor() as cursor, cursor.copy(query.format(columns, after_from)) as copy:
        for chunk in copy:  # one message a row; the first has the header before it, the last is the end mark
            data = bytes(chunk)
            if data.startswith(_COPY_HEADER):
                data = data[_COPY_HEADER_BYTES:]
            if data and not data.startswith(_COPY_END):
                yield entry_row(data[_FIELD_COUNT_BYTES:])

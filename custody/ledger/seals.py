"""Seals: a signed Merkle root over each finished window of the ledger (design §4, L15, L22).

A window is [from_tx, to_tx) of transaction ids, never of a sequence: every transaction below the snapshot's xmin has
ended, so no entry can still appear in a sealed window, and sealing waits for nobody and nobody for it. Within a window
entries are ordered by (tx_id, id). Windows follow each other without a gap; a window without entries is not sealed by
itself but grows into the next. Entries of before the fleet, which have no tx_id, belong to the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from psycopg import sql
from sqlalchemy import Connection, Row, text

from custody.ledger.canonical import EntryRow, field_bytes, read_entries
from custody.ledger.merkle import HASH_BYTES, root
from custody.ledger.seal_keys import PublicKeys, SealKey, is_signed

SEAL_FORMAT: Final = "amanat-ledger-seal-v1"
NO_SEAL: Final = bytes(32)
"""What the first seal follows."""

SEAL_ENTRIES_MAXIMUM: Final = 10_000
"""Entries of one seal, unless one transaction has more: bounds a proof's tree and the sealer's memory (0.5 MB)."""

_LEAF_BYTES: Final = 16 + HASH_BYTES
_SEALER_LOCK: Final = 0x666C6565_74736C72  # advisory lock: two sealers take turns
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SealsAhead(Exception):
    """The database's transaction ids are lower than what was sealed: it was restored from a dump."""


@dataclass(frozen=True, slots=True)
class Seal:
    """One seal. ``sealed_at`` in microseconds since 1970. ``seal_hash`` and ``signature`` are over all other fields."""

    seal_no: int
    from_tx: int
    to_tx: int
    entries: int
    merkle_root: bytes
    prev_seal_hash: bytes
    sealed_at: int
    key_id: str
    seal_hash: bytes
    signature: bytes

    def computed_hash(self) -> bytes:
        """SHA-256 over the format's name and every field before ``seal_hash``, length-prefixed."""
        return sha256(
            field_bytes(
                [
                    SEAL_FORMAT,
                    str(self.seal_no),
                    str(self.from_tx),
                    str(self.to_tx),
                    str(self.entries),
                    self.merkle_root.hex(),
                    self.prev_seal_hash.hex(),
                    str(self.sealed_at),
                    self.key_id,
                ]
            )
        ).digest()

    def faults(self, previous: "Seal | None", keys: PublicKeys) -> list[str]:
        """What is wrong with this seal by itself and as the successor of ``previous`` (None: it should be the first)."""
        found: list[str] = []
        number, from_tx, hash_before = (
            (1, 0, NO_SEAL) if previous is None else (previous.seal_no + 1, previous.to_tx, previous.seal_hash)
        )
        if self.seal_no != number:
            found.append(f"seal {number} should stand here")
        if self.from_tx != from_tx or self.to_tx <= self.from_tx:
            found.append(f"its window {self.from_tx} to {self.to_tx} does not begin where the last ended, at {from_tx}")
        if self.prev_seal_hash != hash_before:
            found.append("it does not follow the seal before it")
        return found + self.own_faults(keys)

    def own_faults(self, keys: PublicKeys) -> list[str]:
        """What is wrong with this seal by itself: its hash, its signature."""
        found: list[str] = []
        if self.computed_hash() != self.seal_hash:
            found.append("its hash is not that of its content: it was changed")
        if self.key_id not in keys:
            found.append(
                f"it is signed by key {self.key_id}, which is none of yours ({', '.join(keys) or 'none given'})"
            )
        elif not is_signed(keys, self.key_id, self.signature, self.seal_hash):
            found.append(f"its signature is not of key {self.key_id}")
        return found


# As text -----------------------------------------------------------------------------------------------------------

_NUMBERS: Final = ("seal_no", "from_tx", "to_tx", "entries", "sealed_at")
_BYTES: Final = {"merkle_root": 32, "prev_seal_hash": 32, "seal_hash": 32, "signature": 64}
SEAL_FIELDS: Final = (
    "seal_no", "from_tx", "to_tx", "entries", "merkle_root", "prev_seal_hash", "sealed_at", "key_id", "seal_hash",
    "signature",
)  # fmt: skip
_BIGINT_END: Final = 2**63


def seal_as_json(seal: Seal) -> dict[str, int | str]:
    """The seal for JSON: numbers as they are, bytes in hexadecimal."""
    values = {name: getattr(seal, name) for name in SEAL_FIELDS}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def seal_from_json(value: object) -> Seal:
    """The seal that ``seal_as_json`` wrote. Raises ValueError naming the field that is wrong."""
    if not isinstance(value, Mapping) or set(value) != set(SEAL_FIELDS):  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError(f"a seal has the fields {', '.join(SEAL_FIELDS)} and no other")
    fields: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
    for name in _NUMBERS:
        number = fields[name]
        if type(number) is not int or not 0 <= number < _BIGINT_END:
            raise ValueError(f"seal: {name} must be a whole number")
    for name, length in _BYTES.items():
        fields[name] = hex_bytes(fields[name], name, length)
    if not isinstance(fields["key_id"], str):
        raise ValueError("seal: key_id must be a text")
    return Seal(**fields)


def hex_bytes(value: object, name: str, length: int) -> bytes:
    """Bytes from lower-case hexadecimal of exactly that length. Raises ValueError naming the field."""
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    # One value, one spelling: fromhex also takes capitals and blanks.
    if len(found) != length or found.hex() != value:
        raise ValueError(f"{name} must be {length} bytes in lower-case hexadecimal")
    return found


# In the database -----------------------------------------------------------------------------------------------------

# An attacker may have dropped every constraint: what is NULL reads as something that no seal has.
_SELECT: Final = """
    SELECT seal_no, coalesce(from_tx, -1) AS from_tx, coalesce(to_tx, -1) AS to_tx, coalesce(entries, -1) AS entries,
           coalesce(merkle_root, '') AS merkle_root, coalesce(prev_seal_hash, '') AS prev_seal_hash,
           CASE WHEN isfinite(sealed_at) THEN (extract(epoch FROM sealed_at) * 1000000)::bigint ELSE -1 END AS sealed_at,
           coalesce(key_id, '') AS key_id, coalesce(seal_hash, '') AS seal_hash, coalesce(signature, '') AS signature
    FROM fleet.ledger_seals
"""
_NEWEST: Final = text(_SELECT + "ORDER BY seal_no DESC LIMIT 1")
_ONE: Final = text(_SELECT + "WHERE seal_no = :seal_no")
_AFTER: Final = text(_SELECT + "WHERE seal_no > :seal_no ORDER BY seal_no LIMIT :limit")
_HOLDING: Final = text(_SELECT + "WHERE to_tx > :tx_id ORDER BY to_tx LIMIT 1")
_LEAVES: Final = text("SELECT leaves FROM fleet.ledger_seals WHERE seal_no = :seal_no")
_PAGE: Final = 500  # seals read at once


def _seal(row: Row[Any]) -> Seal:
    return Seal(**row._mapping)


def newest_seal(connection: Connection) -> Seal | None:
    """The last seal, or None when nothing is sealed yet."""
    row = connection.execute(_NEWEST).first()
    return None if row is None else _seal(row)


def seal_by_number(connection: Connection, seal_no: int) -> Seal | None:
    row = connection.execute(_ONE, {"seal_no": seal_no}).first()
    return None if row is None else _seal(row)


def seal_holding(connection: Connection, tx_id: int) -> Seal | None:
    """The seal whose window a transaction lies in, or None when it is not sealed yet."""
    row = connection.execute(_HOLDING, {"tx_id": tx_id}).first()
    return None if row is None else _seal(row)


def seals_after(connection: Connection, seal_no: int) -> Iterator[Seal]:
    """Every seal of a higher number, in order, a page at a time."""
    while True:
        rows = connection.execute(_AFTER, {"seal_no": seal_no, "limit": _PAGE}).all()
        for row in rows:
            yield _seal(row)
        if len(rows) < _PAGE:
            return
        seal_no = rows[-1].seal_no


def stored_leaves(connection: Connection, seal_no: int) -> bytes:
    """The seal's (entry id, leaf hash) pairs as they are stored; empty when there is no such seal."""
    return bytes(connection.execute(_LEAVES, {"seal_no": seal_no}).scalar() or b"")


def leaves_bytes(leaves: Sequence[tuple[bytes, bytes]]) -> bytes:
    """How a seal keeps its leaves: 16 bytes of the entry's id and 32 of its leaf hash, in the tree's order."""
    return b"".join(entry_id + leaf for entry_id, leaf in leaves)


def split_leaves(stored: bytes) -> list[tuple[bytes, bytes]] | None:
    """The pairs of ``leaves_bytes``, or None when the bytes are no such list."""
    if len(stored) % _LEAF_BYTES:
        return None
    return [(stored[at : at + 16], stored[at + 16 : at + _LEAF_BYTES]) for at in range(0, len(stored), _LEAF_BYTES)]


def read_window(connection: Connection, from_tx: int, to_tx: int) -> Iterator[EntryRow]:
    """The entries of a window in the tree's order. A window from 0 also has those without a tx_id, first of all."""
    below = sql.SQL("tx_id < {}").format(sql.Literal(to_tx))
    window = (
        sql.SQL("WHERE {} OR tx_id IS NULL").format(below)
        if from_tx <= 0
        else sql.SQL("WHERE tx_id >= {} AND {}").format(sql.Literal(from_tx), below)
    )
    # With the table's name: without it PostgreSQL orders by the columns of the result, which are texts.
    return read_entries(connection, sql.SQL("{} ORDER BY e.tx_id NULLS FIRST, e.id").format(window))


# Sealing -------------------------------------------------------------------------------------------------------------

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")
_FINISHED: Final = text(
    """
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
           (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
    """
)
_CUT: Final = text(
    """
    SELECT coalesce(tx_id, 0) AS tx_id FROM public.funds_ledger_entries
    WHERE tx_id >= :from_tx AND tx_id < :xmin OR tx_id IS NULL AND :from_tx = 0
    ORDER BY 1 OFFSET :limit LIMIT 1
    """
)
_INSERT: Final = text(
    """
    INSERT INTO fleet.ledger_seals (seal_no, from_tx, to_tx, entries, merkle_root, prev_seal_hash, sealed_at, key_id,
        seal_hash, signature, leaves)
    VALUES (:seal_no, :from_tx, :to_tx, :entries, :merkle_root, :prev_seal_hash, :sealed_at, :key_id, :seal_hash,
        :signature, :leaves)
    """
)
_OLDEST_UNSEALED: Final = text(
    """
    SELECT min(created_at) FROM public.funds_ledger_entries
    WHERE tx_id >= coalesce((SELECT max(to_tx) FROM fleet.ledger_seals), 0) AND isfinite(created_at)
    """
)


def seal_next(connection: Connection, key: SealKey, *, limit: int = SEAL_ENTRIES_MAXIMUM) -> Seal | None:
    """Seal the entries of finished transactions that no seal covers yet: at most ``limit``, whole transactions.

    None when there are none, or when another sealer is at it. The seal stands when the caller commits. It takes no lock
    that an append could want. Raises SealsAhead.
    """
    if not connection.execute(_TRY_LOCK, {"key": _SEALER_LOCK}).scalar_one():
        return None
    newest = newest_seal(connection)
    from_tx = 0 if newest is None else newest.to_tx
    # Read before the entries: whatever ended since is simply left for the next seal.
    finished = connection.execute(_FINISHED).one()
    if finished.xmin < from_tx:
        raise SealsAhead(
            f"transactions are at {finished.xmin}, the newest seal ends at {from_tx}: this database was restored from a "
            "dump. Stop the fleet, raise the server's next transaction id above that with pg_resetwal, start again"
        )
    cut: int | None = connection.execute(_CUT, {"from_tx": from_tx, "xmin": finished.xmin, "limit": limit}).scalar()
    to_tx = finished.xmin if cut is None else max(cut, from_tx + 1)
    leaves = [(row.key, row.leaf()) for row in read_window(connection, from_tx, to_tx)]
    if not leaves and cut is not None:  # the first transaction alone has more than ``limit``
        to_tx = cut + 1
        leaves = [(row.key, row.leaf()) for row in read_window(connection, from_tx, to_tx)]
    if not leaves:
        return None
    unsigned = Seal(
        seal_no=1 if newest is None else newest.seal_no + 1,
        from_tx=from_tx,
        to_tx=to_tx,
        entries=len(leaves),
        merkle_root=root([leaf for _, leaf in leaves]),
        prev_seal_hash=NO_SEAL if newest is None else newest.seal_hash,
        sealed_at=finished.now,
        key_id=key.id,
        seal_hash=b"",
        signature=b"",
    )
    seal_hash = unsigned.computed_hash()
    values: dict[str, Any] = {name: getattr(unsigned, name) for name in SEAL_FIELDS}
    values |= {"seal_hash": seal_hash, "signature": key.sign(seal_hash)}
    stored = {"sealed_at": _EPOCH + timedelta(microseconds=finished.now), "leaves": leaves_bytes(leaves)}
    connection.execute(_INSERT, values | stored)
    return Seal(**values)


def hold_sealer_back(connection: Connection) -> bool:
    """Keep every sealer waiting until this transaction ends. False if the first seal stands already."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SEALER_LOCK})
    return newest_seal(connection) is None


def oldest_unsealed(connection: Connection) -> datetime | None:
    """When the oldest entry that no seal covers was posted; None when all are sealed."""
    return connection.execute(_OLDEST_UNSEALED).scalar()

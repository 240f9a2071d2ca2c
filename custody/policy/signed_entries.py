"""The address book of the database: entries are proposed, chained, and stand once k approvers have signed them (R8, R21).

Whoever proposes an entry decides nothing. A proposal without its signatures has no effect, and keeps no other waiting.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Connection, text

from custody.policy.address_book import ENTRIES_MAXIMUM, AddressBook, AddressBookEntry, Role
from custody.policy.documents import NO_HASH, document_hash, validated
from custody.policy.genesis import Genesis
from custody.policy.refusals import PolicyRefused
from custody.policy.signatures import signer_of
from custody.policy.texts import entry_text
from custody.policy.verified import VerifiedGenesis
from custody.trezor.transaction import SignatureError

BOOK: Final = "fleet.address_book"
_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtext('fleet.address_book'))")
_COLUMNS: Final = "b.id, b.number, b.environment, b.previous, b.hash, b.action, b.role, b.chain_id, b.address, b.owner, b.label, b.added_at"
_ROWS: Final = text(f"SELECT {_COLUMNS} FROM fleet.address_book b WHERE b.number IS NOT NULL ORDER BY b.number")  # noqa: S608
_SIGNATURES: Final = text(
    """
    SELECT subject_id, digest, approver, signature FROM fleet.approvals
    WHERE subject_kind = 'address_book_entry' AND state <> 'refused' ORDER BY id
    """
)

_STAND: Final = text(
    """
    SELECT (SELECT hash FROM fleet.address_book WHERE number IS NOT NULL ORDER BY number DESC LIMIT 1) AS head,
        (SELECT count(number) FROM fleet.address_book) AS entries,
        (SELECT count(*) FROM fleet.approvals
         WHERE subject_kind = 'address_book_entry' AND state <> 'refused') AS signatures
    """
)
_verified: Final[dict[str, object]] = {}


def propose_entry(
    connection: Connection,
    *,
    environment: str,
    user_id: UUID | None,
    chain_id: int,
    address: str,
    label: str,
    by: str,
    action: str = "add",
    role: Role = "payee",
) -> AddressBookEntry:
    """Append an entry that approvers may sign; ``user_id`` is None for a gas payer of ours. Raises PolicyRefused."""
    connection.execute(_LOCK)
    last = connection.execute(
        text("SELECT number, hash FROM fleet.address_book WHERE number IS NOT NULL ORDER BY number DESC LIMIT 1")
    ).one_or_none()
    number = 1 if last is None else last.number + 1
    if number > ENTRIES_MAXIMUM:
        raise PolicyRefused(BOOK, "number", f"expected at most {ENTRIES_MAXIMUM} entries")
    said: dict[str, Any] = {
        "environment": environment,
        "number": number,
        "previous": NO_HASH if last is None else last.hash,
        "action": action,
        "role": role,
        "chain_id": chain_id,
        "address": address,
        "owner": "house" if user_id is None else str(user_id),
        "label": label,
        "added_at": connection.execute(text("SELECT clock_timestamp()")).scalar_one(),
    }
    entry = validated(AddressBookEntry, said, file=BOOK)
    connection.execute(
        text(
            """
            INSERT INTO fleet.address_book (user_id, added_by, number, environment, previous, hash, action, role, chain_id,
                address, owner, label, added_at)
            VALUES (:user, :by, :number, :environment, :previous, :hash, :action, :role, :chain_id, :address, :owner, :label,
                :added_at)
            """
        ),
        {**said, "user": user_id, "by": by, "hash": entry_hash(entry)},
    )
    return entry


def entry_hash(entry: AddressBookEntry) -> str:
    """SHA-256 of an entry's canonical bytes: what its approvers' text carries."""
    return document_hash("address book entry", entry.model_dump(), file=BOOK)


def read_entry(row: Any) -> AddressBookEntry:
    """The entry in a row that holds its columns. Raises PolicyRefused for a row that is no entry."""
    fields = AddressBookEntry.model_fields
    return validated(AddressBookEntry, {name: getattr(row, name) for name in fields}, file=f"{BOOK} {row.number}")


def standing_entries(connection: Connection, genesis: VerifiedGenesis, now: datetime) -> AddressBook:
    """Every entry that k approvers signed, in its order. Raises PolicyRefused when the chain of entries is broken.

    What was verified once is kept until a row, a signature or who may approve changes.
    """
    row = connection.execute(_STAND).one()
    approvers = frozenset(each.address for each in genesis.genesis.active_approvers("policy", now))
    key = (genesis.hash, approvers, row.head, row.entries, row.signatures)
    if _verified.get("key") != key:
        _verified.update(key=key, book=_verify(connection, genesis, now))
    return cast("AddressBook", _verified["book"])


def _verify(connection: Connection, genesis: VerifiedGenesis, now: datetime) -> AddressBook:
    signatures: dict[UUID, list[tuple[str, bytes]]] = {}
    for row in connection.execute(_SIGNATURES):
        signatures.setdefault(row.subject_id, []).append((row.approver, bytes(row.signature)))
    standing: list[AddressBookEntry] = []
    head = NO_HASH
    checkpoint = genesis.genesis.address_book
    place = 0
    for place, row in enumerate(connection.execute(_ROWS), start=1):
        entry = read_entry(row)
        if entry.number != place or entry.previous != head:
            raise PolicyRefused(
                BOOK, f"entry {place}", f"expected number {place} with previous {head}; a row is missing"
            )
        head = entry_hash(entry)
        if head != row.hash:
            raise PolicyRefused(
                BOOK, f"entry {place}", f"expected the hash {row.hash} that it was proposed with, got {head}"
            )
        if place == checkpoint.entries and head != checkpoint.head:
            raise PolicyRefused(BOOK, f"entry {place}", f"expected the hash {checkpoint.head} that the genesis names")
        persons = who_signed(
            entry, signatures.get(row.id, ()), genesis.genesis, now=now, or_revoked=place <= checkpoint.entries
        )
        if len(persons) >= genesis.genesis.k and entry.environment == genesis.genesis.environment:
            standing.append(entry)
    if place < checkpoint.entries:
        raise PolicyRefused(BOOK, "entries", f"expected at least {checkpoint.entries}, got {place}: rows are missing")
    return AddressBook(entries=tuple(standing), head=head)


def who_signed(
    entry: AddressBookEntry,
    signatures: Sequence[tuple[str, bytes]],
    genesis: Genesis,
    *,
    now: datetime,
    or_revoked: bool = False,
) -> tuple[str, ...]:
    """Distinct persons whose signature over an entry counts. ``or_revoked``: those of former approvers count too."""
    active: Mapping[str, str] = {each.address: each.person for each in genesis.active_approvers("policy", now)}
    if or_revoked:
        # The genesis names the book up to here, and was signed by those who followed.
        active = {each.address: each.person for each in genesis.approvers if "policy" in each.powers}
    text_signed = entry_text(entry, entry_hash(entry))
    found: list[str] = []
    for approver, signature in signatures:
        try:
            is_theirs = signer_of(text_signed, f"0x{signature.hex()}") == approver
        except SignatureError:
            is_theirs = False
        if is_theirs and (person := active.get(approver)) is not None and person not in found:
            found.append(person)
    return tuple(found)

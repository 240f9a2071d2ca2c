"""Approvals as people's devices make them, handed in with the signer API's database role."""

from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from custody.policy import AddressBookEntry
from custody.policy.signed_entries import entry_hash
from custody.policy.texts import entry_text
from tests.conftest import Database
from tests.policy_files import key, signed

_INSERT = text(
    """
    INSERT INTO fleet.approvals (subject_kind, subject_id, digest, person, approver, signature)
    VALUES (:kind, :id, :digest, :person, :approver, :signature)
    """
)


def hand_in_approval(
    engine: Engine, kind: str, subject_id: UUID, digest: bytes, shown: str, by: str, /, **changed: Any
) -> None:
    """One person's approval of what ``shown`` says; ``changed`` replaces a column's value."""
    signature = signed(shown, by)[0].signature
    values = {
        "kind": kind,
        "id": subject_id,
        "digest": digest,
        "person": by,
        "approver": key(by).address,
        "signature": bytes.fromhex(signature[2:]),
    }
    with engine.begin() as connection:
        connection.execute(_INSERT, values | changed)


def sign_entry(database: Database, entry: AddressBookEntry, *people: str) -> None:
    """The signatures of people under an address book entry."""
    with database.engine().begin() as connection:
        entry_id = connection.execute(
            text("SELECT id FROM fleet.address_book WHERE number = :n"), {"n": entry.number}
        ).scalar_one()
    found = entry_hash(entry)
    for person in people:
        hand_in_approval(
            database.engine("fleet_signer_api"),
            "address_book_entry",
            entry_id,
            bytes.fromhex(found),
            entry_text(entry, found),
            person,
        )

"""What people do with registrations: invite a user, revoke an account, have an address of it issued for a payment."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.destinations.derivation import DerivationError, address_at, derivation_path
from custody.registration.judging import ACCOUNTS_COLLECTION
from custody.registration.proof import RegistrationRefused
from custody.store.outbox import mirror

INVITATION_SECONDS: Final = 3_600  # a person is called and fetches the device
CODE_BYTES: Final = 16
PURPOSE: Final = "deposit"
PURPOSE_CHARACTERS_MAXIMUM: Final = 32


@dataclass(frozen=True, slots=True)
class IssuedAddress:
    """One row of trezor_derived_addresses: ``path`` from the master key, ``index`` from 1."""

    account_id: UUID
    index: int
    address: str
    path: str
    purpose: str
    payment_id: UUID


def find_user(connection: Connection, name: str) -> UUID:
    """A user by id or Mongo id. Raises RegistrationRefused."""
    found = connection.execute(
        text("SELECT id FROM public.users WHERE id::text = :name OR legacy_object_id = :name"), {"name": name}
    ).scalar_one_or_none()
    if found is None:
        raise RegistrationRefused(f"there is no user {name}: expected the user's id or Mongo id")
    return found


def invite(connection: Connection, user_id: UUID, *, by: str) -> tuple[str, datetime]:
    """A code with which one device is registered for the user, and when it ends. Only its hash is kept."""
    code = secrets.token_hex(CODE_BYTES)
    expires_at = connection.execute(
        text(
            """
            INSERT INTO fleet.registration_invitations (user_id, code_sha256, invited_by, expires_at)
            VALUES (:user, :code, :by, clock_timestamp() + make_interval(secs => :seconds)) RETURNING expires_at
            """
        ),
        {"user": user_id, "code": sha256(code.encode()).digest(), "by": by, "seconds": INVITATION_SECONDS},
    ).scalar_one()
    return code, expires_at


def revoke(connection: Connection, user_id: UUID, *, by: str, reason: str) -> str:
    """Revoke the user's account at once: no address of it is issued any more. Returns its fingerprint.

    The addresses issued before stay in the books. Raises RegistrationRefused when there is none.
    """
    account = connection.execute(
        text(
            "UPDATE public.trezor_accounts SET active = false, updated_at = clock_timestamp() "
            "WHERE user_id = :user AND active RETURNING id, xpub_fingerprint"
        ),
        {"user": user_id},
    ).one_or_none()
    if account is None:
        raise RegistrationRefused(f"user {user_id} has no registered account")
    connection.execute(
        text(
            "UPDATE fleet.trezor_registrations SET revoked_at = clock_timestamp(), revoked_by = :by, "
            "revoked_reason = :reason WHERE trezor_account_id = :account AND state = 'accepted' AND revoked_at IS NULL"
        ),
        {"account": account.id, "by": by, "reason": reason},
    )
    mirror(connection, ACCOUNTS_COLLECTION, account.id)
    return account.xpub_fingerprint


def issue_address(connection: Connection, user_id: UUID, payment_id: UUID, *, purpose: str = PURPOSE) -> IssuedAddress:
    """The address of the user's account for a payment, issued once: the same payment has the same address.

    Hand it to nobody before this transaction has committed. Raises RegistrationRefused without an active account, or
    for an unknown payment.
    """
    if not 0 < len(purpose) <= PURPOSE_CHARACTERS_MAXIMUM:
        raise RegistrationRefused(f"purpose: expected 1 to {PURPOSE_CHARACTERS_MAXIMUM} characters")
    account = connection.execute(
        text(
            "SELECT id, xpub, base_path, next_address_index FROM public.trezor_accounts "
            "WHERE user_id = :user AND active FOR UPDATE"
        ),
        {"user": user_id},
    ).one_or_none()
    if account is None:
        raise RegistrationRefused(f"user {user_id} has no registered account: fleet trezor invite {user_id}")
    standing = connection.execute(
        text(
            "SELECT address_index, address, path FROM public.trezor_derived_addresses "
            "WHERE trezor_account_id = :account AND payment_id = :payment AND purpose = :purpose"
        ),
        {"account": account.id, "payment": payment_id, "purpose": purpose},
    ).one_or_none()
    if standing is not None:
        return IssuedAddress(account.id, standing.address_index, standing.address, standing.path, purpose, payment_id)
    known = connection.execute(text("SELECT 1 FROM public.payments WHERE id = :id"), {"id": payment_id}).one_or_none()
    if known is None:
        raise RegistrationRefused(f"there is no payment {payment_id}")
    index = account.next_address_index
    try:
        address = address_at(account.xpub, index, account.base_path)
        path = derivation_path(index, account.base_path)
    except DerivationError as error:
        raise RegistrationRefused(str(error)) from None
    connection.execute(
        text(
            """
            INSERT INTO public.trezor_derived_addresses (trezor_account_id, address_index, address, path, purpose, payment_id)
            VALUES (:account, :index, :address, :path, :purpose, :payment)
            """
        ),
        {
            "account": account.id,
            "index": index,
            "address": address,
            "path": path,
            "purpose": purpose,
            "payment": payment_id,
        },
    )
    connection.execute(
        text(
            "UPDATE public.trezor_accounts SET next_address_index = :next, updated_at = clock_timestamp() WHERE id = :id"
        ),
        {"next": index + 1, "id": account.id},
    )
    mirror(connection, ACCOUNTS_COLLECTION, account.id)
    return IssuedAddress(account.id, index, address, path, purpose, payment_id)

"""The housekeeping worker judges what was handed in, and writes the account of the one that is proved (R9, R24)."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from custody.policy import Genesis
from custody.registration.proof import ACCOUNT, Challenge, Claim, InUse, RegistrationRefused, prove
from custody.registration.texts import ApiPlace
from custody.store.engine import transaction
from custody.store.outbox import mirror

log = structlog.get_logger(__name__)

ACCOUNTS_COLLECTION: Final = "trezoraccounts"
JUDGE_LIMIT: Final = 50

_CLAIM = text(
    """
    SELECT r.id, r.xpub, r.address, r.device_fingerprint, r.device_model, r.device_label, r.signature, r.received_at,
        encode(c.nonce, 'hex') AS nonce, c.expires_at, i.id AS invitation_id, i.user_id, i.used_at
    FROM fleet.trezor_registrations r
    JOIN fleet.signer_challenges c ON c.id = r.challenge_id
    JOIN fleet.registration_invitations i ON i.id = c.invitation_id
    WHERE r.state = 'received' ORDER BY r.received_at, r.id LIMIT :limit FOR UPDATE OF r, i SKIP LOCKED
    """
)


def judge_registrations(
    engine: Engine, place: ApiPlace, genesis: Callable[[], Genesis | None], *, limit: int = JUDGE_LIMIT
) -> int:
    """Judge up to ``limit`` registrations in one transaction; returns how many. Role: fleet_housekeeping.

    ``genesis``: the verified one, or None where there is none (a development chain); called only when there is work.
    """
    with transaction(engine) as connection:
        rows = connection.execute(_CLAIM, {"limit": limit}).all()
        if not rows:
            return 0
        in_use = _in_use(connection, genesis())
        for row in rows:
            _judge(connection, row, place, in_use)
    return len(rows)


def _judge(connection: Connection, row: Any, place: ApiPlace, in_use: InUse) -> None:
    try:
        if row.used_at is not None:
            raise RegistrationRefused("its invitation was used already: ask an operator for another one")
        claim = Claim(row.xpub, row.address, row.device_fingerprint, "0x" + bytes(row.signature).hex(), row.received_at)
        fingerprint = prove(claim, Challenge(row.nonce, row.user_id, row.expires_at), place, in_use)
        account = _write(connection, row, fingerprint)
    except RegistrationRefused as error:
        log.warning("trezor_registration_refused", registration=str(row.id), reason=str(error))
        _set(connection, row.id, "refused", str(error), None)
        return
    _set(connection, row.id, "accepted", None, account)
    connection.execute(
        text("UPDATE fleet.registration_invitations SET used_at = clock_timestamp() WHERE id = :id"),
        {"id": row.invitation_id},
    )
    mirror(connection, ACCOUNTS_COLLECTION, account)
    log.info("trezor_registered", registration=str(row.id), account=str(account), address=row.address)


def _write(connection: Connection, row: Any, fingerprint: str) -> UUID:
    status = connection.execute(
        text("SELECT status::text FROM public.users WHERE id = :id"), {"id": row.user_id}
    ).scalar_one()
    if status != "active":
        raise RegistrationRefused(f"the user is {status}: only an active user registers a device")
    active = connection.execute(
        text("SELECT xpub_fingerprint FROM public.trezor_accounts WHERE user_id = :user AND active"),
        {"user": row.user_id},
    ).scalar_one_or_none()
    if active is not None:
        raise RegistrationRefused(
            f"the user has the account {active} registered; revoke it first: fleet trezor revoke {row.user_id}"
        )
    standing = connection.execute(
        text("SELECT id, user_id, xpub FROM public.trezor_accounts WHERE xpub_fingerprint = :f OR xpub = :x"),
        {"f": fingerprint, "x": row.xpub},
    ).one_or_none()
    if standing is not None and (standing.user_id, standing.xpub) != (row.user_id, row.xpub):
        raise RegistrationRefused(f"the account {fingerprint} is another user's")
    if standing is not None:  # revoked, and proved again by the same person: its addresses go on where they stopped
        connection.execute(
            text(
                "UPDATE public.trezor_accounts SET active = true, device_label = :label, "
                "updated_at = clock_timestamp() WHERE id = :id"
            ),
            {"id": standing.id, "label": row.device_label},
        )
        return standing.id
    try:
        with connection.begin_nested():
            return connection.execute(
                text(
                    """
                    INSERT INTO public.trezor_accounts (user_id, xpub_fingerprint, xpub, base_path,
                        registration_address, next_address_index, device_label)
                    VALUES (:user, :fingerprint, :xpub, :path, :address, 1, :label) RETURNING id
                    """
                ),
                {
                    "user": row.user_id,
                    "fingerprint": fingerprint,
                    "xpub": row.xpub,
                    "path": ACCOUNT,
                    "address": row.address,
                    "label": row.device_label,
                },
            ).scalar_one()
    except IntegrityError:
        raise RegistrationRefused("another registration of this user or account was faster") from None


def _set(connection: Connection, registration_id: UUID, state: str, reason: str | None, account: UUID | None) -> None:
    connection.execute(
        text(
            "UPDATE fleet.trezor_registrations SET state = :state, reason = :reason, trezor_account_id = :account, "
            "judged_at = clock_timestamp() WHERE id = :id"
        ),
        {"id": registration_id, "state": state, "reason": reason, "account": account},
    )


def _in_use(connection: Connection, genesis: Genesis | None) -> InUse:
    """Every key that has another role: of the database, and above all of the genesis, which no database can change."""
    addresses: dict[str, str] = {}
    xpubs: dict[str, str] = {}
    for row in connection.execute(text("SELECT address, kind FROM fleet.house_accounts")):
        addresses[row.address] = f"the house's {row.kind}"
    for row in connection.execute(text("SELECT xpub FROM fleet.deposit_accounts WHERE xpub IS NOT NULL")):
        xpubs[sha256(row.xpub.encode()).hexdigest()] = "a deposit account's"
    if genesis is None:
        return InUse(addresses, xpubs)
    for chain in genesis.chains:
        for treasury in chain.treasuries:
            addresses |= dict.fromkeys(treasury.owners, f"an owner's of the Safe on {chain.name}")
            addresses[treasury.address] = f"the treasury's on {chain.name}"
    for account in genesis.deposit_accounts:
        xpubs[account.xpub_sha256] = f"the deposit account {account.name}'s"
    for approver in genesis.approvers:
        addresses[approver.address] = f"the approver {approver.person}'s"
        xpubs[approver.xpub_sha256] = f"the approver {approver.person}'s"
    return InUse(addresses, xpubs)

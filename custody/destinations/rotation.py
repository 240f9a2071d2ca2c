"""Deposit accounts come and go (R20): a new one is opened, the one before is drained, a compromised one is swept first.

States: active (one), draining and compromised (issue nothing, are still swept), retired.
"""

from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.destinations.derivation import xpub_fingerprint
from custody.destinations.issuing import (
    IssuingRefused,
    forwarder_fingerprint,
    lock_deposit_accounts,
    register_deposit_account,
    register_forwarder_account,
)
from custody.settings.chains import Chains

Ending = Literal["draining", "compromised"]


def rotate_deposit_account(connection: Connection, xpub: str, *, ending: Ending = "draining") -> UUID:
    """Open the account of ``xpub``: from this transaction on it issues, and the active one is ``ending``.

    Addresses that were shown to buyers stay watched and swept. The keys agent must have the new seed and, where money
    is real, the genesis must name its account first. Raises IssuingRefused for an xpub that is registered already,
    DerivationError for one of another kind.
    """
    fingerprint = xpub_fingerprint(xpub)
    lock_deposit_accounts(connection)
    known = connection.execute(
        text("SELECT state FROM fleet.deposit_accounts WHERE xpub_fingerprint = :f OR xpub = :x"),
        {"f": fingerprint, "x": xpub},
    ).scalar_one_or_none()
    if known is not None:
        raise IssuingRefused(
            f"deposit account {fingerprint} is {known} already: open one of a seed that was never used"
        )
    _end_active(connection, ending)
    return register_deposit_account(connection, xpub)


def rotate_to_forwarders(connection: Connection, chains: Chains, *, ending: Ending = "draining") -> UUID:
    """Open the account of the chains' Safe treasuries, whose addresses no key rules (R20); the active one is ``ending``.

    Raises IssuingRefused for a treasury that is no Safe, and for treasuries that have an account already.
    """
    lock_deposit_accounts(connection)
    fingerprint = forwarder_fingerprint({chain.id: chain.treasury for chain in chains.chains})
    known = connection.execute(
        text("SELECT state FROM fleet.deposit_accounts WHERE xpub_fingerprint = :f"), {"f": fingerprint}
    ).scalar_one_or_none()
    if known is not None:
        raise IssuingRefused(f"the forwarder account {fingerprint} of these treasuries is {known} already")
    _end_active(connection, ending)
    return register_forwarder_account(connection, chains)


def _end_active(connection: Connection, ending: Ending) -> None:
    connection.execute(
        text("UPDATE fleet.deposit_accounts SET state = :ending WHERE state = 'active'"), {"ending": ending}
    )


def mark_deposit_account(connection: Connection, fingerprint: str, state: Literal["compromised", "retired"]) -> None:
    """Say that a drained account's seed is known to others, or that nothing is expected of it any more.

    Raises IssuingRefused for an unknown or active account (``rotate_deposit_account`` first), and for one that is
    retired while coins of its addresses are in the books.
    """
    row = connection.execute(
        text("SELECT id, state FROM fleet.deposit_accounts WHERE xpub_fingerprint = :f FOR UPDATE"), {"f": fingerprint}
    ).one_or_none()
    if row is None:
        raise IssuingRefused(f"there is no deposit account {fingerprint}: fleet deposits list")
    if row.state == "active":
        raise IssuingRefused(f"deposit account {fingerprint} is active: open another one first, fleet deposits rotate")
    if state == "retired":
        lying = connection.execute(
            text(
                "SELECT address FROM public.derived_destinations WHERE deposit_account_id = :id AND "
                "(status IN ('sweeping', 'quarantined') OR balance > 0) ORDER BY created_at LIMIT 1"
            ),
            {"id": row.id},
        ).scalar_one_or_none()
        if lying is not None:
            raise IssuingRefused(f"coins lie at {lying}, an address of {fingerprint}: it is drained first")
    connection.execute(text("UPDATE fleet.deposit_accounts SET state = :s WHERE id = :id"), {"s": state, "id": row.id})

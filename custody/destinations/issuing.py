"""Issuing deposit addresses and routes: one address a (buyer, offer, chain), never handed out twice.

The index is one gap-free counter, locked in the transaction that inserts the address.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from eth_utils.crypto import keccak
from sqlalchemy import Connection, text

from custody.chain.assets import to_units
from custody.chain.logs import reference_topic
from custody.destinations.accounts import HdAccount, read_account
from custody.destinations.derivation import ACCOUNT_PATH, DerivationError, xpub_fingerprint
from custody.destinations.forwarders import FORWARDER_ROOT
from custody.settings.chains import Chains
from custody.store.outbox import mirror

COLLECTION: Final = "deriveddestinations"
_REFERENCE: Final = re.compile(r"0x[0-9a-fA-F]{16}")

_ACTIVE: Final = text(
    "SELECT id, kind, xpub, xpub_fingerprint, base_path, next_index FROM fleet.deposit_accounts "
    "WHERE state = 'active' FOR UPDATE"
)


class IssuingRefused(Exception):
    """No address or route is issued. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class OfferRef:
    """The seller's offer: an ``entity`` by its id, or a ``template`` by its external reference (seed)."""

    kind: Literal["entity", "template"]
    id: UUID | None = None
    external: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "entity") != (self.id is not None) or (self.kind == "template") != bool(self.external):
            raise ValueError("offer: an entity has an id and no external reference, a template the reverse")


@dataclass(frozen=True, slots=True)
class Destination:
    """One row of derived_destinations. Hand ``address`` to nobody before its transaction has committed (L12)."""

    id: UUID
    chain_id: int
    address: str
    derivation_path: str
    derivation_index: int
    deposit_account_id: UUID


@dataclass(frozen=True, slots=True)
class Route:
    """Where a payment's money is expected: ``expected`` in whole tokens."""

    payment_id: UUID
    destination: Destination
    token: str
    expected: Decimal
    reference_topic: str


def register_deposit_account(connection: Connection, xpub: str) -> UUID:
    """Register the account that addresses are derived from; repeating the same xpub returns its id.

    Raises DerivationError for an xpub of another kind, IssuingRefused if it is a buyer's or seller's registered
    Trezor account or another account is active.
    """
    fingerprint = xpub_fingerprint(xpub)
    lock_deposit_accounts(connection)
    _refuse_registered_trezor(connection, fingerprint, xpub)
    existing = connection.execute(
        text("SELECT id, xpub FROM fleet.deposit_accounts WHERE xpub_fingerprint = :fingerprint"),
        {"fingerprint": fingerprint},
    ).one_or_none()
    if existing is not None:
        if existing.xpub != xpub:
            raise IssuingRefused(f"deposit account {fingerprint} is registered with another xpub")
        return existing.id
    return _open_account(connection, kind="hd_account", fingerprint=fingerprint, xpub=xpub, path=ACCOUNT_PATH)


def register_forwarder_account(connection: Connection, chains: Chains) -> UUID:
    """Register the account whose addresses are forwarders of the chains' treasuries (R20); a repeat returns its id.

    Raises IssuingRefused for a treasury that is no Safe, or while another account is active.
    """
    for chain in chains.chains:
        if chain.safe is None:
            raise IssuingRefused(
                f"{chain.name}: its treasury {chain.treasury} is an account of one device; create2_forwarder addresses are "
                "a Safe treasury's alone (R20): name its owners in the chains file, or set DESTINATION_KIND=hd_account"
            )
    fingerprint = forwarder_fingerprint({chain.id: chain.treasury for chain in chains.chains})
    lock_deposit_accounts(connection)
    existing = connection.execute(
        text("SELECT id FROM fleet.deposit_accounts WHERE xpub_fingerprint = :fingerprint"),
        {"fingerprint": fingerprint},
    ).scalar_one_or_none()
    if existing is not None:
        return existing
    account = _open_account(
        connection, kind="create2_forwarder", fingerprint=fingerprint, xpub=None, path=FORWARDER_ROOT
    )
    connection.execute(
        text(
            "INSERT INTO fleet.forwarder_treasuries (account_id, chain_id, treasury) VALUES (:account, :chain, :treasury)"
        ),
        [{"account": account, "chain": chain.id, "treasury": chain.treasury} for chain in chains.chains],
    )
    return account


def forwarder_fingerprint(treasuries: Mapping[int, str]) -> str:
    """What tells the account of these treasuries (by chain id) from others: 0x and 8 hex digits, as an xpub's."""
    said = "".join(f"{chain_id}:{treasury.lower()}\n" for chain_id, treasury in sorted(treasuries.items()))
    return "0x" + keccak(f"{FORWARDER_ROOT}\n{said}".encode())[:4].hex()


def lock_deposit_accounts(connection: Connection) -> None:
    """One account is opened at a time."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('fleet.deposit_accounts', 0))"))


def _open_account(connection: Connection, *, kind: str, fingerprint: str, xpub: str | None, path: str) -> UUID:
    active = connection.execute(
        text("SELECT xpub_fingerprint FROM fleet.deposit_accounts WHERE state = 'active'")
    ).scalar_one_or_none()
    if active is not None:
        raise IssuingRefused(f"deposit account {active} is active; set it to draining before another one is registered")
    # derivation_index is unique over all accounts (seed): a new account goes on where the others stopped.
    return connection.execute(
        text(
            """
            INSERT INTO fleet.deposit_accounts (kind, xpub_fingerprint, xpub, base_path, next_index)
            SELECT :kind, :fingerprint, :xpub, :path,
                   greatest((SELECT coalesce(max(next_index), 0) FROM fleet.deposit_accounts),
                            (SELECT coalesce(max(derivation_index) + 1, 0) FROM public.derived_destinations))
            RETURNING id
            """
        ),
        {"kind": kind, "fingerprint": fingerprint, "xpub": xpub, "path": path},
    ).scalar_one()


def issue_destination(connection: Connection, *, buyer_id: UUID, offer: OfferRef, chain_id: int) -> Destination:
    """The address of (buyer, offer, chain), issued once: a repeat returns the same one.

    An address may be shown to a payer only after this transaction has committed (L12): the watcher matches
    against committed rows. Raises IssuingRefused without an active deposit account, or if the account's xpub has
    meanwhile been registered as a Trezor account (both registries would issue the same addresses).
    """
    key = {
        "buyer": buyer_id,
        "kind": offer.kind,
        "offer": offer.id,
        "external": offer.external,
        "chain": chain_id,
    }
    found = _find(connection, key)
    if found is not None:
        return found
    # The second look is for an account that was rotated while the first waited for its row.
    account = connection.execute(_ACTIVE).one_or_none() or connection.execute(_ACTIVE).one_or_none()
    if account is None:
        raise IssuingRefused("no deposit account is active: register one with its xpub (fleet deposits register)")
    # Whoever held the lock before may have issued this very address.
    found = _find(connection, key)
    if found is not None:
        return found
    source = read_account(connection, account)
    if isinstance(source, HdAccount):
        _refuse_registered_trezor(connection, account.xpub_fingerprint, source.xpub)
    index = int(account.next_index)
    try:
        address, path = source.address(chain_id, index), source.path_of(index)
    except DerivationError as error:
        raise IssuingRefused(str(error)) from error
    row = connection.execute(
        text(
            """
            INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_id,
                seller_offer_external_ref, chain_id, address, derivation_path, derivation_index, deposit_account_id)
            VALUES (:buyer, CAST(:kind AS public.ref_kind), :offer, :external, :chain, :address, :path, :index, :account)
            RETURNING id
            """
        ),
        {
            **key,
            "address": address,
            "path": path,
            "index": index,
            "account": account.id,
        },
    ).one()
    connection.execute(
        text("UPDATE fleet.deposit_accounts SET next_index = :next WHERE id = :id"),
        {"next": index + 1, "id": account.id},
    )
    mirror(connection, COLLECTION, row.id)
    return Destination(row.id, chain_id, address, path, index, account.id)


def issue_route(
    connection: Connection,
    payment_id: UUID,
    *,
    chain_id: int,
    token: str,
    expected: Decimal,
    request_id: str | None,
    payment_reference: str,
) -> Route:
    """Issue the payment's destination and route; a repeat with the same values returns the same route.

    ``expected`` in whole tokens; ``payment_reference`` 0x and 16 hex digits, as Request Network returns it.
    The address is handed out only after this transaction has committed (L12).
    Raises IssuingRefused for an unknown payment or token, a payment that has another route, or one whose quote says
    another amount or has expired; InvalidAmount for more decimals than the token has.
    """
    if not _REFERENCE.fullmatch(payment_reference):
        raise IssuingRefused("payment_reference: expected 0x and 16 hex digits (8 bytes)")
    reference = payment_reference.lower()
    topic = reference_topic(bytes.fromhex(reference[2:]))
    decimals = connection.execute(
        text("SELECT decimals FROM fleet.tokens WHERE chain_id = :chain AND token = :token"),
        {"chain": chain_id, "token": token},
    ).scalar_one_or_none()
    if decimals is None:
        raise IssuingRefused(f"no token {token} on chain {chain_id}; add it to the chains file first")
    if to_units(expected, decimals) == 0:
        raise IssuingRefused("expected: an amount above zero")
    payment = connection.execute(
        text(
            "SELECT buyer_id, seller_offer_ref_kind::text AS kind, seller_offer_id, seller_offer_external_ref "
            "FROM public.payments WHERE id = :id"
        ),
        {"id": payment_id},
    ).one_or_none()
    if payment is None:
        raise IssuingRefused(f"there is no payment {payment_id}")
    offer = OfferRef(payment.kind, payment.seller_offer_id, payment.seller_offer_external_ref)
    _require_quoted(connection, payment_id, chain_id=chain_id, token=token, expected=expected)
    destination = issue_destination(connection, buyer_id=payment.buyer_id, offer=offer, chain_id=chain_id)
    values = {
        "payment": payment_id,
        "chain": chain_id,
        "token": token,
        "destination": destination.id,
        "expected": expected,
        "request_id": request_id,
        "reference": reference,
        "topic": topic,
    }
    connection.execute(
        text(
            """
            INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected, request_id,
                payment_reference, reference_topic)
            VALUES (:payment, :chain, :token, :destination, :expected, :request_id, :reference, :topic)
            ON CONFLICT (payment_id) DO NOTHING
            """
        ),
        values,
    )
    same = connection.execute(
        text(
            """
            SELECT 1 FROM fleet.payment_routes
            WHERE payment_id = :payment AND chain_id = :chain AND token = :token AND destination_id = :destination
              AND expected = :expected AND request_id IS NOT DISTINCT FROM :request_id AND reference_topic = :topic
            """
        ),
        values,
    ).one_or_none()
    if same is None:
        raise IssuingRefused(f"payment {payment_id} already has a route with other values; it is never changed")
    return Route(payment_id, destination, token, expected, topic)


def _require_quoted(connection: Connection, payment_id: UUID, *, chain_id: int, token: str, expected: Decimal) -> None:
    """A payment that the fleet quoted expects what was quoted, whatever its client says (facts §7)."""
    quote = connection.execute(
        text(
            "SELECT chain_id, token, settle_amount, expires_at, expires_at <= clock_timestamp() AS is_over FROM fleet.quotes "
            "WHERE payment_id = :id AND state = 'quoted' AND NOT EXISTS ("
            "SELECT FROM fleet.payment_routes r WHERE r.payment_id = :id)"
        ),
        {"id": payment_id},
    ).one_or_none()
    if quote is None:
        return
    if (quote.chain_id, quote.token, quote.settle_amount) != (chain_id, token, expected):
        raise IssuingRefused(
            f"payment {payment_id} was quoted {quote.settle_amount.normalize():f} of {quote.token} on chain {quote.chain_id}, "
            f"not {expected.normalize():f} of {token} on chain {chain_id}"
        )
    if quote.is_over:
        raise IssuingRefused(
            f"payment {payment_id}'s quote expired {quote.expires_at:%Y-%m-%d %H:%M:%S} UTC: open another payment for a new price"
        )


def _find(connection: Connection, key: dict[str, Any]) -> Destination | None:
    row = connection.execute(
        text(
            """
            SELECT id, chain_id, address, derivation_path, derivation_index, deposit_account_id
            FROM public.derived_destinations
            WHERE buyer_id = :buyer AND seller_offer_ref_kind = CAST(:kind AS public.ref_kind)
              AND coalesce(seller_offer_id::text, seller_offer_external_ref)
                  = coalesce(CAST(CAST(:offer AS uuid) AS text), CAST(:external AS text))
              AND chain_id = :chain
            """
        ),
        key,
    ).one_or_none()
    if row is None:
        return None
    return Destination(
        row.id,
        row.chain_id,
        row.address,
        row.derivation_path,
        row.derivation_index,
        row.deposit_account_id,
    )


def _refuse_registered_trezor(connection: Connection, fingerprint: str, xpub: str) -> None:
    # By fingerprint and by text: the backend's own way to make fingerprints is not in the seed.
    taken = connection.execute(
        text("SELECT id FROM public.trezor_accounts WHERE xpub_fingerprint = :fingerprint OR xpub = :xpub"),
        {"fingerprint": fingerprint, "xpub": xpub},
    ).first()
    if taken is not None:
        raise IssuingRefused(
            f"xpub {fingerprint} is registered as Trezor account {taken.id}: both registries would issue the same "
            "addresses; make a deposit account of its own seed"
        )

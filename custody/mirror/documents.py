"""What the mirror writes: the backend's field names, Decimal128 for money, and only what the fleet owns (R7).

Ownership is per field. ``fleet`` fields are set on every write; ``create_only`` fields are set when the document is
created, never changed; everything else in a document is the backend's. Sources: reference facts §1.1, §1.3, §1.4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from bson import ObjectId
from bson.decimal128 import Decimal128
from sqlalchemy import Connection, text

from custody.mirror.identities import Identities

VERSION_FIELD: Final = "fleetVersion"
"""In every document that the fleet writes more than once: the mirror's fencing number (L17)."""

VERSIONS_AHEAD_MAXIMUM: Final = 1_000_000
"""How far other mirrors may be ahead, in a lease of 10 s. A document with a higher version got it from somebody else, and no
usual write would reach it any more."""

TIME_FIELD: Final = "updatedAt"

Row = Any


@dataclass(frozen=True, slots=True)
class Write:
    """One document's write. A None in ``fleet`` removes the field: the backend's optional fields are absent, not null."""

    object_id: ObjectId
    fleet: Mapping[str, Any] = field(default_factory=dict[str, Any])
    create_only: Mapping[str, Any] = field(default_factory=dict[str, Any])
    creates: bool = True
    is_versioned: bool = True
    restores: bool = False
    """Two persons want the fleet's values there, whatever stands there (custody/mirror/restoring.py)."""

    def update(self, version: int) -> dict[str, dict[str, Any]]:
        """The MongoDB update of this write at that version. Its time goes forward: the backend may have written since."""
        if not self.fleet:
            return {"$setOnInsert": _present(self.create_only)}
        present = _present(self.fleet)
        changed_at = present.pop(TIME_FIELD, None)
        absent = {name: "" for name, value in self.fleet.items() if value is None}
        versioned = {VERSION_FIELD: version} if self.is_versioned else {}
        update: dict[str, dict[str, Any]] = {"$set": {**present, **versioned}}
        if changed_at is not None:
            update["$max"] = {TIME_FIELD: changed_at}
        if absent:
            update["$unset"] = absent
        if self.creates and self.create_only:
            update["$setOnInsert"] = _present(self.create_only)
        return update

    def parents(self) -> set[str]:
        """Nested documents whose fields it writes: ``blockchain``."""
        names = [*self.fleet, *self.create_only]
        return {parent for parent, dot, _ in (name.partition(".") for name in names) if dot}

    def condition(self, version: int) -> dict[str, Any]:
        """The filter: this document, unless a higher version stands there already (L17)."""
        if not self.fleet or not self.is_versioned:
            return {"_id": self.object_id}
        may_be: list[dict[str, Any]] = [{VERSION_FIELD: {"$exists": False}}, {VERSION_FIELD: {"$lte": version}}]
        if self.restores:
            may_be += [
                {VERSION_FIELD: {"$gt": version + VERSIONS_AHEAD_MAXIMUM}},
                {VERSION_FIELD: {"$not": {"$type": "number"}}},
            ]
        return {"_id": self.object_id, "$or": may_be}


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Subject:
    """A mirrored collection: how its rows are read, what they refer to, and what is written of each."""

    collection: str
    query: str
    references: Mapping[str, str]
    write: Callable[[Row, Identities], Write]
    listed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Columns that hold a list of ids, and the collection of each."""
    into: str | None = None
    """The MongoDB collection, where it is another's: a row of such a subject has no ObjectId of its own."""

    def read(self, connection: Connection, ids: list[UUID]) -> tuple[list[Row], Identities]:
        """The present state of these rows, and the ObjectIds of all they refer to."""
        rows = list(connection.execute(text(self.query), {"ids": ids}))
        identities = Identities()
        if self.into is None:
            identities.resolve(connection, self.collection, [row.id for row in rows])
        for column, collection in self.references.items():
            identities.resolve(connection, collection, [getattr(row, column) for row in rows])
        for column, collection in self.listed.items():
            identities.resolve(connection, collection, [each for row in rows for each in getattr(row, column)])
        return rows, identities


def money(value: Decimal) -> Decimal128:
    """Exactly this amount. Raises decimal.Inexact when it has more than 34 digits."""
    return Decimal128(value)


def _polymorphic(
    kind: Literal["entity", "template"] | None,
    row_id: UUID | None,
    external: str | None,
    collection: str,
    ids: Identities,
) -> ObjectId | str | None:
    """A Mixed reference: an ObjectId for an entity, the template's own string for a template."""
    if kind == "template":
        return external
    return ids.of(collection, row_id) if row_id is not None else None


def _parties(row: Row, ids: Identities) -> dict[str, Any]:
    return {
        "purchaseRequestId": _polymorphic(
            row.purchase_request_ref_kind,
            row.purchase_request_id,
            row.purchase_request_external_ref,
            "purchaserequests",
            ids,
        ),
        "sellerOfferId": _polymorphic(
            row.seller_offer_ref_kind, row.seller_offer_id, row.seller_offer_external_ref, "selleroffers", ids
        ),
        "sellerId": _polymorphic(row.seller_ref_kind, row.seller_id, row.seller_external_ref, "users", ids),
    }


def _payment(row: Row, ids: Identities) -> Write:
    return Write(
        ids.of("payments", row.id),
        fleet={
            "status": row.status,
            "escrowState": row.escrow_state,
            "blockchain.transactionHash": row.transaction_hash,
            "blockchain.sender": row.sender,
            "blockchain.confirmations": row.confirmations,
            "updatedAt": row.updated_at,
            # Absent, not removed: a quote that the fleet did not make is the backend's own.
            **({} if row.quote is None else {"quote": _quote(row.quote)}),
        },
        create_only={
            **_parties(row, ids),
            "buyerId": ids.of("users", row.buyer_id),
            "amount": {"amount": money(row.amount), "currency": row.currency},
            "blockchain.network": row.network,
            "blockchain.chainId": row.chain_id,
            "blockchain.tokenAddress": row.token_address,
            "provider": row.provider,
            "direction": row.direction,
            "providerPaymentId": row.provider_payment_id,
            "paymentReference": row.payment_reference,
            "metadata": row.metadata,
            "createdAt": row.created_at,
        },
    )


def _quote(said: Mapping[str, Any]) -> dict[str, Any]:
    """``Payment.quote``, the copy of payment_quotes (facts §1.1, §1.2)."""
    return {
        "fxRate": money(Decimal(said["fx_rate"])),
        "tokenPriceUsd": money(Decimal(said["token_price_usd"])),
        "depegAdjustmentBps": said["depeg_adjustment_bps"],
        "settleAmount": money(Decimal(said["settle_amount"])),
        "chainId": said["chain_id"],
        "tokenAddress": said["token"],
        "expiresAt": datetime.fromisoformat(said["expires_at"]),
    }


def _quote_without_payment(row: Row, _: Identities) -> Write:
    """The quote of a payment that only MongoDB has: that document is the backend's, and gets nothing else."""
    return Write(ObjectId(row.payment_object_id), fleet={"quote": _quote(row.quote)}, creates=False)


def _ledger_entry(row: Row, ids: Identities) -> Write:
    # The ledger is append-only in MongoDB too: everything is written once.
    return Write(
        ids.of("fundsledgerentries", row.id),
        create_only={
            **_parties(row, ids),
            "paymentId": ids.of("payments", row.payment_id) if row.payment_id else None,
            "type": row.entry_type,
            "amount": money(row.amount),
            "currency": row.currency,
            "reason": row.reason,
            "debit": row.debit,
            "credit": row.credit,
            "debitAddress": row.debit_address,
            "creditAddress": row.credit_address,
            "chainId": row.chain_id,
            "tokenAddress": row.token,
            "bookKind": row.book_kind,
            "bookSeq": row.book_seq,
            "idempotencyKey": row.idempotency_key,
            "reversesEntryId": ids.of("fundsledgerentries", row.reverses_entry_id) if row.reverses_entry_id else None,
            "entryHash": row.entry_hash.hex() if row.entry_hash else None,
            "metadata": row.metadata,
            "createdAt": row.created_at,
        },
    )


def _destination(row: Row, ids: Identities) -> Write:
    return Write(
        ids.of("deriveddestinations", row.id),
        fleet={
            "buyerId": ids.of("users", row.buyer_id),
            "sellerOfferId": _polymorphic(
                row.seller_offer_ref_kind,
                row.seller_offer_id,
                row.seller_offer_external_ref,
                "selleroffers",
                ids,
            ),
            "chainId": row.chain_id,
            "address": row.address,
            "derivationPath": row.derivation_path,
            "derivationIndex": row.derivation_index,
            "status": row.status,
            "balance": row.balance,
            "sweepCount": row.sweep_count,
            "totalSwept": row.total_swept,
            "sweeps": [{**sweep, "createdAt": datetime.fromisoformat(sweep["createdAt"])} for sweep in row.sweeps],
            "updatedAt": row.updated_at,
        },
        create_only={"createdAt": row.created_at},
    )


def _purchase_request(row: Row, ids: Identities) -> Write:
    # The backend's document: the fleet moves its status and creates none.
    return Write(
        ids.of("purchaserequests", row.id),
        fleet={"status": row.status, "updatedAt": row.updated_at},
        creates=False,
    )


def _trezor_account(row: Row, ids: Identities) -> Write:
    return Write(
        ids.of("trezoraccounts", row.id),
        fleet={
            "userId": ids.of("users", row.user_id),
            "xpubFingerprint": row.xpub_fingerprint,
            "xpub": row.xpub,
            "basePath": row.base_path,
            "registrationAddress": row.registration_address,
            "nextAddressIndex": row.next_address_index,
            "deviceLabel": row.device_label,
            "active": row.active,
            "addresses": [
                {
                    **{name: value for name, value in issued.items() if name != "paymentId"},
                    **({"paymentId": ids.of("payments", UUID(issued["paymentId"]))} if issued["paymentId"] else {}),
                    "createdAt": datetime.fromisoformat(issued["createdAt"]),
                }
                for issued in row.addresses
            ],
            "updatedAt": row.updated_at,
        },
        create_only={"createdAt": row.created_at},
    )


_REFERENCES: Final = {
    "purchase_request_id": "purchaserequests",
    "seller_offer_id": "selleroffers",
    "seller_id": "users",
}
_REFERENCE_COLUMNS: Final = """purchase_request_ref_kind::text, purchase_request_id, purchase_request_external_ref,
        seller_offer_ref_kind::text, seller_offer_id, seller_offer_external_ref,
        seller_ref_kind::text, seller_id, seller_external_ref"""

_QUOTE_COLUMNS: Final = """jsonb_build_object('fx_rate', trim_scale(q.fx_rate)::text,
        'token_price_usd', trim_scale(q.token_price_usd)::text, 'depeg_adjustment_bps', q.depeg_adjustment_bps,
        'settle_amount', trim_scale(q.settle_amount)::text, 'chain_id', q.chain_id, 'token', q.token,
        'expires_at', q.expires_at)"""

# trim_scale: numeric(38,18) carries zeros that Decimal128's 34 digits have no room for. uint256 values are text.
SUBJECTS: Final[Mapping[str, Subject]] = {
    subject.collection: subject
    for subject in (
        Subject(
            "payments",
            f"""
            SELECT id, {_REFERENCE_COLUMNS}, buyer_id, trim_scale(amount) AS amount, currency, provider::text, direction,
                network, chain_id, token_address, transaction_hash, sender, confirmations, status::text,
                escrow_state::text, provider_payment_id, payment_reference, metadata, created_at, updated_at,
                (SELECT {_QUOTE_COLUMNS} FROM fleet.quotes q WHERE q.payment_id = payments.id AND q.state = 'quoted') AS quote
            FROM public.payments WHERE id = ANY(:ids)
            """,  # noqa: S608 - the columns are the constant above
            {**_REFERENCES, "buyer_id": "users"},
            _payment,
        ),
        Subject(
            "paymentquotes",
            f"""
            SELECT q.id, q.payment_object_id, {_QUOTE_COLUMNS} AS quote
            FROM fleet.quotes q WHERE q.id = ANY(:ids) AND q.state = 'quoted' AND q.payment_object_id IS NOT NULL
            """,  # noqa: S608 - the columns are the constant above
            {},
            _quote_without_payment,
            into="payments",
        ),
        Subject(
            "fundsledgerentries",
            f"""
            SELECT id, payment_id, {_REFERENCE_COLUMNS}, entry_type::text, trim_scale(amount) AS amount, currency, reason,
                debit, credit, debit_address, credit_address, chain_id, token, book_kind, book_seq, idempotency_key,
                reverses_entry_id, entry_hash, metadata, created_at
            FROM public.funds_ledger_entries WHERE id = ANY(:ids)
            """,  # noqa: S608 - the columns are the constant above
            {**_REFERENCES, "payment_id": "payments", "reverses_entry_id": "fundsledgerentries"},
            _ledger_entry,
        ),
        Subject(
            "deriveddestinations",
            """
            SELECT id, buyer_id, seller_offer_ref_kind::text, seller_offer_id, seller_offer_external_ref, chain_id, address,
                derivation_path, derivation_index, status::text, balance::text, sweep_count, total_swept::text,
                created_at, updated_at,
                ARRAY(SELECT jsonb_build_object(
                        'chainId', s.chain_id, 'transactionHash', s.transaction_hash, 'logIndex', s.log_index, 'blockNumber', s.block_number,
                        'tokenAddress', s.token_address, 'from', s.from_address, 'to', s.to_address,
                        'amount', s.amount::text, 'createdAt', s.created_at)
                      FROM public.derived_destination_sweeps s
                      WHERE s.derived_destination_id = d.id ORDER BY s.created_at, s.id) AS sweeps
            FROM public.derived_destinations d WHERE id = ANY(:ids)
            """,
            {"buyer_id": "users", "seller_offer_id": "selleroffers"},
            _destination,
        ),
        Subject(
            "trezoraccounts",
            """
            SELECT id, user_id, xpub_fingerprint, xpub, base_path, registration_address, next_address_index,
                device_label, active, created_at, updated_at,
                ARRAY(SELECT t.payment_id FROM public.trezor_derived_addresses t
                      WHERE t.trezor_account_id = a.id AND t.payment_id IS NOT NULL) AS payment_ids,
                ARRAY(SELECT jsonb_build_object('index', t.address_index, 'address', t.address, 'path', t.path,
                          'purpose', t.purpose, 'paymentId', t.payment_id, 'createdAt', t.created_at)
                      FROM public.trezor_derived_addresses t
                      WHERE t.trezor_account_id = a.id ORDER BY t.address_index) AS addresses
            FROM public.trezor_accounts a WHERE id = ANY(:ids)
            """,
            {"user_id": "users"},
            _trezor_account,
            {"payment_ids": "payments"},
        ),
        Subject(
            "purchaserequests",
            "SELECT id, status::text, updated_at FROM public.purchase_requests WHERE id = ANY(:ids)",
            {},
            _purchase_request,
        ),
    )
}

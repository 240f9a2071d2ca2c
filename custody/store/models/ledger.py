"""The ledger. Rows from before the fleet have no accounts and no hash; nothing edits any."""

from uuid import UUID

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, BigInt, Json, Migrated, Money, Time
from custody.store.models.enums import FundsLedgerEntryType, RefKind


class FundsLedgerEntry(Migrated, Base):
    """Table ``funds_ledger_entries``."""

    __tablename__ = "funds_ledger_entries"

    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.payments.id"))
    purchase_request_ref_kind: Mapped[RefKind | None]
    purchase_request_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.purchase_requests.id"))
    purchase_request_external_ref: Mapped[str | None]
    seller_offer_ref_kind: Mapped[RefKind | None]
    seller_offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.seller_offers.id"))
    seller_offer_external_ref: Mapped[str | None]
    seller_ref_kind: Mapped[RefKind | None]
    seller_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id"))
    seller_external_ref: Mapped[str | None]
    entry_type: Mapped[FundsLedgerEntryType]
    amount: Mapped[Money]
    currency: Mapped[str]
    idempotency_key: Mapped[str | None]
    metadata_: Mapped[Json] = mapped_column("metadata", server_default=text("'{}'"))
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
    book_kind: Mapped[str | None]
    book_id: Mapped[UUID | None]
    chain_id: Mapped[BigInt | None]
    token: Mapped[str | None]
    reason: Mapped[str | None]
    debit: Mapped[str | None]
    credit: Mapped[str | None]
    debit_address: Mapped[str | None]
    credit_address: Mapped[str | None]
    poster_role: Mapped[str | None]
    fact_id: Mapped[UUID | None]
    instruction_id: Mapped[UUID | None]
    reverses_entry_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.funds_ledger_entries.id"))
    book_seq: Mapped[BigInt | None]
    content_hash: Mapped[bytes | None]
    prev_hash: Mapped[bytes | None]
    entry_hash: Mapped[bytes | None]
    tx_id: Mapped[BigInt | None]

"""What every model is made of: the column types of the seed's conventions."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, get_args
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Enum, LargeBinary, MetaData, Numeric, SmallInteger, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from custody.store.models import enums

Money = Annotated[Decimal, mapped_column(Numeric(38, 18))]
"""Fiat and crypto amounts."""

OfferPrice = Annotated[Decimal, mapped_column(Numeric(18, 8))]
"""Prices of seller_offers alone."""

Uint256 = Annotated[Decimal, mapped_column(Numeric(78, 0))]
"""Balances on chain, in smallest units."""

BigInt = Annotated[int, mapped_column(BigInteger)]
SmallInt = Annotated[int, mapped_column(SmallInteger)]
Time = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Json = Annotated[Any, mapped_column(JSONB)]

_ENUMS: Final = {
    "user_role": enums.UserRole,
    "auth_provider": enums.AuthProvider,
    "user_status": enums.UserStatus,
    "purchase_request_status": enums.PurchaseRequestStatus,
    "offer_status": enums.OfferStatus,
    "offer_currency": enums.OfferCurrency,
    "payment_provider": enums.PaymentProvider,
    "payment_status": enums.PaymentStatus,
    "escrow_state": enums.EscrowState,
    "funds_ledger_entry_type": enums.FundsLedgerEntryType,
    "derived_destination_status": enums.DerivedDestinationStatus,
    "ref_kind": enums.RefKind,
    "chat_type": enums.ChatType,
    "review_subject_kind": enums.ReviewSubjectKind,
    "address_type": enums.AddressType,
    "telegram_link_source": enums.TelegramLinkSource,
    "telegram_link_status": enums.TelegramLinkStatus,
}


def _enum(name: str, literal: Any) -> Enum:
    return Enum(*get_args(literal), name=name, schema="public", create_type=False)


class Base(DeclarativeBase):
    """The marketplace's schema."""

    metadata = MetaData(schema="public")
    type_annotation_map: ClassVar[dict[Any, TypeEngine[Any]]] = {
        str: Text(),
        UUID: Uuid(),
        bytes: LargeBinary(),
        Decimal: Numeric(),
        **{literal: _enum(name, literal) for name, literal in _ENUMS.items()},
    }


class Migrated:
    """A row that both stores have: its UUID, and the ObjectId it had first."""

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    legacy_object_id: Mapped[str | None]


class Stamped:
    """When a row was made and last changed."""

    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[Time] = mapped_column(server_default=text("now()"))

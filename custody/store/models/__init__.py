"""The marketplace's tables as SQLAlchemy models, one file a domain. Constraints, indexes and triggers stand in the migrations.

Columns, types, defaults, keys and references are here as well; a test compares them with the database.
"""

from custody.store.models.base import Base
from custody.store.models.bridge import DualWriteGap, IdMapping
from custody.store.models.categories import Category
from custody.store.models.config import ConfigSetting, ConfigSettingHistory
from custody.store.models.conversations import Chat, Dispute, Notification, TelegramLink, TelegramSession
from custody.store.models.destinations import DerivedDestination, DerivedDestinationSweep
from custody.store.models.ledger import FundsLedgerEntry
from custody.store.models.payments import Payment, PaymentQuote
from custody.store.models.purchase_requests import (
    DeliveryAttempt,
    PurchaseRequest,
    PurchaseRequestDeliveryAddress,
    PurchaseRequestDeliveryInfo,
    PurchaseRequestPreferredSeller,
    PurchaseRequestSellerDeliveryInfo,
    PurchaseRequestServiceInfo,
    PurchaseRequestSpecification,
    SellerOffer,
)
from custody.store.models.storefront import BlogPost, RequestTemplate, Review, ShopSettings
from custody.store.models.trezor import TrezorAccount, TrezorDerivedAddress
from custody.store.models.users import Address, PointTransaction, User, UserPasskey, UserRefreshToken

__all__ = [
    "Address",
    "Base",
    "BlogPost",
    "Category",
    "Chat",
    "ConfigSetting",
    "ConfigSettingHistory",
    "DeliveryAttempt",
    "DerivedDestination",
    "DerivedDestinationSweep",
    "Dispute",
    "DualWriteGap",
    "FundsLedgerEntry",
    "IdMapping",
    "Notification",
    "Payment",
    "PaymentQuote",
    "PointTransaction",
    "PurchaseRequest",
    "PurchaseRequestDeliveryAddress",
    "PurchaseRequestDeliveryInfo",
    "PurchaseRequestPreferredSeller",
    "PurchaseRequestSellerDeliveryInfo",
    "PurchaseRequestServiceInfo",
    "PurchaseRequestSpecification",
    "RequestTemplate",
    "Review",
    "SellerOffer",
    "ShopSettings",
    "TelegramLink",
    "TelegramSession",
    "TrezorAccount",
    "TrezorDerivedAddress",
    "User",
    "UserPasskey",
    "UserRefreshToken",
]

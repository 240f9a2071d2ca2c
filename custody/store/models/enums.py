"""The marketplace's enums, to the letter (seed, "Shared Enum Reference")."""

from typing import Literal

UserRole = Literal["admin", "buyer", "seller", "resolver", "guard"]
AuthProvider = Literal["email", "google", "telegram"]
UserStatus = Literal["active", "suspended", "deleted"]
PurchaseRequestStatus = Literal[
    "pending_payment",
    "pending",
    "received_offers",
    "in_negotiation",
    "payment_pending",
    "payment_confirmed",
    "in_progress",
    "delivery",
    "delivered",
    "completed",
    "disputed",
    "refunded",
    "seller_paid",
]
OfferStatus = Literal["pending", "accepted", "rejected", "withdrawn", "active"]
OfferCurrency = Literal["USD", "EUR", "IRR", "USDT", "USDC", "TRY"]
PaymentProvider = Literal["request.network", "amn.scanner", "shkeeper", "other"]
PaymentStatus = Literal["pending", "processing", "confirmed", "completed", "failed", "cancelled", "refunded"]
EscrowState = Literal["funded", "releasable", "released", "refunded", "releasing", "failed", "cancelled", "partial"]
FundsLedgerEntryType = Literal[
    "payment_detected", "provider_fee", "platform_fee", "hold", "release", "refund", "dispute_hold", "adjustment"
]
DerivedDestinationStatus = Literal["active", "swept", "sweeping", "quarantined"]
RefKind = Literal["entity", "template"]
ChatType = Literal["direct", "group", "support"]
ReviewSubjectKind = Literal["seller", "template"]
AddressType = Literal["Home", "Office", "Other"]
TelegramLinkSource = Literal["miniapp", "bot", "login_widget"]
TelegramLinkStatus = Literal["active", "blocked"]

"""Every collection of the marketplace as a typed document, each mapped to its table in one place."""

from collections.abc import Mapping
from typing import Final

from custody.mirror.collections.conversations import Chat, Notification
from custody.mirror.collections.document import Document
from custody.mirror.collections.marketplace import (
    BlogPost,
    Category,
    PurchaseRequest,
    RequestTemplate,
    Review,
    SellerOffer,
    ShopSettings,
)
from custody.mirror.collections.money import (
    ConfigSetting,
    DerivedDestination,
    Dispute,
    FundsLedgerEntry,
    Payment,
    TrezorAccount,
)
from custody.mirror.collections.users import Address, PointTransaction, TelegramLink, TelegramSession, User

COLLECTIONS: Final[Mapping[str, type[Document]]] = {
    document.collection: document
    for document in (
        User,
        Category,
        PurchaseRequest,
        SellerOffer,
        RequestTemplate,
        Payment,
        DerivedDestination,
        TrezorAccount,
        FundsLedgerEntry,
        ConfigSetting,
        Dispute,
        Chat,
        Notification,
        Address,
        PointTransaction,
        Review,
        ShopSettings,
        BlogPost,
        TelegramLink,
        TelegramSession,
    )
}
"""By MongoDB's name, each after those that it refers to (but for users and categories, which refer to their own kind,
and the offer that a request selects)."""

NOT_MIGRATED: Final[Mapping[str, str]] = {
    "levelconfigs": "read-only configuration, which stays in MongoDB",
    "tempverifications": "gone after minutes",
    "counters": "the backend's own",
}
"""Collections that have no table, and why."""

"""``users`` and the collections of what belongs to one."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from custody.mirror.collections.document import Document, Nested, Stamped
from custody.mirror.collections.marks import Child, Column, Inlined, Refers
from custody.mirror.collections.values import Flag, Id, IdText, Json, Text, Time, Whole
from custody.store import models
from custody.store.models.enums import (
    AddressType,
    AuthProvider,
    TelegramLinkSource,
    TelegramLinkStatus,
    UserRole,
    UserStatus,
)


class Points(Nested):
    """Loyalty points."""

    total: Whole = Field(default=0, ge=0)
    available: Whole = Field(default=0, ge=0)
    level: Whole = Field(default=1, ge=0)


class Passkey(Nested):
    """A WebAuthn credential's public half."""

    credential_id: Annotated[Text, Field(alias="id")]
    public_key: Text
    counter: Whole = Field(default=0, ge=0)
    device_type: Text | None = None
    device_name: Text | None = None
    created_at: Time


class User(Stamped):
    """Who buys, sells, judges and guards."""

    collection = "users"
    table = models.User
    dropped: ClassVar = {
        "refreshTokens": "credentials: user_refresh_tokens is the backend's to write",
        "emailVerificationCode": "a code of minutes",
        "emailVerificationCodeExpires": "a code of minutes",
        "resetPasswordCode": "a code of minutes",
        "resetPasswordCodeExpires": "a code of minutes",
    }

    email: Annotated[Text | None, Field(max_length=255)] = None
    password: Annotated[Text | None, Field(max_length=255)] = None
    first_name: Text | None = None
    last_name: Text | None = None
    role: UserRole = "buyer"
    status: UserStatus = "active"
    is_email_verified: Flag = False
    auth_provider: AuthProvider = "email"
    telegram_verified: Flag = False
    profile: Json = Field(default_factory=dict[str, Any])
    preferences: Json = Field(default_factory=dict[str, Any])
    referral_code: Text | None = None
    referred_by: Annotated[Id | None, Refers("users"), Column("referred_by_id")] = None
    points: Annotated[Points, Inlined("points_")] = Points()
    passkeys: Annotated[list[Passkey], Child(models.UserPasskey, "user_id")] = Field(default_factory=list[Passkey])


class Address(Stamped):
    """One entry of a user's address book."""

    collection = "addresses"
    table = models.Address

    user_id: Annotated[Id, Refers("users")]
    type: AddressType = "Home"
    full_name: Text = ""
    phone: Text | None = None
    country: Text | None = None
    city: Text | None = None
    street: Text | None = None
    postal_code: Text | None = None
    is_primary: Flag = False
    deleted_at: Time | None = None


class PointTransaction(Stamped):
    """Points granted or spent."""

    collection = "pointtransactions"
    table = models.PointTransaction

    user_id: Annotated[Id, Refers("users")]
    type: Text
    source: Text
    amount: Whole
    balance_after: Annotated[Whole | None, Field(ge=0)] = None
    description: Text | None = None
    related_id: IdText | None = None
    metadata: Json = Field(default_factory=dict[str, Any])


class TelegramLink(Stamped):
    """A Telegram account and the user it is."""

    collection = "telegramlinks"
    table = models.TelegramLink

    user_id: Annotated[Id, Refers("users")]
    telegram_user_id: IdText
    username: Text | None = None
    first_name: Text | None = None
    last_name: Text | None = None
    photo_url: Text | None = None
    source: TelegramLinkSource
    status: TelegramLinkStatus = "active"
    last_seen_at: Time | None = None


class TelegramSession(Document):
    """A Mini App session of minutes."""

    collection = "telegramsessions"
    table = models.TelegramSession
    dropped: ClassVar = {"token": "a credential", "updatedAt": "a session is not changed"}

    user_id: Annotated[Id | None, Refers("users")] = None
    telegram_user_id: IdText
    token_hash: Text
    init_data_fingerprint: Text
    expires_at: Time
    created_at: Time

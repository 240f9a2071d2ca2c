"""``payments``, the ledger, destinations, Trezor accounts and configuration: the fleet's own, field by field (R7)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from custody.mirror.collections.document import Document, Nested, Stamped
from custody.mirror.collections.marks import Child, Column, Inlined, Owner, Polymorphic, Refers
from custody.mirror.collections.values import Flag, Id, IdText, Json, MixedId, Money, Text, Time, Uint256, Whole
from custody.store import models
from custody.store.models.enums import (
    DerivedDestinationStatus,
    EscrowState,
    FundsLedgerEntryType,
    PaymentProvider,
    PaymentStatus,
)


class Amount(Nested):
    """An amount and its currency."""

    amount: Annotated[Money, Field(gt=0)]
    currency: Text = "USDT"


class Blockchain(Nested):
    """Where a payment is paid, and what was seen of it."""

    network: Annotated[Text | None, Owner.CREATE_ONLY] = None
    chain_id: Annotated[Whole | None, Owner.CREATE_ONLY] = None
    token_address: Annotated[Text | None, Owner.CREATE_ONLY] = None
    transaction_hash: Annotated[Text | None, Owner.FLEET] = None
    sender: Annotated[Text | None, Owner.FLEET] = None
    confirmations: Annotated[Whole | None, Field(ge=0), Owner.FLEET] = None


class Payment(Stamped):
    """One buyer, one offer, one destination, one transaction."""

    collection = "payments"
    table = models.Payment
    dropped: ClassVar = {
        "quote": "payment_quotes is the truth; this is its copy",
        "amnScannerDirectBalance": "the scanner's own state",
        "callbackSecret": "a secret; fleet.scanner_intents has it where nobody reads it",
        "fleetVersion": "the mirror's fencing number",
    }

    purchase_request_id: Annotated[MixedId, Polymorphic("purchase_request", "purchaserequests"), Owner.CREATE_ONLY]
    seller_offer_id: Annotated[MixedId, Polymorphic("seller_offer", "selleroffers"), Owner.CREATE_ONLY]
    buyer_id: Annotated[Id, Refers("users"), Owner.CREATE_ONLY]
    seller_id: Annotated[MixedId, Polymorphic("seller", "users"), Owner.CREATE_ONLY]
    amount: Annotated[Amount, Inlined(), Owner.CREATE_ONLY]
    provider: Annotated[PaymentProvider, Owner.CREATE_ONLY] = "request.network"
    direction: Annotated[Literal["in", "out", "refund"], Owner.CREATE_ONLY] = "in"
    blockchain: Annotated[Blockchain, Inlined()] = Blockchain()
    status: Annotated[PaymentStatus, Owner.FLEET] = "pending"
    escrow_state: Annotated[EscrowState | None, Owner.FLEET] = None
    provider_payment_id: Annotated[Text | None, Owner.CREATE_ONLY] = None
    payment_reference: Annotated[Text | None, Owner.CREATE_ONLY] = None
    disputed: Flag = False
    metadata: Json = Field(default_factory=dict[str, Any])


class FundsLedgerEntry(Document):
    """One movement, written once in both stores. Those of before the fleet have no accounts."""

    collection = "fundsledgerentries"
    table = models.FundsLedgerEntry
    dropped: ClassVar = {
        "bookSeq": "post_entry()'s to give",
        "entryHash": "post_entry()'s to give",
        "bookKind": "post_entry()'s to give",
        "reason": "post_entry()'s to give",
        "debit": "post_entry()'s to give",
        "credit": "post_entry()'s to give",
        "debitAddress": "post_entry()'s to give",
        "creditAddress": "post_entry()'s to give",
        "chainId": "post_entry()'s to give",
        "tokenAddress": "post_entry()'s to give",
        "reversesEntryId": "post_entry()'s to give",
        "updatedAt": "nothing changes an entry",
    }

    payment_id: Annotated[Id | None, Refers("payments"), Owner.FLEET] = None
    purchase_request_id: Annotated[MixedId | None, Polymorphic("purchase_request", "purchaserequests"), Owner.FLEET] = (
        None
    )
    seller_offer_id: Annotated[MixedId | None, Polymorphic("seller_offer", "selleroffers"), Owner.FLEET] = None
    seller_id: Annotated[MixedId | None, Polymorphic("seller", "users"), Owner.FLEET] = None
    type: Annotated[FundsLedgerEntryType, Column("entry_type"), Owner.FLEET]
    amount: Annotated[Money, Owner.FLEET]
    currency: Annotated[Text, Owner.FLEET]
    idempotency_key: Annotated[Text | None, Owner.FLEET] = None
    metadata: Annotated[Json, Owner.FLEET] = Field(default_factory=dict[str, Any])
    created_at: Annotated[Time, Owner.FLEET]


class Sweep(Nested):
    """One transfer from a destination to the treasury."""

    chain_id: Whole
    token_address: Text
    transaction_hash: Text
    log_index: Whole | None = None
    block_number: Whole | None = None
    sender: Annotated[Text, Field(alias="from"), Column("from_address")]
    recipient: Annotated[Text, Field(alias="to"), Column("to_address")]
    amount: Uint256
    created_at: Time


class DerivedDestination(Stamped):
    """A deposit address and what became of the coins that came to it."""

    collection = "deriveddestinations"
    table = models.DerivedDestination
    dropped: ClassVar = {"fleetVersion": "the mirror's fencing number"}

    buyer_id: Annotated[Id, Refers("users"), Owner.FLEET]
    seller_offer_id: Annotated[MixedId, Polymorphic("seller_offer", "selleroffers"), Owner.FLEET]
    chain_id: Annotated[Whole, Owner.FLEET]
    address: Annotated[Text, Owner.FLEET]
    derivation_path: Annotated[Text, Owner.FLEET]
    derivation_index: Annotated[Whole, Field(ge=0), Owner.FLEET]
    status: Annotated[DerivedDestinationStatus, Owner.FLEET] = "active"
    balance: Annotated[Uint256, Owner.FLEET] = 0
    sweep_count: Annotated[Whole, Field(ge=0), Owner.FLEET] = 0
    total_swept: Annotated[Uint256, Owner.FLEET] = 0
    sweeps: Annotated[list[Sweep], Child(models.DerivedDestinationSweep, "derived_destination_id"), Owner.FLEET] = (
        Field(default_factory=list[Sweep])
    )


class IssuedAddress(Nested):
    """An address issued from a Trezor's xpub."""

    index: Annotated[Whole, Field(ge=0), Column("address_index")]
    address: Text
    path: Text
    purpose: Text
    payment_id: Annotated[Id | None, Refers("payments")] = None
    created_at: Time


class TrezorAccount(Stamped):
    """A marketplace user's device."""

    collection = "trezoraccounts"
    table = models.TrezorAccount
    dropped: ClassVar = {"fleetVersion": "the mirror's fencing number"}

    user_id: Annotated[Id, Refers("users"), Owner.FLEET]
    xpub_fingerprint: Annotated[Text, Owner.FLEET]
    xpub: Annotated[Text, Owner.FLEET]
    base_path: Annotated[Text, Owner.FLEET] = "m/44'/60'/0'"
    registration_address: Annotated[Text, Owner.FLEET]
    next_address_index: Annotated[Whole, Field(ge=1), Owner.FLEET] = 1
    device_label: Annotated[Text | None, Owner.FLEET] = None
    active: Annotated[Flag, Owner.FLEET] = True
    addresses: Annotated[list[IssuedAddress], Child(models.TrezorDerivedAddress, "trezor_account_id"), Owner.FLEET] = (
        Field(default_factory=list[IssuedAddress])
    )


class ConfigSetting(Stamped):
    """A knob of operations."""

    collection = "configsettings"
    table = models.ConfigSetting

    key: Annotated[Text, Owner.CREATE_ONLY]
    value: Annotated[Json, Owner.FLEET]
    description: Text | None = None
    updated_by: Annotated[Id | None, Refers("users"), Owner.FLEET] = None


class Dispute(Stamped):
    """A complaint; every id is text, of either store."""

    collection = "disputes"
    table = models.Dispute

    purchase_request_id: Annotated[IdText, Owner.CREATE_ONLY]
    buyer_id: Annotated[IdText, Owner.CREATE_ONLY]
    seller_id: Annotated[IdText, Owner.CREATE_ONLY]
    admin_id: IdText | None = None
    reason: Annotated[Text, Field(max_length=200)]
    description: Annotated[Text, Field(max_length=2000)] = ""
    status: Text = "open"
    priority: Literal["low", "medium", "high", "urgent"] = "medium"
    category: Text = "other"
    evidence: Json = Field(default_factory=list[Any])
    timeline: Json = Field(default_factory=list[Any])
    resolution: Json = None

"""The marketplace's backend, as far as a demo needs it: it writes users, requests, offers and payments to both stores.

The real backend is another program; here its part is played with an administrator's connection.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo.database import Database
from sqlalchemy import Connection, Engine, text

from custody.chain.logs import payment_reference
from custody.destinations.issuing import OfferRef, issue_destination, issue_route
from custody.policy.signed_entries import propose_entry
from custody.store.engine import transaction

NETWORK: Final = "private"


@dataclass(frozen=True, slots=True)
class DemoPayment:
    """One payment of a demo: who owes what, and where it is to be paid. Amount in whole tokens."""

    id: UUID
    purchase_request_id: UUID
    request_object_id: str
    request_id: str
    reference: bytes
    destination: str
    chain_id: int
    token: str
    symbol: str
    amount: Decimal


def open_payments(
    engine: Engine,
    mongo: Database[dict[str, Any]],
    *,
    chain_id: int,
    orders: list[tuple[str, str, Decimal, str]],
    environment: str,
) -> list[DemoPayment]:
    """Create one payment an order ``(token, symbol, amount, seller's wallet)``, each with its own buyer and offer.

    The seller's wallet is proposed to the address book of ``environment``; approvers sign it.

    The destination is issued by the fleet and handed out only after its commit (L12).
    """
    made: list[DemoPayment] = []
    documents: dict[str, list[dict[str, Any]]] = {"purchaserequests": [], "selleroffers": [], "payments": []}
    with transaction(engine) as connection:
        for token, symbol, amount, wallet in orders:
            payment, rows = _open_payment(connection, chain_id, token, symbol, amount, wallet, environment)
            made.append(payment)
            for collection, document in rows.items():
                documents[collection].append(document)
    for collection, rows in documents.items():
        if rows:
            mongo[collection].insert_many(rows)
    return made


def confirm_delivery(engine: Engine, mongo: Database[dict[str, Any]], payments: list[DemoPayment]) -> None:
    """The buyers confirm: each purchase request becomes ``completed`` in both stores."""
    ids = [ObjectId(payment.request_object_id) for payment in payments]
    confirmed = {"status": "completed", "updatedAt": datetime.now(UTC)}
    mongo["purchaserequests"].update_many({"_id": {"$in": ids}}, {"$set": confirmed})
    with transaction(engine) as connection:
        connection.execute(
            text(
                "UPDATE public.purchase_requests SET status = 'completed', updated_at = now() "
                "WHERE id = ANY(:ids) AND status <> 'seller_paid'"
            ),
            {"ids": [payment.purchase_request_id for payment in payments]},
        )


def _insert(connection: Connection, statement: str, **values: Any) -> UUID:
    return connection.execute(text(statement + " RETURNING id"), values).scalar_one()


def _open_payment(
    connection: Connection, chain_id: int, token: str, symbol: str, amount: Decimal, wallet: str, environment: str
) -> tuple[DemoPayment, dict[str, dict[str, Any]]]:
    legacy = {name: str(ObjectId()) for name in ("buyer", "seller", "request", "offer", "payment")}
    users = {
        role: _insert(
            connection,
            "INSERT INTO public.users (legacy_object_id, email, first_name, role) "
            "VALUES (:legacy, :email, :name, CAST(:role AS public.user_role))",
            legacy=legacy[role],
            email=f"{legacy[role]}@demo.example",
            name=role.capitalize(),
            role=role,
        )
        for role in ("buyer", "seller")
    }
    request = _insert(
        connection,
        "INSERT INTO public.purchase_requests (legacy_object_id, buyer_id, title, budget_currency, status) "
        "VALUES (:legacy, :buyer, 'A reading lamp', :symbol, 'payment_pending')",
        legacy=legacy["request"],
        buyer=users["buyer"],
        symbol=symbol,
    )
    offer = _insert(
        connection,
        "INSERT INTO public.seller_offers (legacy_object_id, seller_id, purchase_request_id, title, price_amount, "
        "price_currency, status) VALUES (:legacy, :seller, :request, 'A reading lamp', :amount, "
        "CAST(:symbol AS public.offer_currency), 'accepted')",
        legacy=legacy["offer"],
        seller=users["seller"],
        request=request,
        amount=amount,
        symbol=symbol,
    )
    request_id = "01" + secrets.token_hex(32)
    payment = _insert(
        connection,
        "INSERT INTO public.payments (legacy_object_id, purchase_request_ref_kind, purchase_request_id, "
        "seller_offer_ref_kind, seller_offer_id, buyer_id, seller_ref_kind, seller_id, amount, currency, network, "
        "chain_id, token_address, provider_payment_id) VALUES (:legacy, 'entity', :request, 'entity', :offer, :buyer, "
        "'entity', :seller, :amount, :symbol, :network, :chain, :token, :request_id)",
        legacy=legacy["payment"],
        request=request,
        offer=offer,
        buyer=users["buyer"],
        seller=users["seller"],
        amount=amount,
        symbol=symbol,
        network=NETWORK,
        chain=chain_id,
        token=token,
        request_id=request_id,
    )
    propose_entry(
        connection,
        environment=environment,
        user_id=users["seller"],
        chain_id=chain_id,
        address=wallet,
        label="seller wallet",
        by="demo",
    )
    destination = issue_destination(
        connection,
        buyer_id=users["buyer"],
        offer=OfferRef("entity", offer),
        chain_id=chain_id,
    )
    reference = payment_reference(request_id, secrets.token_hex(8), destination.address)
    issue_route(
        connection,
        payment,
        chain_id=chain_id,
        token=token,
        expected=amount,
        request_id=request_id,
        payment_reference="0x" + reference.hex(),
    )
    demo = DemoPayment(
        payment,
        request,
        legacy["request"],
        request_id,
        reference,
        destination.address,
        chain_id,
        token,
        symbol,
        amount,
    )
    return demo, _documents(legacy, demo)


def _documents(legacy: dict[str, str], payment: DemoPayment) -> dict[str, dict[str, Any]]:
    """The same rows as the backend's Mongo documents (field names: the backend's)."""
    ids = {name: ObjectId(value) for name, value in legacy.items()}
    amount = Decimal128(payment.amount)
    now = datetime.now(UTC)
    stamps = {"createdAt": now, "updatedAt": now}
    return {
        "purchaserequests": {
            "_id": ids["request"],
            "buyerId": ids["buyer"],
            "title": "A reading lamp",
            "budget": {"currency": payment.symbol},
            "status": "payment_pending",
            "selectedOfferId": ids["offer"],
            **stamps,
        },
        "selleroffers": {
            "_id": ids["offer"],
            "sellerId": ids["seller"],
            "purchaseRequestId": ids["request"],
            "title": "A reading lamp",
            "price": {"amount": amount, "currency": payment.symbol},
            "status": "accepted",
            **stamps,
        },
        "payments": {
            "_id": ids["payment"],
            "purchaseRequestId": ids["request"],
            "sellerOfferId": ids["offer"],
            "buyerId": ids["buyer"],
            "sellerId": ids["seller"],
            "amount": {"amount": amount, "currency": payment.symbol},
            "provider": "request.network",
            "direction": "in",
            "status": "pending",
            "blockchain": {"network": NETWORK, "chainId": payment.chain_id, "tokenAddress": payment.token},
            "providerPaymentId": payment.request_id,
            **stamps,
        },
    }

"""Buyers who pay through Request Network's real proxy, and the webhooks that Request Network then sends."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx
from eth_account.signers.local import LocalAccount

from custody.chain.assets import to_units
from workers.demo.contracts import DeployedContracts, approve, mint, pay_through_proxy
from workers.demo.development_chain import DevelopmentChain
from workers.demo.marketplace import DemoPayment
from workers.demo.wallet import Wallet

BUYERS_MAXIMUM: Final = 10  # wallets that pay in turn; more would only cost set-up blocks
TOKEN_DECIMALS: Final = 6
FLAVOURS: Final = ("", ".client_id", ".checkout")  # one payment is announced as up to three deliveries
DELIVERIES_PER_PAYMENT: Final = len(FLAVOURS) + 1
_WEBHOOK_TIMEOUT_SECONDS: Final = 5.0  # Request Network's own


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment and the transaction that paid it."""

    payment: DemoPayment
    transaction_hash: str


def pay(
    rpc_url: str,
    contracts: DeployedContracts,
    deployer: LocalAccount,
    payments: list[DemoPayment],
    progress: Callable[[int], None],
) -> list[Paid]:
    """Give buyers their tokens, let them approve the proxy, and pay each payment to its own destination."""
    chain = DevelopmentChain(rpc_url)
    owner = Wallet.open(rpc_url, deployer)
    buyers = [Wallet.open(rpc_url, chain.new_account()) for _ in range(min(BUYERS_MAXIMUM, len(payments)))]
    try:
        owed: dict[tuple[int, str], int] = {}
        for index, payment in enumerate(payments):
            key = (index % len(buyers), payment.token)
            owed[key] = owed.get(key, 0) + to_units(payment.amount, TOKEN_DECIMALS)
        owner.wait_all(
            [mint(owner, contracts, token, buyers[buyer].address, units) for (buyer, token), units in owed.items()]
        )
        approvals = [
            approve(buyers[buyer], token, contracts.fee_proxy, units) for (buyer, token), units in owed.items()
        ]
        owner.wait_all(approvals)
        paid: list[Paid] = []
        for index, payment in enumerate(payments):
            transaction_hash = pay_through_proxy(
                buyers[index % len(buyers)],
                contracts,
                token=payment.token,
                recipient=payment.destination,
                amount=to_units(payment.amount, TOKEN_DECIMALS),
                reference=payment.reference,
            )
            paid.append(Paid(payment, transaction_hash))
        owner.wait_all([item.transaction_hash for item in paid])
        progress(len(paid))
        return paid
    finally:
        chain.close()
        for wallet in (owner, *buyers):
            wallet.client.close()


def webhook_body(item: Paid, flavour: str) -> bytes:
    """The ``payment.confirmed`` event of one payment, as Request Network's documentation shows it."""
    payment = item.payment
    amount = f"{payment.amount:f}"
    return json.dumps(
        {
            "event": f"payment.confirmed{flavour}",
            "requestId": payment.request_id,
            "requestID": payment.request_id,
            "paymentReference": "0x" + payment.reference.hex(),
            "explorer": "",
            "amount": amount,
            "totalAmountPaid": amount,
            "expectedAmount": amount,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "txHash": item.transaction_hash,
            "payerAddress": None,
            "network": "private",
            "currency": payment.symbol,
            "paymentCurrency": payment.symbol,
            "isCryptoToFiat": False,
            "subStatus": "",
            "paymentProcessor": "request-network",
            "fees": [],
        },
        separators=(",", ":"),
    ).encode()


def send_webhooks(url: str, webhook_secret: str, paid: list[Paid], progress: Callable[[int], None]) -> int:
    """Deliver each payment's three flavours, and the first of them twice, as an impatient sender does.

    Returns how many deliveries were accepted. Raises httpx.HTTPError when the ingress refuses one.
    """

    def deliver(item: Paid, flavour: str, delivery: str) -> None:
        body = webhook_body(item, flavour)
        response = client.post(
            url,
            content=body,
            headers={
                "content-type": "application/json",
                "x-request-network-signature": hmac.new(webhook_secret.encode(), body, hashlib.sha256).hexdigest(),
                "x-request-network-delivery": delivery,
                "x-request-network-retry-count": "0",
            },
        )
        response.raise_for_status()

    with (
        httpx.Client(timeout=_WEBHOOK_TIMEOUT_SECONDS, trust_env=False) as client,
        ThreadPoolExecutor(max_workers=4) as pool,
    ):
        sent = 0
        futures = []
        for item in paid:
            for flavour in (*FLAVOURS, FLAVOURS[0]):
                futures.append(pool.submit(deliver, item, flavour, secrets.token_hex(13)))
        for future in futures:
            future.result()
            sent += 1
            progress(sent)
    return sent

"""A small marketplace in a test database: users, a request, an offer, a payment and its route."""

import secrets
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from sqlalchemy import text

from tests.conftest import Database

CHAIN_ID = 31337
TOKEN = to_checksum_address("0x" + "aa" * 20)
SYMBOL = "USDC"
DECIMALS = 6


def object_id() -> str:
    return secrets.token_hex(12)


class Marketplace:
    """Inserts rows as an administrator, as the backend would; reads balances and entries back."""

    def __init__(
        self,
        database: Database,
        *,
        chain_id: int = CHAIN_ID,
        token: str = TOKEN,
        symbol: str = SYMBOL,
        decimals: int = DECIMALS,
    ) -> None:
        self.database = database
        self.chain_id = chain_id
        self.token = token
        self._indices = 0
        self.execute(
            "INSERT INTO fleet.tokens VALUES (:c, :t, :s, :d), (:c, 'native', 'ETH', 18) ON CONFLICT DO NOTHING",
            c=chain_id,
            t=token,
            s=symbol,
            d=decimals,
        )

    def execute(self, statement: str, **parameters: Any) -> list[Any]:
        with self.database.engine().begin() as connection:
            result = connection.execute(text(statement), parameters)
            return list(result.all()) if result.returns_rows else []

    def user(self, role: str = "buyer") -> UUID:
        return self.execute(
            "INSERT INTO public.users (legacy_object_id, email, role) "
            "VALUES (:legacy, :email, CAST(:role AS public.user_role)) RETURNING id",
            legacy=object_id(),
            email=f"{uuid4().hex}@example.org",
            role=role,
        )[0].id

    def payment(
        self,
        amount: Decimal = Decimal(100),
        *,
        destination: str | None = None,
        reference: bytes | None = None,
        request_id: str | None = None,
        status: str = "pending",
        escrow: str | None = None,
    ) -> UUID:
        """A pending Request Network payment with its request, accepted offer, destination and route."""
        buyer, seller = self.user("buyer"), self.user("seller")
        request = self.execute(
            "INSERT INTO public.purchase_requests (legacy_object_id, buyer_id, title, status) "
            "VALUES (:legacy, :buyer, 'A lamp', 'payment_pending') RETURNING id",
            legacy=object_id(),
            buyer=buyer,
        )[0].id
        offer = self.execute(
            "INSERT INTO public.seller_offers (legacy_object_id, seller_id, purchase_request_id, title, price_amount, "
            "price_currency, status) VALUES (:legacy, :seller, :request, 'A lamp', :amount, 'USDC', 'accepted') RETURNING id",
            legacy=object_id(),
            seller=seller,
            request=request,
            amount=amount,
        )[0].id
        reference = reference or secrets.token_bytes(8)
        request_id = request_id or "01" + secrets.token_hex(32)
        payment = self.execute(
            """
            INSERT INTO public.payments (
                legacy_object_id, purchase_request_ref_kind, purchase_request_id, seller_offer_ref_kind, seller_offer_id,
                buyer_id, seller_ref_kind, seller_id, amount, currency, chain_id, token_address, provider_payment_id,
                payment_reference, status, escrow_state)
            VALUES (:legacy, 'entity', :request, 'entity', :offer, :buyer, 'entity', :seller, :amount, 'USDC', :chain,
                :token, :request_id, :reference, CAST(:status AS public.payment_status),
                CAST(:escrow AS public.escrow_state)) RETURNING id
            """,
            legacy=object_id(),
            request=request,
            offer=offer,
            buyer=buyer,
            seller=seller,
            amount=amount,
            chain=self.chain_id,
            token=self.token,
            request_id=request_id,
            reference="0x" + reference.hex(),
            status=status,
            escrow=escrow,
        )[0].id
        self._indices += 1
        address = destination or to_checksum_address("0x" + secrets.token_hex(20))
        destination_id = self.execute(
            """
            INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_id, chain_id, address,
                derivation_path, derivation_index)
            VALUES (:buyer, 'entity', :offer, :chain, :address, :path, :index) RETURNING id
            """,
            buyer=buyer,
            offer=offer,
            chain=self.chain_id,
            address=address,
            path=f"m/44'/60'/0'/0/{self._indices}",
            index=self._indices,
        )[0].id
        self.execute(
            """
            INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected, request_id,
                payment_reference, reference_topic)
            VALUES (:payment, :chain, :token, :destination, :amount, :request_id, :reference, :topic)
            """,
            payment=payment,
            chain=self.chain_id,
            token=self.token,
            destination=destination_id,
            amount=amount,
            request_id=request_id,
            reference="0x" + reference.hex(),
            topic="0x" + keccak(reference).hex(),
        )
        return payment

    def fact(self, payment: UUID, units: int = 100_000_000, *, block: int = 10) -> UUID:
        """A live inbound chain fact of the payment."""
        return self.execute(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction, payment_id, destination_id)
            SELECT :chain, :block, :block_hash, :hash, 0, 0, :token, :sender, d.address, :units, 'inbound',
                r.payment_id, r.destination_id
            FROM fleet.payment_routes r JOIN public.derived_destinations d ON d.id = r.destination_id
            WHERE r.payment_id = :payment RETURNING id
            """,
            chain=self.chain_id,
            block=block,
            block_hash="0x" + secrets.token_hex(32),
            hash="0x" + secrets.token_hex(32),
            token=self.token,
            sender="0x" + "22" * 20,
            units=units,
            payment=payment,
        )[0].id

    def kill_fact(self, fact: UUID) -> None:
        self.execute("UPDATE fleet.chain_facts SET live = false WHERE id = :id", id=fact)

    def set_dispute(self, payment: UUID, count: int) -> None:
        self.execute("UPDATE fleet.ledger_balances SET dispute_open = :n WHERE book_id = :id", n=count, id=payment)

    def put(self, payment: UUID, status: str, escrow: str | None) -> None:
        """Set a payment's state past the database's state machine, as no process can."""
        with self.database.engine().begin() as connection:
            connection.execute(text("ALTER TABLE public.payments DISABLE TRIGGER payments_moves"))
            connection.execute(
                text(
                    "UPDATE public.payments SET status = CAST(:s AS public.payment_status), "
                    "escrow_state = CAST(:e AS public.escrow_state) WHERE id = :id"
                ),
                {"s": status, "e": escrow, "id": payment},
            )
            connection.execute(text("ALTER TABLE public.payments ENABLE ALWAYS TRIGGER payments_moves"))

    def moved_fact(self, units: int, direction: str, address: str) -> UUID:
        """A live fact of coins that left: a sweep, or a payout."""
        return self.execute(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction)
            VALUES (:c, 9, :b, :h, 0, 0, :t, :a, :a, :u, :d) RETURNING id
            """,
            c=self.chain_id,
            t=self.token,
            a=address,
            u=units,
            d=direction,
            b="0x" + secrets.token_hex(32),
            h="0x" + secrets.token_hex(32),
        )[0].id

    def balance(self, book: UUID) -> dict[str, Any]:
        """The book's balance row of this marketplace's token, by account."""
        rows = self.execute(
            "SELECT * FROM fleet.ledger_balances WHERE book_id = :id AND token = :token",
            id=book,
            token=self.token,
        )
        return dict(rows[0]._mapping)

    def entries(self, payment: UUID) -> int:
        return self.execute("SELECT count(*) AS n FROM public.funds_ledger_entries WHERE payment_id = :id", id=payment)[
            0
        ].n

    def state(self, payment: UUID) -> tuple[str, str | None]:
        row = self.execute("SELECT status::text, escrow_state::text FROM public.payments WHERE id = :id", id=payment)[0]
        return row.status, row.escrow_state

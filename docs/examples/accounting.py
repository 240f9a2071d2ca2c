"""Five payments through their accounts, posted as the fleet's processes post them, printed, and rolled back.

    python docs/examples/accounting.py postgresql://postgres:PASSWORD@HOST:PORT/DATABASE

The database is one that `fleet db upgrade` made; the user is its superuser, who may act as each process's role.
Nothing of it stays. docs/accounting.md explains what it prints.
"""

import sys
from decimal import Decimal
from itertools import count
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from custody.ledger import Entry, post
from custody.ledger.reports.statement import statement
from custody.payments import move_payment
from custody.store.engine import open_engine, transaction

CHAIN, TOKEN = 31337, "0x" + "c0" * 20
DEPOSIT, TREASURY, SELLER = "0x" + "d1" * 20, "0x" + "77" * 20, "0x" + "5e" * 20
_numbers = count(1)


class Payment:
    """A payment of 250 USDC with its own book; every method posts one entry and returns nothing a person must know."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.id = uuid4()
        self.state = "pending"
        self.held = Decimal(0)
        self._row(
            "INSERT INTO fleet.tokens VALUES (:chain, :token, 'USDC', 6) ON CONFLICT DO NOTHING RETURNING chain_id"
        )
        buyer, seller = (
            self._row("INSERT INTO public.users (email, role) VALUES (:email, 'buyer') RETURNING id") for _ in range(2)
        )
        request = self._row(
            "INSERT INTO public.purchase_requests (buyer_id, title, status) VALUES (:of, 'A lamp', 'payment_pending') "
            "RETURNING id",
            of=buyer,
        )
        offer = self._row(
            "INSERT INTO public.seller_offers (seller_id, purchase_request_id, title, price_amount, price_currency, "
            "status) VALUES (:seller, :request, 'A lamp', 250, 'USDC', 'accepted') RETURNING id",
            seller=seller,
            request=request,
        )
        self._row(
            "INSERT INTO public.payments (id, purchase_request_ref_kind, purchase_request_id, seller_offer_ref_kind, "
            "seller_offer_id, seller_ref_kind, seller_id, buyer_id, amount, currency, chain_id, status) VALUES "
            "(:id, 'entity', :request, 'entity', :offer, 'entity', :seller, :of, 250, 'USDC', :chain, 'pending') "
            "RETURNING id",
            request=request,
            offer=offer,
            seller=seller,
            of=buyer,
        )
        destination = self._row(
            "INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_id, chain_id, "
            "address, derivation_path, derivation_index) "
            "VALUES (:of, 'entity', :offer, :chain, :address, :path, :number) RETURNING id",
            of=buyer,
            offer=offer,
            address="0x" + self.id.hex + "00000000",
        )
        self._row(
            "INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected) "
            "VALUES (:id, :chain, :token, :destination, 250) RETURNING payment_id",
            destination=destination,
        )

    def _row(self, statement_: str, **values: object) -> UUID | None:
        number = next(_numbers)
        common = {"id": self.id, "chain": CHAIN, "token": TOKEN, "email": f"{self.id}.{number}@example.org"}
        common |= {"path": f"example/{self.id}/{number}", "number": 2_000_000_000 + number}
        return self.connection.execute(text(statement_), common | values).scalar_one_or_none()

    def moves(self, move: str) -> None:
        """The payment's own state, which the database moves only together with such an entry."""
        reached = move_payment(self.connection, self.id, move)
        self.state = reached.escrow or reached.status

    def fact(self, direction: str, amount: str) -> UUID:
        """A Transfer log on the chain."""
        return UUID(
            str(
                self._row(
                    "INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, "
                    "tx_ordinal, token, sender, recipient, amount_units, direction, payment_id) VALUES (:chain, :number, "
                    ":path, :email, 0, 0, :token, :token, :token, :units, :direction, :id) RETURNING id",
                    direction=direction,
                    units=int(Decimal(amount) * 10**6),
                )
            )
        )

    def instruction(self, amount: str) -> UUID:
        """The order to pay the seller."""
        return UUID(
            str(
                self._row(
                    "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, "
                    "amount, amount_units, release_epoch) VALUES (:id, 'release', :chain, :treasury, :token, :seller, "
                    "CAST(:whole AS numeric), CAST(:whole AS numeric) * 1000000, 0) RETURNING id",
                    treasury=TREASURY,
                    seller=SELLER,
                    whole=amount,
                )
            )
        )

    def post(
        self,
        poster: str,
        movement: str,
        debit: str,
        credit: str,
        amount: str,
        *,
        fact: UUID | None = None,
        instruction: UUID | None = None,
        reverses: UUID | None = None,
    ) -> UUID:
        """One entry, by the role of the process that may post it."""
        entry_type, reason = movement.split(":")
        sits_at = {"destination": DEPOSIT, "treasury": TREASURY, "overdraft": TREASURY}
        self.connection.exec_driver_sql(f"SET LOCAL SESSION AUTHORIZATION {poster}")
        posted = post(
            self.connection,
            Entry(
                book_kind="payment",
                book_id=self.id,
                chain_id=CHAIN,
                token=TOKEN,
                entry_type=entry_type,
                reason=reason,
                debit=debit,
                credit=credit,
                amount=Decimal(amount),
                key=f"example:{next(_numbers)}",
                debit_address=sits_at.get(debit),
                credit_address=sits_at.get(credit),
                fact_id=fact,
                instruction_id=instruction,
                reverses_entry_id=reverses,
            ),
        )
        self.connection.exec_driver_sql("RESET SESSION AUTHORIZATION")
        return posted.entry_id

    def arrives(self, amount: str) -> tuple[UUID, UUID]:
        """The watcher sees a transfer to the payment's address."""
        fact = self.fact("inbound", amount)
        entry = self.post("fleet_watcher", "payment_detected:seen", "destination", "detected", amount, fact=fact)
        if self.state == "pending":
            self.moves("detected")
        return fact, entry

    def is_deep(self, fact: UUID, due: str, surplus: str | None = None) -> None:
        """Enough blocks stand on it: what is due is held, the rest goes to suspense (L7)."""
        self.post("fleet_confirmations", "hold:deep", "detected", "held", due, fact=fact)
        self.held += Decimal(due)
        if self.held == 250:
            self.moves("held")
        elif self.state != "partial":
            self.moves("part_held")
        if surplus is not None:
            self.post("fleet_confirmations", "adjustment:surplus", "detected", "suspense", surplus, fact=fact)

    def is_swept(self, amount: str) -> None:
        """The coins moved from the payment's address to the treasury."""
        fact = self.fact("sweep", amount)
        self.post("fleet_sweeps", "adjustment:sweep", "treasury", "destination", amount, fact=fact)

    def is_released(self, amount: str) -> None:
        """The seller is paid: first promised, then, once mined and deep, gone."""
        order = self.instruction(amount)
        self.moves("became_releasable")
        self.post("fleet_releases", "release:reserve", "held", "releasing", amount, instruction=order)
        self.moves("release_reserved")
        fact = self.fact("outbound", amount)
        self.post("fleet_releases", "release:final", "releasing", "treasury", amount, fact=fact, instruction=order)
        self.moves("released")

    def vanishes(self, fact: UUID, entry: UUID, amount: str) -> None:
        """The transfer's block left the chain: the exact reverse of what it brought (L1)."""
        self.connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": fact})
        self.post("fleet_watcher", "adjustment:reorg", "detected", "destination", amount, fact=fact, reverses=entry)
        self.moves("undetected")

    def is_lost(self, fact: UUID, amount: str) -> None:
        """The transfer's block left the chain after its coins were moved on: a reversal is impossible (L5)."""
        self.post("fleet_watcher", "adjustment:reorg_loss", "loss", "overdraft", amount, fact=fact)
        self.connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": fact})

    def is_found(self, amount: str) -> None:
        """The same transfer is mined again: it takes the loss back instead of being a new arrival."""
        fact = self.fact("inbound", amount)
        self.post("fleet_watcher", "adjustment:recovered", "overdraft", "loss", amount, fact=fact)

    def show(self, title: str) -> None:
        """The statement, as `fleet ledger statement` has it."""
        sys.stdout.write(f"{title}\n\n")
        sys.stdout.write(f"  {'no.':>3}  {'entry':<38}{'debit':<13}{'credit':<13}{'amount':>7}   balances after\n")
        [asset] = statement(self.connection, self.id)
        for line in asset.lines:
            entry = line.movement + ("" if line.reverses is None else f" (reverses no. {line.reverses})")
            after = f"{line.debit} {line.debit_after:f}, {line.credit} {line.credit_after:f}"
            sys.stdout.write(
                f"  {line.number:>3}  {entry:<38}{line.debit:<13}{line.credit:<13}{line.amount:>7f}   {after}\n"
            )
        closing = ", ".join(f"{account} {amount:f}" for account, amount in asset.closing.items())
        sys.stdout.write(f"\n  closing: {closing or 'every account is empty'}\n\n")


def main(database_url: str) -> None:
    engine = open_engine(database_url, application="fleet-example", pool_size=1)
    with transaction(engine) as connection:
        happy = Payment(connection)
        fact, _ = happy.arrives("250")
        happy.is_deep(fact, "250")
        happy.is_swept("250")
        happy.is_released("250")
        happy.show("The happy path: 250 USDC due, 250 arrive, the seller is paid")

        partial = Payment(connection)
        for part in ("100", "150"):
            fact, _ = partial.arrives(part)
            partial.is_deep(fact, part)
        partial.is_swept("250")
        partial.show("In two parts: 100 USDC leave the escrow `partial`, 150 more make it `funded`")

        surplus = Payment(connection)
        fact, _ = surplus.arrives("260")
        surplus.is_deep(fact, "250", "10")
        surplus.is_swept("260")
        surplus.is_released("250")
        surplus.show("Too much: 260 USDC arrive for 250, the 10 wait in suspense")

        reorganised = Payment(connection)
        fact, entry = reorganised.arrives("250")
        reorganised.vanishes(fact, entry, "250")
        fact, _ = reorganised.arrives("250")
        reorganised.is_deep(fact, "250")
        reorganised.show("A reorganisation: the transfer's block is replaced, later it is mined again")

        lost = Payment(connection)
        fact, _ = lost.arrives("250")
        lost.is_deep(fact, "250")
        lost.is_swept("250")
        lost.is_lost(fact, "250")
        lost.is_found("250")
        lost.show("A loss: the transfer's block is replaced after its coins were swept, later it is mined again")
        connection.rollback()
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1])

"""Coins that move on after their deposit: a sweep, a promise and a payout on a real chain, booked as their workers do."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from eth_account import Account
from eth_account.signers.local import LocalAccount

from custody.chain import Receipt, erc20
from custody.chain.logs import TRANSFER_TOPIC, decode_transfer
from custody.ledger import Entry, post
from custody.ledger.house import ensure_house_account
from custody.ledger.reports.escrow import Proof, prove_escrow
from custody.settings.chains import Chain, Chains
from tests.fleet_process import wait_for
from tests.integration.chain_fixtures import Expected, WatchingFleet, units
from tests.marketplace import CHAIN_ID
from workers.demo.development_chain import ETHER
from workers.demo.wallet import Wallet


@dataclass
class LosingFleet:
    """A watching fleet whose deposit addresses and treasury have keys in the test."""

    fleet: WatchingFleet
    treasury: Wallet = field(init=False)
    house: UUID = field(init=False)
    wallets: dict[str, Wallet] = field(default_factory=dict[str, Wallet])

    def __post_init__(self) -> None:
        account = Account.create()
        self.treasury = self._wallet(account)
        chain = self.fleet.chain.model_copy(update={"treasury": account.address})
        self.fleet.chains = Chains(chains=(chain,))
        with self.fleet.database.acting("fleet_operator") as connection:
            self.house = ensure_house_account(connection, CHAIN_ID, account.address, "treasury")

    @property
    def chain(self) -> Chain:
        return self.fleet.chain

    def close(self) -> None:
        for wallet in self.wallets.values():
            wallet.client.close()

    def held(self, amount: int = 100) -> tuple[Expected, str]:
        """A payment whose coins are held, and the transaction that brought them."""
        wallet = self._wallet(Account.create())
        self.fleet.world.chain.mine()  # its coins for gas are older than what a reorganisation takes
        expected = self.fleet.payment(amount, destination=wallet.address)
        sent = self.fleet.pay(expected)
        self.fleet.watch(sent)
        assert self.fleet.hold() == 1
        return expected, sent

    def sweep(self, expected: Expected) -> str:
        receipt = self._send(self.wallets[expected.destination], self.chain.treasury, expected.amount)
        fact = self._fact(receipt, "sweep", None)
        self.post(
            "fleet_sweeps", expected, "adjustment", "sweep", "treasury", "destination", key=f"fact:{fact}:sweep",
            fact_id=fact, debit_address=self.chain.treasury, credit_address=expected.destination,
        )  # fmt: skip
        return receipt.transaction_hash

    def promise(self, expected: Expected) -> UUID:
        """As a refund, which needs no seller."""
        instruction = self.fleet.market.execute(
            "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
            "amount_units, release_epoch) VALUES (:p, 'refund', :c, :a, :t, :a, :n, :u, 0) RETURNING id",
            p=expected.payment, c=CHAIN_ID, a=self.chain.treasury, t=self.fleet.token, n=expected.amount,
            u=units(expected.amount),
        )[0].id  # fmt: skip
        self.post(
            "fleet_releases", expected, "refund", "reserve", "held", "refunding", key=f"release:{instruction}:reserve:1",
            instruction_id=instruction,
        )  # fmt: skip
        return instruction

    def pay_out(self, expected: Expected, instruction: UUID) -> str:
        receipt = self._send(self.treasury, Account.create().address, expected.amount)
        fact = self._fact(receipt, "outbound", expected.payment)
        self.post(
            "fleet_releases", expected, "refund", "final", "refunding", "treasury", key=f"release:{instruction}:final:1",
            fact_id=fact, instruction_id=instruction, credit_address=self.chain.treasury,
        )  # fmt: skip
        return receipt.transaction_hash

    def post(
        self, role: str, expected: Expected, entry_type: str, reason: str, debit: str, credit: str, **more: Any
    ) -> None:
        with self.fleet.database.acting(role) as connection:
            post(
                connection,
                Entry(
                    book_kind="payment", book_id=expected.payment, chain_id=CHAIN_ID, token=self.fleet.token,
                    entry_type=entry_type, reason=reason, debit=debit, credit=credit, amount=Decimal(expected.amount),
                    **more,
                ),
            )  # fmt: skip

    def reorganise(self, depth: int, *mined_again: bytes) -> None:
        """Replace the newest blocks; the first of the new ones has these transactions."""
        world = self.fleet.world
        first = world.client.head().number - depth + 1
        [before] = world.client.headers([first]).values()

        def is_replaced() -> bool:
            """Within one second the same transactions make the very same block again."""
            world.chain.reorganise(depth, [(raw, 0) for raw in mined_again])
            return world.client.headers([first])[first].hash != before.hash

        wait_for(is_replaced)
        self.fleet.world.forget_nonces()
        for wallet in self.wallets.values():
            wallet._nonce = None

    def see(self) -> None:
        """The watcher notices a replaced head, then answers what that put in doubt."""
        for _ in range(2):
            self.fleet.make_due()
            self.fleet.watch()

    def proof(self) -> Proof:
        operator = self.fleet.database.engine("fleet_operator")
        return prove_escrow(operator, self.fleet.world.client, self.chain)

    def require_books_equal_chain(self) -> None:
        """L5, L22: at each address, and Σ treasury + Σ treasury_house - Σ overdraft in all."""
        assert self.fleet.books_equal_chain()
        proof = self.proof()
        assert (proof.remainders, proof.imbalances) == ([], [])

    def paused(self) -> str | None:
        [cursor] = self.fleet.market.execute("SELECT paused_reason FROM fleet.chain_cursors")
        return cursor.paused_reason

    def dead_work(self) -> dict[str, str]:
        """What waits for a person: subject and reason."""
        rows = self.fleet.market.execute("SELECT subject_id, reason FROM fleet.dead_work WHERE resolved_at IS NULL")
        return {row.subject_id: row.reason for row in rows}

    def _wallet(self, account: LocalAccount) -> Wallet:
        self.fleet.world.chain.set_balance(account.address, ETHER)
        wallet = Wallet.open(self.fleet.world.chain.rpc_url, account)
        self.wallets[account.address] = wallet
        return wallet

    def _send(self, wallet: Wallet, recipient: str, amount: int) -> Receipt:
        return wallet.wait(wallet.send(self.fleet.token, erc20.encode_transfer(recipient, units(amount))))

    def _fact(self, receipt: Receipt, direction: str, payment: UUID | None) -> UUID:
        [(ordinal, log)] = [
            (place, decode_transfer(each)) for place, each in enumerate(receipt.logs) if each.event == TRANSFER_TOPIC
        ]
        return self.fleet.market.execute(
            "INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, "
            "token, sender, recipient, amount_units, direction, payment_id, judged_at) VALUES (:c, :n, :b, :h, :l, :o, :t, "
            ":s, :r, :u, :d, :p, now()) RETURNING id",
            c=CHAIN_ID, n=log.block_number, b=log.block_hash, h=log.transaction_hash, l=log.log_index, o=ordinal,
            t=self.fleet.token, s=log.sender, r=log.recipient, u=log.amount, d=direction, p=payment,
        )[0].id  # fmt: skip

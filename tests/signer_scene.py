"""A scene whose evidence is real: derived deposit addresses, transfers on the chain, seals, a signed address book.

And the files of a signer's own machine that go with it. What a database superuser may do to all of it is here as well.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from eth_account import Account
from eth_utils.address import to_checksum_address

from custody.chain import erc20, to_amount
from custody.chain.logs import TRANSFER_TOPIC, TransferLog, decode_transfer
from custody.destinations.derivation import (
    account_xpub_from_seed,
    address_at,
    derivation_path,
    private_key_at,
    seed_from_phrase,
)
from custody.destinations.issuing import register_deposit_account
from custody.ledger.seal_keys import SealKey, public_pem
from custody.payments import move_payment
from custody.policy.documents import NO_HASH
from custody.policy.toml_text import toml_text
from custody.trezor import UnsignedTransaction, encode_erc20_transfer
from tests import policy_files
from tests.conftest import Database
from tests.release_scene import AMOUNT, UNITS, Scene, new_seed
from tests.sealed_ledger import new_key, seal_all
from tests.token_chain import TokenChain
from workers.demo.development_chain import ETHER
from workers.demo.wallet import Wallet

ENVIRONMENT = "amn1"


@dataclass
class SignerScene(Scene):
    """Payments whose coins really went from a buyer to a derived address and on to the treasury."""

    amount: ClassVar[Decimal] = AMOUNT
    units: ClassVar[int] = UNITS
    decimals: ClassVar[int] = 6
    deposit_seed: bytes = field(init=False)
    seal_key: SealKey = field(default_factory=new_key)
    recipients: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.deposit_seed = seed_from_phrase(new_seed())
        with self.database.acting("fleet_operator") as connection:
            self.account_id = register_deposit_account(connection, self.xpub)

    @property
    def xpub(self) -> str:
        return account_xpub_from_seed(self.deposit_seed)

    def payment(
        self, *, swept: bool = True, completed: bool = True, recipient: str | None = "new", units: int | None = None,
        seller_of: UUID | None = None,
    ) -> UUID:  # fmt: skip
        units = units or self.units
        index = self.market._indices + 1
        address = self.deposit_address(index)
        payment = self.market.payment(self.amount, destination=address)
        self.payments.append(payment)
        self.market.execute(
            "UPDATE public.derived_destinations SET deposit_account_id = :account, derivation_path = :path "
            "WHERE address = :address",
            account=self.account_id,
            path=self.deposit_path(index),
            address=address,
        )
        self.deposit(payment, address, units)
        if swept:
            self.sweep_really(payment, index, units)
        if seller_of is not None:
            self.share_seller(payment, seller_of)
            recipient = None
        seller = self.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id
        if recipient is not None:
            chosen = Account.create().address if recipient == "new" else recipient
            self.recipients.append(chosen)
            self.address_book(seller, chosen)
            if self.rules is None:
                self.write_book()
        self.set_request(payment, "completed" if completed else "delivery")
        return payment

    def deposit_address(self, index: int) -> str:
        """What a buyer pays to."""
        return address_at(self.xpub, index)

    def deposit_path(self, index: int) -> str:
        """What the database says that it comes from."""
        return derivation_path(index)

    def handed_out_payment(self, **more: Any) -> UUID:
        """A payment whose instruction is with the signer, its entries sealed."""
        payment = self.payment(**more)
        self.run()
        self.seal()
        return payment

    def seal(self) -> None:
        seal_all(self.database, self.seal_key)

    def deposit(self, payment: UUID, address: str, units: int) -> None:
        """A buyer's transfer, with what the watcher and the confirmations worker write for it."""
        log = self._send(self.chain.deployer, address, units)
        fact = self._insert_fact(payment, log, "inbound")
        amount = to_amount(units, self.decimals)
        self.post(
            "fleet_watcher", payment, "payment_detected", "seen", "destination", "detected", amount,
            key=f"fact:{fact}:seen", debit_address=address, fact_id=fact,
        )  # fmt: skip
        self.post(
            "fleet_confirmations", payment, "hold", "deep", "detected", "held", amount,
            key=f"fact:{fact}:hold", fact_id=fact,
        )  # fmt: skip
        self.market.execute("UPDATE fleet.chain_facts SET judged_at = now() WHERE id = :id", id=fact)
        with self.database.acting("fleet_watcher") as connection:
            move_payment(connection, payment, "detected")
        with self.database.acting("fleet_confirmations") as connection:
            move_payment(connection, payment, "held")

    def sweep_really(self, payment: UUID, index: int, units: int, *, to: str | None = None) -> None:
        """The deposit address sends its coins to the treasury (or to ``to``), and the sweeps worker books it."""
        log = self.send_from(index, units, to or self.treasury)
        fact = self._insert_fact(payment, log, "sweep")
        self.post(
            "fleet_sweeps", payment, "adjustment", "sweep", "treasury", "destination", to_amount(units, self.decimals),
            key=f"fact:{fact}:sweep", debit_address=self.treasury, credit_address=log.sender, fact_id=fact,
        )  # fmt: skip
        self.market.execute(
            """
            INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address,
                transaction_hash, log_index, block_number, from_address, to_address, amount)
            SELECT r.destination_id, 31337, :token, :hash, :log, :block, :sender, :recipient, :units
            FROM fleet.payment_routes r WHERE r.payment_id = :payment
            """,
            token=log.token,
            hash=log.transaction_hash,
            log=log.log_index,
            block=log.block_number,
            sender=log.sender,
            recipient=log.recipient,
            units=units,
            payment=payment,
        )

    def send_from(self, index: int, units: int, to: str) -> TransferLog:
        """A deposit address sends coins, on the chain alone."""
        account = Account.from_key(private_key_at(self.deposit_seed, index))
        self.give_gas(account.address, units)
        return self._send(Wallet(self.chain.deployer.client, account), to, units)

    def give_gas(self, address: str, units: int) -> None:
        """Coins for the sweep of ``units``."""
        del units
        self.chain.development.set_balance(address, ETHER)

    def _send(self, wallet: Wallet, to: str, units: int) -> TransferLog:
        receipt = wallet.wait(wallet.send(self.chain.token, erc20.encode_transfer(to_checksum_address(to), units)))
        [log] = [decode_transfer(each) for each in receipt.logs if each.event == TRANSFER_TOPIC]
        return log

    def _insert_fact(self, payment: UUID, log: TransferLog, direction: str) -> UUID:
        return self.market.execute(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction, payment_id, destination_id)
            SELECT 31337, :block, :block_hash, :hash, :log, 0, :token, :sender, :recipient, :units, :direction,
                r.payment_id, r.destination_id
            FROM fleet.payment_routes r WHERE r.payment_id = :payment RETURNING id
            """,
            block=log.block_number,
            block_hash=log.block_hash,
            hash=log.transaction_hash,
            log=log.log_index,
            token=log.token,
            sender=log.sender,
            recipient=log.recipient,
            units=log.amount,
            direction=direction,
            payment=payment,
        )[0].id

    # The signer's own machine

    @property
    def book(self) -> Path:
        return self.folder / "address-book.toml"

    def write_book(self, *people: str) -> None:
        """The address book of all recipients so far, signed by people (ada and bob when none is named)."""
        entries = [
            policy_files.entry_said(number, NO_HASH, each, f"seller-{number}", environment=ENVIRONMENT, chain_id=31337)
            for number, each in enumerate(self.recipients, start=1)
        ]
        self.book.write_text(toml_text(policy_files.book_said(entries, people or ("ada", "bob"))))

    def trust_said(self) -> dict[str, Any]:
        """What this fleet's trust.toml says. Where approvals are required, signed entries come with the instruction."""
        own = (
            {"address_book": self.book.name, "policy": {"approvals": 0}}
            if self.rules is None
            else {"policy": {"hash": self.files.policy().hash, "minimum_version": 1}}
        )
        return {
            "environment": ENVIRONMENT,
            "k": 2,
            **own,
            "chains": [
                {
                    "id": 31337,
                    "name": "test",
                    "genesis_hash": self.pinned.genesis_hash,
                    "treasury": self.treasury,
                    "verify_rpc": [self.chain.rpc_url],
                    "tokens": [
                        {"symbol": "ETH", "address": "native", "decimals": 18},
                        {"symbol": "USDT", "address": self.chain.token, "decimals": 6},
                    ],
                }
            ],
            "deposit_accounts": [{"xpub": self.xpub}],
            "approvers": [{"person": each, "address": policy_files.key(each).address} for each in policy_files.PEOPLE],
            "ledger": {"seal_public_keys": [public_pem(self.seal_key.public)]},
        }

    def write_trust(self, **changed: Any) -> Path:
        """Write trust.toml with some top-level fields changed."""
        path = self.folder / "trust.toml"
        path.touch(mode=0o600)
        path.write_text(toml_text({**self.trust_said(), **changed}))
        return path

    # A database superuser

    def rule(self) -> None:
        """Take away every trigger and check that stands between a superuser and the rows."""
        for table in (
            "fleet.approvals", "fleet.address_book",
            "public.funds_ledger_entries", "public.payments", "fleet.ledger_balances", "fleet.ledger_seals",
            "fleet.release_instructions", "fleet.nonce_digests", "fleet.chain_facts", "public.derived_destination_sweeps",
        ):  # fmt: skip
            self.market.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        self.market.execute("ALTER TABLE public.funds_ledger_entries DROP CONSTRAINT funds_ledger_entries_sound")

    def rewrite_bytes(self, payment: UUID, recipient: str, units: int) -> None:
        """Rewrite an instruction and its unsigned bytes, so that they say the same."""
        row = self.instruction(payment)
        raw, digest = self.forged(bytes(row.unsigned_bytes), recipient, units)
        self.market.execute(
            """
            UPDATE fleet.release_instructions SET recipient = :recipient, amount = :amount, amount_units = :units,
                unsigned_bytes = :raw, signing_hash = :hash WHERE id = :id
            """,
            recipient=recipient,
            amount=to_amount(units, self.decimals),
            units=units,
            raw=raw,
            hash=digest,
            id=row.id,
        )
        self.market.execute(
            "UPDATE fleet.nonce_digests SET unsigned_bytes = :raw, signing_hash = :hash WHERE instruction_id = :id "
            "RETURNING id",
            raw=raw,
            hash=digest,
            id=row.id,
        )

    def forged(self, stored: bytes, recipient: str, units: int) -> tuple[bytes, bytes]:
        """The stored unsigned bytes with another payout in them, and their hash."""
        raw = UnsignedTransaction.from_signing_bytes(stored)
        to, value, data = self.call(recipient, units)
        made = UnsignedTransaction(
            raw.chain_id, raw.nonce, raw.max_priority_fee_per_gas, raw.max_fee_per_gas, raw.gas_limit, to, value, data
        )
        return made.signing_bytes(), made.signing_hash()

    def call(self, recipient: str, units: int) -> tuple[str, int, bytes]:
        """To, value and data of a payout."""
        return self.chain.token, 0, encode_erc20_transfer(recipient, units)


def signer_scenes(
    chain: TokenChain,
    database: Database,
    mongo_url: str,
    mongo_database: str,
    folder: Path,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[SignerScene]:
    """A fixture's body; with ``rules`` approvals are required."""
    scene = SignerScene(chain, database, mongo_url, mongo_database, folder, rules)
    yield scene
    scene.close()


def thief() -> str:
    return Account.create().address


def random_hash() -> str:
    return "0x" + secrets.token_hex(32)

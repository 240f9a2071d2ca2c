"""A treasury on a real chain with a software device, and payments that are held and swept in the books."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pymongo
from bip_utils import Bip39MnemonicGenerator, Bip39WordsNum
from bson import ObjectId
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import Hash32
from eth_utils.address import to_checksum_address
from pymongo.database import Database as MongoDatabase
from sqlalchemy import text

from custody.chain import Receipt, erc20
from custody.ledger import Entry, post
from custody.payments import move_payment
from custody.policy import AddressBookEntry, SignedFolder, read_in_force
from custody.policy.signed_entries import propose_entry
from custody.releases import Step, build, rows
from custody.releases.approvals import signed_text
from custody.settings.chains import Chain
from custody.settings.environment import FleetSettings, load_settings
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from custody.store.mongo import open_mongo
from custody.trezor import TREASURY_PATH, Signature, UnsignedTransaction
from custody.trezor.derivation import parse_derivation_path
from tests.approvals import hand_in_approval, sign_entry
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.policy_files import PEOPLE, Fleet, approver, genesis_said, signed, token
from tests.token_chain import TokenChain
from workers.demo.development_chain import ETHER
from workers.embedded.trezor_device.wallet import Wallet as SeedWallet

UNITS = 100_000_000
AMOUNT = Decimal(100)
FEE_PROXY = to_checksum_address("0x" + "f0" * 20)
HOUSE_COINS = Decimal(10)


@dataclass
class Scene:
    """One test's treasury, books and marketplace. ``step`` is the releases worker's, with its own role."""

    chain: TokenChain
    database: Database
    mongo_url: str
    mongo_database: str
    folder: Path
    rules: Sequence[Mapping[str, Any]] | None = None
    """The policy's rules where approvals are required (ada, bob and cyd approve, k is 2); None: none are."""
    devices: Mapping[str, str] = field(default_factory=dict[str, str])
    """More approvers, each with the address of a device."""
    seed: str = field(init=False)
    treasury: str = field(init=False)
    market: Marketplace = field(init=False)
    settings: FleetSettings = field(init=False)
    mongo: "pymongo.MongoClient[dict[str, Any]]" = field(init=False)
    step: Step = field(init=False)
    payments: list[UUID] = field(default_factory=list[UUID])

    def __post_init__(self) -> None:
        self.seed = new_seed()
        self.mongo = pymongo.MongoClient(self.mongo_url)
        self.treasury = self.make_treasury()
        self.market = self.make_market()
        self.chain.development.set_balance(self.treasury, 10 * ETHER)
        chains = self.folder / "chains.toml"
        chains.write_text(self._chains_file())
        self.settings = load_settings(
            chains_file=chains, mongo_url=self.mongo_url, mongo_database=self.mongo_database, **self._safekeeping()
        )
        self.house = self.market.execute(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (31337, :a, 'treasury') RETURNING id",
            a=self.treasury,
        )[0].id
        self.market.execute(
            "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) "
            "VALUES (31337, 1, '0x', now())"
        )
        self.post(
            "fleet_watcher", self.house, "adjustment", "funding", "treasury_house", "gas_funding", HOUSE_COINS,
            key="native:funding", token="native", debit_address=self.treasury, book_kind="house",
        )  # fmt: skip
        self.step = build(self.database.engine("fleet_releases"), self.settings)

    def make_market(self) -> Marketplace:
        """The marketplace, of the token that is paid in."""
        return Marketplace(self.database, token=self.chain.token, symbol="USDT")

    def treasury_said(self) -> dict[str, Any]:
        """The genesis' table of the treasury."""
        return {"kind": "eoa", "address": self.treasury, "device_fingerprint": "0a1b2c3d"}

    def make_treasury(self) -> str:
        """The address that coins are swept to; before anything is built on it."""
        return self.account().address

    def safe_lines(self) -> str:
        """The chains file's lines of a treasury that is a Safe."""
        return ""

    @property
    def documents(self) -> "MongoDatabase[dict[str, Any]]":
        """The marketplace's own, as the backend writes them."""
        return self.mongo[self.mongo_database]

    @property
    def pinned(self) -> Chain:
        return self.step.chains.chain(31337)

    def account(self) -> LocalAccount:
        """The treasury's key outside the device: for the transactions that only an attacker would send."""
        key = SeedWallet(self.seed).private_key(parse_derivation_path(TREASURY_PATH))
        return Account.from_key(key.to_bytes())

    def payment(
        self, *, swept: bool = True, completed: bool = True, recipient: str | None = "new", units: int = UNITS,
        seller_of: UUID | None = None,
    ) -> UUID:  # fmt: skip
        """A payment with coins held, swept into the treasury in the books and on the chain unless told otherwise.

        ``seller_of``: another payment, whose seller and whose seller's wallet are this one's too.
        """
        payment = self.market.payment(AMOUNT)
        self.payments.append(payment)
        self._hold(payment, units)
        if swept:
            self.sweep(payment, units)
        if seller_of is not None:
            self.share_seller(payment, seller_of)
            recipient = None
        seller = self.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id
        if recipient is not None:
            self.address_book(seller, Account.create().address if recipient == "new" else recipient)
        self.set_request(payment, "completed" if completed else "delivery")
        return payment

    def share_seller(self, payment: UUID, other: UUID) -> None:
        """Make the other payment's seller this one's."""
        self.market.execute(
            "UPDATE public.payments p SET seller_id = o.seller_id FROM public.payments o WHERE o.id = :other AND p.id = :id",
            other=other,
            id=payment,
        )

    def _safekeeping(self) -> dict[str, Any]:
        if self.rules is None:
            return {"trezor_safekeeping_required": False}
        chain = {
            "id": 31337,
            "name": "test",
            "genesis_hash": self.chain.deployer.client.genesis_hash(),
            "treasury": self.treasury_said(),
            "tokens": [
                token("USDT", self.chain.token, 6),
                {"symbol": "ETH", "currency": "ETH", "address": "native", "decimals": 18, "treasury_maximum": "100"},
            ],
        }
        policy_dir = self.folder / "policy"
        policy_dir.mkdir()
        approvers = [approver(person) for person in PEOPLE]
        approvers += [approver(person, address=at) for person, at in self.devices.items()]
        self.files = Fleet(genesis_said(chains=[chain], approvers=approvers), self.rules)
        return {"policy_dir": policy_dir, "genesis_hash": self.files.write_without_book(policy_dir)}

    def approve(self, payment: UUID, *people: str, **changed: Any) -> None:
        """Hand in approvals with the signer API's role, as these people's devices make them over what is shown now."""
        self.approve_instruction(self.paying(payment), *people, **changed)

    def approve_instruction(self, instruction: Any, *people: str, **changed: Any) -> None:
        """The same of any instruction, also of the house's own coins, which has no payment."""
        shown = self.text_shown(instruction)
        for person in people:
            hand_in_approval(
                self.database.engine("fleet_signer_api"),
                "release_instruction",
                instruction.id,
                bytes(instruction.intent_hash),
                shown,
                person,
                **changed,
            )

    def approval_shown(self, payment: UUID) -> str:
        """The text that approvers of its instruction see now."""
        return self.text_shown(self.paying(payment))

    def text_shown(self, instruction: Any) -> str:
        """The text that approvers of an instruction see now."""
        with self.database.acting("fleet_releases") as connection:
            in_force = read_in_force(connection, self.signed, datetime.now(UTC))
            return signed_text(rows.select(connection, "i.id = :id", {"id": instruction.id})[0], in_force)

    def approval_signature(self, payment: UUID, person: str) -> bytes:
        """The 65 bytes of a person's approval."""
        return bytes.fromhex(signed(self.approval_shown(payment), person)[0].signature[2:])

    @property
    def signed(self) -> SignedFolder:
        assert self.step.signed is not None
        return self.step.signed

    def propose(self, seller: UUID, address: str) -> AddressBookEntry:
        """The seller's wallet as an operator proposes it, without anybody's signature."""
        with self.database.acting("fleet_operator") as connection:
            return propose_entry(
                connection,
                environment="amn1",
                user_id=seller,
                chain_id=31337,
                address=address,
                label="wallet of the seller",
                by="test",
            )

    def address_book(self, seller: UUID, address: str, *people: str) -> None:
        """The seller's wallet; where approvals are required it is signed, by ada and bob when nobody is named."""
        if self.rules is not None:
            sign_entry(self.database, self.propose(seller, address), *(people or ("ada", "bob")))
            return
        self.market.execute(
            "INSERT INTO fleet.address_book (user_id, chain_id, address, label, added_by) "
            "VALUES (:seller, 31337, :address, 'wallet of the seller', 'test')",
            seller=seller,
            address=address,
        )

    def set_request(self, payment: UUID, status: str) -> None:
        """The marketplace's own word on the purchase request, in MongoDB as the backend writes it."""
        self.documents.purchaserequests.update_one(
            {"_id": ObjectId(self.request_id(payment))}, {"$set": {"status": status}}, upsert=True
        )

    def open_dispute(self, payment: UUID) -> None:
        self.set_dispute(payment, "open", None)

    def set_dispute(self, payment: UUID, status: str, action: str | None) -> None:
        self.documents.disputes.update_one(
            {"purchaseRequestId": ObjectId(self.request_id(payment))},
            {"$set": {"status": status, "resolution": None if action is None else {"action": action}}},
            upsert=True,
        )

    def request_id(self, payment: UUID) -> str:
        return self.market.execute(
            "SELECT r.legacy_object_id AS id FROM public.payments p "
            "JOIN public.purchase_requests r ON r.id = p.purchase_request_id WHERE p.id = :id",
            id=payment,
        )[0].id

    def sweep(self, payment: UUID, units: int = UNITS) -> None:
        """The coins arrive in the treasury, and the sweeps worker books it."""
        self.chain.deployer.wait(
            self.chain.deployer.send(self.chain.token, erc20.encode_transfer(self.treasury, units))
        )
        fact = self._fact(payment, units, "sweep")
        destination = self._destination(payment)
        self.post(
            "fleet_sweeps", payment, "adjustment", "sweep", "treasury", "destination", Decimal(units) / 10**6,
            key=f"fact:{fact}:sweep", debit_address=self.treasury, credit_address=destination, fact_id=fact,
        )  # fmt: skip

    def post(
        self, role: str, book: UUID, entry_type: str, reason: str, debit: str, credit: str, amount: Decimal,
        *, key: str, token: str | None = None, book_kind: Any = "payment", **more: Any,
    ) -> None:  # fmt: skip
        with self.database.acting(role) as connection:
            post(
                connection,
                Entry(
                    book_kind=book_kind,
                    book_id=book,
                    chain_id=31337,
                    token=token or self.market.token,
                    entry_type=entry_type,
                    reason=reason,
                    debit=debit,
                    credit=credit,
                    amount=amount,
                    key=key,
                    **more,
                ),
            )

    def run(self, rounds: int = 20) -> int:
        """Run the worker's step until it finds nothing more, as its task does."""
        total = 0
        for _ in range(rounds):
            moved = self.step.run_once(50)
            total += moved
            if not moved:
                return total
        raise AssertionError("the step never came to rest")

    @contextmanager
    def mongodb_away(self) -> Generator[None]:
        """The worker's MongoDB answers nothing (a port where nobody listens)."""
        here = self.step.sources
        nowhere = open_mongo("mongodb://127.0.0.1:9/?replicaSet=rs0", application="test")
        self.step.sources = replace(here, mongo=nowhere)
        try:
            yield
        finally:
            self.step.sources = here
            nowhere.close()

    def set_threshold(self, blocks: int) -> None:
        with transaction(self.database.engine()) as connection:
            set_threshold(connection, 31337, blocks, floor_blocks=1, by="test", reason="test")

    def handed_out(self, payments: Sequence[UUID]) -> UUID:
        """The one of these whose instruction is with the signer."""
        [found] = [each for each in payments if self.instruction(each).state == "handed_out"]
        return found

    def empty_block(self) -> None:
        """Have the node suggest its smallest priority fee again: it suggests what the newest block paid, and each cancel pays more."""
        self.chain.development.mine(1)

    def due_now(self) -> None:
        """Let what waits be looked at again at once, in place of waiting for it."""
        self.market.execute("UPDATE fleet.release_instructions SET run_after = now()")

    def instruction(self, payment: UUID) -> Any:
        found = self.market.execute(
            "SELECT * FROM fleet.release_instructions WHERE payment_id = :id ORDER BY created_at DESC LIMIT 1",
            id=payment,
        )
        return found[0] if found else None

    def paying(self, payment: UUID) -> Any:
        """What is handed out for a payment: its newest instruction, or the group that it is paid with."""
        return self.group(payment) or self.instruction(payment)

    def group(self, payment: UUID) -> Any:
        """The group that a payment's newest instruction is paid with, None without one."""
        group_id = self.instruction(payment).group_id
        return None if group_id is None else self.instruction_row(group_id)

    def instruction_row(self, instruction_id: UUID) -> Any:
        return self.market.execute("SELECT * FROM fleet.release_instructions WHERE id = :id", id=instruction_id)[0]

    def submissions(self, payment: UUID) -> list[tuple[str, str | None]]:
        rows = self.market.execute(
            "SELECT s.state, s.refused_reason FROM fleet.signature_submissions s "
            "JOIN fleet.release_instructions i ON i.id = s.instruction_id WHERE i.payment_id = :id "
            "ORDER BY s.received_at, s.id",
            id=payment,
        )
        return [(row.state, row.refused_reason) for row in rows]

    def sign(self, payment: UUID) -> Signature:
        """What the treasury's device would answer."""
        raw = UnsignedTransaction.from_signing_bytes(bytes(self.paying(payment).unsigned_bytes))
        return self.sign_hash(raw.signing_hash())

    def sign_hash(self, digest: bytes) -> Signature:
        """The treasury key's signature over any digest."""
        signed = self.account().unsafe_sign_hash(Hash32(digest))
        return Signature(signed.v - 27, signed.r, signed.s)

    def submit(self, payment: UUID, signature: Signature | tuple[int, int, int]) -> None:
        """Insert a submission with the signer API's role, as the API does."""
        y_parity, r, s = (
            (signature.y_parity, signature.r, signature.s) if isinstance(signature, Signature) else signature
        )
        with self.database.acting("fleet_signer_api") as connection:
            connection.execute(
                text(
                    "INSERT INTO fleet.signature_submissions (instruction_id, kind, y_parity, r, s) "
                    "VALUES (:id, 'signature', :y, :r, :s)"
                ),
                {"id": self.paying(payment).id, "y": y_parity, "r": r, "s": s},
            )

    def token_balance(self, address: str) -> int:
        return self.chain.deployer.client.token_balance(self.chain.token, address)

    def paid_to(self, payment: UUID) -> int:
        """Units that the payment's seller has on the chain."""
        return self.token_balance(self.instruction(payment).recipient)

    def release_entries(self, payment: UUID) -> list[tuple[str, Decimal]]:
        rows = self.market.execute(
            "SELECT reason, amount FROM public.funds_ledger_entries "
            "WHERE payment_id = :id AND entry_type = 'release' ORDER BY book_seq",
            id=payment,
        )
        return [(row.reason, row.amount) for row in rows]

    def treasury_in_books(self) -> Mapping[str, Decimal]:
        row = self.market.execute(
            """
            SELECT (SELECT coalesce(sum(treasury), 0) FROM fleet.ledger_balances WHERE token = :token) AS tokens,
                (SELECT treasury_house FROM fleet.ledger_balances WHERE book_id = :house) AS coins
            """,
            token=self.chain.token,
            house=self.house,
        )[0]
        return {"tokens": row.tokens, "coins": row.coins}

    def require_books_equal_chain(self) -> None:
        books = self.treasury_in_books()
        assert books["tokens"] * 10**6 == self.token_balance(self.treasury)
        assert books["coins"] * 10**18 == self.chain.deployer.client.balance(self.treasury)

    def receipt(self, payment: UUID) -> Receipt:
        row = self.market.execute(
            "SELECT transaction_hash FROM fleet.chain_transactions WHERE subject_id = :id",
            id=self.paying(payment).id,
        )[0]
        found = self.chain.deployer.client.receipt(row.transaction_hash)
        assert found is not None
        return found

    def close(self) -> None:
        self.step.close()
        self.mongo.close()

    def _destination(self, payment: UUID) -> str:
        return self.market.execute(
            "SELECT d.address FROM fleet.payment_routes r JOIN public.derived_destinations d ON d.id = r.destination_id "
            "WHERE r.payment_id = :id",
            id=payment,
        )[0].address

    def _fact(self, payment: UUID, units: int, direction: str) -> UUID:
        fact = self.market.fact(payment, units)
        self.market.execute(
            "UPDATE fleet.chain_facts SET direction = :direction WHERE id = :id", direction=direction, id=fact
        )
        return fact

    def _hold(self, payment: UUID, units: int) -> None:
        fact = self.market.fact(payment, units)
        amount = Decimal(units) / 10**6
        self.post(
            "fleet_watcher", payment, "payment_detected", "seen", "destination", "detected", amount,
            key=f"fact:{fact}:seen", debit_address=self._destination(payment), fact_id=fact,
        )  # fmt: skip
        self.post(
            "fleet_confirmations", payment, "hold", "deep", "detected", "held", amount,
            key=f"fact:{fact}:hold", fact_id=fact,
        )  # fmt: skip
        with self.database.acting("fleet_watcher") as connection:
            move_payment(connection, payment, "detected")
        with self.database.acting("fleet_confirmations") as connection:
            move_payment(connection, payment, "held")

    def _chains_file(self) -> str:
        genesis = self.chain.deployer.client.genesis_hash()
        return f"""
[[chains]]
id = 31337
name = "test"
genesis_hash = "{genesis}"
rpc_urls = ["{self.chain.rpc_url}"]
treasury = "{self.treasury}"
{self.safe_lines()}
fee_proxy = "{FEE_PROXY}"
tokens = [
    {{ symbol = "ETH", address = "native", decimals = 18 }},
    {{ symbol = "USDT", address = "{self.chain.token}", decimals = 6 }},
]
"""


def scenes(chain: TokenChain, database: Database, mongo_url: str, mongo_database: str, folder: Path) -> Iterator[Scene]:
    """A fixture's body."""
    scene = Scene(chain, database, mongo_url, mongo_database, folder)
    yield scene
    scene.close()


def approval_scenes(
    chain: TokenChain,
    database: Database,
    mongo_url: str,
    mongo_database: str,
    folder: Path,
    rules: Sequence[Mapping[str, Any]],
    devices: Mapping[str, str] | None = None,
) -> Iterator[Scene]:
    """A fixture's body where approvals are required."""
    scene = Scene(chain, database, mongo_url, mongo_database, folder, rules, devices or {})
    yield scene
    scene.close()


def new_seed() -> str:
    return Bip39MnemonicGenerator().FromWordsNumber(Bip39WordsNum.WORDS_NUM_12).ToStr()

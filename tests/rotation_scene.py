"""A release scene whose chain gets another treasury: each treasury has a device of its own, and what it holds is compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import Hash32

from custody.ledger.positions import asset_positions
from custody.policy.documents import read_toml
from custody.policy.succession import rotate_treasury, set_former_state
from custody.policy.verified import GENESIS_FILE
from custody.releases import build
from custody.releases.drains import order_drain
from custody.settings.chains import FormerState
from custody.store.engine import transaction
from custody.trezor import TREASURY_PATH, Signature, UnsignedTransaction
from custody.trezor.derivation import parse_derivation_path
from tests.conftest import Database
from tests.policy_files import genesis_file, write_signed
from tests.release_scene import AMOUNT, HOUSE_COINS, UNITS, Scene, new_seed
from tests.token_chain import TokenChain
from workers.demo.development_chain import ETHER
from workers.embedded.services import Services
from workers.embedded.trezor_device.wallet import Wallet as SeedWallet

RULES: list[dict[str, Any]] = [
    {"name": "two-persons", "kind": "approvals", "purposes": ["release", "refund"], "tiers": [{"from": "0", "k": 2}]},
    {"name": "payouts", "kind": "allow", "purposes": ["release", "refund"]},
    {"name": "into-the-treasury", "kind": "allow", "purposes": ["sweep"]},
]


def account_of(seed: str) -> LocalAccount:
    """A treasury's key outside its device."""
    return Account.from_key(SeedWallet(seed).private_key(parse_derivation_path(TREASURY_PATH)).to_bytes())


@dataclass
class RotationScene(Scene):
    """``treasury`` is the active one; ``former`` the others with their state, ``seeds`` and ``houses`` of all of them."""

    former: dict[str, FormerState] = field(default_factory=dict[str, FormerState])
    seeds: dict[str, str] = field(default_factory=dict[str, str])
    houses: dict[str, UUID] = field(default_factory=dict[str, UUID])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seeds[self.treasury] = self.seed
        self.houses[self.treasury] = self.house

    # Rotating

    def make_next(self) -> str:
        """Another device's treasury, funded for its fees and with a house book; its address."""
        seed = new_seed()
        address = account_of(seed).address
        self.seeds[address] = seed
        self.chain.development.set_balance(address, 10 * ETHER)
        return address

    def fund_house(self, address: str) -> None:
        """The house book of a treasury, with the coins that its device pays fees with."""
        self.houses[address] = self.market.execute(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (31337, :a, 'treasury') "
            "ON CONFLICT (chain_id, address) DO UPDATE SET kind = excluded.kind RETURNING id",
            a=address,
        )[0].id
        self.post(
            "fleet_watcher", self.houses[address], "adjustment", "funding", "treasury_house", "gas_funding", HOUSE_COINS,
            key="native:funding", token="native", debit_address=address, book_kind="house",
        )  # fmt: skip

    def use_release_payer(self) -> None:
        """From the next restart on the worker has an account that sends what a Safe's owners signed."""
        payer = self.chain.development.new_account(10 * ETHER)
        key_file = self.folder / "release-payer"
        key_file.touch(mode=0o600)
        key_file.write_text(payer.key.hex())
        self.settings = self.settings.model_copy(update={"release_payer_key_file": key_file})
        house = self.market.execute(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (31337, :a, 'release_payer') RETURNING id",
            a=payer.address,
        )[0].id
        self.post(
            "fleet_watcher", house, "adjustment", "funding", "gas_payer", "gas_funding", Decimal(10),
            key="native:payer", token="native", debit_address=payer.address, book_kind="house",
        )  # fmt: skip

    def rotate(self, ended: FormerState = "draining") -> str:
        """Another treasury takes the active one's place, in the signed genesis and the chains file; the old one's address."""
        before, after = self.treasury, self.make_next()
        self.fund_house(after)
        if self.rules is not None:
            pinned = {"kind": "eoa", "address": after, "device_fingerprint": "0b1c2d3e"}
            rotate_treasury(self.signed.folder, 31337, pinned, ended, _now())
            self.sign_genesis()
        self.install(after, {**self.former, before: ended})
        return before

    def mark(self, address: str, state: FormerState) -> None:
        """A former treasury is ``state`` from now on."""
        if self.rules is not None:
            set_former_state(self.signed.folder, 31337, address, state, _now())
            self.sign_genesis()
        self.install(self.treasury, {**self.former, address: state})

    def sign_genesis(self) -> None:
        """ada and bob sign the draft."""
        path = self.signed.folder / GENESIS_FILE
        write_signed(path, genesis_file(read_toml(path)))

    def install(self, treasury: str, former: Mapping[str, FormerState]) -> None:
        """The chains file as it must be now, and the worker started anew."""
        self.treasury, self.former = treasury, dict(former)
        (self.folder / "chains.toml").write_text(self._chains_file())
        self.restart()

    def restart(self) -> None:
        """A new process, after the dead one's leases have run out."""
        self.step.close()
        self.step = build(self.database.engine("fleet_releases"), self.settings)
        self.market.execute("UPDATE fleet.release_instructions SET lease_until = now() - interval '1 second'")
        self.due_now()

    def order(self, treasury: str) -> None:
        """An operator orders that what lies there is moved."""
        with self.database.acting("fleet_operator") as connection:
            order_drain(connection, self.pinned, treasury, by="mina")

    # Signing

    def sign_now(self, instruction: Any) -> None:
        """What its treasury's device answers to an instruction's bytes, handed in."""
        digest = UnsignedTransaction.from_signing_bytes(bytes(instruction.unsigned_bytes)).signing_hash()
        found = account_of(self.seeds[instruction.treasury]).unsafe_sign_hash(Hash32(digest))
        self.hand_in(instruction.id, Signature(found.v - 27, found.r, found.s))

    def hand_in(self, instruction_id: UUID, signature: Signature) -> None:
        self.market.execute(
            "INSERT INTO fleet.signature_submissions (instruction_id, kind, y_parity, r, s) "
            "VALUES (:id, 'signature', :y, :r, :s)",
            id=instruction_id, y=signature.y_parity, r=signature.r, s=signature.s,
        )  # fmt: skip

    def waiting(self) -> list[Any]:
        """What waits for a device: the newest bytes of each nonce without a signature, with their treasury."""
        return self.market.execute(
            """
            SELECT i.id, i.treasury, i.payment_id, d.unsigned_bytes,
                CASE d.kind WHEN 'cancel' THEN d.kind ELSE i.purpose END AS purpose
            FROM fleet.release_instructions i JOIN LATERAL (
                SELECT * FROM fleet.nonce_digests d WHERE d.instruction_id = i.id ORDER BY d.place DESC LIMIT 1) d ON true
            WHERE i.state IN ('handed_out', 'cancelling') AND d.signed_bytes IS NULL ORDER BY d.created_at
            """
        )

    def open_ones(self, state: str) -> list[Any]:
        return self.market.execute(
            "SELECT * FROM fleet.release_instructions WHERE state = :state ORDER BY created_at, id", state=state
        )

    def of(self, payment: UUID, purpose: str) -> list[Any]:
        """A payment's instructions of a purpose, oldest first."""
        return self.market.execute(
            "SELECT * FROM fleet.release_instructions WHERE payment_id = :id AND purpose = :purpose "
            "ORDER BY created_at, id",
            id=payment, purpose=purpose,
        )  # fmt: skip

    def sign_all(self, rounds: int = 30) -> list[Any]:
        """Sign whatever is handed out, as often as something is; what was signed, in its order."""
        signed: list[Any] = []
        for _ in range(rounds):
            self.due_now()
            self.run()
            waiting = self.waiting()
            if not waiting:
                return signed
            for each in waiting:
                self.sign_now(each)
                signed.append(each)
        raise AssertionError("the signer is never done")

    def approve_all(self, *people: str) -> list[UUID | None]:
        """Everything that asks for approval gets it; the payments, None for the house's own coins."""
        self.due_now()
        self.run()
        asked = self.open_ones("awaiting_approval")
        for each in asked:
            self.approve_instruction(each, *(people or ("ada", "bob")))
        return [each.payment_id for each in asked]

    def house_drains(self, address: str) -> list[Any]:
        """The moves of the house's own coins away from a treasury, oldest first."""
        return self.market.execute(
            "SELECT * FROM fleet.release_instructions WHERE house_id = :house ORDER BY created_at, id",
            house=self.houses[address],
        )

    # Comparing

    def lying_at(self, address: str) -> Decimal:
        """Whole tokens that the books have at an address, whatever account they are in."""
        with transaction(self.database.engine()) as connection:
            found = asset_positions(connection, 31337)
        return sum(
            (each.amount for each in found if (each.token, each.address) == (self.chain.token, address)), Decimal(0)
        )

    def require_books_equal_chain(self) -> None:
        for address, house in self.houses.items():
            assert self.lying_at(address) * 10**6 == self.token_balance(address), address
            coins = self.market.execute(
                "SELECT treasury_house + in_transit AS coins FROM fleet.ledger_balances WHERE book_id = :house AND token = 'native'",
                house=house,
            )[0].coins
            assert coins * 10**18 == self.chain.deployer.client.balance(address), address

    def entries(self, payment: UUID, *reasons: str) -> list[tuple[str, str, str, str | None, str | None]]:
        rows = self.market.execute(
            "SELECT reason, debit, credit, debit_address, credit_address FROM public.funds_ledger_entries "
            "WHERE payment_id = :id AND reason = ANY (:reasons) ORDER BY book_seq",
            id=payment, reasons=list(reasons),
        )  # fmt: skip
        return [(row.reason, row.debit, row.credit, row.debit_address, row.credit_address) for row in rows]

    def add(self, payment: UUID, units: int) -> None:
        """More coins of a payment, held and swept to the active treasury."""
        fact, amount = self.market.fact(payment, units), Decimal(units) / 10**6
        self.post(
            "fleet_watcher", payment, "payment_detected", "seen", "destination", "detected", amount,
            key=f"fact:{fact}:seen", debit_address=self._destination(payment), fact_id=fact,
        )  # fmt: skip
        self.post(
            "fleet_confirmations", payment, "hold", "deep", "detected", "held", amount,
            key=f"fact:{fact}:hold", fact_id=fact,
        )  # fmt: skip
        self.sweep(payment, units)

    def book_sweep(self, payment: UUID, address: str) -> None:
        """What the sweeps worker books of coins that came to a treasury."""
        fact = self._fact(payment, UNITS, "sweep")
        self.post(
            "fleet_sweeps", payment, "adjustment", "sweep", "treasury", "destination", AMOUNT,
            key=f"fact:{fact}:sweep", debit_address=address, credit_address=self._destination(payment), fact_id=fact,
        )  # fmt: skip

    def sweep_to(self, payment: UUID, address: str) -> None:
        """A sweep that was signed to this treasury settles there, whatever became of it since."""
        active, self.treasury = self.treasury, address
        self.sweep(payment)
        self.treasury = active

    def chains_file_with(self, lines: str) -> str:
        """The chains file whose lines about treasuries are these."""
        own = f'treasury = "{self.treasury}"\n'
        return super()._chains_file().replace(own, f"{lines}\n")

    def _chains_file(self) -> str:
        named = ", ".join(f'{{ address = "{at}", state = "{state}" }}' for at, state in self.former.items())
        return super()._chains_file().replace("fee_proxy =", f"former_treasuries = [{named}]\nfee_proxy =")


def rotation_scenes(
    chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    folder: Path,
    rules: list[dict[str, Any]] | None = None,
) -> Iterator[RotationScene]:
    """A fixture's body; with ``rules`` ada, bob and cyd approve."""
    scene = RotationScene(chain, database, services.mongo_url, mongo_database, folder, rules)
    yield scene
    scene.close()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)

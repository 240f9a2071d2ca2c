"""The release scene with a Safe as treasury: three owners' keys of which two sign, and a release payer that executes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from eth_account import Account
from eth_account.signers.local import LocalAccount

from custody.chain import ChainClient, ChainConnection, Receipt
from custody.policy.genesis import Treasury
from custody.releases.safe_treasury import SafeTreasury
from custody.safe import ReleasePayer, SafeTransaction, pins_of
from custody.settings.chains import Chain
from custody.trezor import Signature
from custody.trezor.derivation import SAFE_OWNER_PATH, parse_derivation_path
from tests.conftest import Database
from tests.release_scene import Scene, new_seed
from tests.safe_world import OwnedSafe, sign_hash, state_of
from tests.token_chain import TokenChain
from workers.demo.development_chain import ETHER
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.trezor_device.wallet import Wallet as SeedWallet

PAYER_COINS = Decimal(10)


def owner_of_seed(seed: str) -> LocalAccount:
    """The owner's key outside the device: for what only an attacker, or the owners themselves, would sign."""
    key = SeedWallet(seed).private_key(parse_derivation_path(SAFE_OWNER_PATH))
    return Account.from_key(key.to_bytes())


@dataclass
class SafeScene(Scene):
    """One test's Safe, books and marketplace. ``contracts`` are shared, the Safe is the test's own."""

    contracts: SafeContracts = field(kw_only=True)
    safe: OwnedSafe = field(init=False)
    owner_seeds: Sequence[str] = field(init=False)
    owners: Sequence[LocalAccount] = field(init=False)
    payer: LocalAccount = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.payer = self.chain.development.new_account(10 * ETHER)
        self.payer_house = self.market.execute(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (31337, :a, 'release_payer') RETURNING id",
            a=self.payer.address,
        )[0].id
        self.post(
            "fleet_watcher", self.payer_house, "adjustment", "funding", "gas_payer", "gas_funding", PAYER_COINS,
            key="native:payer", token="native", debit_address=self.payer.address, book_kind="house",
        )  # fmt: skip
        self.pin(self.safe.pinned(state_of(self.safe)))

    def make_treasury(self) -> str:
        self.owner_seeds = [new_seed() for _ in range(3)]
        self.owners = [owner_of_seed(seed) for seed in self.owner_seeds]
        self.safe = OwnedSafe.make(self.chain.deployer, self.contracts, self.owners)
        return self.safe.address

    def treasury_said(self) -> dict[str, Any]:
        return pins_of(state_of(self.safe))

    def safe_lines(self) -> str:
        owners = ", ".join(f'"{owner.address}"' for owner in self.owners)
        return f"safe = {{ owners = [{owners}], threshold = 2 }}"

    def pin(self, pinned: Treasury | None) -> None:
        """What the verified genesis says of the treasury from now on."""
        payer = ReleasePayer(bytes(self.payer.key))
        self.step.safes = {} if pinned is None else {(31337, pinned.address): SafeTreasury(pinned, payer)}

    def without_payer(self) -> None:
        self.step.safes = {key: replace(each, payer=None) for key, each in self.step.safes.items()}

    def transaction(self, payment: UUID) -> SafeTransaction:
        """The SafeTx that was handed out."""
        return SafeTransaction.from_stored_bytes(bytes(self.paying(payment).unsigned_bytes))

    def owner_signs(self, payment: UUID, owner: LocalAccount) -> Signature:
        """What an owner's device would answer."""
        return sign_hash(owner, self.transaction(payment).hash())

    def two_sign(self, payment: UUID) -> None:
        """Two owners hand in their signatures, in the order that the Safe does not want."""
        for owner in sorted(self.owners[:2], key=lambda each: int(each.address, 16), reverse=True):
            self.submit(payment, self.owner_signs(payment, owner))

    def execute_elsewhere(self, payment: UUID, account: LocalAccount) -> Receipt:
        """Somebody else sends the execution that the owners signed."""
        transaction = self.transaction(payment)
        calldata = transaction.calldata(self.safe.packed(transaction))
        wallet = type(self.chain.deployer)(ChainClient(ChainConnection(31337, self.chain.rpc_url)), account)
        try:
            return wallet.wait(wallet.send(self.safe.address, calldata, gas=500_000))
        finally:
            wallet.client.close()

    def chain_transactions(self, payment: UUID) -> list[Any]:
        return self.market.execute(
            "SELECT * FROM fleet.chain_transactions WHERE subject_id = :id ORDER BY nonce",
            id=self.instruction(payment).id,
        )

    def require_books_equal_chain(self) -> None:
        super().require_books_equal_chain()
        booked = self.market.execute(
            "SELECT gas_payer - overdraft AS coins FROM fleet.ledger_balances WHERE book_id = :id", id=self.payer_house
        )[0].coins
        assert booked * ETHER == self.chain.deployer.client.balance(self.payer.address)

    @property
    def pinned(self) -> Chain:
        return self.step.chains.chain(31337)

    def close(self) -> None:
        self.safe.close()
        super().close()


def safe_scenes(
    chain: TokenChain, database: Database, mongo_url: str, mongo_database: str, folder: Path, contracts: SafeContracts
) -> Iterator[SafeScene]:
    """A fixture's body."""
    scene = SafeScene(chain, database, mongo_url, mongo_database, folder, contracts=contracts)
    yield scene
    scene.close()

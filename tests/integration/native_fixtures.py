"""A fleet whose payments expect the chain's own coin, on the tests' chain (L8)."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from custody.chain import Receipt, to_units
from custody.chain.addresses import ZERO_ADDRESS
from custody.ledger.positions import asset_positions
from custody.settings.chains import Chains
from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, Expected, WatchingFleet
from tests.marketplace import CHAIN_ID, Marketplace
from workers.demo.contract_packages import REQUEST_NETWORK_PACKAGE, request_network_contract
from workers.demo.contracts import pay_native_through_proxy
from workers.demo.development_chain import ETHER
from workers.demo.wallet import Wallet

BUYER_WEI = 1_000_000 * ETHER


def wei(amount: Decimal | int | str) -> int:
    return to_units(Decimal(amount), 18)


class NativeFleet(WatchingFleet):
    """Watcher and confirmations of payments in native coin; amounts in whole coins."""

    def __init__(self, world: ChainWorld, database: Database, *, native_fee_proxy: str | None = None) -> None:
        self.hears = native_fee_proxy or world.contracts.native_fee_proxy
        super().__init__(world, database, "native")

    def __post_init__(self) -> None:
        world = self.world
        self.market = Marketplace(self.database, token="native", symbol="ETH", decimals=18)
        self.market.execute("INSERT INTO fleet.tokens VALUES (:c, :t, 'USDC', 6)", c=CHAIN_ID, t=world.contracts.usdc)
        self.chains = Chains.model_validate(
            {
                "chains": [
                    {
                        "id": CHAIN_ID,
                        "name": "anvil",
                        "genesis_hash": world.client.genesis_hash(),
                        "rpc_urls": [world.chain.rpc_url],
                        "treasury": Account.create().address,
                        "fee_proxy": world.contracts.fee_proxy,
                        "native_fee_proxy": self.hears,
                        "tokens": [
                            {"symbol": "ETH", "address": "native", "decimals": 18},
                            {"symbol": "USDC", "address": world.contracts.usdc, "decimals": 6},
                        ],
                    }
                ]
            }
        )
        world.chain.set_balance(world.buyer.address, BUYER_WEI)

    def plain(self, to: Expected, amount: Decimal | int | str) -> str:
        """A wallet's own transfer: top level, without a reference."""
        return self.sent(to.destination, value=wei(amount))

    def proxied(
        self,
        to: Expected,
        amount: Decimal | int | str,
        *,
        reference: bytes | None = None,
        fee: Decimal | int | str = 0,
        fee_address: str = ZERO_ADDRESS,
    ) -> str:
        """Pay through RN's EthereumFeeProxy and wait until it is mined."""
        sent = pay_native_through_proxy(
            self.world.buyer,
            self.world.contracts,
            recipient=to.destination,
            amount=wei(amount),
            reference=to.reference if reference is None else reference,
            fee_amount=wei(fee),
            fee_address=fee_address,
        )
        self.world.buyer.wait(sent)
        return sent

    def relayed(self, to: Expected, amount: Decimal | int | str) -> str:
        """An internal transfer: a contract that the fleet does not hear sends the coin on."""
        build = request_network_contract(self.world.packages[REQUEST_NETWORK_PACKAGE], "EthereumProxy")
        call = build.calldata("transferWithReference", to.destination, to.reference)
        return self.sent(self.world.relay, call, value=wei(amount))

    def batched(self, parts: Sequence[tuple[Expected, Decimal | int | str]]) -> Receipt:
        """Several payments in one transaction through RN's BatchPayments."""
        build = request_network_contract(self.world.packages[REQUEST_NETWORK_PACKAGE], "BatchPayments")
        call = build.calldata(
            "batchEthPaymentsWithReference",
            [to.destination for to, _ in parts],
            [wei(amount) for _, amount in parts],
            [to.reference for to, _ in parts],
            [0 for _ in parts],
            Account.create().address,
        )
        value = sum(wei(amount) for _, amount in parts)
        return self.world.buyer.wait(self.world.buyer.send(self.world.batch, call, value=value, gas=600_000))

    def sent(self, to: str, data: bytes = b"", *, value: int = 0) -> str:
        sent = self.world.buyer.send(to, data, value=value)
        self.world.buyer.wait(sent)
        return sent

    @contextmanager
    def one_block(self) -> Generator[None]:
        """What is sent inside is mined in one block at the end."""
        self.world.chain.set_automine(enabled=False)
        try:
            yield
        finally:
            self.world.chain.set_automine(enabled=True)
        self.world.chain.mine()

    def own(self) -> tuple[Expected, Wallet, LocalAccount]:
        """A payment of 3 coins at an address whose key the test has."""
        key = Account.create()
        payment = self.payment(3, destination=key.address)
        return payment, Wallet(self.world.client, key), key

    def settle(self, *sent: str) -> None:
        self.watch(*sent)
        self.hold()
        assert self.books_equal_chain()

    def books_equal_chain(self) -> bool:
        with self.database.engine().begin() as connection:
            positions = asset_positions(connection, CHAIN_ID)
        client = self.world.client
        return (
            all(wei(one.amount) == client.balance(one.address) for one in positions if one.token == "native")
            and super().books_equal_chain()
        )

    def native_facts(self) -> list[Any]:
        return self.market.execute("SELECT * FROM fleet.chain_facts WHERE token = 'native' ORDER BY created_at, id")

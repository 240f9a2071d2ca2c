"""A chain of a test module's own with real tokens, and a fleet that sweeps on it as the sweeps worker does."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from eth_account import Account
from sqlalchemy import Engine, event, text

from custody.chain import ChainClient, Receipt, erc20, to_amount
from custody.chain.logs import TRANSFER_TOPIC, decode_transfer
from custody.chain.native import native_transfers
from custody.destinations.derivation import account_xpub_from_seed, address_at, seed_from_phrase
from custody.destinations.forwarders import forwarder_at, forwarder_path
from custody.destinations.issuing import register_deposit_account, register_forwarder_account
from custody.destinations.keys.client import KeysAgent
from custody.destinations.sweeps.advancing import run_once
from custody.destinations.sweeps.choosing import Choosing, Economics
from custody.destinations.sweeps.signing import SweepSigner
from custody.ledger import Entry, post
from custody.ledger.house import ensure_house_account
from custody.settings.chains import NATIVE, Chains
from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR, Database
from tests.fleet_process import wait_for
from tests.keys_agent import new_phrase, serving, socket_folder, vault_of
from tests.marketplace import Marketplace
from workers.demo.contract_packages import CIRCLE_PACKAGE, MULTICALL3_PACKAGE, REQUEST_NETWORK_PACKAGE
from workers.demo.contracts import DeployedContracts, deploy_contracts, mint
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.sweep_contracts import deploy_multicall3, deploy_sweep_contracts, name_operators
from workers.demo.wallet import Wallet
from workers.embedded import npm_packages

CHAIN_ID = 31337
DECIMALS = 6
FUNDING_WEI = 10 * ETHER
ROUNDS_MAXIMUM = 40


@dataclass
class World:
    """One Anvil with USDC and a Tether-like token."""

    chain: DevelopmentChain
    contracts: DeployedContracts
    deployer: Wallet
    agents: ExitStack = field(default_factory=ExitStack)

    @property
    def client(self) -> ChainClient:
        return self.deployer.client

    def wait_until_mined(self) -> None:
        """Anvil answers a transaction before its block is made; until then a round finds nothing to do."""

        def is_mined() -> bool:
            pool: Any = self.chain._request("txpool_status", [])
            return int(pool["pending"], 16) == 0

        if self.chain._request("anvil_getAutomine", []) is True:
            wait_for(is_mined)


@contextmanager
def sweeping_world(*arguments: str) -> Generator[World]:
    packages = {
        name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)
    }
    with running_anvil(*arguments) as rpc_url:
        chain = DevelopmentChain(rpc_url)
        owner = chain.new_account(1000 * ETHER)
        contracts = deploy_contracts(rpc_url, packages, owner)
        deployer = Wallet.open(rpc_url, owner)
        world = World(chain, contracts, deployer)
        with world.agents:
            yield world
        chain.close()
        deployer.client.close()


def call(world: World, token: str, signature: str, *words: str | int) -> None:
    """Have the tokens' owner call a function; the arguments are addresses and numbers."""
    data = erc20.selector(signature) + b"".join(
        (bytes.fromhex(word[2:]) if isinstance(word, str) else word.to_bytes(32)).rjust(32, b"\0") for word in words
    )
    world.deployer.wait(world.deployer.send(token, data))


class SweepingFleet:
    """A fresh database's sweeping: own gas payer and treasury, deposits booked as watcher and confirmations would."""

    def __init__(
        self,
        world: World,
        database: Database,
        token: str,
        *,
        funding_wei: int = FUNDING_WEI,
        agent: bool = True,
        payers: int = 1,
        strategy: str | None = None,
    ) -> None:
        """``agent``: have the keys agent in a thread; without it a test brings its own to ``socket``. ``payers``: how many
        it has, each funded. ``strategy``: the only one, its contracts deployed and the gas payers named their operators.
        """
        self.world = world
        self.database = database
        self.token = token
        self.economics = Economics()
        self.decimals = 18 if token == NATIVE else DECIMALS
        self.market = Marketplace(database, chain_id=CHAIN_ID, token=token, decimals=self.decimals)
        usdc = world.contracts.usdc if token == NATIVE else token
        other = next(address for address in world.contracts.tokens if address != usdc)
        for address, symbol in ((usdc, "USDC"), (other, "OTHER")):
            self.market.execute(
                "INSERT INTO fleet.tokens VALUES (:c, :t, :s, 6) ON CONFLICT DO NOTHING",
                c=CHAIN_ID,
                t=address,
                s=symbol,
            )
        keys = [Account.create() for _ in range(payers)]
        self.treasury = Account.create().address
        self.chains = Chains.model_validate(
            {
                "chains": [
                    {
                        "id": CHAIN_ID,
                        "name": "anvil",
                        "genesis_hash": world.client.genesis_hash(),
                        "rpc_urls": [world.chain.rpc_url],
                        "treasury": self.treasury,
                        "fee_proxy": world.contracts.fee_proxy,
                        "tokens": [
                            {"symbol": "USDC", "address": usdc, "decimals": 6},
                            {"symbol": "OTHER", "address": other, "decimals": 6},
                            {"symbol": "ETH", "address": "native", "decimals": 18},
                        ],
                        "gas": {"replace_after_blocks": 2},
                        "sweep_strategy": strategy,
                        # Forwarders are a Safe treasury's alone; who its owners are is nothing to sweeps.
                        "safe": {"owners": [Account.create().address for _ in range(3)], "threshold": 2}
                        if strategy == "create2_forwarder"
                        else None,
                    }
                ]
            }
        )
        # Another account's addresses for each database: the module's chain is shared.
        self.phrase, self.payer_keys = new_phrase(), [bytes(each.key) for each in keys]
        self.payer_key = self.payer_keys[0]
        self.xpub = account_xpub_from_seed(seed_from_phrase(self.phrase))
        self.payers = [each.address for each in keys]
        self.payer = self.payers[0]
        self.has_forwarders = strategy == "create2_forwarder"
        if strategy in {"eip7702_batch", "create2_forwarder"}:
            self.contracts = deploy_sweep_contracts(world.deployer, world.chain, self.treasury)
            self.name_operators(*self.payers)
        if strategy == "eip3009_batch":
            package = npm_packages.fetch(MULTICALL3_PACKAGE, STATE_DIR.resolve())
            deploy_multicall3(world.deployer, world.chain, package)
        self.socket = world.agents.enter_context(socket_folder()) / "agent.sock"
        if agent:
            journal = self.socket.with_name("journal")
            vault = vault_of(self.phrase, self.payer_key, self.chains, journal, more_payers=self.payer_keys[1:])
            world.agents.enter_context(serving(vault, self.socket))
        self.signer = SweepSigner(KeysAgent(self.socket))
        with database.acting("fleet_operator") as connection:
            self.account = (
                register_forwarder_account(connection, self.chains)
                if self.has_forwarders
                else register_deposit_account(connection, self.xpub)
            )
            self.treasury_house = ensure_house_account(connection, CHAIN_ID, self.treasury, "treasury")
            self.houses = {each: ensure_house_account(connection, CHAIN_ID, each, "gas_payer") for each in self.payers}
        for each in self.payers if funding_wei else ():
            self.fund(funding_wei, each)
        self.see_head()

    def name_operators(self, *operators: str) -> None:
        name_operators(self.world.chain, self.contracts, operators)

    def fund(self, wei: int, payer: str | None = None) -> None:
        """Give a gas payer coins, or the treasury's own book, and book them as the watcher does."""
        at: str = self.payer if payer is None else payer
        self.world.chain.set_balance(at, self.world.client.balance(at) + wei)
        with self.database.acting("fleet_watcher") as connection:
            post(
                connection,
                Entry(
                    book_kind="house",
                    book_id=self.treasury_house if at == self.treasury else self.houses[at],
                    chain_id=CHAIN_ID,
                    token="native",
                    entry_type="adjustment",
                    reason="funding",
                    debit="treasury_house" if at == self.treasury else "gas_payer",
                    credit="gas_funding",
                    amount=to_amount(wei, 18),
                    key=f"funding:{Account.create().address}",
                    debit_address=at,
                ),
            )

    def see_head(self) -> None:
        self.world.wait_until_mined()
        head = self.world.client.head()
        self.market.execute(
            """
            INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp, agreed_number)
            VALUES (:c, :n, :h, to_timestamp(:t), :n) ON CONFLICT (chain_id) DO UPDATE SET
                head_number = excluded.head_number, head_hash = excluded.head_hash, agreed_number = excluded.agreed_number
            """,
            c=CHAIN_ID,
            n=head.number,
            h=head.hash,
            t=head.timestamp,
        )

    def payment(self, units: int) -> UUID:
        """A payment with a route to the account's next address."""
        index = self.market._indices + 1
        if self.has_forwarders:
            address = str(forwarder_at(self.treasury, self.account, index))
        else:
            address = address_at(self.xpub, index)
        payment = self.market.payment(to_amount(units, self.decimals), destination=address)
        self.market.execute(
            "UPDATE public.derived_destinations SET deposit_account_id = :a, derivation_path = coalesce(:path, "
            "derivation_path) WHERE address = :d",
            a=self.account,
            path=forwarder_path(self.account, index) if self.has_forwarders else None,
            d=address,
        )
        return payment

    def address(self, payment: UUID) -> str:
        return self.market.execute(
            "SELECT d.address FROM fleet.payment_routes r JOIN public.derived_destinations d "
            "ON d.id = r.destination_id WHERE r.payment_id = :p",
            p=payment,
        )[0].address

    def pay(self, payment: UUID, units: int, *, judged: bool = True) -> None:
        """Real coins to the payment's address, seen and (unless told otherwise) held."""
        sent = self._send(payment, units)
        self.book(payment, self.world.deployer.wait(sent), judged=judged)

    def _send(self, payment: UUID, units: int) -> str:
        wallet = self.world.deployer
        if self.token == NATIVE:
            return wallet.send(self.address(payment), value=units)
        return mint(wallet, self.world.contracts, self.token, self.address(payment), units)

    def pay_all(self, payments: list[UUID], units: int) -> None:
        wallet = self.world.deployer
        sent = [self._send(p, units) for p in payments]
        for payment, receipt in zip(payments, wallet.wait_all(sent), strict=True):
            self.book(payment, receipt, judged=True)

    def book(self, payment: UUID, receipt: Receipt, *, judged: bool) -> None:
        """What the watcher and the confirmations worker write for a deposit."""
        if self.token == NATIVE:
            found = self.world.client.receipts_and_headers([receipt.transaction_hash], values=True)
            [inbound] = native_transfers(
                found.receipts[receipt.transaction_hash], watched=[self.address(payment)], fee_proxies=[]
            )
            ordinal, log = inbound.tx_ordinal, inbound.transfer
        else:
            [(ordinal, log)] = [
                (n, decode_transfer(entry)) for n, entry in enumerate(receipt.logs) if entry.event == TRANSFER_TOPIC
            ]
        fact = self.market.execute(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction, payment_id, destination_id)
            SELECT :c, :n, :bh, :h, :li, :o, :t, :s, :r, :u, 'inbound', r.payment_id, r.destination_id
            FROM fleet.payment_routes r WHERE r.payment_id = :p RETURNING id
            """,
            c=CHAIN_ID,
            n=log.block_number,
            bh=log.block_hash,
            h=log.transaction_hash,
            li=log.log_index,
            o=ordinal,
            t=self.token,
            s=log.sender,
            r=log.recipient,
            u=log.amount,
            p=payment,
        )[0].id
        self._post(payment, fact, log.amount, "payment_detected", "seen", "destination", "detected")
        if judged:
            self.judge(payment, fact, log.amount)
        self.see_head()

    def judge(self, payment: UUID, fact: UUID, units: int) -> None:
        self._post(payment, fact, units, "hold", "deep", "detected", "held")
        self.market.execute("UPDATE fleet.chain_facts SET judged_at = now() WHERE id = :f", f=fact)

    def _post(
        self, payment: UUID, fact: UUID, units: int, entry_type: str, reason: str, debit: str, credit: str
    ) -> None:
        role = "fleet_watcher" if reason == "seen" else "fleet_confirmations"
        with self.database.acting(role) as connection:
            post(
                connection,
                Entry(
                    book_kind="payment",
                    book_id=payment,
                    chain_id=CHAIN_ID,
                    token=self.token,
                    entry_type=entry_type,
                    reason=reason,
                    debit=debit,
                    credit=credit,
                    amount=to_amount(units, self.decimals),
                    key=f"fact:{fact}:{reason}",
                    debit_address=self.address(payment) if debit == "destination" else None,
                    fact_id=fact,
                ),
            )

    def round(self, **settings: int) -> int:
        """One round as the sweeps worker's role, after the watcher saw the newest block."""
        self.see_head()
        return run_once(
            self.database.engine("fleet_sweeps"),
            {CHAIN_ID: self.world.client},
            self.chains,
            self.signer,
            choosing=Choosing(self.economics),
            **settings,
        )

    def run(self, **settings: int) -> None:
        """Rounds until nothing goes forward (each transaction has a block of its own)."""
        for _ in range(ROUNDS_MAXIMUM):
            if self.round(**settings) == 0:
                return
        raise AssertionError(f"still going forward after {ROUNDS_MAXIMUM} rounds: {self.jobs()}")

    def expire_leases(self) -> None:
        """What a killed worker had leased is free again."""
        self.market.execute("UPDATE fleet.sweep_jobs SET lease_until = now() WHERE lease_token IS NOT NULL")
        self.market.execute("UPDATE fleet.nonce_lanes SET lease_until = NULL")

    def jobs(self) -> list[tuple[str, str | None]]:
        return [
            (row.state, row.reason)
            for row in self.market.execute("SELECT state, reason FROM fleet.sweep_jobs ORDER BY created_at")
        ]

    def destination(self, payment: UUID) -> tuple[str, int, int, str | None]:
        """(status, sweep count, total swept in units, quarantine reason)."""
        row = self.market.execute(
            "SELECT status::text, sweep_count, total_swept, quarantine_reason "
            "FROM public.derived_destinations WHERE address = :a",
            a=self.address(payment),
        )[0]
        return row.status, row.sweep_count, int(row.total_swept), row.quarantine_reason

    def books(self) -> dict[tuple[str, str], Decimal]:
        """What the ledger says lies at each (token, address): every account that holds coins."""
        rows = self.market.execute(
            """
            SELECT token, address, sum(amount) AS amount FROM (
                SELECT token, debit_address AS address, amount FROM public.funds_ledger_entries
                WHERE debit_address IS NOT NULL
                UNION ALL
                SELECT token, credit_address, -amount FROM public.funds_ledger_entries
                WHERE credit_address IS NOT NULL) moves
            GROUP BY token, address
            """
        )
        return {(row.token, row.address): row.amount for row in rows}

    def assert_books_equal_chain(self) -> None:
        books = self.books()
        assert books
        for (token, address), amount in books.items():
            if token == "native":
                on_chain = to_amount(self.world.client.balance(address), 18)
            else:
                on_chain = to_amount(self.world.client.token_balance(token, address), DECIMALS)
            assert amount == on_chain, f"{token} at {address}: books {amount}, chain {on_chain}"

    def count(self, query: str) -> int:
        with self.database.engine().connect() as connection:
            return connection.execute(text(query)).scalar_one()


@contextmanager
def manual_mining(world: World) -> Generator[None]:
    world.chain.set_automine(enabled=False)
    try:
        yield
    finally:
        world.chain.set_automine(enabled=True)
        world.chain.mine(1)


class Crash(Exception):
    """The worker dies here."""


class Fuse:
    """Dies at the ``at``-th of the places where a process can die: before a write, before a commit, around a send."""

    def __init__(self, engine: Engine, client: ChainClient) -> None:
        self.places = 0
        self.at = 0
        self._send = client.send_raw
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", self._commit)
        client.send_raw = self._sending

    def place(self) -> None:
        self.places += 1
        if self.places == self.at:
            raise Crash(f"place {self.at}")

    def _commit(self, _: Any) -> None:
        self.place()

    def _statement(self, _c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("INSERT", "UPDATE")) or "post_entry" in statement:
            self.place()

    def _sending(self, raw: bytes) -> str:
        self.place()
        sent = self._send(raw)
        self.place()
        return sent

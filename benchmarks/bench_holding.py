"""A block's due payments judged in one round, 100 of 10,000 pending ones: all in one transaction, and one in each.

Receipts come over loopback HTTP from two nodes, both in this very process: a real one answers sooner.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import psycopg
import structlog
from eth_utils.address import to_checksum_address
from sqlalchemy import Engine

from benchmarks.measure import Row, compare
from benchmarks.servers import BenchmarkDatabase, benchmark_database
from custody.chain import ChainClient, connections
from custody.chain.logs import TRANSFER_TOPIC
from custody.chain.nodes import ChainNodes
from custody.payments import holding
from custody.settings.chains import Chains
from custody.store.engine import open_engine

PENDING: Final = 10_000
DUE: Final = 100  # a block: what the product promises to hold at once
THRESHOLD: Final = 5
FIRST_BLOCK: Final = 1_000
TOKEN: Final = to_checksum_address("0x" + "aa" * 20)
RECIPIENT: Final = to_checksum_address("0x" + "bb" * 20)
_UNITS: Final = 100_000_000
_CHAIN: Final = 31337
_GENESIS: Final = "0x" + "00" * 32

_SETUP: Final = f"""
INSERT INTO fleet.tokens VALUES ({_CHAIN}, '{TOKEN}', 'USDC', 6);
WITH u AS (INSERT INTO public.users (email) VALUES ('bench') RETURNING id)
INSERT INTO public.payments (purchase_request_ref_kind, purchase_request_external_ref, seller_offer_ref_kind,
    seller_offer_external_ref, buyer_id, seller_ref_kind, seller_external_ref, amount, chain_id, token_address, status)
SELECT 'template', n, 'template', 'o' || n, u.id, 'template', 's', 100, {_CHAIN}, '{TOKEN}', 'processing'
FROM u, generate_series(0, {PENDING - 1}) AS n;
WITH u AS (SELECT id FROM public.users LIMIT 1), d AS (
    INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref, chain_id, address,
        derivation_path, derivation_index)
    SELECT u.id, 'template', 'o', {_CHAIN}, '{RECIPIENT}', 'm', 0 FROM u RETURNING id)
INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected)
SELECT p.id, {_CHAIN}, '{TOKEN}', d.id, 100 FROM public.payments p, d;
INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token, sender,
    recipient, amount_units, direction, payment_id)
SELECT {_CHAIN}, {FIRST_BLOCK} + n / {DUE}, '0x' || lpad(to_hex({FIRST_BLOCK} + n / {DUE}), 64, '0'),
    '0x' || lpad(to_hex(n), 64, '0'), 0, 0, '{TOKEN}', '{RECIPIENT}', '{RECIPIENT}', {_UNITS}, 'inbound', p.id
FROM public.payments p, LATERAL CAST(p.purchase_request_external_ref AS integer) AS n;
INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES ({_CHAIN}, 1, '0x', now());
INSERT INTO public.config_settings (key, value) VALUES ('confirmation_threshold:{_CHAIN}', '{THRESHOLD}');
INSERT INTO public.config_setting_history (key, new_value) VALUES ('confirmation_threshold:{_CHAIN}', {THRESHOLD});
"""
_SEEN: Final = f"""
SELECT count(*) FROM fleet.chain_facts f, LATERAL fleet.post_entry('payment', f.payment_id, {_CHAIN}, '{TOKEN}',
    'payment_detected', 'seen', 'destination', 'detected', 100, 'fact:' || f.id || ':detected', '{RECIPIENT}', NULL, f.id)
"""

Progress = Callable[[str], None]


def rows(progress: Progress) -> Iterable[Row]:
    # A line a payment is written after the commit; to a terminal it costs as much as the hold.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with benchmark_database() as database, _nodes() as (urls, head):
        rounds = Rounds(database, urls, head)
        try:
            yield compare(
                area="holding",
                name=f"{DUE} due payments of {PENDING:,} pending ones held in one round, two nodes asked",
                ours=lambda: rounds.hold(holding.BATCH_PAYMENTS),
                peer=lambda: rounds.hold(1),
                peer_name="one payment a transaction",
                unit="ms",
                at_most=0.4,
                progress=progress,
            )
        finally:
            rounds.close()


class Rounds:
    """A database whose next block's payments are always due, and the confirmations' step over it."""

    def __init__(self, database: BenchmarkDatabase, urls: list[str], head: list[int]) -> None:
        self._head = head
        self._admin = psycopg.connect(database.admin_url, autocommit=True)
        self._admin.execute(_SETUP.encode())
        with psycopg.connect(database.url("fleet_watcher"), autocommit=True) as watcher:
            watcher.execute("SET statement_timeout = 0")
            watcher.execute(_SEEN.encode())
        self._admin.execute("VACUUM ANALYZE")
        self._engine: Engine = open_engine(database.url("fleet_confirmations"), application="bench-holding")
        self._chains = Chains.model_validate(
            {
                "chains": [
                    {
                        "id": _CHAIN, "name": "bench", "genesis_hash": _GENESIS, "rpc_urls": urls,
                        "treasury": to_checksum_address("0x" + "cc" * 20),
                        "fee_proxy": to_checksum_address("0x" + "dd" * 20),
                        "tokens": [
                            {"symbol": "USDC", "address": TOKEN, "decimals": 6},
                            {"symbol": "ETH", "address": "native", "decimals": 18},
                        ],
                    }
                ]
            }
        )  # fmt: skip
        chain = self._chains.chains[0]
        self._nodes = {_CHAIN: ChainNodes(chain, [ChainClient(each) for each in connections(chain)])}
        self._block = FIRST_BLOCK
        self.hold(holding.BATCH_PAYMENTS)  # connections and plans are made once a process

    def hold(self, batch: int) -> float:
        """Milliseconds of the round that holds the next block's payments, ``batch`` of them a transaction."""
        self._head[0] = self._block + THRESHOLD - 1
        self._block += 1
        self._admin.execute("UPDATE fleet.chain_cursors SET head_number = %s, agreed_number = %s", self._head * 2)
        usual, holding.BATCH_PAYMENTS = holding.BATCH_PAYMENTS, batch  # pyright: ignore[reportAttributeAccessIssue]
        try:
            started = time.perf_counter()
            held = holding.run_once(self._engine, self._chains, self._nodes, DUE)
            taken = time.perf_counter() - started
        finally:
            holding.BATCH_PAYMENTS = usual  # pyright: ignore[reportAttributeAccessIssue]
        if held != DUE:
            raise RuntimeError(f"{held} of {DUE} payments were held")
        return taken * 1_000

    def close(self) -> None:
        for nodes in self._nodes.values():
            nodes.close()
        self._engine.dispose()
        self._admin.close()


@contextmanager
def _nodes() -> Generator[tuple[list[str], list[int]]]:
    """Two nodes of one chain: their URLs, and a list whose one number is the head that both show."""
    head = [FIRST_BLOCK]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = [_answer(call, head[0]) for call in asked] if isinstance(asked, list) else _answer(asked, head[0])
            content = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield [f"http://127.0.0.1:{server.server_port}" for server in servers], head
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _answer(call: dict[str, Any], head: int) -> dict[str, Any]:
    method, params = call["method"], call["params"]
    if method == "eth_chainId":
        result: object = hex(_CHAIN)
    elif method == "eth_getBlockByNumber":
        result = _block(head if params[0] == "latest" else int(params[0], 16))
    else:
        result = _receipt(params[0])
    return {"jsonrpc": "2.0", "id": call["id"], "result": result}


def _hash(number: int) -> str:
    return f"0x{number:064x}"


def _block(number: int) -> dict[str, object]:
    parent = _hash(max(0, number - 1))
    return {"number": hex(number), "hash": _hash(number), "parentHash": parent, "timestamp": hex(number)}


def _receipt(transaction_hash: str) -> dict[str, object]:
    number = FIRST_BLOCK + int(transaction_hash, 16) // DUE
    place = {
        "transactionHash": transaction_hash,
        "transactionIndex": "0x0",
        "blockNumber": hex(number),
        "blockHash": _hash(number),
    }
    who = "0x" + RECIPIENT[2:].lower().rjust(64, "0")
    log = {
        **place,
        "logIndex": "0x0",
        "address": TOKEN,
        "topics": [TRANSFER_TOPIC, who, who],
        "data": f"0x{_UNITS:064x}",
    }
    return {
        **place, "status": "0x1", "from": RECIPIENT, "to": TOKEN, "contractAddress": None, "gasUsed": "0x5208",
        "effectiveGasPrice": "0x1", "logs": [log],
    }  # fmt: skip

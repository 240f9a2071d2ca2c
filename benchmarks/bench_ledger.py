"""One ``post_entry`` a transaction against one raw INSERT of the same columns, one connection."""

import secrets
import time
from collections.abc import Callable, Iterable
from uuid import UUID

import psycopg

from benchmarks.measure import Row, compare
from benchmarks.servers import BenchmarkDatabase, benchmark_database

ENTRIES = 400  # a run; about half a second, long enough to average fsyncs
_CHAIN = 31337
_TOKEN = "0x" + "Aa" * 20
_ADDRESS = "0x" + "11" * 20

_SETUP = """
INSERT INTO fleet.tokens VALUES (31337, %(token)s, 'USDC', 6);
"""
_PAYMENTS = """
WITH u AS (INSERT INTO public.users (email) VALUES (gen_random_uuid()::text) RETURNING id),
p AS (INSERT INTO public.payments (purchase_request_ref_kind, purchase_request_external_ref, seller_offer_ref_kind,
        seller_offer_external_ref, buyer_id, seller_ref_kind, seller_external_ref, amount, chain_id, token_address)
      SELECT 'template', 'template-checkout-' || n, 'template', 'o' || n, u.id, 'template', 's', 100, 31337, %(token)s
      FROM u, generate_series(1, %(n)s) AS n RETURNING id)
INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token, sender,
    recipient, amount_units, direction, payment_id)
SELECT 31337, 1, 'b', 't' || gen_random_uuid(), 0, 0, %(token)s, 's', 'r', 100000000, 'inbound', p.id FROM p
RETURNING id, payment_id
"""
_RAW_TABLE = """
CREATE TABLE IF NOT EXISTS public.raw_entries (LIKE public.funds_ledger_entries INCLUDING DEFAULTS INCLUDING INDEXES)
"""
_RAW = """
INSERT INTO public.raw_entries (id, payment_id, entry_type, amount, currency, idempotency_key, metadata, book_kind, book_id,
    chain_id, token, reason, debit, credit, debit_address, poster_role, fact_id, book_seq, content_hash, prev_hash,
    entry_hash, tx_id)
VALUES (uuidv7(), %s, 'payment_detected', 100, 'USDC', %s, '{}', 'payment', %s, 31337, %s, 'seen', 'destination',
    'detected', %s, 'fleet_watcher', %s, 1, %s, %s, %s, 1)
"""
_POST = """
SELECT * FROM fleet.post_entry('payment', %s, 31337, %s, 'payment_detected', 'seen', 'destination', 'detected', 100, %s, %s,
    NULL, %s)
"""


def _facts(database: BenchmarkDatabase, n: int) -> list[tuple[UUID, UUID]]:
    with psycopg.connect(database.admin_url) as connection:
        return connection.execute(_PAYMENTS, {"token": _TOKEN, "n": n}).fetchall()


def rows(progress: Callable[[str], None]) -> Iterable[Row]:
    with benchmark_database() as database:
        with psycopg.connect(database.admin_url) as connection:
            connection.execute(_SETUP, {"token": _TOKEN})
            connection.execute(_RAW_TABLE)

        def ours() -> float:
            facts = _facts(database, ENTRIES)
            with psycopg.connect(database.url("fleet_watcher"), autocommit=True) as connection:
                started = time.perf_counter()
                for fact, payment in facts:
                    connection.execute(_POST, [payment, _TOKEN, f"fact:{fact}:detected", _ADDRESS, fact])
                return len(facts) / (time.perf_counter() - started)

        def raw() -> float:
            facts = _facts(database, ENTRIES)
            digest = secrets.token_bytes(32)
            with psycopg.connect(database.admin_url, autocommit=True) as connection:
                started = time.perf_counter()
                for fact, payment in facts:
                    key = f"fact:{fact}:detected"
                    connection.execute(_RAW, [payment, key, payment, _TOKEN, _ADDRESS, fact, digest, digest, digest])
                return len(facts) / (time.perf_counter() - started)

        yield compare(
            area="ledger",
            name="post_entry, one a transaction, outbox row included, 1 connection",
            ours=ours,
            peer=raw,
            peer_name="raw INSERT of the same columns",
            unit="entries/s",
            at_least=0.50,
            progress=progress,
        )

"""Whether MongoDB and Postgres hold the same: digests of equal stores, then ten planted differences found and named.

A million rows are AGREEMENT_ROWS=1000000; the goals are judged in proportion to the rows that were compared.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID, uuid4

from bson import Decimal128, ObjectId
from pymongo.database import Database
from sqlalchemy import Engine, Table, text

from benchmarks.bench_holding import Progress
from benchmarks.measure import Row, exact
from benchmarks.servers import STATE_DIR, benchmark_database
from custody.mirror.agreement import verify
from custody.mirror.agreement.sharing import PROCESSES_DEFAULT, processes
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import read, to_rows
from custody.store.engine import open_engine
from custody.store.mongo import open_mongo
from workers.embedded import services

ROWS: Final = int(os.environ.get("AGREEMENT_ROWS", "50000"))
MILLION: Final = 1_000_000
DIGEST_SECONDS: Final = 30.0  # of a million rows
FIND_SECONDS: Final = 5.0  # on top of that, whatever the rows
PLANTED: Final = 10
BATCH: Final = 2_000
USERS: Final = 1_000
MADE: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Named:
    """Users, requests and offers by number: their rows' UUIDs, made before them."""

    def __init__(self) -> None:
        self.rows: dict[ObjectId, UUID] = {ObjectId(f"{number:024x}"): uuid4() for number in range(1, USERS + 1)}

    def uuid(self, collection: str, object_id: ObjectId) -> UUID:
        return self.rows[object_id]

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        raise AssertionError(f"documents are not made from {collection} {row_id} here")


def _payment(number: int) -> dict[str, Any]:
    user = ObjectId(f"{1 + number % USERS:024x}")
    return {
        "_id": ObjectId(f"65{number:022x}"), "purchaseRequestId": f"template-tc-{number}", "sellerOfferId": f"template-tc-{number}",
        "buyerId": user, "sellerId": user, "amount": {"amount": Decimal128(Decimal(number) + Decimal("0.123456")), "currency": "USDT"},
        "provider": "request.network", "direction": "in", "status": "completed", "escrowState": "released",
        "blockchain": {
            "network": "bsc", "chainId": 56, "tokenAddress": "0x55d398326f99059fF775485246999027B3197955",
            "transactionHash": f"0x{number:064x}", "sender": f"0x{number:040x}", "confirmations": 200,
        },
        "providerPaymentId": f"pay_{number}", "paymentReference": f"{number:016x}", "disputed": False,
        "metadata": {"orderId": str(number), "note": "as ordered", "attempt": 1},
        "createdAt": MADE + timedelta(seconds=number), "updatedAt": MADE + timedelta(seconds=number, milliseconds=7),
    }  # fmt: skip


def _fill(engine: Engine, mongo: Database[dict[str, Any]], progress: Progress) -> None:
    ids = Named()
    kind = COLLECTIONS["payments"]
    table = cast(Table, kind.table.__table__)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO public.users (id, legacy_object_id) VALUES (:id, :oid)"),
            [{"id": row, "oid": str(object_id)} for object_id, row in ids.rows.items()],
        )
    for start in range(0, ROWS, BATCH):
        progress(f"both stores are filled: {start} of {ROWS}")
        documents = [_payment(number) for number in range(start, min(ROWS, start + BATCH))]
        made = [to_rows(read(kind, each), ids).columns for each in documents]
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(table.insert(), made)
        mongo["payments"].insert_many(documents, ordered=False)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE public.users, public.payments"))


def _plant(mongo: Database[dict[str, Any]]) -> None:
    for each in range(PLANTED):
        found = {"_id": ObjectId(f"65{each * (ROWS // PLANTED):022x}")}
        mongo["payments"].update_one(found, {"$set": {"metadata.note": f"planted {each}"}})


def rows(progress: Progress) -> Iterable[Row]:
    with benchmark_database() as made:
        running = services.up(STATE_DIR)
        engine = open_engine(made.admin_url, application="bench-agreement", pool_size=1)
        name = f"bench_{uuid4().hex[:8]}"
        with open_mongo(running.mongo_url, application="bench-agreement") as client:
            try:
                _fill(engine, client[name], progress)
                with processes(running.mongo_url, name, PROCESSES_DEFAULT) as sharing:
                    # Once before it counts: the processes start, and both stores have their pages at hand.
                    verify(engine, client[name], ["payments"], sharing=sharing)
                    progress(f"{ROWS} rows are compared")
                    (equal,) = verify(engine, client[name], ["payments"], sharing=sharing)
                    assert equal.is_equal
                    assert equal.counted.equal == ROWS
                    _plant(client[name])
                    progress(f"{PLANTED} planted differences are looked for")
                    (planted,) = verify(engine, client[name], ["payments"], sharing=sharing)
                    assert planted.counted.different == PLANTED
            finally:
                client.drop_database(name)
                engine.dispose()
    yield _row(f"digests of {ROWS} equal rows", equal.seconds, DIGEST_SECONDS * ROWS / MILLION, "30 s a million")
    more = max(planted.seconds - equal.seconds, 0.001)
    yield _row(f"{PLANTED} planted differences, on top of that", more, FIND_SECONDS, "5 s")


def _row(name: str, ours: float, goal: float, said: str) -> Row:
    return exact(area="mirror", name=name, ours=ours, peer=goal, peer_name=said, unit="s", at_most=1.0)

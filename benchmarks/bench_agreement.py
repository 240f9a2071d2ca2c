"""Whether MongoDB and Postgres hold the same: digests of equal stores, then ten planted differences found and named.

A million rows are AGREEMENT_ROWS=1000000; the goals are judged in proportion to the rows that were compared.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

from bson import Decimal128, ObjectId
from pymongo.database import Database
from sqlalchemy import Engine, text

from benchmarks.bench_holding import Progress
from benchmarks.measure import Row, exact
from benchmarks.servers import STATE_DIR, benchmark_database
from custody.mirror.agreement import verify
from custody.mirror.agreement.sharing import PROCESSES_DEFAULT, processes
from custody.mirror.backfill import backfill
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


def _user(number: int) -> ObjectId:
    return ObjectId(f"{number + 1:024x}")


def _payment(number: int) -> dict[str, Any]:
    user = _user(number % USERS)
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
    mongo["users"].insert_many(
        [
            {"_id": _user(number), "email": f"{number}@example.org", "createdAt": MADE, "updatedAt": MADE}
            for number in range(USERS)
        ]
    )
    for start in range(0, ROWS, BATCH):
        documents = [_payment(number) for number in range(start, min(ROWS, start + BATCH))]
        mongo["payments"].insert_many(documents, ordered=False)
    backfill(
        engine,
        mongo,
        collections=["users", "payments"],
        batch=BATCH,
        said=lambda each: progress(f"both stores are filled: {each.seen} of {ROWS}"),
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE public.users, public.payments, public.id_map"))


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

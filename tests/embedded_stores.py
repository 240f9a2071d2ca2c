"""What each embedded server is written to and read from, to see what it keeps: (write, read) by name; amounts in smallest units."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import redis
from pymongo import MongoClient
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from workers.embedded import (
    anvil,
)
from workers.embedded.services import Services
from workers.embedded.state_folder import StateFolder

RECOVERY_SECONDS = 60
ADDRESS = "0x00000000000000000000000000000000000000aa"
ONE_ETHER = hex(10**18)


def eventually(check: Callable[[], bool]) -> None:
    """Await a state of another process; it has no event to wait on."""
    attempts = Retrying(
        stop=stop_after_delay(RECOVERY_SECONDS),
        wait=wait_fixed(0.05),
        retry=retry_if_result(lambda ok: not ok),
    )
    attempts(check)


def rpc(url: str, method: str, *params: Any) -> Any:
    answer = httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, timeout=10)
    return answer.json()["result"]


def write_postgres(running: Services) -> None:
    with psycopg.connect(running.database_admin_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (amount numeric(78,0) PRIMARY KEY)")
        connection.execute("INSERT INTO kept VALUES (%s) ON CONFLICT DO NOTHING", [Decimal(10**30)])


def read_postgres(running: Services) -> bool:
    with psycopg.connect(running.database_admin_url) as connection:
        return connection.execute("SELECT amount FROM kept").fetchall() == [(Decimal(10**30),)]


def write_valkey(running: Services) -> None:
    client: Any = redis.Redis.from_url(running.broker_url)
    client.delete("kept")
    client.rpush("kept", "a", "b")
    # The file is synced every second; what a kill must not lose is what has been.
    eventually(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    assert client.waitaof(1, 0, RECOVERY_SECONDS * 1000)[0] == 1
    client.close()


def read_valkey(running: Services) -> bool:
    client: Any = redis.Redis.from_url(running.broker_url)
    try:
        return client.lrange("kept", 0, -1) == [b"a", b"b"]
    finally:
        client.close()


def write_mongo(running: Services) -> None:
    with MongoClient[dict[str, Any]](running.mongo_url) as client, client.start_session() as session:
        kept = client.get_database("amanat").get_collection("kept")
        with session.start_transaction():
            kept.delete_many({}, session=session)
            kept.insert_one({"_id": 1, "amount": "7"}, session=session)


def read_mongo(running: Services) -> bool:
    with MongoClient[dict[str, Any]](running.mongo_url) as client:
        return list(client.get_database("amanat").get_collection("kept").find()) == [{"_id": 1, "amount": "7"}]


def write_anvil(running: Services) -> None:
    rpc(running.chain_rpc_url, "anvil_setBalance", ADDRESS, ONE_ETHER)
    mined = int(rpc(running.chain_rpc_url, "eth_blockNumber"), 16)
    folder = StateFolder.open(running.state_dir)
    eventually(lambda: (anvil.persisted_block(folder) or 0) > mined)


def read_anvil(running: Services) -> bool:
    return rpc(running.chain_rpc_url, "eth_getBalance", ADDRESS, "latest") == ONE_ETHER


STORES: dict[str, tuple[Callable[[Services], None], Callable[[Services], bool]]] = {
    "postgres": (write_postgres, read_postgres),
    "valkey": (write_valkey, read_valkey),
    "mongo": (write_mongo, read_mongo),
    "anvil": (write_anvil, read_anvil),
}

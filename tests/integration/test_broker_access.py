"""R24: one user of the broker a process; what each may not do, tried and counted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError
from typer.testing import CliRunner

from custody.settings.environment import load_settings
from tests.counts import Counts
from tests.valkey_server import ValkeyServer
from workers.broker_access import RULES, unacked_keys
from workers.cli import broker as command
from workers.processes import PROCESSES
from workers.queues import QUEUES

NAMES = tuple(spec.name for spec in QUEUES)

DANGEROUS: tuple[tuple[str, ...], ...] = (
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("CONFIG", "REWRITE"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "default", "nopass"),
    ("ACL", "WHOAMI"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", "1"),
    ("MONITOR",),
    ("SHUTDOWN", "NOSAVE"),
    ("SAVE",),
    ("BGREWRITEAOF",),
    ("REPLICAOF", "NO", "ONE"),
    ("INFO",),
    ("SLOWLOG", "GET"),
    ("MODULE", "LIST"),
    ("FUNCTION", "LIST"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("SWAPDB", "0", "1"),
    ("RENAME", "sweeps", "mine"),
    ("MOVE", "sweeps", "1"),
    ("COPY", "sweeps", "mine"),
    ("OBJECT", "ENCODING", "sweeps"),
    ("DUMP", "sweeps"),
    ("SORT", "sweeps"),
)


def of_queue(name: str) -> tuple[tuple[str, ...], ...]:
    """Everything by which one could read, steal, forge or lose what is another's."""
    unacked = f"unacked.worker-{name}"
    return (
        ("LPUSH", name, "forged"),
        ("RPUSH", name, "forged"),
        ("RPOP", name),
        ("BRPOP", name, "0.01"),
        ("LRANGE", name, "0", "-1"),
        ("LINDEX", name, "0"),
        ("LTRIM", name, "1", "0"),
        ("DEL", name),
        ("UNLINK", name),
        ("EXPIRE", name, "1"),
        ("HGET", unacked, "tag"),
        ("HGETALL", unacked),
        ("HSET", unacked, "tag", "forged"),
        ("DEL", unacked),
        ("ZRANGE", f"{unacked}.index", "0", "-1"),
        ("ZADD", f"{unacked}.index", "1", "tag"),
        ("SET", f"{unacked}.mutex", "held"),
    )


BINDINGS: tuple[tuple[str, ...], ...] = tuple(
    (*verb, f"{table}.housekeeping", *rest)
    for table in ("_kombu.binding", "_kombu.binding_permanent")
    for verb, rest in (
        (("SMEMBERS",), ()),
        (("SREM",), ("x",)),
        (("DEL",), ()),
        (("SPOP",), ()),
        (("SUNION",), ()),
    )
)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def filled(valkey: ValkeyServer) -> ValkeyServer:
    """Every queue holds a message, and every worker has one that it has not acknowledged."""
    client = valkey.client()
    client.flushall()
    for name in NAMES:
        client.lpush(name, "doorbell")
        client.hset(f"unacked.worker-{name}", "tag", "doorbell")
        client.zadd(f"unacked.worker-{name}.index", {"tag": 1})
    client.close()
    return valkey


def is_refused(client: Any, words: tuple[str, ...]) -> bool:
    try:
        client.execute_command(*words)
    except NoPermissionError:
        return True
    except redis.RedisError as error:
        raise AssertionError(f"{words}: {error}") from error
    return False


def test_no_process_reaches_past_its_own_queue(filled: ValkeyServer, counts: Counts) -> None:
    """Process by foreign queue and by dangerous command. Relay and beat may put doorbells in; nobody else's are taken."""
    tried, slipped = 0, list[str]()
    for user in RULES:
        client = redis.Redis.from_url(filled.process_url(user), socket_timeout=5)
        words = [*DANGEROUS, *BINDINGS]
        for name in NAMES:
            if user != f"worker-{name}":
                rings = {("LPUSH", name, "forged")} if user in ("relay", "beat") else set[tuple[str, ...]]()
                words += [each for each in of_queue(name) if each not in rings]
        for each in words:
            tried += 1
            if not is_refused(client, each):
                slipped.append(f"{user}: {' '.join(each)}")
        client.close()
    assert slipped == []
    counts(f"{len(RULES)} users of the broker: foreign queues and dangerous commands, refused", tried)
    admin = filled.client()
    assert {name: admin.lrange(name, 0, -1) for name in NAMES} == {name: ["doorbell"] for name in NAMES}
    assert all(admin.hget(f"unacked.worker-{name}", "tag") == "doorbell" for name in NAMES)
    admin.execute_command("ACL", "LOG", "RESET")
    admin.close()


def test_events_and_commands_are_not_everybodys(filled: ValkeyServer) -> None:
    """A worker tells what it does and hears nobody; relay and beat do neither; commands to workers go nowhere (R24)."""
    for user in RULES:
        client = redis.Redis.from_url(filled.process_url(user), socket_timeout=5)
        speaks, hears = user.startswith("worker-") or user == "flower", user == "flower"
        assert is_refused(client, ("PUBLISH", "/0.celeryev/worker.online", "x")) is not speaks, user
        assert is_refused(client, ("PUBLISH", "/0.celery.pidbox", "x")) is (user != "flower"), user
        assert is_refused(client, ("PUBLISH", "elsewhere", "x")), user
        subscribing = client.pubsub()
        subscribing.psubscribe("/0.celeryev/*")
        try:
            subscribing.get_message(timeout=5)
            heard = True
        except NoPermissionError:
            heard = False
        assert heard is hears, user
        subscribing.close()
        client.close()


def test_nobody_without_a_password_says_more_than_ping(filled: ValkeyServer) -> None:
    url = filled.url()
    place = url.rpartition("@")[2]
    nobody = redis.Redis.from_url(f"redis://{place}", socket_timeout=5)
    with pytest.raises(redis.AuthenticationError):
        nobody.ping()
    health = redis.Redis.from_url(f"redis://health:none@{place}", socket_timeout=5)
    assert health.ping()
    for words in (("LLEN", "sweeps"), ("CONFIG", "GET", "*"), ("ACL", "LIST")):
        assert is_refused(health, words)
    wrong = redis.Redis.from_url(f"redis://worker-sweeps:wrong@{place}", socket_timeout=5)
    with pytest.raises(redis.AuthenticationError):
        wrong.ping()
    for client in (nobody, health, wrong):
        client.close()


def test_every_process_that_has_the_broker_has_a_user() -> None:
    assert set(RULES) == {each.name for each in PROCESSES if "broker_url" in each.needs}
    own = load_settings(broker_url="redis://worker-sweeps:x@h:1/0")
    assert unacked_keys(own)["unacked_key"] == "unacked.worker-sweeps"
    assert unacked_keys(load_settings(broker_url="redis://:x@h:1/0"))["unacked_key"] == "unacked"


def test_the_command_writes_users_that_valkey_takes(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    command.register(app)
    folder = tmp_path / "secrets"
    folder.mkdir()
    server = ValkeyServer(tmp_path)
    for _ in range(2):  # again: what stands stays
        done = CliRunner().invoke(app, ["broker", "acl", str(folder), "--host", f"127.0.0.1:{server.port}"])
        assert done.exit_code == 0, done.output
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}
    acl = folder / command.ACL_FILE
    assert acl.read_text().splitlines()[0] == "user default off"
    server.start("--aclfile", str(acl))
    try:
        for name in RULES:
            url = (folder / f"broker_url_{name.replace('-', '_')}").read_text().strip()
            client = redis.Redis.from_url(url, socket_timeout=5)
            assert client.ping()
            assert is_refused(client, ("FLUSHALL",))
            client.close()
    finally:
        server.stop()
    (folder / "broker_url_beat").write_text("redis://relay:x@h:1/0")
    refused = CliRunner().invoke(app, ["broker", "acl", str(folder)])
    assert "the user of that process" in str(refused.exception)

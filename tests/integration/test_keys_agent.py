"""The keys agent as a process: who may call it, what it never shows, and a fleet that sweeps while it is killed."""

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from eth_account import Account

from custody.chain.lanes import LaneTransaction
from custody.destinations.derivation import account_xpub_from_seed, private_key_at, seed_from_phrase
from custody.destinations.keys.client import KeysAgent, KeysAgentAway
from custody.destinations.keys.messages import MESSAGE_MAXIMUM_BYTES, Reply, Request
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps.fees import GasTerms
from custody.destinations.sweeps.signing import DepositKey, SweepSigner
from custody.policy.toml_text import toml_text
from custody.settings.chains import Chains
from custody.settings.environment import SettingsError
from tests.conftest import Database
from tests.counts import Counts, declared, sampled
from tests.fleet_process import FleetProcess
from tests.keys_agent import AgentProcess, new_phrase, serving, socket_folder, vault_of
from tests.sweeping import SweepingFleet, World, sweeping_world
from workers.keys_agent.server import CALLERS_LIMIT, KeysAgentServer

UNIT = 1_000_000
KILL_STRIDE = declared(1, 20)  # make test-long kills at every request
GAS = GasTerms(60_000, 3 * 10**9, 10**9)

# Become a program without CAP_SYS_PTRACE: root's processes are then as open to each other as any user's are.
UNPRIVILEGED = """
import ctypes, os, sys
if os.geteuid() == 0:
    ctypes.CDLL(None).prctl(24, 19, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_PTRACE; binds from the next exec on
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
READ_MEMORY = """
import sys
try:
    with open(f"/proc/{sys.argv[1]}/maps") as maps, open(f"/proc/{sys.argv[1]}/mem", "rb") as memory:
        memory.seek(int(maps.readline().split("-")[0], 16))
        memory.read(1)
except PermissionError:
    sys.exit(13)
"""
PLAIN = """
import ctypes
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, anybody: where Yama is on
print("ready", flush=True)
input()
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with socket_folder() as made:
        yield made


def chains_file(folder: Path, chains: Chains) -> str:
    path = folder / "chains.toml"
    path.write_text(toml_text(chains.model_dump(mode="json", exclude_none=True, exclude_defaults=True)))
    return str(path)


def agent_of(fleet: SweepingFleet, folder: Path, **settings: str) -> AgentProcess:
    return AgentProcess(
        folder,
        fleet.phrase,
        fleet.payer_key,
        CHAINS_FILE=chains_file(folder, fleet.chains),
        TREZOR_SAFEKEEPING_REQUIRED="false",
        **settings,
    )


def sole_chain() -> Chains:
    token, treasury = Account.create().address, Account.create().address
    return Chains.model_validate(
        {
            "chains": [
                {
                    "id": 31337,
                    "name": "anvil",
                    "genesis_hash": "0x" + "11" * 32,
                    "rpc_urls": ["http://127.0.0.1:1"],
                    "treasury": treasury,
                    "fee_proxy": Account.create().address,
                    "tokens": [
                        {"symbol": "USDC", "address": token, "decimals": 6},
                        {"symbol": "ETH", "address": "native", "decimals": 18},
                    ],
                }
            ]
        }
    )


@pytest.fixture
def alone(folder: Path) -> Iterator[AgentProcess]:
    """An agent without a fleet."""
    agent = AgentProcess(
        folder,
        new_phrase(),
        secrets.token_bytes(32),
        CHAINS_FILE=chains_file(folder, sole_chain()),
        TREZOR_SAFEKEEPING_REQUIRED="false",
    )
    yield agent
    agent.kill()


def may_read_memory(pid: int) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, "-c", READ_MEMORY, str(pid)], check=False, timeout=60, capture_output=True
    )
    assert done.returncode in (0, 13), done.stderr
    return done.returncode == 0


# Its memory ------------------------------------------------------------------------------------------------------


def test_it_can_neither_be_dumped_nor_read_by_its_own_user(alone: AgentProcess):
    pid = alone.start("-c", UNPRIVILEGED).process.pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    with subprocess.Popen(
        [sys.executable, "-c", UNPRIVILEGED, "-c", PLAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as plain:
        assert plain.stdout is not None
        assert plain.stdout.readline() == b"ready\n"
        assert may_read_memory(plain.pid), "the probe itself does not work here"
        assert not may_read_memory(pid)
        plain.communicate(b"\n")


def test_it_starts_with_no_server_s_url_and_says_what_lacks(alone: AgentProcess, tmp_path: Path):
    alone.settings |= {
        "DATABASE_URL": "postgresql://fleet_sweeps:pw@127.0.0.1/amanat",
        "BROKER_URL": "redis://:x@h:1/0",
    }
    ended = FleetProcess(["-m", "workers.keys_agent"], alone.settings, tmp_path / "log")
    assert ended.process.wait(timeout=60) == 2
    said = (tmp_path / "log").read_text()
    assert said == "the keys agent reaches no server: start it without DATABASE_URL, BROKER_URL (R20)\n"


@pytest.mark.parametrize(
    ("name", "content", "mode", "expected"),
    sampled(
        [
            ("deposit_seed", "zebra " * 12, 0o600, "BIP-39"),
            ("deposit_seed", "all " * 12, 0o644, "chmod 600"),
            ("gas_payer_key", "not-a-key", 0o600, "GAS_PAYER_KEY_FILE: expected a private key a line"),
            ("gas_payer_key", "ff" * 32, 0o600, "GAS_PAYER_KEY_FILE: not a private key of secp256k1"),
        ]
    ),
    ids=sampled(["no-phrase", "readable-by-others", "no-key", "no-key-of-the-curve"]),
)
def test_a_wrong_key_file_is_refused_without_its_content(
    alone: AgentProcess, tmp_path: Path, name: str, content: str, mode: int, expected: str
):
    (alone.folder / name).write_text(content)
    (alone.folder / name).chmod(mode)
    ended = FleetProcess(["-m", "workers.keys_agent"], alone.settings, tmp_path / "log")
    assert ended.process.wait(timeout=60) == 2
    said = (tmp_path / "log").read_text()
    assert expected in said
    assert content.strip() not in said


# Its door --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(folder: Path) -> Iterator[KeysAgentServer]:
    vault = vault_of(new_phrase(), secrets.token_bytes(32), sole_chain(), folder / "journal")
    with serving(vault, folder / "agent.sock") as running:
        yield running


def test_the_socket_is_its_user_s_alone(server: KeysAgentServer, monkeypatch: pytest.MonkeyPatch):
    path = Path(str(server.server_address))
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeysAgent(path).identity().gas_payers == server.vault.gas_payers
    # Whoever gets past the mode, root for one, is told from the socket's own user by the kernel.
    monkeypatch.setattr(server, "_own_user", os.geteuid() + 1)
    with structlog.testing.capture_logs() as logs, pytest.raises(KeysAgentAway, match="serves its own user alone"):
        KeysAgent(path).identity()
    assert [line["event"] for line in logs] == ["keys_agent_stranger"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\0\0\0",
        (MESSAGE_MAXIMUM_BYTES + 1).to_bytes(4),
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02{]",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["empty", "too-long", "four-gigabytes", "no-json", "http"],
)
def test_what_is_no_message_is_answered_with_a_sentence(server: KeysAgentServer, raw: bytes):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(10)
        caller.connect(server.server_address)
        caller.sendall(raw)
        said = caller.recv(4096)[4:]
    assert Reply.model_validate_json(said).refused
    assert KeysAgent(Path(str(server.server_address))).identity()


def test_callers_that_say_nothing_do_not_keep_others_out_for_ever(
    server: KeysAgentServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("workers.keys_agent.server.IDLE_SECONDS", 0.2)
    path = Path(str(server.server_address))
    idle = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(CALLERS_LIMIT)]
    for caller in idle:
        caller.settimeout(10)
        caller.connect(str(path))
    for caller in idle:
        assert caller.recv(1) == b""  # given up on
        caller.close()
    assert KeysAgent(path).identity()


def test_there_is_one_agent_a_socket_and_a_dead_one_s_is_taken_over(server: KeysAgentServer, folder: Path):
    path = Path(str(server.server_address))
    with pytest.raises(SettingsError, match="another keys agent answers there"):
        KeysAgentServer(path, server.vault)
    left = folder / "left.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(left))
    with serving(server.vault, left):
        assert KeysAgent(left).identity()
    (folder / "a-file").write_text("kept")
    with pytest.raises(SettingsError, match="is no socket"):
        KeysAgentServer(folder / "a-file", server.vault)
    assert (folder / "a-file").read_text() == "kept"
    with pytest.raises(SettingsError, match="at most 107 bytes"):
        KeysAgentServer(folder / ("long" * 40), server.vault)


# Its signatures --------------------------------------------------------------------------------------------------


def test_a_day_s_limit_is_waited_for_and_no_reason_to_give_up(world: World, database: Database, folder: Path):
    fleet = SweepingFleet(world, database, world.contracts.usdt, agent=False)
    vault = vault_of(fleet.phrase, fleet.payer_key, fleet.chains, folder / "journal", 21_000)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    with serving(vault, fleet.socket):
        fleet.run()
        [(state, reason)] = fleet.jobs()
        assert state == "planned"
        assert (reason or "").startswith("gas_payer_day_spent: the gas payers may spend 21000 wei a day")
        assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 0  # no nonce that nobody signs for
        assert fleet.count("SELECT count(*) FROM fleet.dead_work") == 0
    vault = vault_of(fleet.phrase, fleet.payer_key, fleet.chains, folder / "journal-2")
    with serving(vault, fleet.socket):
        fleet.run()
    assert fleet.jobs() == [("swept", None)]


def test_the_payer_s_float_is_shown_when_it_is_too_large_and_stops_nothing(world: World, database: Database):
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment, later = fleet.payment(UNIT), fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run(payer_float_maximum_wei=10**18)
    assert fleet.destination(payment)[0] == "swept"
    [dead] = fleet.market.execute(
        "SELECT subject_kind, reason, unblocks FROM fleet.dead_work WHERE resolved_at IS NULL"
    )
    assert dead.subject_kind == "gas_payer_float"
    assert f"the gas payer {fleet.payer} has " in dead.reason
    fleet.pay(later, UNIT)
    fleet.run()
    assert fleet.count("SELECT count(*) FROM fleet.dead_work WHERE resolved_at IS NULL") == 0


def test_another_treasury_than_the_agent_s_moves_nothing(world: World, database: Database):
    """A chains file that somebody changed on the sweeps worker's machine."""
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    thief = Account.create().address
    [chain] = fleet.chains.chains
    fleet.chains = fleet.chains.model_copy(update={"chains": (chain.model_copy(update={"treasury": thief}),)})
    fleet.run()
    [(state, reason)] = fleet.jobs()
    assert state == "planned"
    assert f"treasury: {thief} is asked for, but {fleet.treasury} binds" in (reason or "")
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 0


def test_the_client_believes_no_signature_of_another_key(server: KeysAgentServer):
    path = Path(str(server.server_address))
    signer = SweepSigner(KeysAgent(path))
    signer.meet()
    [chain] = sole_chain().chains
    intent = LaneTransaction(
        id=(nobody := uuid4()),
        chain_id=31337,
        sender=Account.create().address,
        nonce=0,
        purpose="top_up",
        subject_id=nobody,
        recipient=Account.create().address,
        value_wei=1,
        data=b"",
        state="intent",
        signed_bytes=None,
        transaction_hash=None,
    )
    with pytest.raises(ShapeRefused, match="is none of this agent"):
        signer.sign_top_up(intent, of=DepositKey(server.vault.accounts[0], 0), treasury=chain.treasury, gas=GAS)


# A fleet whose agent is killed -----------------------------------------------------------------------------------


class KillingAgent(KeysAgent):
    """The sweeps worker's client; at its ``at``-th request the agent is killed before it, or while it is answered."""

    def __init__(self, process: AgentProcess) -> None:
        super().__init__(process.socket)
        self._process = process
        self.requests = 0
        self.at = 0
        self.during = False

    def _ask(self, request: Request) -> Reply:
        self.requests += 1
        if self.requests != self.at:
            return super()._ask(request)
        if not self.during:
            self._process.kill()
            return super()._ask(request)
        killer = threading.Thread(target=self._process.kill)
        killer.start()
        try:
            return super()._ask(request)
        finally:
            killer.join()


def test_sweeps_wait_while_the_agent_is_away_and_say_so(world: World, database: Database, folder: Path):
    fleet = SweepingFleet(world, database, world.contracts.usdt, agent=False)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run()
    assert fleet.jobs() == []
    [dead] = fleet.market.execute("SELECT reason, resolved_at FROM fleet.dead_work WHERE subject_kind = 'keys_agent'")
    assert dead.reason.startswith(f"keys_agent_away: the keys agent at {fleet.socket} does not answer")
    assert dead.reason.endswith("see whether the process keys-agent runs")
    agent = agent_of(fleet, folder)
    agent.start()
    fleet.signer = SweepSigner(KeysAgent(agent.socket))
    fleet.run()
    agent.kill()
    [dead] = fleet.market.execute("SELECT resolved_at FROM fleet.dead_work WHERE subject_kind = 'keys_agent'")
    assert dead.resolved_at is not None
    assert fleet.jobs() == [("swept", None)]


def test_a_killed_agent_loses_nothing_and_one_sweep_of_each_payment_is_made(
    world: World, database: Database, folder: Path, counts: Counts
):
    fleet = SweepingFleet(world, database, world.contracts.usdt, agent=False)
    agent = agent_of(fleet, folder)
    agent.start()
    client = KillingAgent(agent)
    fleet.signer = SweepSigner(client)

    def go_on() -> None:
        fleet.market.execute("UPDATE fleet.sweep_jobs SET run_after = now(), lease_until = NULL, lease_token = NULL")
        fleet.run()

    def sweep(at: int, *, during: bool) -> bool:
        payment = fleet.payment(UNIT)
        fleet.pay(payment, UNIT)
        client.requests, client.at, client.during = 0, at, during
        fleet.run()
        was_killed = bool(at) and client.requests >= at
        if was_killed:
            client.at = 0
            agent.start()
            for _ in range(3):
                go_on()
        assert fleet.destination(payment) == ("swept", 1, UNIT, None), f"killed at request {at}"
        return was_killed

    assert not sweep(0, during=False)
    requests = client.requests
    assert requests >= 3  # who it is, the top-up, the transfer
    kills = 0
    for at in range(1, requests + 1, KILL_STRIDE):
        for during in (False, True):
            kills += sweep(at, during=during)
    agent.kill()
    swept = 1 + 2 * len(range(1, requests + 1, KILL_STRIDE))
    assert kills == swept - 1
    counts("sweeps whose keys agent was killed", kills)
    assert fleet.count("SELECT count(*) FROM public.derived_destination_sweeps") == swept
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE state <> 'final'") == 0
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 2 * swept
    assert world.client.token_balance(fleet.token, fleet.treasury) == swept * UNIT
    fleet.assert_books_equal_chain()
    _no_key_in(fleet, folder)


def _no_key_in(fleet: SweepingFleet, folder: Path) -> None:
    """Neither logs nor journal nor database hold a key, a phrase or the xpub's children's keys."""
    seed = seed_from_phrase(fleet.phrase)
    hidden = [fleet.payer_key.hex(), fleet.phrase, seed.hex(), account_xpub_from_seed(seed)]
    hidden += [private_key_at(seed, index).hex() for index in range(20)]
    shown = [path for path in folder.iterdir() if path.name.startswith("log-") or path.name.endswith("journal")]
    assert len(shown) > 2
    for path in shown:
        content = path.read_text()
        assert "keys_agent_ready" in content or '"wei"' in content
        for secret in hidden:
            assert secret not in content, path

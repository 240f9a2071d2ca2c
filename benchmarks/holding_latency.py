"""How long after a block the money that it makes deep enough is held: watcher, relay, Valkey and worker as they run.

Each block brings payments, and makes those of the block ``THRESHOLD`` - 1 before it deep enough. What is timed ends when
another connection sees the hold committed. Blocks come at a distance that is no multiple of the watcher's own, so that they
meet it at every point of its wait.
"""

import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import psycopg

from benchmarks.servers import READY_SECONDS, STATE_DIR, BenchmarkDatabase, benchmark_database, started_processes
from benchmarks.watched_chain import CHAIN_ID, BenchmarkChain, benchmark_chain, fill, issued_address
from custody.settings.thresholds import set_threshold
from custody.store.engine import open_engine, transaction
from workers.embedded import services
from workers.processes import ProcessContext

PENDING: Final = 10_000
PAID_A_BLOCK: Final = 100
BLOCKS: Final = 30
THRESHOLD: Final = 5
BLOCK_SECONDS: Final = 3.37
LOOK_SECONDS: Final = 0.01  # how exact the figures are
LATE_SECONDS: Final = 120.0  # what is not held by then is no figure but a failure
PROCESSES: Final = ("watcher", "relay", "worker-confirmations")

Progress = Callable[[str], None]

_CHAINS = """
[[chains]]
id = {chain_id}
name = "anvil"
genesis_hash = "{genesis}"
rpc_urls = ["{url}", "{second_url}"]
treasury = "{treasury}"
fee_proxy = "{proxy}"
tokens = [
    {{ symbol = "USDT", address = "{token}", decimals = 6 }},
    {{ symbol = "ETH", address = "native", decimals = 18 }},
]
"""
_HELD = """
SELECT f.block_number, count(*) FROM fleet.chain_facts f
WHERE f.chain_id = %s AND f.live AND f.judged_at IS NOT NULL GROUP BY f.block_number
"""


def latencies(progress: Progress) -> list[float]:
    """Seconds from block to committed hold, one figure a hold. Raises RuntimeError when one is not held in time."""
    with benchmark_chain() as chain, benchmark_database() as database, tempfile.TemporaryDirectory() as folder:
        progress(f"{PENDING:,} payments")
        fill(database, chain, pending=PENDING, issued=PENDING, seen=False)
        operator = open_engine(database.url("fleet_operator"), application="bench-operator", pool_size=1)
        with transaction(operator) as connection:
            set_threshold(connection, CHAIN_ID, THRESHOLD, floor_blocks=1, by="benchmark", reason="its depth")
        operator.dispose()
        with (
            psycopg.connect(database.admin_url, autocommit=True) as admin,
            _processes(database, _chains_file(chain, Path(folder)), Path(folder)),
        ):
            _wait_until_watched(admin)
            found = _Timed(admin)
            for block in range(BLOCKS):
                progress(f"block {block + 1} of {BLOCKS}, {len(found.seconds):,} holds timed")
                paid = range(block * PAID_A_BLOCK + 1, (block + 1) * PAID_A_BLOCK + 1)
                chain.send(chain.signed(issued_address(number) for number in paid))
                chain.mine()
                found.mined(chain.tip().number)
                found.look_until(found.at + BLOCK_SECONDS)
            found.finish(BLOCKS * PAID_A_BLOCK)
            [[holds]] = admin.execute(
                "SELECT count(*) FROM public.funds_ledger_entries WHERE entry_type = 'hold'"
            ).fetchall()
            if holds != len(found.seconds):
                raise RuntimeError(f"{holds} holds are in the ledger, {len(found.seconds)} were timed")
            return found.seconds


def percentile(figures: Sequence[float], share: int) -> float:
    """The least figure that ``share`` per cent of all do not exceed."""
    ordered = sorted(figures)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


class _Timed:
    """What was held when, by the block that made it deep enough."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._mined: dict[int, float] = {}
        self._held: dict[int, int] = {}
        self.seconds: list[float] = []
        self.at = monotonic()

    def mined(self, number: int) -> None:
        """The block is there now."""
        self.at = monotonic()
        self._mined[number] = self.at

    def look_until(self, end: float) -> None:
        while monotonic() < end:
            self._look()
            sleep(LOOK_SECONDS)

    def finish(self, payments: int) -> None:
        """Wait for the holds of every block that became deep enough."""
        ends = monotonic() + LATE_SECONDS
        expected = payments - (THRESHOLD - 1) * PAID_A_BLOCK
        while len(self.seconds) < expected:
            if monotonic() > ends:
                raise RuntimeError(f"{len(self.seconds)} of {expected} transfers were held within {LATE_SECONDS:g} s")
            self._look()
            sleep(LOOK_SECONDS)

    def _look(self) -> None:
        rows = self._connection.execute(_HELD, [CHAIN_ID]).fetchall()
        now = monotonic()
        for number, held in rows:
            more = held - self._held.get(number, 0)
            self._held[number] = held
            self.seconds += [now - self._mined[number + THRESHOLD - 1]] * more


def _chains_file(chain: BenchmarkChain, folder: Path) -> Path:
    """Two nodes, as a quorum needs; both are the one that runs here."""
    path = folder / "chains.toml"
    [configured] = chain.chains().chains
    path.write_text(
        _CHAINS.format(
            chain_id=CHAIN_ID,
            genesis=configured.genesis_hash,
            url=chain.url,
            second_url=chain.url.replace("127.0.0.1", "localhost"),
            treasury=configured.treasury,
            proxy=configured.fee_proxy,
            token=chain.contracts.usdt,
        ),
        encoding="utf-8",
    )
    return path


@contextmanager
def _processes(database: BenchmarkDatabase, chains_file: Path, folder: Path) -> Generator[None]:
    context = ProcessContext(
        state_dir=folder,
        settings={
            "BROKER_URL": services.up(STATE_DIR).broker_url,
            "CHAINS_FILE": str(chains_file),
            "LOG_LEVEL": "warning",
        },
        database_url=database.url,
    )
    with started_processes(PROCESSES, context):
        yield


def _wait_until_watched(connection: psycopg.Connection) -> None:
    ends = monotonic() + READY_SECONDS
    while connection.execute("SELECT 1 FROM fleet.chain_cursors WHERE agreed_number IS NOT NULL").fetchone() is None:
        if monotonic() > ends:
            raise RuntimeError(f"the watcher has scanned nothing within {READY_SECONDS:g} s")
        sleep(LOOK_SECONDS)

"""`fleet confirmations` on a terminal: live until Ctrl-C, also while the database is away (design §2, rule 8)."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Database
from tests.fleet_process import INHERITED, wait_for
from tests.marketplace import Marketplace
from tests.payment_scene import cursor

COMMAND = [sys.executable, "-m", "workers.cli", "confirmations"]
ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | {"PYTHONPATH": str(ROOT)} | more


class Terminal:
    """A process on a terminal of its own, and all that it has written there."""

    def __init__(self, leader: int, process: "subprocess.Popen[bytes]") -> None:
        os.set_blocking(leader, False)
        self.leader, self.process, self.text = leader, process, ""

    def says(self, words: str) -> bool:
        try:
            while read := os.read(self.leader, 65_536):
                self.text += read.decode("utf-8", "replace")
        except OSError:  # nothing more yet, or the process closed its end
            pass
        assert words in self.text or self.process.poll() is None, self.text[-2_000:]
        return words in self.text


@contextmanager
def terminal(folder: Path, settings: Mapping[str, str]) -> Generator[Terminal]:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        COMMAND, cwd=folder, env=environment(TERM="xterm", COLUMNS="170", LINES="40", **settings), stdin=follower,
        stdout=follower, stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        yield Terminal(leader, process)
    finally:
        process.kill()
        process.wait(timeout=15)
        os.close(leader)


def test_the_table_lives_until_ctrl_c_and_outlives_the_database(database: Database, tmp_path: Path) -> None:
    market = Marketplace(database)
    with terminal(tmp_path, {"DATABASE_URL": database.url("fleet_operator")}) as screen:
        wait_for(lambda: screen.says("no chain was watched yet"))
        cursor(market, 100)
        wait_for(lambda: screen.says("no transfer waits for confirmations"))
        payment = market.payment()
        market.fact(payment, block=100)
        wait_for(lambda: screen.says(str(payment)))
        market.execute("ALTER TABLE fleet.chain_nodes RENAME TO away")
        wait_for(lambda: screen.says("trying again"))
        market.execute("ALTER TABLE fleet.away RENAME TO chain_nodes")
        cursor(market, 100, paused="a drill of ours")
        wait_for(lambda: screen.says("a drill of ours"))
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(timeout=30) == 0
        assert "Traceback" not in screen.text

"""A keys agent for tests: in a thread of this process, or as the process that it is in production."""

import secrets
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bip_utils import Bip39MnemonicGenerator, Bip39WordsNum

from custody.destinations.derivation import seed_from_phrase
from custody.destinations.keys.binding import ChainsFileBindings
from custody.destinations.keys.spending import DaySpending
from custody.destinations.keys.vault import KeyVault
from custody.settings.chains import Chains
from tests.fleet_process import FleetProcess
from workers.keys_agent.server import KeysAgentServer

DAY_MAXIMUM_WEI: Final = 10**18
READY: Final = "keys_agent_ready"


def new_phrase() -> str:
    """A BIP-39 phrase that nobody has."""
    return str(Bip39MnemonicGenerator().FromWordsNumber(Bip39WordsNum.WORDS_NUM_12))


def vault_of(
    phrase: str,
    payer_key: bytes,
    chains: Chains,
    journal: Path,
    maximum_wei: int = DAY_MAXIMUM_WEI,
    more_payers: Sequence[bytes] = (),
) -> KeyVault:
    """The vault of a development chain."""
    return KeyVault(
        seeds=[seed_from_phrase(each) for each in phrase.splitlines()],
        gas_payer_keys=[payer_key, *more_payers],
        bind=lambda _xpubs: ChainsFileBindings(chains),
        spending=DaySpending(journal, maximum_wei),
    )


@contextmanager
def serving(vault: KeyVault, path: Path) -> Generator[KeysAgentServer]:
    """The vault behind a socket at ``path``, in a thread."""
    with KeysAgentServer(path, vault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def socket_folder() -> Generator[Path]:
    """A folder whose name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="keys-") as name:
        yield Path(name)


class AgentProcess:
    """``python -m workers.keys_agent`` with key files, journal and socket in ``folder``. ``start`` it, ``kill`` it."""

    def __init__(self, folder: Path, phrase: str, payer_key: bytes, **settings: str) -> None:
        self.folder = folder
        self.socket = folder / "agent.sock"
        self.log = folder / f"log-{secrets.token_hex(4)}"
        files = {"deposit_seed": phrase, "gas_payer_key": payer_key.hex()}
        for name, content in files.items():
            path = folder / name
            path.write_text(content)
            path.chmod(0o600)
        self.settings = {
            "DEPOSIT_SEED_FILE": str(folder / "deposit_seed"),
            "GAS_PAYER_KEY_FILE": str(folder / "gas_payer_key"),
            "KEYS_AGENT_SOCKET": str(self.socket),
            "FLEET_STATE_DIR": str(folder),
            **settings,
        }
        self._running: FleetProcess | None = None
        self._starts = 0

    def start(self, *before: str) -> FleetProcess:
        """Start it and wait until it serves; ``before``: arguments of a program that becomes it."""
        self._starts += 1
        self.log = self.folder / f"log-{self._starts}"
        self._running = FleetProcess([*before, "-m", "workers.keys_agent"], self.settings, self.log)
        self._running.wait_until_it_said(READY)
        return self._running

    def kill(self) -> None:
        """SIGKILL, in whatever it is doing."""
        if self._running is not None:
            self._running.kill()

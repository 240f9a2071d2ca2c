"""``python -m workers.keys_agent`` (``fleet keys agent``): hold the keys and sign sweeps until it is stopped."""

import signal
import sys
import threading
from types import FrameType

import structlog

from custody.destinations.derivation import DerivationError
from custody.destinations.keys.spending import JournalDamaged
from custody.destinations.keys.vault import KeyVault
from custody.policy import PolicyRefused
from custody.settings.environment import FleetSettings, SettingsError, load_settings
from workers import health
from workers.keys_agent.hardening import harden
from workers.keys_agent.server import KeysAgentServer
from workers.telemetry.logging import configure_logging

log = structlog.get_logger(__name__)

_NOT_GIVEN = ("database_url", "database_admin_url", "broker_url", "mongo_url")


def serve(settings: FleetSettings) -> None:
    """Serve with these settings until SIGTERM or SIGINT. Raises what the settings or files make it raise."""
    too_much = [name.upper() for name in _NOT_GIVEN if getattr(settings, name) is not None]
    if too_much:
        raise SettingsError(f"the keys agent reaches no server: start it without {', '.join(too_much)} (R20)")
    settings.require("deposit_seed_file", "gas_payer_key_file", "keys_agent_socket")
    assert settings.keys_agent_socket is not None
    vault = KeyVault.from_settings(settings)
    server = KeysAgentServer(settings.keys_agent_socket, vault, alive=health.alive)

    def end(_number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()  # it waits for the loop that it interrupts

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    log.info(
        "keys_agent_ready",
        socket=str(settings.keys_agent_socket),
        accounts=list(vault.accounts),
        gas_payers=list(vault.gas_payers),
        binding=vault.source,
    )
    with server:
        server.serve_forever()
    settings.keys_agent_socket.unlink(missing_ok=True)
    log.info("keys_agent_stopped")


def main() -> None:
    # First of all: a key must not be in a process that can be dumped, not even while it is starting.
    harden()
    settings = load_settings()
    # No Sentry here: it would need the network, and an event of this process helps a thief more than us.
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    health.name_process("keys-agent")
    serve(settings)


if __name__ == "__main__":
    try:
        main()
    except (SettingsError, DerivationError, JournalDamaged, PolicyRefused) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)

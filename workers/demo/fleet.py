"""``fleet up`` on one machine: servers, a provisioned development chain, every process, all under supervision."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from tenacity import RetryError as WaitedTooLong
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from custody.settings.environment import load_settings
from custody.store.roles import read_role_password
from workers.demo.provision import Provisioned, TreasuryKind, provision
from workers.demo.sweep_strategies import DemoStrategy
from workers.embedded import services, valkey
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.services import ServiceStatus
from workers.embedded.state_folder import StateFolder, run_folder, write_private
from workers.fleet_status import fleet_status
from workers.processes import PORTS, PROCESSES, ProcessContext, programs

OPERATOR_ENVIRONMENT: Final = "operator.env"
_HEALTH_SECONDS: Final = 300.0  # seventeen processes import at once: some 20 s on two idle cores, minutes on busy ones
_HEALTH_POLL_SECONDS: Final = 0.25

Progress = Callable[[str], None]


@dataclass(frozen=True)
class DevelopmentFleet:
    """A fleet that runs on this machine, and where its doors are."""

    provisioned: Provisioned
    ingress_url: str
    signer_api_url: str
    flower_url: str


_GATHER_SECONDS: Final = "3"  # a demo's buyers pay within seconds of each other


def role_url(admin_url: str, passwords: Path, role: str) -> str:
    """The same database for one of the fleet's roles."""
    parts = urlsplit(admin_url)
    password = quote(read_role_password(passwords, role), safe="")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{host}"))


def start_services(
    state_dir: Path,
    progress: Progress,
    treasury: TreasuryKind | None = None,
    strategy: DemoStrategy | None = None,
) -> tuple[services.Services, Provisioned]:
    """Start the servers and make a development chain's fleet ready on them; start no process of the fleet."""
    running = services.up(state_dir, _given_servers(), progress)
    made = provision(running, progress, treasury, strategy)
    _write_operator_environment(made, {})
    return running, made


def _given_servers() -> dict[str, str]:
    """The settings that replace a server of ours by one that runs already, from wherever settings come."""
    found = load_settings()
    given = {
        name: value.get_secret_value()
        for name in ("database_admin_url", "broker_url", "mongo_url", "chain_rpc_url")
        if (value := getattr(found, name)) is not None
    }
    if found.anvil_binary is not None:
        given["anvil_binary"] = str(found.anvil_binary)
    return {name.upper(): value for name, value in given.items()}


def _given_secrets() -> dict[str, str]:
    """The secrets that a process may have or lack, where they are set."""
    found = load_settings()
    names = {name for process in PROCESSES for name in process.may_have}
    return {name.upper(): str(value) for name in names if (value := getattr(found, name)) is not None}


def start(
    state_dir: Path,
    progress: Progress = lambda _: None,
    treasury: TreasuryKind | None = None,
    strategy: DemoStrategy | None = None,
) -> DevelopmentFleet:
    """Bring everything up and wait until every process is well. Raises EmbeddedServiceError, with what to do.

    ``treasury``: of which kind a new folder's is; a folder that was founded with another is refused. ``strategy``: how
    it sweeps from now on.
    """
    running, made = start_services(state_dir, progress, treasury, strategy)
    ports = services.process_ports(state_dir, PORTS)
    fleet = DevelopmentFleet(
        made,
        ingress_url=f"http://127.0.0.1:{ports['ingress']}",
        signer_api_url=f"http://127.0.0.1:{ports['signer-api']}",
        flower_url=f"http://127.0.0.1:{ports['flower']}",
    )
    context = ProcessContext(
        state_dir=running.state_dir,
        settings=common_settings(made)
        | {
            "INGRESS_PORT": str(ports["ingress"]),
            "SIGNER_API_PORT": str(ports["signer-api"]),
            "SIGNER_API_URL": fleet.signer_api_url,
            "FLOWER_PORT": str(ports["flower"]),
            "REQUEST_NETWORK_WEBHOOK_SECRETS_FILE": str(made.secrets.webhook),
            "DEPOSIT_SEED_FILE": str(made.secrets.deposit_seed),
            "GAS_PAYER_KEY_FILE": str(made.secrets.gas_payer_key),
            "FLOWER_BASIC_AUTH_FILE": str(made.secrets.flower),
            "LEDGER_SEAL_KEY_FILE": str(made.secrets.ledger_seal_key),
        }
        | ({} if made.release_payer is None else {"RELEASE_PAYER_KEY_FILE": str(made.secrets.release_payer_key)})
        | _given_secrets(),
        database_url=lambda role: role_url(running.database_admin_url, made.role_passwords, role),
        broker_url=lambda name: valkey.process_url(StateFolder.open(running.state_dir), running.broker_url, name),
    )
    _write_operator_environment(
        made,
        {
            "SIGNER_API_URL": fleet.signer_api_url,
            "FLOWER_PORT": str(ports["flower"]),
            "INGRESS_PORT": str(ports["ingress"]),
            "SIGNER_API_PORT": str(ports["signer-api"]),
        },
    )
    services.start_processes(state_dir, programs(context), progress)
    _wait_until_all_are_well(state_dir, progress)
    return fleet


def common_settings(made: Provisioned) -> dict[str, str]:
    """What every process is told; keys and passwords of single processes are added by their own needs."""
    return {
        "FLEET_STATE_DIR": str(made.services.state_dir),
        "BROKER_URL": made.services.broker_url,
        "MONGO_URL": made.services.mongo_url,
        "CHAINS_FILE": str(made.chains_file),
        "KEYS_AGENT_SOCKET": str(keys_agent_socket(made.services.state_dir)),
        "LEDGER_SEAL_PUBLIC_KEY_FILE": str(made.secrets.ledger_seal_public_key),
        "POLICY_DIR": str(made.policy_dir),
        "GENESIS_HASH": made.genesis_hash,
        "SWEEP_GATHER_SECONDS": _GATHER_SECONDS,
        "LOG_FORMAT": os.environ.get("LOG_FORMAT", "json"),
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "info"),
        **{name: os.environ[name] for name in ("SENTRY_DSN", "SENTRY_ENVIRONMENT") if name in os.environ},
    }


def keys_agent_socket(state_dir: Path) -> Path:
    """In the short run folder: a Unix socket's path has at most 107 bytes."""
    return run_folder(StateFolder.open(state_dir).root) / "keys-agent.sock"


def _write_operator_environment(made: Provisioned, doors: Mapping[str, str]) -> None:
    operator = role_url(made.services.database_admin_url, made.role_passwords, "fleet_operator")
    values = common_settings(made) | {
        "DATABASE_URL": operator,
        "DATABASE_ADMIN_URL": made.services.database_admin_url,
        "DATABASE_ROLE_PASSWORDS_DIR": str(made.role_passwords),
        **doors,
    }
    lines = [f'{name}="{value}"' for name, value in sorted(values.items())]
    write_private(made.services.state_dir / OPERATOR_ENVIRONMENT, "\n".join(lines) + "\n")


def _wait_until_all_are_well(state_dir: Path, progress: Progress) -> None:
    well: set[str] = set()

    def ill() -> list[ServiceStatus]:
        rows = fleet_status(state_dir)
        for row in rows:
            if row.ok and row.name not in well:
                well.add(row.name)
                progress(f"{row.name} is well")
        return [row for row in rows if not row.ok]

    attempts = Retrying(
        stop=stop_after_delay(_HEALTH_SECONDS), wait=wait_fixed(_HEALTH_POLL_SECONDS), retry=retry_if_result(bool)
    )
    try:
        attempts(ill)
    except WaitedTooLong as failure:
        waiting: list[ServiceStatus] = failure.last_attempt.result()
        raise EmbeddedServiceError(
            f"not everything was well within {_HEALTH_SECONDS:.0f} s; read the logs in {state_dir / 'logs'}:\n"
            + "\n".join(f"{row.name}: {row.health}" for row in waiting)
        ) from None

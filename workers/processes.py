"""The processes of the fleet: one table for ``fleet up``, ``fleet run`` and docker-compose.yml.

Each process is told only what it needs: its own database role's URL, and keys and passwords by name.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from custody.settings.environment import FleetSettings, SettingsError
from workers.queues import QUEUES, QueueSpec

if TYPE_CHECKING:
    from workers.embedded.supervision import Program

GUARDED_SETTINGS: Final = frozenset(
    {
        "database_url", "database_admin_url", "database_role_passwords_dir", "broker_url", "mongo_url", "chains_file",
        "chain_rpc_url",
        "request_network_webhook_secrets_file", "deposit_seed_file", "gas_payer_key_file", "keys_passphrase_file",
        "release_payer_key_file",
        "flower_basic_auth_file", "ledger_seal_key_file", "shkeeper_api_keys_file", "request_network_api_key_file",
        "alarm_webhook_url", "alarm_webhook_secret_file",
    }
)  # fmt: skip
"""Settings that hold or lead to a secret: a process gets those it names. All others go to every process."""

WORKER_STOP_SECONDS: Final = 75  # a task may take 60 s; SIGKILL before its end costs a repeated step
STOP_SECONDS: Final = 20

_PRIORITY: Final = 500  # after the servers


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``arguments`` follow the interpreter; ``needs`` names guarded settings beside DATABASE_URL.

    ``may_have``: guarded settings that it is given where they are set; without them it does less.
    ``role`` is its database role (None: no database). ``health`` is a path on its HTTP port, or None: then it is
    ``python -m workers.health NAME``.
    """

    name: str
    arguments: tuple[str, ...]
    role: str | None
    needs: tuple[str, ...]
    does: str
    stop_seconds: int = STOP_SECONDS
    health: str | None = None
    port_setting: str | None = None
    may_have: tuple[str, ...] = ()

    def settings(self) -> tuple[str, ...]:
        """Every guarded setting of this process."""
        return (("database_url",) if self.role else ()) + self.needs + self.may_have


_WORKER_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "confirmations": ("chains_file",),
    "sweeps": ("chains_file",),
    "releases": ("chains_file", "mongo_url"),
    "mirror": ("mongo_url",),
}
_WORKER_MAY_HAVE: Final[Mapping[str, tuple[str, ...]]] = {
    # The chains file is for quotes alone, and only where they are on.
    "housekeeping": ("request_network_api_key_file", "alarm_webhook_url", "alarm_webhook_secret_file", "chains_file"),
    "releases": ("release_payer_key_file",),
}


def worker_arguments(spec: QueueSpec) -> tuple[str, ...]:
    """A Celery worker of one queue. Gossip and mingle are for workers that share queues and take commands."""
    return (
        *("-m", "celery", "--quiet", "-A", "workers.celery_app", "worker"),
        *("-Q", spec.name, "-c", str(spec.concurrency), "-n", f"{spec.name}@%h"),
        *("--without-gossip", "--without-mingle"),
    )


PROCESSES: Final = (
    Process(
        "ingress",
        ("-m", "workers.ingress"),
        "fleet_ingress",
        ("request_network_webhook_secrets_file",),
        "Takes webhooks, checks their signature and journals them before it answers.",
        health="/healthz",
        port_setting="ingress_port",
        may_have=("shkeeper_api_keys_file",),
    ),
    Process(
        "signer-api",
        ("-m", "workers.signer_api"),
        "fleet_signer_api",
        (),
        "Shows open instructions to the signers' machines and takes their signatures.",
        health="/healthz",
        port_setting="signer_api_port",
        may_have=("chains_file",),  # a development chain's treasury; elsewhere who may log in is the signed genesis'
    ),
    Process(
        "relay",
        ("-m", "workers.relay"),
        "fleet_relay",
        ("broker_url",),
        "Rings the queues for what was committed.",
    ),
    Process(
        "follower",
        ("-m", "workers.follower"),
        "fleet_follower",
        ("mongo_url",),
        "Brings what the backend writes to MongoDB to Postgres; money it only compares.",
    ),
    Process(
        "watcher",
        ("-m", "workers.watcher"),
        "fleet_watcher",
        ("chains_file",),
        "Says what the chains hold.",
    ),
    Process(
        "sealer",
        ("-m", "workers.sealer"),
        "fleet_sealer",
        ("ledger_seal_key_file",),
        "Signs a Merkle root over each finished window of the ledger.",
    ),
    Process(
        "keys-agent",
        ("-m", "workers.keys_agent"),
        None,
        ("deposit_seed_file", "gas_payer_key_file"),
        "Holds the keys of deposits and gas; signs sweeps to the treasury and nothing else.",
        # A development chain's treasury is the chains file's, and its key files may be plain; elsewhere the treasury comes
        # from the signed genesis and the files are encrypted.
        may_have=("chains_file", "keys_passphrase_file"),
    ),
    *(
        Process(
            f"worker-{spec.name}",
            worker_arguments(spec),
            spec.role,
            ("broker_url", *_WORKER_NEEDS.get(spec.name, ())),
            spec.does,
            stop_seconds=WORKER_STOP_SECONDS,
            may_have=_WORKER_MAY_HAVE.get(spec.name, ()),
        )
        for spec in QUEUES
    ),
    Process(
        "beat",
        ("-m", "celery", "--quiet", "-A", "workers.celery_app", "beat"),
        None,
        ("broker_url",),
        "Rings each queue periodically; more than one is harmless.",
    ),
    Process(
        "flower",
        ("-m", "workers.flower"),
        None,
        ("broker_url", "flower_basic_auth_file"),
        "Shows queues, workers and tasks, behind a password and read-only.",
        health="/healthcheck",
        port_setting="flower_port",
    ),
)

PORTS: Final = tuple(process.name for process in PROCESSES if process.port_setting)
"""The processes that listen on a port of their own."""


def process(name: str) -> Process:
    """The process of that name. Raises LookupError naming those that exist."""
    for found in PROCESSES:
        if found.name == name:
            return found
    raise LookupError(f"there is no process {name!r}; there are: {', '.join(p.name for p in PROCESSES)}")


@dataclass(frozen=True)
class ProcessContext:
    """What the processes of one fleet are made from: settings by variable name, and each role's DATABASE_URL."""

    state_dir: Path
    settings: Mapping[str, str]
    database_url: Callable[[str], str]
    broker_url: Callable[[str], str] | None = None
    """The broker's URL of a process, with its own user (R24); None: the one of the settings for all."""


def process_environment(
    chosen: Process, context: ProcessContext, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables of one process: every open setting that is set, and of the guarded ones those it names.

    ``inherited`` (default: this process's environment) gives open settings that ``context`` does not.
    Raises SettingsError naming a guarded setting it needs and nobody gave.
    """
    around = os.environ if inherited is None else inherited
    offered = {name: around[name] for name in _open_variables() if around.get(name)} | dict(context.settings)
    environment = {name: value for name, value in offered.items() if name.lower() not in GUARDED_SETTINGS}
    missing = [name.upper() for name in chosen.needs if name.upper() not in offered]
    if missing:
        raise SettingsError(f"{chosen.name} needs {', '.join(missing)}: set it, or give it to `fleet up`")
    environment |= {name.upper(): offered[name.upper()] for name in chosen.needs}
    environment |= {name.upper(): offered[name.upper()] for name in chosen.may_have if name.upper() in offered}
    if context.broker_url is not None and "broker_url" in chosen.needs:
        environment["BROKER_URL"] = context.broker_url(chosen.name)
    if chosen.role is not None:
        environment["DATABASE_URL"] = context.database_url(chosen.role)
    return environment | {"FLEET_STATE_DIR": str(context.state_dir)}


def programs(context: ProcessContext, inherited: Mapping[str, str] | None = None) -> "list[Program]":
    """Every process as a supervised program. Raises SettingsError as ``process_environment`` does."""
    from workers.embedded.supervision import Program

    return [
        Program(
            name=each.name,
            argv=[sys.executable, *each.arguments],
            env=process_environment(each, context, inherited),
            stop_wait_seconds=each.stop_seconds,
            # Higher stops first: beat rings nobody while the rest finish, all at the same time.
            priority=_PRIORITY + (each.name == "beat"),
        )
        for each in PROCESSES
    ]


def _open_variables() -> list[str]:
    return [name.upper() for name in FleetSettings.model_fields if name not in GUARDED_SETTINGS]

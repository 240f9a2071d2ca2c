"""Where every server and process of a fleet on this machine is, and whether it is well.

A supervisor knows only that a process exists. Here each one is asked: a door must answer, any other process must have
done something lately (``workers.health``), in this life and not in one before.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from workers import health
from workers.embedded import ports, services
from workers.embedded.services import ServiceStatus
from workers.embedded.state_folder import StateFolder
from workers.processes import PROCESSES, Process


def fleet_status(state_dir: Path, environment: Mapping[str, str] | None = None) -> list[ServiceStatus]:
    """Servers first, then the processes in the order of their table. Starts nothing."""
    rows = services.status(state_dir, environment)
    chosen = ports.remembered(StateFolder.open(state_dir))
    processes = {process.name: process for process in PROCESSES}

    def ask(row: ServiceStatus) -> ServiceStatus:
        process = processes.get(row.name)
        return row if process is None else _ask(process, row, chosen.get(row.name), state_dir)

    with ThreadPoolExecutor(max_workers=max(1, len(rows))) as pool:
        return list(pool.map(ask, rows))


def _ask(process: Process, row: ServiceStatus, port: int | None, state_dir: Path) -> ServiceStatus:
    url = f"http://127.0.0.1:{port}" if process.health and port else row.url
    if not row.ok:
        return replace(row, url=url)
    if process.health is not None:
        door = f"{url}{process.health}"
        return replace(row, url=url, health="ok" if health.answers(door) else f"{door} does not answer 200")
    age = health.seconds_since(row.name, state_dir)
    if age is not None and age <= min(row.uptime_seconds + 1, health.SILENT_SECONDS):
        return replace(row, url=health.said_by(row.name, state_dir) or row.url)
    if row.uptime_seconds <= health.SILENT_SECONDS and (age is None or age > row.uptime_seconds):
        return replace(row, health="starting: it has done nothing yet")
    return replace(
        row, health=f"has done nothing for {row.uptime_seconds if age is None else int(age)} s; read its log"
    )

"""``fleet db``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from custody.chain import ChainClient, connections
from custody.chain.nodes import ChainNodes
from custody.chain.restored_lanes import counts_on_chain, lanes_of, raise_lanes
from custody.safe.history import nonce_at
from custody.settings.chains import load_chains
from custody.settings.environment import settings
from custody.store.adoption.adopting import AdoptionRefused, Comparison
from custody.store.adoption.adopting import adopt as adopt_database
from custody.store.adoption.adopting import compare as compare_database
from custody.store.adoption.differences import Difference, Severity
from custody.store.engine import open_engine, transaction
from custody.store.lives import begin_life, pause_after_restore
from custody.store.upgrade import upgrade_database
from workers.signer.journal import Journal
from workers.signer.journal_records import Asked

database = typer.Typer(help="The database's schema.", no_args_is_help=True)


@database.command()
def upgrade() -> None:
    """Make the login roles, run the revisions that are missing, set the grants. Safe to repeat.

    Needs DATABASE_ADMIN_URL and DATABASE_ROLE_PASSWORDS_DIR.
    """
    configured = settings()
    engine = open_engine(configured.secret("database_admin_url"), application="fleet-db-upgrade", pool_size=1)
    try:
        upgrade_database(engine, configured.path("database_role_passwords_dir"))
    finally:
        engine.dispose()
    typer.echo("the database is at the newest revision")


@database.command()
def adopt(
    backend_role: Annotated[
        str | None, typer.Option(help="the role the backend logs in with; it loses INSERT on the ledger")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="compare only; nothing is changed")] = False,
    statements: Annotated[
        Path | None, typer.Option(help="write the statements that would close the differences to this file")
    ] = None,
) -> None:
    """Join a database that the backend's own migrations made: compare it with state 0017, then stamp it.

    Differences come by severity: blocking ones (money could be lost or refused) stop adoption; warnings cost speed or want
    a look; notes are never met. Then run fleet db upgrade, which adds what is the fleet's. Ledger rows stay as they are
    and are sealed so; balances from before are opened by two persons (fleet ledger adjust open).
    Needs DATABASE_ADMIN_URL and, unless --dry-run, DATABASE_ROLE_PASSWORDS_DIR. Exit code 1 when something blocks.
    """
    if not dry_run and backend_role is None:
        raise typer.BadParameter(
            "say which role the backend logs in with, or add --dry-run", param_hint="--backend-role"
        )
    configured = settings()
    engine = open_engine(configured.secret("database_admin_url"), application="fleet-db-adopt", pool_size=1)
    try:
        if dry_run or backend_role is None:
            compared = compare_database(engine)
        else:
            compared = adopt_database(engine, configured.path("database_role_passwords_dir"), backend_role=backend_role)
    except AdoptionRefused as error:
        if error.found:
            _print_differences(error.found, statements)
        typer.echo(f"not adopted: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()
    _print_differences(compared.differences, statements)
    _say_outcome(compared, dry_run=dry_run)


def _print_differences(found: Sequence[Difference], statements: Path | None) -> None:
    table = Table("severity", "where", Column("what", overflow="fold"), Column("closed by", overflow="fold"), box=None)
    colours = {Severity.BLOCKING: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
    for item in found:
        name = Text(item.severity.name.lower(), colours[item.severity])
        table.add_row(name, Text(item.place), Text(item.what), Text(item.closes))
    if found:
        Console().print(table)
    if statements is not None:
        closing = [f"-- {item.place}: {item.what}\n{item.closes};\n" for item in found if item.closes]
        statements.write_text("\n".join(closing).replace(";;", ";"), encoding="utf-8")
        typer.echo(f"{len(closing)} statements are in {statements}: read each before it runs")


def _say_outcome(compared: Comparison, *, dry_run: bool) -> None:
    counts = {level: sum(item.severity is level for item in compared.differences) for level in reversed(Severity)}
    typer.echo(
        ", ".join(f"{count} {level.name.lower()}" for level, count in counts.items())
        + f"; {compared.payments} payments and {compared.ledger_rows} ledger rows from before the fleet"
    )
    if compared.blocking:
        typer.echo("it would not be adopted: close what is blocking first")
        raise typer.Exit(1)
    typer.echo("it would be adopted" if dry_run else "adopted; now run: fleet db upgrade")


@database.command()
def restored(
    by: Annotated[str, typer.Option(help="who looked (a label, never an authority)")],
    journal: Annotated[
        list[Path] | None, typer.Option(help="a signer's journal, whose nonces count as signed; one for each signer")
    ] = None,
) -> None:
    """After a restore or a promotion: raise every nonce to what chains and journals say, and begin work on this database.

    Chains stay paused; two persons let each go on (fleet chain go-on). Needs DATABASE_ADMIN_URL and CHAINS_FILE.
    """
    configured = settings()
    signed, of_safes = _signed_nonces(journal or ())
    chains = load_chains(configured.path("chains_file"))
    nodes = {chain.id: ChainNodes(chain, [ChainClient(each) for each in connections(chain)]) for chain in chains.chains}
    engine = open_engine(configured.secret("database_admin_url"), application="fleet-db-restored", pool_size=1)
    try:
        pause_after_restore(engine)
        with transaction(engine) as connection:
            lanes = lanes_of(connection)
        spent = counts_on_chain(nodes, lanes)
        spent_by_safes = {
            (chain_id, safe): nonce_at(nodes[chain_id], safe, nodes[chain_id].common_height())
            for chain_id, safe in of_safes
            if chain_id in nodes
        }
        with transaction(engine) as connection:
            raised = raise_lanes(connection, spent, signed)
            is_new = begin_life(connection, by=by)
    finally:
        engine.dispose()
        for found in nodes.values():
            for client in found.clients:
                client.close()
    table = Table("chain", "address", "lane", "was", "is", Column("look at", overflow="fold"), box=None)
    for lane in raised:
        gap = f"signed and not spent yet: {', '.join(map(str, lane.gap))}" if lane.gap else ""
        table.add_row(str(lane.chain_id), lane.address, lane.kind, str(lane.before), str(lane.after), gap)
    for (chain_id, safe), count in spent_by_safes.items():
        waiting = range(count, of_safes[chain_id, safe] + 1)
        gap = f"asked of its owners and not spent yet: {', '.join(map(str, waiting))}" if waiting else ""
        table.add_row(str(chain_id), safe, "safe", str(count), str(count), gap)
    Console().print(table)
    typer.echo("work begins on this database" if is_new else "work had begun on this database before")
    typer.echo("each chain stays paused until two persons let it go on: fleet chain go-on CHAIN --by NAME --reason WHY")


def _signed_nonces(paths: Sequence[Path]) -> tuple[dict[tuple[int, str], int], dict[tuple[int, str], int]]:
    """The highest nonce that any of these journals knows, by chain and treasury: of accounts, and of Safes."""
    accounts: dict[tuple[int, str], int] = {}
    safes: dict[tuple[int, str], int] = {}
    for path in paths:
        with Journal(path, create=False) as opened:
            for line in opened.lines:
                if isinstance(line, Asked):
                    found, place = safes if line.is_safe else accounts, (line.chain_id, line.treasury)
                    found[place] = max(found.get(place, -1), line.transaction.nonce)
    return accounts, safes


def register(app: typer.Typer) -> None:
    app.add_typer(database, name="db")

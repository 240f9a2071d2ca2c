"""``fleet db``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.chain import ChainClient, connections
from custody.chain.nodes import ChainNodes
from custody.chain.restored_lanes import counts_on_chain, lanes_of, raise_lanes
from custody.settings.chains import load_chains
from custody.settings.environment import settings
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
    signed: dict[tuple[int, str], int] = {}
    for path in journal or ():
        with Journal(path, create=False) as opened:
            for line in opened.lines:
                if isinstance(line, Asked):
                    place = (line.chain_id, line.treasury)
                    signed[place] = max(signed.get(place, -1), line.transaction.nonce)
    chains = load_chains(configured.path("chains_file"))
    nodes = {chain.id: ChainNodes(chain, [ChainClient(each) for each in connections(chain)]) for chain in chains.chains}
    engine = open_engine(configured.secret("database_admin_url"), application="fleet-db-restored", pool_size=1)
    try:
        pause_after_restore(engine)
        with transaction(engine) as connection:
            lanes = lanes_of(connection)
        spent = counts_on_chain(nodes, lanes)
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
    Console().print(table)
    typer.echo("work begins on this database" if is_new else "work had begun on this database before")
    typer.echo("each chain stays paused until two persons let it go on: fleet chain go-on CHAIN --by NAME --reason WHY")


def register(app: typer.Typer) -> None:
    app.add_typer(database, name="db")

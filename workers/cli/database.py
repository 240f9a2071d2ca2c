"""``fleet db``."""

import typer

from custody.settings.environment import settings
from custody.store.engine import open_engine
from custody.store.upgrade import upgrade_database

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


def register(app: typer.Typer) -> None:
    app.add_typer(database, name="db")

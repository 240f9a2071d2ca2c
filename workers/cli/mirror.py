"""``fleet mirror``: MongoDB and Postgres beside each other."""

import typer

from workers.cli import mirror_backfill, mirror_following, mirror_verify


def register(app: typer.Typer) -> None:
    mirror = typer.Typer(no_args_is_help=True, help="MongoDB and Postgres beside each other.")
    mirror_backfill.register(mirror)
    mirror_verify.register(mirror)
    mirror_following.register(mirror)
    app.add_typer(mirror, name="mirror")

"""``fleet signer``: what a signer does. It talks to the signer API and to the device, never to a database."""

import typer

from workers.cli.signer import carrying, defining, journalling, logging_in, reading, signing, trusting
from workers.cli.signer.desk import EXIT_REFUSED, EXIT_REJECTED, signer

__all__ = [
    "EXIT_REFUSED",
    "EXIT_REJECTED",
    "carrying",
    "defining",
    "journalling",
    "logging_in",
    "reading",
    "register",
    "signer",
    "signing",
    "trusting",
]


def register(app: typer.Typer) -> None:
    app.add_typer(signer, name="signer")

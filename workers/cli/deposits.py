"""``fleet deposits``: the accounts that deposit addresses come from."""

from collections.abc import Callable
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from sqlalchemy import Connection, text

from custody.destinations.derivation import DerivationError
from custody.destinations.issuing import IssuingRefused, register_deposit_account, register_forwarder_account
from custody.destinations.rotation import mark_deposit_account, rotate_deposit_account, rotate_to_forwarders
from custody.settings.chains import Chains, load_chains
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction

deposits = typer.Typer(no_args_is_help=True, help="The accounts that deposit addresses come from.")

_Result = TypeVar("_Result")
_Xpub = Annotated[
    str | None,
    typer.Argument(
        help="the account's xpub (m/44'/60'/0'); never an xprv. None where DESTINATION_KIND is create2_forwarder: its "
        "addresses are forwarders of the Safe treasuries in CHAINS_FILE"
    ),
]


@deposits.command("register")
def register_first(xpub: _Xpub = None) -> None:
    """Register the fleet's first account."""
    chains = _forwarder_chains(xpub)
    if chains is None:
        account = _as_operator(lambda connection: register_deposit_account(connection, xpub or ""))
    else:
        account = _as_operator(lambda connection: register_forwarder_account(connection, chains))
    typer.echo(f"deposit account {_fingerprint(account)} is active")


@deposits.command()
def rotate(
    xpub: _Xpub = None,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="the seed before is known to others: its coins are swept first")
    ] = False,
) -> None:
    """Open a new account: from now on it issues; addresses of the one before are watched and swept until they are empty.

    Give the keys agent both seeds first, the new one on the first line of DEPOSIT_SEED_FILE, and name the account in a
    new genesis (docs/custody/keys.md).
    """
    ending = "compromised" if compromised else "draining"
    chains = _forwarder_chains(xpub)
    if chains is None:
        account = _as_operator(lambda connection: rotate_deposit_account(connection, xpub or "", ending=ending))
    else:
        account = _as_operator(lambda connection: rotate_to_forwarders(connection, chains, ending=ending))
    typer.echo(f"deposit account {_fingerprint(account)} is active; the one before is {ending}")


def _forwarder_chains(xpub: str | None) -> Chains | None:
    """The chains whose treasuries' forwarders are wanted, None for an HD account; by DESTINATION_KIND."""
    is_keyless = settings().destination_kind == "create2_forwarder"
    if is_keyless is (xpub is None):
        return load_chains(settings().path("chains_file")) if is_keyless else None
    expected = "no xpub: no key rules its addresses" if is_keyless else "the account's xpub"
    typer.secho(f"DESTINATION_KIND is {settings().destination_kind}: expected {expected}", fg="red", err=True)
    raise typer.Exit(1)


def _fingerprint(account: UUID) -> str:
    return _as_operator(
        lambda connection: connection.execute(
            text("SELECT xpub_fingerprint FROM fleet.deposit_accounts WHERE id = :id"), {"id": account}
        ).scalar_one()
    )


@deposits.command()
def compromised(fingerprint: Annotated[str, typer.Argument(help="0x and 8 hex digits")]) -> None:
    """Say that a drained account's seed is known to others: its coins are swept before all others."""
    _as_operator(lambda connection: mark_deposit_account(connection, fingerprint, "compromised"))
    typer.echo(f"deposit account {fingerprint} is compromised; it is swept first")


@deposits.command()
def retire(fingerprint: Annotated[str, typer.Argument(help="0x and 8 hex digits")]) -> None:
    """Close a drained account. Refused while coins lie at its addresses."""
    _as_operator(lambda connection: mark_deposit_account(connection, fingerprint, "retired"))
    typer.echo(f"deposit account {fingerprint} is retired; take its seed from the keys agent")


@deposits.command("list")
def list_accounts() -> None:
    """The accounts, the newest first, and how many addresses each has issued and still has coins at."""
    rows = _as_operator(
        lambda connection: connection.execute(
            text(
                """
                SELECT a.xpub_fingerprint, a.kind, a.state, a.created_at, count(d.id) AS issued,
                    count(d.id) FILTER (WHERE d.balance > 0 OR d.status IN ('sweeping', 'quarantined')) AS waiting
                FROM fleet.deposit_accounts a LEFT JOIN public.derived_destinations d ON d.deposit_account_id = a.id
                GROUP BY a.id ORDER BY a.created_at DESC
                """
            )
        ).all()
    )
    for row in rows:
        typer.echo(
            f"{row.xpub_fingerprint}  {row.kind:17} {row.state:12} since {row.created_at:%Y-%m-%d}  {row.issued} addresses, "
            f"{row.waiting} with coins"
        )


def _as_operator(work: Callable[[Connection], _Result]) -> _Result:
    engine = open_engine(settings().secret("database_url"), application="fleet-deposits", pool_size=1)
    try:
        with transaction(engine) as connection:
            return work(connection)
    except (IssuingRefused, DerivationError) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()


def register(app: typer.Typer) -> None:
    app.add_typer(deposits, name="deposits")

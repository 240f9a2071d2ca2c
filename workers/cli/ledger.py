"""``fleet ledger``: whether anybody has touched the books, and proof of single entries for a stranger."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from custody.ledger.proofs import PROOF_MAXIMUM_BYTES, NoProof, ProofRefused, check_proof, proof_from_text, prove
from custody.ledger.seal_export import ExportRefused, export_seals, read_export
from custody.ledger.seal_keys import PublicKeys, load_public_keys
from custody.ledger.seals import Seal, newest_seal, seal_by_number, seals_after
from custody.ledger.verification import HeldSealRefused, verify
from custody.ledger.verification_report import Report
from custody.settings.environment import SettingsError, settings
from custody.store.engine import open_engine
from workers.cli import adjust, ledger_reports
from workers.cli.terminal import shown

ledger = typer.Typer(help="The ledger: is it whole, and proof of it.", no_args_is_help=True)

SEALS_SHOWN: Final = 20
PROBLEMS_SHOWN: Final = 200

PublicKeyOption = Annotated[
    Path | None,
    typer.Option("--public-key", help="PEM of the sealer's public keys; default: LEDGER_SEAL_PUBLIC_KEY_FILE"),
]


@contextmanager
def ledger_as_it_is(application: str) -> Generator[Connection]:
    """One moment of the database to read at leisure: a long look that writes nothing keeps no seal back.

    Raises SettingsError when the database does not answer: exit code 1 is for books that are wrong.
    """
    engine = open_engine(settings().secret("database_url"), application=application, pool_size=1)
    try:
        try:
            connected = engine.connect()
        except OperationalError as error:
            raise SettingsError(f"the database that DATABASE_URL names does not answer: {error.orig}") from None
        with connected as connection:
            connection.exec_driver_sql("SET transaction_timeout = 0")
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '60s'")
            connection.commit()
            with connection.begin():
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield connection
    finally:
        engine.dispose()


def _public_keys(given: Path | None) -> PublicKeys:
    path = given or settings().ledger_seal_public_key_file
    if path is None:
        raise SettingsError(
            "whose seals? Give the sealer's public key, from who runs the fleet: --public-key FILE, or "
            "LEDGER_SEAL_PUBLIC_KEY_FILE"
        )
    return load_public_keys(path)


def _seal_of(connection: Connection, given: str, keys: PublicKeys) -> Seal:
    """A seal named by its number, or the newest one of a file that ``fleet ledger seals --export`` wrote."""
    if given.isascii() and given.isdecimal():
        found = seal_by_number(connection, min(int(given), 2**63 - 1))
        if found is None:
            raise HeldSealRefused(f"there is no seal {given}; see: fleet ledger seals")
        return found
    held = _held_seals(Path(given), keys)
    return held[-1]


def _held_seals(path: Path, keys: PublicKeys) -> list[Seal]:
    try:
        with path.open(encoding="utf-8") as file:
            held = read_export(file, keys)
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(f"{path} cannot be read as an export of seals: {error}") from None
    except ExportRefused as error:
        raise ExportRefused(f"{path}: {error}") from None
    if not held:
        raise ExportRefused(f"{path} has no seal")
    return held


@ledger.command("verify")
def verify_(
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="a seal up to which the ledger was verified before, by its number or an export's file; only what came "
            "later is read",
        ),
    ] = None,
    held: Annotated[
        Path | None,
        typer.Option("--held", help="an export of seals kept outside: each must still stand in the database"),
    ] = None,
    public_key: PublicKeyOption = None,
) -> None:
    """Recompute every hash, link, balance and seal, and name each row that is wrong. Exit code 1 if one is.

    An end cut off together with its seals is found by a seal kept outside the database alone: give it with --held.
    """
    keys = _public_keys(public_key)
    console = Console(stderr=True)
    try:
        with ledger_as_it_is("fleet-ledger-verify") as connection:
            start = None if since is None else _seal_of(connection, since, keys)
            outside = [] if held is None else _held_seals(held, keys)
            started = monotonic()
            report = _with_progress(connection, keys, outside, start, console)
            seconds = monotonic() - started
    except (HeldSealRefused, ExportRefused) as error:
        raise typer.BadParameter(str(error)) from None
    _print(report, seconds)
    if not report.ok:
        raise typer.Exit(1)


def _with_progress(
    connection: Connection, keys: PublicKeys, held: list[Seal], since: Seal | None, console: Console
) -> Report:
    total = None
    if since is None:
        # Every entry is read twice: under its seal and in its book.
        total = 2 * connection.execute(text("SELECT count(*) FROM public.funds_ledger_entries")).scalar_one()
    columns = (SpinnerColumn(), TextColumn("rows read"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("verify", total=total)
        return verify(connection, keys, held=held, since=since, progress=lambda rows: bar.update(task, advance=rows))


def _print(report: Report, seconds: float) -> None:
    console = Console(soft_wrap=True)
    for problem in report.problems[:PROBLEMS_SHOWN]:
        console.print(shown(str(problem)), style="red")
    if report.problem_count > PROBLEMS_SHOWN:
        console.print(f"and {report.problem_count - PROBLEMS_SHOWN} more", style="red")
    rate = report.entries / seconds if seconds else 0.0
    console.print(
        f"{report.entries} entries in {report.books} books, {report.sealed_entries} of them under {report.seals} seals; "
        f"{report.unsealed_entries} not sealed yet, {report.before_fleet} of before the fleet; "
        f"{seconds:.1f} s, {rate:,.0f} entries/s"
    )
    if report.ok:
        console.print("the ledger is whole", style="green")
    else:
        console.print(f"{report.problem_count} things are wrong", style="red")


@ledger.command("prove")
def prove_(
    entry: Annotated[UUID, typer.Argument(help="an entry's id, as fleet ledger statement or explain shows it")],
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
) -> None:
    """Write a small proof that the entry is in the sealed ledger. Exit code 1 if it cannot be proven (yet)."""
    try:
        with ledger_as_it_is("fleet-ledger-prove") as connection:
            proof = prove(connection, entry)
    except NoProof as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    content = json.dumps(proof, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        sys.stdout.write(content)
    else:
        out.write_text(content, encoding="utf-8")
        typer.echo(f"{out}: entry {entry} under seal {proof['seal']['seal_no']}")


@ledger.command("check-proof")
def check_proof_(
    file: Annotated[Path, typer.Argument(help="what fleet ledger prove wrote")],
    public_key: PublicKeyOption = None,
) -> None:
    """Check a proof by the public key alone, without the database. Exit code 1 if it proves nothing."""
    keys = _public_keys(public_key)
    try:
        with file.open("rb") as opened:
            content = opened.read(PROOF_MAXIMUM_BYTES + 1)
        proven = check_proof(proof_from_text(content.decode("utf-8", "replace")), keys)
    except (OSError, ProofRefused) as error:
        typer.secho(f"{file}: refused: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
    entry, console = proven.entry, Console(soft_wrap=True)
    console.print(
        shown(
            f"entry {entry['id']}: {entry['entry_type']}:{entry['reason']} {entry['amount']} {entry['currency']} "
            f"{entry['debit']} / {entry['credit']}, number {entry['book_seq']} of book {entry['book_id']}"
        )
    )
    console.print(f"is in the ledger that key {proven.seal.key_id} signed as seal {proven.seal.seal_no}", style="green")


@ledger.command("seals")
def seals_(
    export: Annotated[
        Path | None, typer.Option("--export", help="write every seal and the public keys to this file, as JSON lines")
    ] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="only seals of a higher number")] = 0,
    public_key: PublicKeyOption = None,
) -> None:
    """Show the newest seals, or export all: keep an export where the database's administrators cannot reach it."""
    keys = _public_keys(public_key) if export is not None else {}
    with ledger_as_it_is("fleet-ledger-seals") as connection:
        newest = newest_seal(connection)
        if export is None:
            for seal in [] if newest is None else seals_after(connection, max(after, newest.seal_no - SEALS_SHOWN)):
                typer.echo(
                    f"{seal.seal_no:>8}  {seal.entries:>6} entries  transactions {seal.from_tx} to {seal.to_tx}  "
                    f"key {seal.key_id}  {seal.seal_hash.hex()}"
                )
            if newest is None:
                typer.echo("nothing is sealed yet")
            return
        with export.open("w", encoding="utf-8") as file:
            file.writelines(export_seals(connection, keys, after=after))
    typer.echo(f"{export}: up to seal {0 if newest is None else newest.seal_no}")


def register(app: typer.Typer) -> None:
    ledger_reports.add_to(ledger, app)
    adjust.add_to(ledger)
    app.add_typer(ledger, name="ledger")

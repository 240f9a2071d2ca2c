"""``fleet mirror backfill``: MongoDB's documents into Postgres."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from custody.settings.environment import settings
from custody.store.engine import open_engine
from workers.cli.terminal import shown

if TYPE_CHECKING:
    from pymongo.database import Database
    from sqlalchemy import Engine

    from custody.mirror.backfill import Checked, Summary
    from custody.mirror.backfill import Progress as Done
    from custody.store.mongo import Document


class Rate(ProgressColumn):
    """Documents a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s", style="progress.data.speed")


@contextmanager
def both_stores(application: str) -> "Generator[tuple[Engine, Database[Document]]]":
    """Postgres as the administrator, on a host that may be written to, and MongoDB. What refuses is one sentence, code 2."""
    from pymongo.errors import PyMongoError

    from custody.mirror.backfill import BackfillRefused, require_allowed_host
    from custody.store.mongo import open_mongo

    configured = settings()
    engine = open_engine(configured.secret("database_admin_url"), application=application, pool_size=2)
    client = open_mongo(configured.secret("mongo_url"), application=application)
    try:
        require_allowed_host(engine, configured.backfill_database_hosts)
        yield engine, client[configured.mongo_database]
    except BackfillRefused as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    except PyMongoError as error:
        said = str(error).splitlines()[0][:200]
        typer.secho(f"MongoDB did not answer: {said}; run this again, it goes on where it was", fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        client.close()
        engine.dispose()


def backfill(
    collection: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="ISO", help="only documents changed from then on, e.g. 2026-06-01T00:00:00Z")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="documents a transaction")] = 1_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="read and check every document; write nothing")] = False,
) -> None:
    """Bring every document of MongoDB into Postgres. Safe to repeat; stopped, it goes on where it was.

    Rows that exist follow MongoDB in what it owns; money, ledger and addresses are never rewritten. What cannot be brought over
    is a gap (fleet gaps list). Needs DATABASE_ADMIN_URL on a host of BACKFILL_DATABASE_HOSTS, MONGO_URL and MONGO_DATABASE. Exit
    code 1 if a document was refused.
    """
    from custody.mirror.backfill import backfill as run
    from custody.mirror.backfill import check, chosen_of, heal

    moment = _moment(since)
    chosen = collection or []
    with both_stores("fleet-mirror-backfill") as (engine, database):
        console = Console()
        sizes = {name: database[name].estimated_document_count() for name in chosen_of(chosen)}
        if dry_run:
            with _drawn(console, sizes) as said:
                found = check(engine, database, collections=chosen, since=moment, batch=batch, said=said)
            _print_checked(console, found)
            refused = sum(each.refused for each in found)
        else:
            with _drawn(console, sizes) as said:
                done = run(engine, database, collections=chosen, since=moment, batch=batch, said=said)
            healed = heal(engine, database, [each.collection for each in done])
            refused = _print_done(console, done, healed)
    if refused:
        raise typer.Exit(1)


def _moment(since: str | None) -> datetime | None:
    if since is None:
        return None
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        typer.secho(f"since: expected a time such as 2026-06-01T00:00:00Z, got {since[:40]!r}", fg="red", err=True)
        raise typer.Exit(2) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def _drawn(console: Console, sizes: dict[str, int]) -> "Generator[Callable[[Done], None]]":
    """A bar for the collection at hand; one line each when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {}

        def said(done: "Done") -> None:
            key = (done.collection, done.stage)
            if key not in tasks:
                name = done.collection if done.stage == "documents" else f"{done.collection}: later references"
                # What an earlier run did is no part of this one's rate.
                tasks[key] = progress.add_task(name, total=max(sizes.get(done.collection, 0), done.seen) or 1)
            progress.update(tasks[key], completed=done.seen, total=done.seen if done.is_finished else None)
            if done.is_finished:
                progress.update(tasks[key], visible=False)

        yield said


def _print_done(console: Console, done: "list[Summary]", healed: int) -> int:
    table = Table(
        "collection",
        *(Column(name, justify="right") for name in ("documents", "new", "changed", "refused")),
        Column("fields that no mapping knows", overflow="fold"),
        box=None,
    )
    refused = 0
    for each in done:
        of_both = each.documents.refused + (each.references.refused if each.references else 0)
        refused += of_both
        table.add_row(
            each.collection,
            f"{each.documents.seen:,}",
            f"{each.documents.inserted:,}",
            f"{each.documents.updated:,}",
            Text(f"{of_both:,}", "red" if of_both else ""),
            shown(", ".join(f"{name} ({count:,})" for name, count in each.unknown.most_common(20))),
        )
    console.print(table)
    refused -= healed
    if healed:
        console.print(f"{healed:,} of those waited for another document, and are brought over now")
    if refused > 0:
        console.print(f"{refused:,} documents are not, or not wholly, in Postgres: fleet gaps list", style="red")
    else:
        console.print("every document is in Postgres", style="green")
    return max(0, refused)


def _print_checked(console: Console, found: "list[Checked]") -> None:
    for each in found:
        unknown = ", ".join(f"{name} ({count:,})" for name, count in each.unknown.most_common(20))
        console.print(f"{each.collection}: {each.seen:,} documents, {each.refused:,} would be refused")
        for reason in each.reasons:
            console.print(Text("  ") + shown(reason))
        if unknown:
            console.print(Text("  fields that no mapping knows: ") + shown(unknown))
    console.print(
        "nothing was written; what Postgres itself would refuse, such as two users with one email, is not among these"
    )


def register(mirror: typer.Typer) -> None:
    """Add the command to ``fleet mirror``."""
    mirror.command()(backfill)

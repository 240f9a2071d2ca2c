"""``fleet mirror verify``: whether MongoDB and Postgres hold the same."""

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from custody.settings.environment import settings
from custody.store.engine import open_engine, ring_relay
from workers.cli.terminal import shown

if TYPE_CHECKING:
    from custody.mirror.agreement import Outcome


def verify(
    collection: Annotated[list[str] | None, typer.Option(help="one collection; repeat it for more")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="each collection and each difference, as JSON")] = False,
    heal: Annotated[bool, typer.Option("--heal", help="put right what may be put right")] = False,
    processes: Annotated[int, typer.Option(min=1, max=64, help="that read MongoDB; 1 starts none")] = 2,
) -> None:
    """Prove that MongoDB and Postgres hold the same: every mapped field of every document. Changes nothing.

    Each store is read at one moment and hashed document by document. What differs is looked at again, as both stores have
    it then, and named: the field, who owns it, and what each store has. A document that is being changed just now, or that
    the mirror is asked to write, waits; it is no difference yet.

    With [bold]--heal[/bold] Postgres takes from MongoDB what MongoDB owns, and the mirror is asked to write again what the
    fleet owns. What the fleet wrote and somebody changed in MongoDB is never taken and never overwritten: with or without
    --heal it becomes a security gap, which is an alarm (R7).

    It connects with DATABASE_ADMIN_URL where that is set, and else with DATABASE_URL; fields that its role may not read,
    such as users' credentials, are left out and said. The schedule does the same all the time, with --heal, as the mirror's
    role.

    [bold]fleet mirror verify --collection payments --collection fundsledgerentries[/bold]

    Exit code 0 when all that was compared is equal, 1 when anything differs or cannot be read (also what was just healed).
    """
    from custody.mirror.agreement import sharing
    from custody.mirror.agreement import verify as verify_collections
    from custody.store.mongo import open_mongo

    configured = settings()
    url = configured.secret("database_url" if configured.database_admin_url is None else "database_admin_url")
    engine = open_engine(url, application="fleet-mirror-verify", pool_size=1)
    mongo_url = configured.secret("mongo_url")
    try:
        with ExitStack() as stack:
            client = stack.enter_context(open_mongo(mongo_url, application="fleet-mirror-verify"))
            shared = None
            if processes > 1:
                made = sharing.processes(mongo_url, configured.mongo_database, processes)
                shared = stack.enter_context(made)
            bar = stack.enter_context(_bar(hidden=as_json))
            outcomes = verify_collections(
                engine, client[configured.mongo_database], collection, heal=heal, sharing=shared, progress=_shower(bar)
            )
        ring_relay(engine)
    except LookupError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps([_as_json(each) for each in outcomes], indent=2))
    else:
        _print(Console(), outcomes)
    if not all(each.is_equal for each in outcomes):
        raise typer.Exit(1)


def _bar(*, hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden)


def _shower(bar: Progress) -> Any:
    tasks: dict[str, Any] = {}

    def show(name: str, done: int, expected: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name)
        bar.update(tasks[name], completed=done, total=max(done, expected))

    return show


def _differences(outcome: "Outcome") -> list[dict[str, Any]]:
    from custody.mirror.agreement import said

    return [
        {
            "document": look.object_id,
            "what": look.verdict.value,
            "reason": look.reason,
            "done": deed.value,
            "fields": [
                {
                    "field": each.name,
                    "owner": each.leaf.owner.value,
                    "mongo": said(each.mongo),
                    "postgres": said(each.postgres),
                }
                for each in look.fields
            ],
        }
        for look, deed in outcome.looks
    ]


def _as_json(outcome: "Outcome") -> dict[str, Any]:
    return {
        "collection": outcome.collection,
        **outcome.counted.as_json(),
        "seconds": round(outcome.seconds, 3),
        "left_out": list(outcome.left_out),
        "read_at_one_moment": outcome.is_snapshot,
        "unnamed": outcome.unnamed,
        "differences": _differences(outcome),
    }


def _print(console: Console, outcomes: "list[Outcome]") -> None:
    for outcome in outcomes:
        for each in _differences(outcome):
            fields = [
                f"{f['field']} ({f['owner']}): MongoDB {f['mongo']}, Postgres {f['postgres']}" for f in each["fields"]
            ]
            said = "; ".join(fields) or each["reason"]
            console.print(shown(f"{outcome.collection} {each['document']}: {each['what']}; {each['done']}; {said}"))
        if outcome.unnamed:
            console.print(f"{outcome.collection}: {outcome.unnamed} more differ; the next run names them", style="red")
        if outcome.left_out:
            console.print(
                f"{outcome.collection}: not compared, since this role may not read it: {', '.join(outcome.left_out)}"
            )
    names = ("documents", "rows", "equal", "different", "unreadable", "waiting", "seconds")
    table = Table("collection", *(Column(name, justify="right") for name in names), box=None)
    for outcome in outcomes:
        numbers = [str(count) for count in outcome.counted.as_json().values()]
        style = None if outcome.is_equal else "red"
        table.add_row(outcome.collection, *numbers, f"{outcome.seconds:.1f}", style=style)
    console.print(table)


def register(mirror: typer.Typer) -> None:
    """Add the command to ``fleet mirror``."""
    mirror.command()(verify)

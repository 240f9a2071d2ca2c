"""``make bench``: run every benchmark (or one), print a table, write benchmarks/latest.json."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.measure import Benchmark, Row, renewed

OUTPUT = Path(__file__).with_name("latest.json")
_PREFIX = "bench_"


def available() -> dict[str, Benchmark]:
    """Every ``bench_NAME`` module's ``rows``, by NAME."""
    names = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return {
        name.removeprefix(_PREFIX): importlib.import_module(f"benchmarks.{name}").rows
        for name in sorted(names)
        if name.startswith(_PREFIX)
    }


def main(only: Annotated[str | None, typer.Option(help="one benchmark's name")] = None) -> None:
    """Measure against named peers. Exit code 1 if a goal is missed."""
    console = Console()
    found = available()
    if only is not None and only not in found:
        console.print(f"no benchmark is called {only}; there are: {', '.join(found)}", style="red")
        raise typer.Exit(2)
    rows: list[Row] = []
    with console.status("measuring") as status:
        for name, benchmark in found.items():
            if only in (None, name):
                rows += benchmark(status.update)
    table = Table("area", "name", "ours", "peer", "ratio", "goal", "met")
    for row in rows:
        table.add_row(
            row.area,
            row.name,
            f"{row.ours:,.1f} {row.unit}",
            f"{row.peer:,.1f} {row.peer_name}",
            f"{row.ratio:.2f}",
            row.goal,
            "yes" if row.met else "NO",
            style=None if row.met else "red",
        )
    console.print(table)
    before = [] if only is None or not OUTPUT.exists() else json.loads(OUTPUT.read_text(encoding="utf-8"))
    OUTPUT.write_text(json.dumps(renewed(before, rows), indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {OUTPUT}")
    if not all(row.met for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

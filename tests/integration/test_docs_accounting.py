"""docs/accounting.md shows what its example prints, and the example prints what the ledger does."""

import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from tests.conftest import Database

DOCS = Path(__file__).parents[2] / "docs"


def run_example(database: Database) -> str:
    """The example, as docs/accounting.md says to run it."""
    result = subprocess.run(
        [sys.executable, str(DOCS / "examples" / "accounting.py"), database.url()],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_example_prints_its_out_file_and_leaves_nothing(database: Database) -> None:
    assert run_example(database) == (DOCS / "examples" / "accounting.out").read_text()
    with database.engine().connect() as connection:
        left = connection.execute(text("SELECT count(*) FROM public.funds_ledger_entries")).scalar_one()
    assert left == 0


def test_the_page_shows_every_statement_of_the_example() -> None:
    page = (DOCS / "accounting.md").read_text()
    statements = (DOCS / "examples" / "accounting.out").read_text().strip().split("\n\n\n")
    printed = [line for line in "\n".join(statements).splitlines() if line.strip()]
    assert len(printed) > 20
    assert [line for line in printed if line.strip() not in page] == []

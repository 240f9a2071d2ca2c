"""No float comes near an amount (design rule 4): in the rooms that handle money, binary fractions measure time alone."""

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("custody", "tasks", "workers/signer")
TIME = re.compile(
    r"seconds|timeout|wait|deadline|until|read_at|retry_at_seconds|nodes_at|progress_at|clock|pause|started|period",
    re.IGNORECASE,
)
FOLDER = re.compile(r"path|folder|directory|root|files\(", re.IGNORECASE)
SQL_FLOAT = re.compile(r"\b(double\s+precision|float[48]?|real)\b", re.IGNORECASE)

BOUNDS = {"default", "ge", "gt", "le", "lt", "max", "min", "multiplier"}
"""Keywords that say nothing of what they bound: what they stand in does."""

PARTS = (ast.AnnAssign, ast.Assign, ast.AugAssign, ast.arg, ast.keyword, ast.FunctionDef, ast.Return, ast.Expr, ast.If)


def floats(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each float that is not plainly a time, and of each true division that makes one."""
    parents: dict[ast.AST, ast.AST] = {}
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            parents[child] = parent
    for node in ast.walk(tree):
        is_literal = isinstance(node, ast.Constant) and isinstance(node.value, float | complex)
        is_name = isinstance(node, ast.Name) and node.id == "float"
        is_division = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
        if not (is_literal or is_name or is_division):
            continue
        around: ast.AST = node
        refuses = False
        while around in parents and not (isinstance(around, PARTS) and getattr(around, "arg", None) not in BOUNDS):
            around = parents[around]
            refuses |= isinstance(around, ast.Call) and ast.unparse(around.func) == "isinstance"
        if refuses:
            continue
        said = ast.unparse(around).splitlines()[0]
        if not (FOLDER if is_division else TIME).search(said):
            yield getattr(node, "lineno", 0), said


@pytest.mark.parametrize("room", ROOMS)
def test_money_is_int_or_decimal(room: str) -> None:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    found = [f"{path.relative_to(ROOT)}:{line}: {said}" for path in paths for line, said in floats(path.read_text())]
    assert found == [], "amounts are int (smallest unit) or Decimal; a float's name says the time it measures"


def test_no_column_or_cast_is_a_float() -> None:
    scripts = sorted((ROOT / "custody").rglob("*.sql"))
    assert scripts
    for script in scripts:
        code = re.sub(r"--.*", "", script.read_text())
        assert SQL_FLOAT.search(code) is None, script


@pytest.mark.parametrize(
    "line",
    [
        "amount = 0.1",
        "amount: float = 1",
        "def pay(amount: float) -> None: ...",
        "total = float(amount)",
        "fee = amount / 2",
        "share /= 3",
        "pay(amount=1.5)",
        "return value * 1e18",
    ],
)
def test_a_float_near_an_amount_would_be_found(line: str) -> None:
    assert list(floats(f"def f():\n    {line}"))


@pytest.mark.parametrize(
    "line",
    [
        "WAIT_SECONDS: Final = 0.5",
        "def ask(timeout: float = 2.0) -> None: ...",
        "if isinstance(amount, float): raise TypeError",
        "path = folder / 'name'",
        "half = amount // 2",
    ],
)
def test_times_folders_and_refusals_are_left_alone(line: str) -> None:
    assert not list(floats(f"def f():\n    {line}"))


LONG = Decimal("12345678901234567890.123456789012345678")  # as numeric(38,18) holds it


def test_arithmetic_is_exact_in_every_thread() -> None:
    """Python's own 28 digits would round it, in sums and in ``normalize`` alike."""

    def exact() -> list[Decimal]:
        return [LONG.normalize(), LONG + 0, (LONG * 10**18) / 10**18, sum([LONG, -LONG, LONG], Decimal(0))]

    async def in_a_task() -> list[Decimal]:
        return await asyncio.to_thread(exact)

    with ThreadPoolExecutor(1) as pool:
        assert exact() == pool.submit(exact).result() == asyncio.run(in_a_task()) == [LONG] * 4


def test_so_is_it_in_a_process_that_imports_one_room_alone() -> None:
    code = f"import custody.chain.assets, decimal; print(decimal.Decimal('{LONG}').normalize())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(LONG)

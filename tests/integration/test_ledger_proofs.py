"""``fleet ledger``: verify, prove, check-proof and seals, and the verifier of docs/ that imports nothing of ours."""

import ast
import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from custody.ledger.proofs import ProofRefused, check_proof, proof_from_text, prove
from custody.ledger.seal_export import ExportRefused, read_export
from custody.ledger.seal_keys import public_pem
from custody.settings.environment import settings
from tests.conftest import Database
from tests.ledger_book import move
from tests.sealed_ledger import SealedLedger, keys_of, new_key, sealed_ledger
from workers.cli import ledger as commands

VERIFIER: Final = Path(__file__).parents[2] / "docs" / "verify_proof.py"
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def ledger(module_database: Database) -> SealedLedger:
    """Sealed books, and one entry that is not sealed yet."""
    from decimal import Decimal

    made = sealed_ledger(module_database, payments=4)
    move(made.books[0], "seen", Decimal(1), 0)
    return made


@pytest.fixture
def public_key(ledger: SealedLedger, tmp_path: Path) -> Path:
    path = tmp_path / "public.pem"
    path.write_text(public_pem(new_key().public) + public_pem(ledger.key.public))
    return path


@pytest.fixture
def fleet(ledger: SealedLedger, public_key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a `fleet` command as the operator's role."""
    app = typer.Typer()
    commands.register(app)
    monkeypatch.setenv("DATABASE_URL", ledger.database.url("fleet_operator"))
    monkeypatch.setenv("LEDGER_SEAL_PUBLIC_KEY_FILE", str(public_key))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["ledger", *map(str, arguments)])
    settings.cache_clear()


def proof_of(ledger: SealedLedger, at: int = 20) -> dict[str, Any]:
    with ledger.database.engine("fleet_operator").connect() as connection:
        return prove(connection, ledger.entries()[at])


def independent(*arguments: Path) -> subprocess.CompletedProcess[str]:
    """docs/verify_proof.py in a Python without this project on its path."""
    return subprocess.run(
        [sys.executable, "-I", str(VERIFIER), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )  # fmt: skip


# Whole ----------------------------------------------------------------------------------------------------------------


def test_verify_says_how_much_it_read_and_that_it_is_whole(ledger: SealedLedger, fleet: Run) -> None:
    result = fleet("verify")
    assert result.exit_code == 0, result.output
    assert f"{len(ledger.entries())} entries in 4 books" in result.output
    assert "1 not sealed yet" in result.output
    assert "the ledger is whole" in result.output


def test_verify_names_the_row_and_exits_1(ledger: SealedLedger, fleet: Run) -> None:
    entry = ledger.entries()[5]

    def change(by: int) -> None:
        with ledger.database.engine().begin() as connection:
            connection.execute(text("ALTER TABLE public.funds_ledger_entries DISABLE TRIGGER ALL"))
            connection.execute(
                text("UPDATE public.funds_ledger_entries SET amount = amount + :by WHERE id = :id"),
                {"by": by, "id": entry},
            )

    change(1)
    result = fleet("verify")
    change(-1)
    assert result.exit_code == 1
    assert f"entry {entry}" in result.output
    assert "its content was changed" in result.output
    assert "things are wrong" in result.output
    assert fleet("verify").exit_code == 0


def test_a_seal_held_outside_is_compared_and_verified_from(ledger: SealedLedger, fleet: Run, tmp_path: Path) -> None:
    export = tmp_path / "seals.jsonl"
    assert fleet("seals", "--export", export).exit_code == 0
    assert len(export.read_text().splitlines()) == len(ledger.seals) + 1
    assert fleet("verify", "--held", export).exit_code == 0
    for since in (export, ledger.seals[-1].seal_no):
        result = fleet("verify", "--from", since)
        assert result.exit_code == 0, result.output
        assert "0 of them under 0 seals" in result.output
    with ledger.database.engine().connect() as connection:  # the newest seal is cut off
        connection.execute(text("ALTER TABLE fleet.ledger_seals DISABLE TRIGGER ALL"))
        connection.execute(
            text("CREATE TABLE public.kept AS SELECT * FROM fleet.ledger_seals ORDER BY seal_no DESC LIMIT 1")
        )
        connection.execute(text("DELETE FROM fleet.ledger_seals WHERE seal_no = (SELECT seal_no FROM public.kept)"))
        connection.commit()
        without, with_it = fleet("verify"), fleet("verify", "--held", export)
        connection.execute(text("INSERT INTO fleet.ledger_seals SELECT * FROM public.kept"))
        connection.execute(text("DROP TABLE public.kept"))
        connection.commit()
    assert without.exit_code == 0
    assert with_it.exit_code == 1
    assert f"seal {ledger.seals[-1].seal_no}: you hold this seal and the database does not" in with_it.output


def test_without_a_public_key_nothing_is_verified(fleet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from custody.settings.environment import SettingsError

    monkeypatch.delenv("LEDGER_SEAL_PUBLIC_KEY_FILE")
    settings.cache_clear()
    result = fleet("verify")
    assert isinstance(result.exception, SettingsError)
    assert "--public-key" in str(result.exception)


def test_another_public_key_refuses_every_seal(ledger: SealedLedger, fleet: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(public_pem(new_key().public))
    result = fleet("verify", "--public-key", other)
    assert result.exit_code == 1
    assert f"{len(ledger.seals)} things are wrong" in result.output


def test_seals_are_listed(ledger: SealedLedger, fleet: Run) -> None:
    result = fleet("seals", "--after", len(ledger.seals) - 2)
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()] == [
        seal.seal_hash.hex() for seal in ledger.seals[-2:]
    ]


# Proofs ---------------------------------------------------------------------------------------------------------------


def test_a_proof_is_made_and_checked_without_the_database(
    ledger: SealedLedger, fleet: Run, tmp_path: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof, export = tmp_path / "proof.json", tmp_path / "seals.jsonl"
    fleet("seals", "--export", export)
    for entry in (ledger.entries()[0], ledger.entries()[30]):
        assert fleet("prove", entry, "--out", proof).exit_code == 0
        assert json.loads(fleet("prove", entry).output) == json.loads(proof.read_text())
        assert len(proof.read_bytes()) < 6_000
        done = independent(proof, public_key, export)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"entry {entry} is under seal" in done.stdout
    monkeypatch.delenv("DATABASE_URL")
    settings.cache_clear()
    result = fleet("check-proof", proof, "--public-key", public_key)
    assert result.exit_code == 0, result.output
    assert str(ledger.entries()[30]) in result.output


def test_every_entry_has_a_proof(ledger: SealedLedger) -> None:
    for at in range(len(ledger.entries()) - 1):
        assert check_proof(proof_of(ledger, at), ledger.keys).entry["id"] == str(ledger.entries()[at])


def test_what_is_not_sealed_or_not_there_has_no_proof(ledger: SealedLedger, fleet: Run) -> None:
    for entry, why in ((ledger.entries()[-1], "is not sealed yet"), (uuid4(), "there is no entry")):
        result = fleet("prove", entry)
        assert result.exit_code == 1
        assert why in result.output


def bent(value: Any) -> list[Any]:
    """Other values in the place of ``value``."""
    if value is None:
        return ["", "0"]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, str(value), float(value), True]
    if isinstance(value, str):
        flipped = value[:-1] + ("0" if value[-1:] != "0" else "1")
        return [flipped, value + " ", value.swapcase() if value.swapcase() != value else value + "x", None, ""][
            : 5 if value else 2
        ]
    return [None]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()  # pyright: ignore[reportUnknownVariableType]
    for key, inner in items:  # pyright: ignore[reportUnknownVariableType]
        yield (*path, key)
        yield from places(inner, (*path, key))


def put(proof: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(proof)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


def taken(proof: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed: Any = copy.deepcopy(proof)
    at = changed
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return changed


def test_a_proof_that_was_changed_anywhere_is_refused(
    ledger: SealedLedger, tmp_path: Path, public_key: Path, fleet: Run
) -> None:
    proof = proof_of(ledger)
    assert proof["path"]
    check_proof(proof, ledger.keys)
    tried = 0
    sample: list[dict[str, Any]] = []
    for path in places(proof):
        value = proof
        for key in path:
            value = value[key]
        variants = [
            put(proof, path, other) for other in bent(value) if other != value or type(other) is not type(value)
        ]
        variants.append(taken(proof, path))
        for changed in variants:
            with pytest.raises(ProofRefused):
                check_proof(changed, ledger.keys)
            tried += 1
        sample.append(variants[0])
    assert tried > 200
    file = tmp_path / "bad.json"
    for changed in sample[:: len(sample) // 12]:
        file.write_text(json.dumps(changed))
        assert independent(file, public_key).returncode == 1
        result = fleet("check-proof", file)
        assert result.exit_code == 1
        assert "refused" in result.output
    for more in ({**proof, "note": "x"}, {**proof, "entry": {**proof["entry"], "note": "x"}}):
        with pytest.raises(ProofRefused):
            check_proof(more, ledger.keys)


def test_the_independent_verifier_refuses_every_changed_field(ledger: SealedLedger, public_key: Path) -> None:
    """In this process, because hundreds of interpreters would take minutes."""
    names: dict[str, Any] = {"__name__": "verify_proof"}
    exec(compile(VERIFIER.read_text(), str(VERIFIER), "exec"), names)
    from cryptography.exceptions import InvalidSignature

    proof, keys = proof_of(ledger), dict(ledger.keys)
    names["check_proof"](proof, keys)
    for path in places(proof):
        value = proof
        for key in path:
            value = value[key]
        for other in bent(value):
            if other == value and type(other) is type(value):
                continue
            with pytest.raises((ValueError, KeyError, TypeError, AttributeError, IndexError, InvalidSignature)):
                names["check_proof"](put(proof, path, other), keys)


def test_a_proof_by_another_key_is_refused(ledger: SealedLedger, tmp_path: Path) -> None:
    other = new_key()
    with pytest.raises(ProofRefused, match="none of yours"):
        check_proof(proof_of(ledger), keys_of(other))
    proof, key = tmp_path / "proof.json", tmp_path / "key.pem"
    proof.write_text(json.dumps(proof_of(ledger)))
    key.write_text(public_pem(other.public))
    assert independent(proof, key).returncode == 1


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "{", "[" * 100_000, '{"format": 1}', " " * 2_000_000])
def test_what_is_no_proof_is_refused(ledger: SealedLedger, content: str) -> None:
    with pytest.raises(ProofRefused):
        check_proof(proof_from_text(content), ledger.keys)


# Exports --------------------------------------------------------------------------------------------------------------


def test_an_export_that_was_changed_or_cut_short_is_refused(
    ledger: SealedLedger, fleet: Run, tmp_path: Path, public_key: Path
) -> None:
    export, proof = tmp_path / "seals.jsonl", tmp_path / "proof.json"
    fleet("seals", "--export", export)
    proof.write_text(json.dumps(proof_of(ledger)))
    lines = export.read_text().splitlines(keepends=True)
    assert [seal.seal_no for seal in read_export(lines, ledger.keys)] == [seal.seal_no for seal in ledger.seals]
    changed = json.dumps(json.loads(lines[3]) | {"entries": 99}) + "\n"
    broken = {
        "cut": lines[:-1],
        "cut in a line": [*lines[:-1], lines[-1][:-9]],
        "without its header": lines[1:],
        "a seal left out": [*lines[:4], *lines[5:]],
        "two seals swapped": [*lines[:3], lines[4], lines[3], *lines[5:]],
        "a seal changed": [*lines[:3], changed, *lines[4:]],
        "a seal twice": [*lines, lines[-1]],
        "empty": [],
        "too long a line": [lines[0], " " * 70_000],
    }
    for what, wrong in broken.items():
        with pytest.raises(ExportRefused):
            read_export(wrong, ledger.keys)
        bad = tmp_path / "bad.jsonl"
        bad.write_text("".join(wrong))
        assert independent(proof, public_key, bad).returncode == 1, what
        assert fleet("verify", "--held", bad).exit_code == 2, what
    with pytest.raises(ExportRefused):
        read_export(lines, keys_of(new_key()))


def test_an_export_may_begin_in_the_middle(ledger: SealedLedger, fleet: Run, tmp_path: Path) -> None:
    export = tmp_path / "later.jsonl"
    assert fleet("seals", "--export", export, "--after", 4).exit_code == 0
    assert read_export(export.read_text().splitlines(), ledger.keys) == ledger.seals[4:]


# The verifier ---------------------------------------------------------------------------------------------------------


def test_the_verifier_is_short_and_imports_nothing_of_ours() -> None:
    source = VERIFIER.read_text()
    assert len(source.splitlines()) <= 100
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"cryptography"}

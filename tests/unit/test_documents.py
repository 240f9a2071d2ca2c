"""README.md and docs/ speak of commands, targets, files, secrets and states that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from workers import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"`([^`\n]+)`|^    (\S.*)$", re.MULTILINE)


def code(page: Path) -> list[str]:
    return [inline or block for inline, block in CODE.findall(page.read_text())]


@pytest.fixture(scope="module")
def commands() -> Any:
    cli.register_commands(None)
    return get_command(cli.app)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_each_command_exists(page: Path, commands: Any) -> None:
    for said in code(page):
        for words in re.findall(r"(?:^|ARGS=')(?:fleet )((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)", said):
            found = commands
            for word in words.split():
                if not hasattr(found, "commands"):
                    break
                assert word in found.commands, f"fleet {words}"
                found = found.commands[word]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_each_option_exists(page: Path, commands: Any) -> None:
    known = set(_options(commands))
    for said in code(page):
        if said.startswith("fleet ") and "--help" not in said:
            for option in re.findall(r"--[a-z][a-z-]+", said.split("#")[0]):
                assert option in known, said


def _options(command: Any) -> list[str]:
    own = [name for parameter in command.params for name in parameter.opts]
    return own + [name for child in getattr(command, "commands", {}).values() for name in _options(child)]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_each_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for said in code(page):
        for target in re.findall(r"(?:^|; )make ([a-z-]+)", said):
            assert target in targets


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_each_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_files_that_compose_needs_are_listed() -> None:
    wanted = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["secrets"])
    page = (ROOT / "docs" / "configure.md").read_text()
    table = page.partition("## Files for docker-compose.yml")[2].partition("\n## ")[0]
    listed = set(
        re.findall(r"`([a-z_.]+)`", "\n".join(line.partition("|")[2].partition("|")[0] for line in table.splitlines()))
    )
    assert listed == wanted


def test_every_state_of_a_delivery_is_explained() -> None:
    schema = (ROOT / "custody/store/migrations/sql/0002_fleet.sql").read_text()
    states = re.search(r"CREATE TABLE fleet\.webhook_deliveries.*?state IN \(([^)]*)\)", schema, re.DOTALL)
    assert states is not None
    page = (
        (ROOT / "docs" / "operate.md")
        .read_text()
        .partition("## Deliveries of payment providers")[2]
        .partition("\n## ")[0]
    )
    assert set(re.findall(r"'([a-z_]+)'", states[1])) <= set(re.findall(r"`([a-z_]+)`", page))

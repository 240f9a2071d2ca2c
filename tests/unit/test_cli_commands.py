"""The ``fleet`` command imports only what the command that is asked for needs, and knows every command."""

import importlib
import subprocess
import sys

import pytest
import typer

from workers.cli import _COMMANDS  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("module", _COMMANDS)
def test_each_module_adds_the_commands_that_are_said_of_it(module: str) -> None:
    app = typer.Typer()
    importlib.import_module(f"workers.cli.{module}").register(app)
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    # What is added to another module's group is said with that group.
    assert names == set(_COMMANDS[module]) - ({"signer"} if module != "signer" else set())


def test_a_command_imports_no_other_commands_module() -> None:
    program = (
        "import sys; sys.argv = ['fleet', 'status', '--help']; from workers.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('workers.cli.')), 'workers.demo.run' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Usage: fleet status" in done.stdout
    assert done.stdout.splitlines()[-1] == "['workers.cli.system'] False"


def test_help_shows_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "workers.cli", "--help"], capture_output=True, text=True, check=True)
    for command in {name for names in _COMMANDS.values() for name in names}:
        assert f" {command} " in done.stdout, command

"""``fleet signer device test``: try a device out, with a key that holds nothing."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from custody.settings.environment import settings
from custody.trezor import DeviceRejected, Prompt
from workers.cli.device_lost import device
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED
from workers.cli.signer.desk import SENTENCES, ask_pin, fail
from workers.signer.device_test import DebugPresses, DeviceReport, try_device

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="write model, firmware and signatures there; - is stdout")
]


@device.command("test")
def try_out(
    json_file: JsonFile = None,
    debug_path: Annotated[
        str | None,
        typer.Option("--debug-path", envvar="TREZOR_TEST_DEBUG_PATH", help="an emulator's debug link, which presses"),
    ] = None,
) -> None:
    """Have the attached device sign one of each kind: coins, a token, a text, a Safe's transaction.

    Nothing of it is worth anything: the account has no role. A Trezor One must refuse the last. Exit codes: 0 all as it
    should be, 2 refused or failed, 3 rejected on the device.
    """
    say = Console(stderr=str(json_file) == "-")
    link = None if debug_path is None else DebugPresses(debug_path)

    def ask(prompt: Prompt) -> None:
        say.print(f"Screen {prompt.number} waits: confirm it on the device.")

    try:
        configured = settings().require("trezor_path")
        report = try_device(
            configured.trezor_path or "",
            press=link or ask,
            tell=lambda name: say.print(f"Signing {name}."),
            approval_timeout_seconds=configured.trezor_approval_timeout_seconds,
            pin_callback=ask_pin,
        )
    except DeviceRejected as error:
        raise fail(error, EXIT_REJECTED) from None
    except SENTENCES as error:
        raise fail(error, EXIT_REFUSED) from None
    finally:
        if link is not None:
            link.close()
    say.print(
        f"{report.model} {report.firmware}: {report.signatures} signatures, {report.as_json()['refused']} refused as they "
        f"must be, {report.skipped} skipped"
    )
    if json_file is not None:
        write_json(report, json_file)


def write_json(report: DeviceReport, path: Path) -> None:
    """The report where ``--json`` says; ``-`` is standard output."""
    said = json.dumps(report.as_json(), indent=2)
    if str(path) == "-":
        typer.echo(said)
    else:
        path.write_text(said + "\n", encoding="utf-8")


def register(_app: typer.Typer) -> None:
    """The group is registered with ``lost``."""

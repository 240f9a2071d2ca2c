"""`python -m workers.embedded.trezor_device`: the software device as a process of its own.

It prints each screen as a person would see it. With `--press ask` it reads y or n, a line each, from stdin.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from workers.embedded.trezor_device.faults import Fault, Press
from workers.embedded.trezor_device.identity import Model
from workers.embedded.trezor_device.screens import Screen
from workers.embedded.trezor_device.seed_file import SecretFileRefused, read_secret_file
from workers.embedded.trezor_device.server import LOOPBACK, SoftwareDevice


def main(
    seed_file: Annotated[Path, typer.Option(help="File of mode 0600 with a BIP-39 mnemonic.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="UDP port; 0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Only 127.0.0.1 is accepted.")] = LOOPBACK,
    press: Annotated[Press, typer.Option(help="Who presses the buttons.")] = Press.ASK,
    pin_file: Annotated[Path | None, typer.Option(help="File of mode 0600 with the PIN's digits.")] = None,
    passphrase_on: Annotated[bool, typer.Option("--passphrase-on", help="Ask for a passphrase.")] = False,
    model: Annotated[Model, typer.Option(help="Which model it is; owners of a Safe need a core model.")] = Model.ONE,
    fault: Annotated[Fault | None, typer.Option(help="What goes wrong.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written as JSON once the port is open.")] = None,
) -> None:
    """Run a software Trezor for the demo and the tests. It holds a seed: never for real money."""
    try:
        seed = " ".join(read_secret_file(seed_file).split())
        pin = read_secret_file(pin_file) if pin_file is not None else None
        if pin is not None and not (pin.isascii() and pin.isdigit() and "0" not in pin):
            raise ValueError("the PIN file: expected digits 1 to 9")
        device = SoftwareDevice(
            seed,
            host=host,
            port=port,
            pin=pin,
            passphrase_on=passphrase_on,
            buttons=press,
            fault=fault,
            on_screen=_print_screen,
            model=model,
        )
    except (SecretFileRefused, ValueError, OSError) as error:
        typer.echo(f"software device not started: {error}", err=True)
        raise typer.Exit(2) from error

    def stop(_number: int, _frame: object) -> None:
        device.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if press is Press.ASK:
        threading.Thread(target=_read_presses, args=(device,), daemon=True).start()
    if ready_file is not None:
        _write_ready_file(ready_file, device)
    typer.echo(f"software device at {device.path}")
    sys.stdout.flush()
    device.serve()
    device.stop()


def _print_screen(screen: Screen) -> None:
    width = max(18, *(len(line) for line in screen))
    edge = f"+{'-' * (width + 2)}+"
    typer.echo("\n".join([edge, *(f"| {line:<{width}} |" for line in screen), edge]))
    sys.stdout.flush()


def _read_presses(device: SoftwareDevice) -> None:
    for line in sys.stdin:
        answer = line.strip().lower()
        if answer in ("y", "yes", "n", "no"):
            device.press(confirm=answer.startswith("y"))


def _write_ready_file(path: Path, device: SoftwareDevice) -> None:
    # Renamed into place, so that a reader sees it whole or not at all.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"path": device.path, "port": device.port, "pid": os.getpid()}))
    partial.replace(path)


if __name__ == "__main__":
    typer.run(main)

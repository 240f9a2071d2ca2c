"""The software device as a process of its own, and its seed file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from custody.trezor import (
    open_device,
)
from tests.trezor_account import ADDRESS, FIRST_PATH, SEED, TRANSFER
from workers.embedded.trezor_device import SoftwareDevice, create_seed_file, read_secret_file
from workers.embedded.trezor_device.seed_file import SecretFileRefused


def test_only_loopback_and_only_private_seed_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
        SoftwareDevice(SEED, host="0.0.0.0")
    with pytest.raises(ValueError, match="mnemonic"):
        SoftwareDevice("all all all")
    seed_file = tmp_path / "seed"
    create_seed_file(seed_file)
    assert len(read_secret_file(seed_file).split()) == 24
    with pytest.raises(FileExistsError):
        create_seed_file(seed_file)
    seed_file.chmod(0o604)
    with pytest.raises(SecretFileRefused, match="chmod 600"):
        read_secret_file(seed_file)
    (tmp_path / "link").symlink_to(seed_file)
    with pytest.raises(SecretFileRefused):
        read_secret_file(tmp_path / "link")


@pytest.mark.simulator_only
def test_the_process_serves_shows_its_screens_and_stops(tmp_path: Path) -> None:
    seed_file, ready_file = tmp_path / "seed", tmp_path / "ready.json"
    seed_file.touch(mode=0o600)
    seed_file.write_text(SEED + "\n")
    command = [sys.executable, "-m", "workers.embedded.trezor_device", "--seed-file", str(seed_file)]
    refused = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "127.0.0.1" in refused.stderr
    process = subprocess.Popen(
        [*command, "--press", "yes", "--ready-file", str(ready_file)], stdout=subprocess.PIPE, text=True
    )
    with process, _ended(process):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("software device at udp:127.0.0.1:")
        path = str(json.loads(ready_file.read_text())["path"])
        with open_device(path, expected_address=ADDRESS, derivation_path=FIRST_PATH) as opened:
            assert TRANSFER.recover(opened.sign_transaction(TRANSFER)) == ADDRESS
        process.send_signal(signal.SIGTERM)
        lines = process.stdout.read().splitlines()
        assert process.wait(30) == 0
    assert "| 1,234.5            |" in lines
    assert not any("all all" in line for line in lines)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Generator[None]:
    try:
        yield
    finally:
        process.kill()

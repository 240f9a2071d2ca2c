"""A list of sanctioned addresses is whole and exact, or it is refused with the field and what was expected."""

import subprocess
from pathlib import Path

import pytest

from custody.payments.sanctions_lists import FILE_MAXIMUM_BYTES, SanctionsListRefused, read_list

FIRST, SECOND = "0x8589427373D6D84E98730D7795D8f6f8731FDA16", "0x" + "ab" * 20
GOOD = f'version = 3\nsource = "a test"\naddresses = ["{FIRST}", "{SECOND}", "{FIRST.lower()}"]\n'


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "list.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_its_hash_is_what_anybody_computes(tmp_path: Path) -> None:
    found = read_list(written(tmp_path, GOOD))
    assert (found.version, found.source) == (3, "a test")
    lines = written(tmp_path, f"{FIRST.lower()}\n{SECOND}\n")
    said = subprocess.run(["sha256sum", lines], capture_output=True, text=True, check=True).stdout
    assert said.startswith(found.hash())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.replace("version = 3", "version = 0"), "version"),
        (GOOD.replace("version = 3", 'version = "3"'), "version"),
        (GOOD.replace('source = "a test"', ""), "source"),
        (GOOD.replace(SECOND, "0x12"), r"addresses.1: address: expected 0x and 40 hex digits"),
        (GOOD.replace(FIRST + '"', FIRST[:-1] + '5"'), r"addresses.0: .*wrong EIP-55 checksum"),
        (GOOD.replace(SECOND, "0x" + "00" * 20), "zero address"),
        ('version = 1\nsource = "s"\naddresses = []\n', "addresses"),
        (GOOD + "country = 1\n", "country"),
        ("<html>", "expected TOML"),
        (b"\xff\xfe", "expected TOML"),
        (b"#" * (FILE_MAXIMUM_BYTES + 1), "at most"),
    ],
)
def test_a_file_that_is_no_list_is_refused_by_its_field(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(SanctionsListRefused, match=words):
        read_list(written(tmp_path, content))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SanctionsListRefused, match="cannot be read: No such file"):
        read_list(tmp_path / "none.toml")

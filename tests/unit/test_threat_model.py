"""docs/custody/threat-model.md names a test for each rule R1 to R25, and each of them exists (R22, R25)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "custody" / "threat-model.md"
ROW = re.compile(r"^\| R(\d+) [^|]+\| `(tests/[^`:]+)(?:::(\w+))?` \| ([^|]+) \|$")
ROWS = [found.groups() for line in PAGE.read_text().splitlines() if (found := ROW.match(line))]


def test_each_rule_has_one_row() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 26))
    assert all(figure.strip() for *_, figure in ROWS)


@pytest.mark.parametrize(("number", "path", "name"), [row[:3] for row in ROWS], ids=[f"R{row[0]}" for row in ROWS])
def test_its_test_exists(number: str, path: str, name: str | None) -> None:
    file = ROOT / path
    assert file.is_file(), f"R{number}: no {path}"
    if name is not None:
        assert re.search(rf"^def {name}\(", file.read_text(), re.MULTILINE), f"R{number}: no {name} in {path}"


INPUT = re.compile(r"^\| [^|]+ \| `(tests/[^`:]+)::(\w+)` \|$")
INPUTS = [found.groups() for line in PAGE.read_text().splitlines() if (found := INPUT.match(line))]


@pytest.mark.parametrize(("path", "name"), INPUTS)
def test_each_bad_input_has_its_test(path: str, name: str) -> None:
    """R24's list."""
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"no {name} in {path}"


def test_the_list_of_bad_input_is_whole() -> None:
    page = PAGE.read_text()
    for words in ("token", "treasury", "ENS", "checksum", "Tron", "TON", "decimals", "remainder", "fees", "expiry",
                  "clock", "32 at once", "revoked", "policy changed", "bootloader", "wiped", "another seed",
                  "two devices", "depth", "v 0 or 1", "another id"):  # fmt: skip
        assert words in page.partition("## Bad input")[2], words
    assert len(INPUTS) >= 17


def test_no_licence_of_the_deny_list_is_installed() -> None:
    """R25, with the rules of ``make check``: a licence that binds whoever imports it is refused by its name."""
    makefile = (ROOT / "Makefile").read_text()
    [rules] = re.findall(r"^LICENCE_RULES := (.+)$", makefile, re.MULTILINE)
    assert "SSPL-1.0" in rules
    command = [
        Path(sys.executable).parent / "pip-licenses",
        *[each.strip('"') for each in re.findall(r'--\S+?="[^"]*"|\S+', rules)],
    ]
    arguments = [str(each).replace('="', "=").rstrip('"') for each in command]
    found = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr

"""The file that ``make test-long`` writes."""

import json
import subprocess
import sys
from pathlib import Path

from tests.counts import merged, write


def test_a_test_s_newer_counts_take_the_place_of_its_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    write(path, "b::test", {"kills": 9, "payments": 50}, 12.34)
    write(path, "a::test", {"posts": 500}, 1)
    write(path, "b::test", {"kills": 10}, 11)
    assert json.loads(path.read_text()) == [
        {"test": "a::test", "what": "posts", "count": 500, "seconds": 1},
        {"test": "b::test", "what": "kills", "count": 10, "seconds": 11},
    ]
    assert merged([], "c", {}, 1) == []


PASSES_AND_FAILS = """
from tests.conftest import *

def test_passes(counts):
    counts("tries", 3)
    counts("tries", 7)

def test_fails(counts):
    counts("tries", 1000)
    assert False
"""
RUN = """
import sys, pathlib, pytest
from tests import counts
import tests.conftest
for how in ("quick", "full"):
    counts.FILE = pathlib.Path(sys.argv[1]) / f"{how}.json"
    counts.FULL = how == "full"
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", sys.argv[2]])
"""


def test_only_what_passed_is_written_and_only_when_all_was_tried(tmp_path: Path) -> None:
    test = tmp_path / "test_counted.py"
    test.write_text(PASSES_AND_FAILS)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", RUN, str(tmp_path), str(test)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, check=False)
    assert ended.stdout.count("1 failed, 1 passed") == 2, ended.stdout + ended.stderr
    (row,) = json.loads((tmp_path / "full.json").read_text())
    assert row["test"].endswith("test_counted.py::test_passes")
    assert (row["what"], row["count"]) == ("tries", 7)
    assert not (tmp_path / "quick.json").exists()

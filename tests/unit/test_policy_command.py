"""``fleet policy`` on files: what it prints and how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.policy import PolicyRefused
from custody.policy.signing import add_signature, document_text
from custody.policy.toml_text import toml_text
from tests.policy_files import SELLER, STRANGER, USDT_BSC, Fleet, key, policy_said, signed
from workers.cli import policy

app = typer.Typer()
policy.register(app)


@app.callback()
def _group() -> None:
    """One group alone would become the whole command."""


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["policy", *arguments])


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> str:
    return Fleet().write(tmp_path)


FIELDS = ("--chain", "56", "--token", USDT_BSC, "--beneficiary", "seller-1", "--at", "2019-01-16T12:00:00Z")


def test_check_says_what_holds(tmp_path: Path, root: str) -> None:
    result = run("check", str(tmp_path), "--genesis-hash", root)
    assert result.exit_code == 0, result.output
    assert root in result.output
    assert "ada, bob" in result.output
    assert "4 entries" in result.output
    accepted = result.output.split("accepted as ")[1].split()[0]
    assert run("check", str(tmp_path), "--genesis-hash", root, "--accepted", accepted).exit_code == 0


def test_check_refuses_with_the_field(tmp_path: Path, root: str) -> None:
    result = run("check", str(tmp_path), "--genesis-hash", "00" * 32)
    assert (result.exit_code, "genesis.toml: hash: expected" in result.output) == (2, True)
    older = run("check", str(tmp_path), "--genesis-hash", root, "--accepted", f"2:{'11' * 32}")
    assert (older.exit_code, "policy.toml: version: expected 2 or 3, got 1: it is older" in older.output) == (2, True)
    (tmp_path / "policy.toml").write_text((tmp_path / "policy.toml").read_text().replace('"20000"', '"20001"'))
    result = run("check", str(tmp_path), "--genesis-hash", root)
    assert (result.exit_code, "policy.toml.sig: signatures.1: expected the signature" in result.output) == (2, True)


def test_text_is_what_is_signed(tmp_path: Path, root: str) -> None:
    lines = run("text", str(tmp_path / "genesis.toml")).output.splitlines()
    assert lines[:2] == ["POLICY amn1", "genesis v1"]
    assert "".join(lines[2:]) == root


def test_diff_says_it_in_words(tmp_path: Path, root: str) -> None:
    old, new = tmp_path / "policy.toml", tmp_path / "next.toml"
    said = policy_said(root)
    said["rules"][2]["maximum"] = "6000"
    new.write_text(toml_text(said))
    genesis = ("--genesis", str(tmp_path / "genesis.toml"))
    result = run("diff", str(old), str(new), *genesis)
    assert result.exit_code == 1
    assert "loosens: at most at once: 5000 becomes 6000" in result.output
    assert "binds alone 24 hours after it was seen" in result.output
    result = run("diff", str(new), str(old), *genesis)
    assert (result.exit_code, "tightens" in result.output, "binds at once" in result.output) == (0, True, True)
    assert run("diff", str(old), str(old), *genesis).output == "nothing changes\n"


def test_simulate_one_request(tmp_path: Path, root: str) -> None:
    place = (str(tmp_path), "--genesis-hash", root, "--purpose", "release", *FIELDS)
    result = run("simulate", *place, "--to", SELLER, "--amount", "1000", "--approved", "ada", "--approved", "bob")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("allowed by payouts: ")
    assert "1000 USDT of at most 5000 at once" in result.output
    result = run("simulate", *place, "--to", STRANGER, "--amount", "1", "--json")
    assert result.exit_code == 1
    decided = json.loads(result.output)
    assert (decided["outcome"], decided["rule"]) == ("denied", "genesis:known-recipient")
    assert {word["rule"] for word in decided["words"]} > {"payouts", "usdt-a-day"}


def test_simulate_counts_what_it_allowed_before(tmp_path: Path, root: str) -> None:
    line = {
        "purpose": "release",
        "chain": 56,
        "token": USDT_BSC,
        "to": SELLER,
        "beneficiary": "seller-1",
        "approved": ["ada", "bob"],
        "at": "2019-01-16T12:00:00Z",
    }
    path = tmp_path / "requests.jsonl"
    amounts = ["5000", "3000.5", "3000", "0.000000000000000001"]
    path.write_text("\n".join(json.dumps(line | {"amount": amount}) for amount in amounts))
    result = run("simulate", str(tmp_path), "--genesis-hash", root, "--file", str(path), "--json")
    assert result.exit_code == 1
    decided = [json.loads(each) for each in result.output.splitlines()]
    assert [each["outcome"] for each in decided] == ["allowed", "denied", "allowed", "denied"]
    assert {each["rule"] for each in decided if each["outcome"] == "denied"} == {"usdt-a-day-each"}
    table = run("simulate", str(tmp_path), "--genesis-hash", root, "--file", str(path)).output
    assert len(table.splitlines()) == 5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "requests.jsonl: line 1: expected JSON"),
        ("[]", "requests.jsonl: line 1: expected an object"),
        ('{"much": 1}', "requests.jsonl: line 1.much: expected one of amount"),
        ('{"purpose": "release", "chain": 56, "amount": "1.5.5"}', "line 1.amount: expected whole tokens"),
        ('{"purpose": "release", "chain": 56, "amount": 1e-19}', "line 1.amount: amount: "),
        ('{"purpose": "gift", "chain": 56, "amount": 1}', "line 1.purpose: Input should be"),
        ('{"purpose": "release", "chain": 56, "amount": 1, "at": "today"}', "line 1.at: expected a time"),
        ('{"purpose": "release", "chain": 56, "amount": 1, "at": "2019-01-01T00:00"}', "line 1.at: expected a time"),
        ('{"purpose": "release", "chain": 56, "amount": 1, "approved": ["eve"]}', "line 1.approved: expected a person"),
    ],
)
def test_a_line_that_is_no_request(tmp_path: Path, root: str, line: str, expected: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(line)
    result = run("simulate", str(tmp_path), "--genesis-hash", root, "--file", str(path))
    assert result.exit_code == 2
    assert expected in result.output


def test_signatures_are_added_one_by_one(tmp_path: Path, root: str) -> None:
    path = tmp_path / "policy.toml"
    (tmp_path / "policy.toml.sig").unlink()
    made = {person: signed(document_text(path), person)[0].signature for person in ("bob", "cyd")}
    counts = [add_signature(path, key(person).address, made[person]) for person in ("bob", "cyd", "cyd")]
    assert counts == [1, 2, 2]
    result = run("check", str(tmp_path), "--genesis-hash", root)
    assert (result.exit_code, "bob, cyd" in result.output) == (0, True)
    with pytest.raises(PolicyRefused, match=r"policy\.toml\.sig: signature: expected one of"):
        add_signature(path, key("ada").address, made["bob"])


# Break-glass (R15) -----------------------------------------------------------------------------------------------------


@pytest.fixture(name="three")
def _three(tmp_path: Path) -> str:
    """From 1000 on three persons must approve."""
    rules: list[dict[str, Any]] = policy_said("00" * 32)["rules"]
    rules = [
        {**each, "tiers": [{"from": "0", "k": 1}, {"from": "1000", "k": 3}]} if each["kind"] == "approvals" else each
        for each in rules
    ]
    return Fleet(rules=rules).write(tmp_path)


def glass(tmp_path: Path, root: str, amount: str, holds: str, *more: str) -> Result:
    place = (str(tmp_path), "--genesis-hash", root, "--purpose", "release", *FIELDS, "--to", SELLER)
    who = ("--approved", "ada", "--approved", "bob")
    return run("simulate", *place, "--amount", amount, *who, "--break-glass", holds, *more)


def test_simulate_says_what_a_planned_break_glass_would_change(tmp_path: Path, three: str) -> None:
    result = glass(tmp_path, three, "1000", "20000")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("needs approvals by by-amount: ")
    assert "with break-glass: allowed by payouts" in result.output
    assert "(2 in place of 3 persons)" in result.output
    assert "open from 2019-01-16 12:00:00 UTC to 2019-01-16 12:50:00 UTC" in result.output
    decided = json.loads(glass(tmp_path, three, "1000", "20000", "--json").output)
    assert (decided["outcome"], decided["with_break_glass"]["outcome"]) == ("needs_approvals", "allowed")


@pytest.mark.parametrize(
    ("amount", "holds", "why"),
    [
        ("2000.5", "20000", "planned does not count: 0 + "),  # more than a tenth of what lies there
        ("10", "20000", "1 person(s) must approve, and it never falls below 2"),
    ],
)
def test_simulate_says_why_a_break_glass_changes_nothing(
    tmp_path: Path, three: str, amount: str, holds: str, why: str
) -> None:
    result = glass(tmp_path, three, amount, holds)
    assert f"break-glass changes nothing: {why}" in result.output


def test_a_planned_break_glass_counts_what_went_out_under_it_and_ends(tmp_path: Path, three: str) -> None:
    line = {
        "purpose": "release",
        "chain": 56,
        "token": USDT_BSC,
        "to": SELLER,
        "beneficiary": "seller-1",
        "amount": "1200",
        "approved": ["ada", "bob"],
    }
    path = tmp_path / "requests.jsonl"
    times = ["12:00", "12:01", "12:49", "12:51"]
    path.write_text("\n".join(json.dumps(line | {"at": f"2019-01-16T{each}:00Z"}) for each in times))
    arguments = (str(tmp_path), "--genesis-hash", three, "--file", str(path), "--break-glass", "24000")
    decided = [json.loads(each) for each in run("simulate", *arguments, "--json").output.splitlines()]
    assert [each["outcome"] for each in decided] == ["needs_approvals"] * 4
    # Two of 1200 are the tenth of 24000; the last comes when it is over.
    assert [each["with_break_glass"]["outcome"] for each in decided] == ["allowed"] * 2 + ["needs_approvals"] * 2
    assert "does not count" in decided[2]["change"]
    assert "none is open at that moment" in decided[3]["change"]


def test_a_break_glass_of_no_amount_is_refused(tmp_path: Path, three: str) -> None:
    result = glass(tmp_path, three, "1000", "much")
    assert (result.exit_code, "--break-glass: amount: expected whole tokens" in result.output) == (2, True)

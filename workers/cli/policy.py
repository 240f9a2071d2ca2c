"""``fleet policy``: whether the files hold, what they say of a request, what a new version changes (R8)."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from custody.chain.assets import NATIVE
from custody.policy import (
    Decision,
    Genesis,
    Policy,
    PolicyRefused,
    SignedFolder,
    Verified,
    load_folder,
    loosens,
    policy_differences,
    read_in_force,
)
from custody.policy.break_glass import BreakGlass
from custody.policy.documents import read_toml, validated
from custody.policy.engine import plain
from custody.policy.signing import document_text
from custody.policy.verified import Accepted
from custody.releases import rows
from custody.releases.approvals import judge_instruction
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from custody.trezor.text_rows import rows_of
from workers.cli.simulated_break_glass import change_in_words, glass_in_words, known_glasses, planned_glass
from workers.cli.simulated_requests import read_lines, replay
from workers.cli.terminal import shown

EXIT_DENIED: Final = 1
EXIT_REFUSED: Final = 2

policy = typer.Typer(help="What the fleet may do with money: signed files, and what they decide.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="holds genesis.toml, policy.toml and address-book.toml")]
GenesisHash = Annotated[
    str, typer.Option("--genesis-hash", help="the first genesis' hash, pinned outside the fleet (64 hex digits)")
]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]


def _refused(error: Exception) -> typer.Exit:
    typer.secho(str(error), fg="red", err=True)
    return typer.Exit(EXIT_REFUSED)


def _load(folder: Path, root: str, accepted: Accepted | None = None) -> Verified:
    try:
        return load_folder(folder, root=root, accepted=accepted, now=datetime.now(UTC))
    except PolicyRefused as error:
        raise _refused(error) from None


def _accepted(value: str | None) -> Accepted | None:
    if value is None:
        return None
    version, _, found = value.partition(":")
    if not (version.isascii() and version.isdecimal() and len(found) == 64):
        raise typer.BadParameter("expected VERSION:HASH, as fleet policy check prints it")
    return Accepted(int(version), found)


@policy.command()
def check(
    folder: Folder,
    genesis_hash: GenesisHash,
    accepted: Annotated[str | None, typer.Option(help="VERSION:HASH of the policy that was accepted last")] = None,
) -> None:
    """Verify the three files: forms, versions, signatures. Exit code 2 with the file, the field and what was expected."""
    verified = _load(folder, genesis_hash, _accepted(accepted))
    genesis, found = verified.genesis, verified.policy
    table = Table("file", "version", Column("hash", overflow="fold"), "signed by", box=None)
    table.add_row("genesis", str(genesis.genesis.version), genesis.hash, ", ".join(genesis.signed_by))
    table.add_row("policy", str(found.policy.version), found.hash, ", ".join(found.signed_by))
    entries = verified.book.entries
    table.add_row("address book", f"{len(entries)} entries", verified.book.head, "")
    console = Console()
    console.print(table)
    console.print(
        f"environment {genesis.genesis.environment}, k is {genesis.genesis.k}; "
        f"{len(found.policy.rules)} rules; accepted as {found.policy.version}:{found.hash}",
        soft_wrap=True,
    )


@policy.command()
def text(path: Annotated[Path, typer.Argument(help="a genesis.toml, policy.toml or prices.toml")]) -> None:
    """The text that approvers sign, row by row as the device shows it."""
    try:
        for row in rows_of(document_text(path)):
            typer.echo(row.rstrip())
    except PolicyRefused as error:
        raise _refused(error) from None


@policy.command()
def diff(
    old: Annotated[Path, typer.Argument(help="the policy that binds")],
    new: Annotated[Path, typer.Argument(help="the next one")],
    genesis: Annotated[Path, typer.Option(help="the genesis.toml of both")],
) -> None:
    """Say in words what becomes allowed or forbidden. Exit code 1 if anything loosens: it then binds after 24 hours.

    Signatures are not asked for: this is read before signing.
    """
    try:
        facts = validated(Genesis, read_toml(genesis), file=genesis.name)
        before, after = (validated(Policy, read_toml(path), file=path.name) for path in (old, new))
    except PolicyRefused as error:
        raise _refused(error) from None
    differences = policy_differences(before, after, facts)
    console = Console()
    if not differences:
        console.print("nothing changes")
        return
    for each in differences:
        word = "loosens" if each.loosens else "tightens"
        console.print(shown(f"{word}: {each.sentence}"), style="red" if each.loosens else "green", soft_wrap=True)
        console.print(shown(f"    {'; '.join(each.where)}"), style="dim", soft_wrap=True)
    if loosens(differences):
        console.print("binds alone 24 hours after it was seen; until then both bind, the stricter one decides")
        raise typer.Exit(EXIT_DENIED)
    console.print("binds at once")


@policy.command()
def simulate(
    folder: Folder,
    genesis_hash: GenesisHash,
    purpose: Annotated[
        str | None, typer.Option(help="release, refund, sweep, adjustment, gas_funding or fee_payout")
    ] = None,
    chain: Annotated[int | None, typer.Option(help="the chain's id")] = None,
    token: Annotated[str, typer.Option(help="the token's address, or native")] = NATIVE,
    to: Annotated[str | None, typer.Option(help="the recipient's address")] = None,
    amount: Annotated[str | None, typer.Option(help="whole tokens, as 250.5")] = None,
    by: Annotated[str, typer.Option(help="who asks for it")] = "nobody",
    beneficiary: Annotated[str | None, typer.Option(help="the marketplace user who is to be paid")] = None,
    buyer_signed: Annotated[bool, typer.Option("--buyer-signed", help="the buyer signed the recipient")] = False,
    approved: Annotated[list[str] | None, typer.Option(help="an approver's person or address; repeatable")] = None,
    at: Annotated[str | None, typer.Option(help="when, as 2030-01-31T12:00:00Z; default now")] = None,
    file: Annotated[
        Path | None, typer.Option(help="JSON lines: requests in their order, each allowed one counts as handed out")
    ] = None,
    break_glass: Annotated[
        str | None,
        typer.Option(
            help="as if a break-glass opened at the first request's moment for its token: what the treasury has of it, as 25000"
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="with the break-glasses of the database, open or still to open (DATABASE_URL)"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the policy decides of a request, and every rule's word. Exit code 1 if any is denied.

    In a file each line has the fields of a request (amount in whole tokens), and maybe ``at`` and ``approved``. With
    [bold]--break-glass[/bold] or [bold]--live[/bold] it says too what a break-glass changes, or why it changes nothing (R15).
    """
    verified = _load(folder, genesis_hash)
    fields = {
        "purpose": purpose,
        "chain": chain,
        "token": token,
        "to": to,
        "amount": amount,
        "by": by,
        "beneficiary": beneficiary,
        "buyer_signed": buyer_signed,
        "approved": approved or [],
        "at": at,
    }
    try:
        lines = [fields] if file is None else read_lines(file)
        name = "request" if file is None else file.name
        decisions = replay(lines, verified, name)
        glasses = _known_glasses(verified) if live else []
        if break_glass is not None:
            glasses.append(planned_glass(lines, verified, name, break_glass))
        changed = replay(lines, verified, name, glasses) if live or break_glass is not None else []
    except PolicyRefused as error:
        raise _refused(error) from None
    changes = [change_in_words(*pair) for pair in zip(decisions, changed, strict=False)]
    if as_json:
        for number, decision in enumerate(decisions):
            glass = {"with_break_glass": decision_json(changed[number]), "change": changes[number]} if changes else {}
            typer.echo(json.dumps({**decision_json(decision), **glass}))
    elif file is None:
        print_decision(decisions[0])
    else:
        table = Table("line", "amount", "decision", "by rule", Column("because", overflow="fold"), box=None)
        for number, decision in enumerate(decisions, start=1):
            table.add_row(
                str(number),
                plain(decision.amount),
                shown(decision.outcome),
                shown(decision.rule),
                shown(decision.sentence),
                style=_STYLE[decision.outcome],
            )
        Console().print(table)
    if not as_json:
        for glass in glasses:
            typer.echo(shown(glass_in_words(glass, glasses)))
        for number, change in enumerate(changes, start=1):
            typer.echo(shown(change if file is None else f"line {number}: {change}"))
    if any(decision.outcome == "denied" for decision in decisions):
        raise typer.Exit(EXIT_DENIED)


@policy.command()
def why(
    instruction: Annotated[UUID, typer.Argument(help="a release instruction's id")],
    folder: Folder,
    genesis_hash: GenesisHash,
    as_json: AsJson = False,
) -> None:
    """Say which rule decides a release instruction of the database now, with its approvals. It changes nothing."""
    engine = open_engine(settings().secret("database_url"), application="fleet-policy", pool_size=1)
    try:
        with transaction(engine) as connection:
            now = rows.now(connection)
            in_force = read_in_force(connection, SignedFolder(folder, genesis_hash), now)
            found = rows.select(connection, "i.id = :id", {"id": instruction})
            if not found:
                raise _refused(LookupError(f"there is no release instruction {instruction}"))
            decision = judge_instruction(connection, found[0], in_force, now)
    except PolicyRefused as error:
        raise _refused(error) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _refused(PolicyRefused("fleet.release_instructions", str(first["loc"][0]), first["msg"])) from None
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(decision_json(decision)))
    else:
        print_decision(decision)
    if decision.outcome == "denied":
        raise typer.Exit(EXIT_DENIED)


def _known_glasses(verified: Verified) -> list[BreakGlass]:
    engine = open_engine(settings().secret("database_url"), application="fleet-policy", pool_size=1)
    try:
        with transaction(engine) as connection:
            return known_glasses(connection, verified)
    finally:
        engine.dispose()


_STYLE: Final = {"allowed": "green", "needs_approvals": "yellow", "denied": "red"}


def print_decision(decision: Decision) -> None:
    """A decision as a person reads it: the outcome, then a row a rule."""
    console = Console()
    style = _STYLE[decision.outcome]
    console.print(
        shown(f"{decision.outcome.replace('_', ' ')} by {decision.rule}: {decision.sentence}"),
        style=style,
        soft_wrap=True,
    )
    table = Table("rule", "says", Column("because", overflow="fold"), box=None)
    for word in decision.words:
        is_deciding = word.rule == decision.rule
        table.add_row(
            shown(word.rule),
            word.verdict.replace("_", " "),
            shown(word.sentence),
            style=style if is_deciding else ("dim" if word.verdict == "not_concerned" else None),
        )
    console.print(table)
    console.print(f"policy version {decision.policy_version}, {decision.policy_hash}", soft_wrap=True)


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as JSON values; the amount in whole tokens, as text."""
    return {
        "outcome": decision.outcome,
        "rule": decision.rule,
        "because": decision.sentence,
        "amount": plain(decision.amount),
        "approvals_required": decision.approvals_required,
        "approved_by": list(decision.approved_by),
        "words": [{"rule": each.rule, "says": each.verdict, "because": each.sentence} for each in decision.words],
        "policy_version": decision.policy_version,
        "policy_hash": decision.policy_hash,
    }


def register(app: typer.Typer) -> None:
    app.add_typer(policy, name="policy")

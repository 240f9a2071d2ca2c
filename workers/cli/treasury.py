"""``fleet treasury``: where each treasury stands, and the rotation to another one, step by step (R22)."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from custody.chain import ChainClient, ChainUnavailable, WrongChain, connections
from custody.chain.addresses import InvalidAddress
from custody.chain.nodes import ChainNodes
from custody.ledger.house import HouseAccountDiffers, ensure_house_account
from custody.policy import Genesis, PolicyRefused
from custody.policy.documents import document_hash, read_toml, validated
from custody.policy.genesis import GenesisChain, Treasury
from custody.policy.succession import rotate_treasury, set_former_state
from custody.policy.verified import GENESIS_FILE
from custody.releases.drains import order_drain
from custody.releases.treasury_standing import SHOWN_INSTRUCTIONS, Standing, treasury_standings
from custody.safe import NotASafe, pins_of, read_safe, safe_differences
from custody.settings.chains import Chain, FormerState, load_chains
from custody.settings.environment import SettingsError, settings
from custody.store.engine import open_engine, ring_relay, transaction
from workers.cli.terminal import shown

EXIT_REFUSED: Final = 2
COLOURS: Final = {"active": "green", "draining": "yellow", "compromised": "bold red", "retired": "dim"}

treasury = typer.Typer(help="The treasuries: where each stands, and the rotation to another one.", no_args_is_help=True)

ChainId = Annotated[int, typer.Argument(metavar="CHAIN", help="the chain's id")]


@treasury.command()
def status(
    chain_id: Annotated[int | None, typer.Argument(metavar="[CHAIN]", help="one chain; default all of them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False,
) -> None:
    """Each treasury with its state, what lies there by the ledger, what is open, and what it waits for.

    States: [bold]active[/bold] takes sweeps and pays; [bold]draining[/bold] takes none and still pays what lies there;
    [bold]compromised[/bold] pays nobody, and is emptied first; [bold]retired[/bold] is empty and only watched.
    Exit code 1 if one is compromised and not empty.
    """
    chains = load_chains(settings().path("chains_file"))
    wanted = chains.chains if chain_id is None else (chains.chain(chain_id),)
    with _database() as connection:
        standings = [each for chain in wanted for each in treasury_standings(connection, chain)]
    if as_json:
        typer.echo(json.dumps([_as_dict(each) for each in standings], indent=2))
    else:
        _print(standings)
    if any(each.state == "compromised" and each.why_not_retired for each in standings):
        raise typer.Exit(1)


@treasury.command()
def rotate(
    chain_id: ChainId,
    to: Annotated[str | None, typer.Option("--to", help="the new treasury's address, with its checksum")] = None,
    device_fingerprint: Annotated[
        str | None, typer.Option(help="of an account: its device's root key fingerprint, 8 hex digits")
    ] = None,
    safe: Annotated[bool, typer.Option("--safe", help="the new treasury is a Safe: it is read from the chain")] = False,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="somebody else may sign for the old one: stop it, empty it first")
    ] = False,
    drain: Annotated[bool, typer.Option("--drain", help="order that what lies at the old one is moved")] = False,
    retire: Annotated[bool, typer.Option("--retire", help="the old one is empty: say so in the next genesis")] = False,
    old: Annotated[str | None, typer.Option("--old", help="which former treasury, where there are several")] = None,
    by: Annotated[str, typer.Option("--by", help="who orders; a label, never an authority")] = "operator",
    folder: Annotated[Path | None, typer.Option(help="a working copy of the signed files; default POLICY_DIR")] = None,
) -> None:
    """Rotate a chain's treasury. Run without options, it says where the rotation stands and what comes next.

    1. [bold]fleet treasury rotate 56 --to 0xNEW --device-fingerprint 0a1b2c3d[/bold] (or --safe): drafts the next genesis, which
    names the new treasury and keeps the old one as draining. k approvers sign it on their devices; then it goes to the
    workers with the chains file that this prints.

    2. Sweeps go to the new one at once. What is promised from the old one is paid from it.

    3. [bold]--drain[/bold] orders the rest moved: an instruction for each payment, approved by k, signed by the old device.

    4. [bold]--retire[/bold], once nothing lies there, nothing is open and every nonce is spent: the next genesis says so.

    [bold]--compromised[/bold] in place of waiting: with --to, or alone for a treasury that is draining already. What no device
    has seen is voided, nobody is paid while coins lie there, and the largest amounts are moved first.

    Nothing binds before k persons have signed. Exit code 2 if anything is refused.
    """
    try:
        chain = load_chains(settings().path("chains_file")).chain(chain_id)
        where = folder or settings().path("policy_dir")
        if sum((to is not None or (compromised and not drain and not retire), drain, retire)) > 1:
            raise PolicyRefused(
                "fleet treasury rotate", "options", "expected one of --to, --compromised, --drain, --retire"
            )
        if to is not None:
            _begin(chain, where, _pins(chain, to, device_fingerprint, is_safe=safe), compromised=compromised)
        elif compromised:
            _set_state(chain, where, _old(chain, old), "compromised")
        elif retire:
            _retire(chain, where, _old(chain, old))
        elif drain:
            _order(chain, _old(chain, old), by)
        else:
            _guide(chain)
    except (PolicyRefused, SettingsError, LookupError, ValueError, ChainUnavailable, WrongChain, NotASafe) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(EXIT_REFUSED) from None


def _pins(chain: Chain, address: str, fingerprint: str | None, *, is_safe: bool) -> dict[str, Any]:
    """What the genesis will say of the new treasury; a Safe is read from the chain, with what none may have refused (R16)."""
    if not is_safe:
        said = {"kind": "eoa", "address": address, "device_fingerprint": fingerprint}
        return validated(Treasury, said, file="--to").model_dump(exclude_none=True, exclude_defaults=True)
    nodes = ChainNodes(chain, [ChainClient(each) for each in connections(chain)])
    try:
        found = read_safe(nodes, address)
    finally:
        nodes.close()
    pins = pins_of(found)
    if faults := safe_differences(found, validated(Treasury, pins, file="--to")):
        raise PolicyRefused(f"the Safe of {chain.name}", address, "; ".join(faults))
    typer.echo(f"it is a Safe, read at block {found.block_number}; compare with what you made:")
    for name, value in (("version", found.version), *pins.items(), ("modules", "none")):
        typer.echo(f"  {name:<20} {', '.join(value) if isinstance(value, list) else value}")
    return pins


def _begin(chain: Chain, folder: Path, pins: dict[str, Any], *, compromised: bool) -> None:
    ended: FormerState = "compromised" if compromised else "draining"
    drafted = rotate_treasury(folder, chain.id, pins, ended, _now())
    if settings().database_url is not None:
        with _database() as connection:
            ensure_house_account(connection, chain.id, pins["address"], "treasury")
    _say_draft(drafted, folder, chain)
    if compromised:
        typer.echo(
            "\nUntil then, at once: fleet pause "
            + f"{chain.id} --by NAME --reason WHY. It stops payouts and sweeps, and keeps "
            "no coins from being moved away once the genesis is signed."
        )


def _set_state(chain: Chain, folder: Path, address: str, state: FormerState) -> None:
    _say_draft(set_former_state(folder, chain.id, address, state, _now()), folder, chain)


def _retire(chain: Chain, folder: Path, address: str) -> None:
    """The ledger says that it is empty, and so do the chain's nodes; only then is anything drafted."""
    with _database() as connection:
        standing = next(each for each in treasury_standings(connection, chain) if each.address == address)
    reasons = [*standing.why_not_retired, *_chain_says(chain, address)]
    if reasons:
        raise PolicyRefused("fleet treasury rotate", address, f"it is not empty: {'; '.join(reasons)}")
    for each in standing.lying:
        typer.echo(f"{each.amount:f} {each.symbol} of the house's own stay there for fees; they stay watched.")
    _set_state(chain, folder, address, "retired")


def _chain_says(chain: Chain, address: str) -> list[str]:
    """What the nodes show there of the chain's tokens: late coins that no book has yet."""
    nodes = ChainNodes(chain, [ChainClient(each) for each in connections(chain)])
    try:
        nodes.require_identity()
        return [
            f"the chain shows {units} units of {token.symbol} there"
            for token in chain.tokens
            if token.address != "native"
            and (units := nodes.any(lambda client, at=token.address: client.token_balance(at, address)))
        ]
    finally:
        nodes.close()


def _order(chain: Chain, address: str, by: str) -> None:
    engine = open_engine(settings().secret("database_url"), application="fleet-treasury", pool_size=1)
    try:
        with transaction(engine) as connection:
            order_drain(connection, chain, address, by=by)
        ring_relay(engine)
    finally:
        engine.dispose()
    typer.echo(
        f"What lies at {address} is moved to {chain.treasury}: an instruction for each payment, the largest first."
    )
    typer.echo("Approvers: fleet signer approve. Then the old treasury's device: fleet signer sign")
    typer.echo(f"Follow it with: fleet treasury status {chain.id}")


def _guide(chain: Chain) -> None:
    with _database() as connection:
        standings = treasury_standings(connection, chain)
    _print(standings)
    former = [each for each in standings if each.state in {"draining", "compromised"}]
    if not former:
        typer.echo(
            f"\nNo rotation is under way. To begin one: fleet treasury rotate {chain.id} --to ADDRESS --device-fingerprint HEX"
        )
    for each in former:
        typer.echo(f"\n{each.address} is {each.state}. Next:")
        for number, wait in enumerate(each.waits, start=1):
            typer.echo(f"  {number}. {wait}")


def _say_draft(drafted: Genesis, folder: Path, chain: Chain) -> None:
    path, history = folder / GENESIS_FILE, folder / "history" / f"genesis-{drafted.version - 1}.toml"
    found = drafted.chain(chain.id)
    assert found is not None
    typer.echo(f"{path} is version {drafted.version}; it binds once {drafted.k} approvers have signed it. Its hash:")
    typer.echo(document_hash("genesis", read_toml(path), file=path.name))
    typer.echo("Each approver, on a machine of their own:")
    typer.echo(f"  fleet policy sign {path} --genesis {history} --as PERSON --device PATH")
    typer.echo(
        f"\nThe chains file of {chain.name} then says, on every machine (and trust.toml of each signer the same):"
    )
    typer.echo("\n".join(f"  {line}" for line in _chains_lines(found)))
    typer.echo(
        "Put both where the workers read them and start watcher, sweeps and releases anew; the keys agent reads it itself."
    )


def _chains_lines(found: GenesisChain) -> list[str]:
    lines = [f'treasury = "{found.treasury.address}"']
    if found.treasury.kind == "safe":
        lines.append(f"safe = {_owners(found.treasury)}")
    lines.append("former_treasuries = [")
    for each in found.former_treasuries:
        owners = f", safe = {_owners(each)}" if each.kind == "safe" else ""
        lines.append(f'    {{ address = "{each.address}", state = "{each.state}"{owners} }},')
    return [*lines, "]"]


def _owners(found: Treasury) -> str:
    owners = ", ".join(f'"{owner}"' for owner in found.owners)
    return f"{{ owners = [{owners}], threshold = {found.threshold} }}"


def _old(chain: Chain, named: str | None) -> str:
    """The former treasury that is meant: the one that is named, else the only one that is not retired."""
    if named is not None:
        return named
    open_ones = [each.address for each in chain.former_treasuries if each.state != "retired"]
    if len(open_ones) != 1:
        raise LookupError(
            f"chain {chain.id} has {len(open_ones)} former treasuries that are not retired: name one with --old"
            + (f" ({', '.join(open_ones)})" if open_ones else "; the chains file names them after a rotation")
        )
    return open_ones[0]


def _print(standings: Sequence[Standing]) -> None:
    console = Console()
    table = Table("chain", "treasury", "kind", "state", "lies there", "open", "sweeps", "waits for")
    for each in standings:
        opened = [f"{one.purpose} {one.state} {one.amount.normalize():f} {one.symbol}" for one in each.instructions]
        more = len(opened) - SHOWN_INSTRUCTIONS
        table.add_row(
            each.chain,
            each.address,
            each.kind,
            f"[{COLOURS[each.state]}]{each.state}[/]",
            "\n".join(f"{one.amount:f} {one.symbol}{' (house)' if one.is_house else ''}" for one in each.lying)
            or "nothing",
            shown("; ".join([*opened[:SHOWN_INSTRUCTIONS], *([f"and {more} more"] if more > 0 else [])]) or "nothing"),
            str(each.sweeps),
            "\n".join(each.waits) or "nothing",
        )
    console.print(table)


def _as_dict(each: Standing) -> dict[str, Any]:
    return {
        "chain_id": each.chain_id,
        "address": each.address,
        "kind": each.kind,
        "state": each.state,
        "lying": [
            {"token": one.token, "symbol": one.symbol, "amount": f"{one.amount:f}", "house": one.is_house}
            for one in each.lying
        ],
        "instructions": [
            {"id": one.id, "purpose": one.purpose, "state": one.state, "amount": f"{one.amount.normalize():f}", "symbol": one.symbol}
            for one in each.instructions
        ],
        "open_sweeps": each.sweeps,
        "open_nonces": each.open_nonces,
        "waits_for": list(each.waits),
        "why_not_retired": list(each.why_not_retired),
    }  # fmt: skip


@contextmanager
def _database() -> Generator[Connection]:
    engine = open_engine(settings().secret("database_url"), application="fleet-treasury", pool_size=1)
    try:
        with transaction(engine) as connection:
            yield connection
    except (HouseAccountDiffers, InvalidAddress) as error:
        raise PolicyRefused("fleet.house_accounts", "address", str(error)) from None
    finally:
        engine.dispose()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def register(app: typer.Typer) -> None:
    app.add_typer(treasury, name="treasury")

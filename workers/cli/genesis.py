"""``fleet genesis init``: the first ceremony, asked step by step; ``fleet policy sign``: an approver's device signs a file."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from custody.chain import ChainClient, ChainUnavailable, WrongChain, connections
from custody.chain.nodes import ChainNodes
from custody.policy import Genesis, PolicyRefused
from custody.policy.documents import NO_HASH, document_hash, read_toml, validated
from custody.policy.genesis import POWERS, TOKEN_DECIMALS_MAXIMUM, Treasury
from custody.policy.signing import add_signature, document_text, signatures_path
from custody.policy.toml_text import toml_text
from custody.policy.verified import GENESIS_FILE
from custody.safe import NotASafe, SafeState, pins_of, read_safe, safe_differences
from custody.settings.chains import Chain, load_chains
from custody.trezor import DeviceError, DeviceRejected, open_device
from custody.trezor.text_rows import rows_of
from workers.cli.policy import EXIT_REFUSED, policy

APPROVAL_ACCOUNT: Final = "m/44'/60'/2'"
"""Approvals have an account of their own: no signature of it is worth anything elsewhere (R6)."""
APPROVAL_PATH: Final = f"{APPROVAL_ACCOUNT}/0/0"
PEOPLE_MAXIMUM: Final = 32  # as many as a genesis may have

genesis = typer.Typer(help="What the fleet is founded on, signed by its approvers.", no_args_is_help=True)


@genesis.callback()
def _group() -> None:
    """Keeps ``init`` a command of its own while it is the only one."""


@genesis.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where genesis.toml is written; it may not hold one")],
    chains_file: Annotated[Path, typer.Option(help="a chains file that the approvers have checked, line by line")],
) -> None:
    """Ask for what founds the fleet, read each approver's device, write genesis.toml and print its hash.

    A treasury that is a Safe is read from the chain. Nothing is signed here: each approver then runs fleet policy sign on a machine of their own.
    """
    target = folder / GENESIS_FILE
    if target.exists():
        raise _refused(PolicyRefused(GENESIS_FILE, "file", f"expected none yet at {target}; a later one is version 2"))
    chains = load_chains(chains_file).chains
    try:
        safes = {chain.id: _read_safe(chain) for chain in chains if chain.safe is not None}
    except (PolicyRefused, NotASafe, ChainUnavailable, WrongChain) as error:
        raise _refused(error) from None
    said: dict[str, Any] = {
        "environment": typer.prompt("environment, four letters or digits"),
        "version": 1,
        "previous": NO_HASH,
        "issued_at": datetime.now(UTC).replace(microsecond=0),
        "k": typer.prompt("k, how many persons sign a file", type=int),
        "address_book": {"entries": 0, "head": NO_HASH},
        "chains": [_chain(chain, safes.get(chain.id)) for chain in chains],
        "deposit_accounts": [_deposit_account()],
    }
    try:
        said["approvers"] = _approvers(said["issued_at"])
        validated(Genesis, said, file=GENESIS_FILE)
    except (PolicyRefused, DeviceError) as error:
        raise _refused(error) from None
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(toml_text(said), encoding="utf-8")
    typer.echo(f"\n{target} is written. Read it aloud to each other. Its hash, to be pinned outside the fleet:")
    typer.echo(document_hash("genesis", said, file=GENESIS_FILE))
    typer.echo(f"Each approver: fleet policy sign {target} --genesis {target} --as PERSON --device PATH")


def _read_safe(chain: Chain) -> SafeState:
    """The Safe as its chain's nodes show it, with everything that no treasury may have refused (R16)."""
    assert chain.safe is not None
    nodes = ChainNodes(chain, [ChainClient(each) for each in connections(chain)])
    try:
        found = read_safe(nodes, chain.treasury)
    finally:
        nodes.close()
    pinned = validated(Treasury, pins_of(found), file=f"the Safe of {chain.name}")
    faults = [*safe_differences(found, pinned)]
    if set(found.owners) != set(chain.safe.owners):
        faults.append(f"its owners are {', '.join(found.owners)}; the chains file names {', '.join(chain.safe.owners)}")
    if found.threshold != chain.safe.threshold:
        faults.append(f"its threshold is {found.threshold}; the chains file says {chain.safe.threshold}")
    if faults:
        raise PolicyRefused(f"the Safe of {chain.name}", chain.treasury, "; ".join(faults))
    return found


def _treasury(chain: Chain, safe: SafeState | None) -> dict[str, Any]:
    if safe is None:
        return {
            "kind": "eoa",
            "address": chain.treasury,
            "device_fingerprint": typer.prompt("the treasury device's root key fingerprint, 8 hex digits"),
        }
    typer.echo(f"it is a Safe, read at block {safe.block_number}; compare with what you made:")
    for name, value in (("version", safe.version), *pins_of(safe).items(), ("modules", "none")):
        typer.echo(f"  {name:<20} {', '.join(value) if isinstance(value, list) else value}")
    return pins_of(safe)


def _chain(chain: Chain, safe: SafeState | None) -> dict[str, Any]:
    typer.echo(f"\nchain {chain.id} ({chain.name}), genesis {chain.genesis_hash}")
    typer.echo(f"treasury {chain.treasury}")
    contracts = [("fee-proxy", chain.fee_proxy), ("native-fee-proxy", chain.native_fee_proxy)]
    return {
        "id": chain.id,
        "name": chain.name,
        "genesis_hash": chain.genesis_hash,
        "treasury": _treasury(chain, safe),
        "contracts": [
            {"name": name, "address": at, "code_hash": typer.prompt(f"keccak-256 of the code of {name} at {at}")}
            for name, at in contracts
            if at is not None
        ],
        "tokens": [
            {
                "symbol": token.symbol,
                "currency": token.symbol,
                "address": token.address,
                "decimals": min(token.decimals, TOKEN_DECIMALS_MAXIMUM),
                "treasury_maximum": f"{token.treasury_maximum:f}",
            }
            for token in chain.tokens
        ],
    }


def _deposit_account() -> dict[str, Any]:
    path = typer.prompt("\nderivation path of the deposit account", default="m/44'/60'/0'")
    xpub = typer.prompt("its xpub")
    return {"name": "first", "path": path, "xpub_sha256": hashlib.sha256(xpub.strip().encode()).hexdigest()}


def _approvers(valid_from: datetime) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    count = min(typer.prompt("\nhow many approvers", type=int), PEOPLE_MAXIMUM)
    for number in range(1, count + 1):
        person = typer.prompt(f"person {number}, as ada")
        path = typer.prompt(f"{person}'s device, as webusb: or udp:127.0.0.1:21324")
        with open_device(
            path, expected_address=None, derivation_path=APPROVAL_PATH, pin_callback=_ask_pin, passphrase=""
        ) as device:
            xpub = device.account_xpub(APPROVAL_ACCOUNT)
            typer.echo(f"{person}: {device.model}, {device.address}")
            found.append(
                {
                    "person": person,
                    "address": device.address,
                    "device_model": device.model,
                    "xpub_sha256": hashlib.sha256(xpub.encode()).hexdigest(),
                    "powers": [*POWERS],
                    "valid_from": valid_from,
                }
            )
    return found


@policy.command("sign")
def sign(
    path: Annotated[Path, typer.Argument(help="a genesis.toml, policy.toml or prices.toml")],
    genesis_file: Annotated[Path, typer.Option("--genesis", help="the genesis that names the approvers")],
    person: Annotated[str, typer.Option("--as", help="who signs")],
    device: Annotated[str, typer.Option(help="the device, as webusb: or udp:127.0.0.1:21324")],
) -> None:
    """Sign a file on an approver's device and put the signature into its .sig file.

    Compare the rows that are printed with what the device shows. Exit code 2 if anything is refused.
    """
    try:
        text = document_text(path)
        facts = validated(Genesis, read_toml(genesis_file), file=genesis_file.name)
        approver = next(
            (each for each in facts.approvers if each.person == person and each.revoked_at is None),
            None,
        )
        if approver is None:
            raise PolicyRefused(genesis_file.name, "approvers", f"expected an active approver {person!r}")
        for row in rows_of(text):
            typer.echo(f"  {row.rstrip()}")
        with open_device(
            device,
            expected_address=approver.address,
            derivation_path=APPROVAL_PATH,
            pin_callback=_ask_pin,
            passphrase="",
        ) as opened:
            signature, _ = opened.sign_message(text)
        count = add_signature(path, approver.address, f"0x{signature.hex()}")
    except (PolicyRefused, DeviceError, DeviceRejected) as error:
        raise _refused(error) from None
    typer.echo(f"{signatures_path(path)}: {count} of {facts.k} signatures")


def _ask_pin() -> str:
    return typer.prompt("PIN: the positions on the grid that the device shows (1 to 9)", hide_input=True)


def _refused(error: Exception) -> typer.Exit:
    typer.secho(str(error), fg="red", err=True)
    return typer.Exit(EXIT_REFUSED)


def register(app: typer.Typer) -> None:
    app.add_typer(genesis, name="genesis")

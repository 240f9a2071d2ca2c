"""``fleet contracts``: our sweeping contracts on each chain: put there by a wallet of the operator's own, and checked (R20)."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.settings.environment import FleetSettings, SettingsError, settings

if TYPE_CHECKING:
    from custody.chain import ChainClient
    from custody.destinations.contracts import SweepContracts
    from custody.destinations.contracts.checking import ContractsCheck
    from custody.settings.chains import Chain, Chains

EXIT_FAULTY: Final = 1

contracts = typer.Typer(
    no_args_is_help=True,
    help="Our sweeping contracts: deployed at one address on every chain, operated by the gas payers, checked.",
)

ChainId = Annotated[int | None, typer.Option("--chain", metavar="ID", help="one chain of the chains file; else all")]
Folder = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="where transactions to be signed are written")]
Operators = Annotated[
    list[str] | None,
    typer.Option(
        "--operator", metavar="ADDRESS", help="a gas payer; may be repeated. Else the keys agent is asked for all"
    ),
]


@dataclass(frozen=True, slots=True)
class _Place:
    """One chain, a client of its first node, and the contracts that its treasury has."""

    chain: "Chain"
    client: "ChainClient"
    contracts: "SweepContracts"


@contracts.command()
def deploy(chain_id: ChainId = None, to: Folder = Path()) -> None:
    """Put the contracts where they are missing; what is there already is left alone.

    On a development chain they are deployed at once. Elsewhere each chain's transaction is written to a file, for any
    wallet of yours to sign: it pays the gas, about 1.3 million, and has no power over what it deploys. Then: fleet contracts
    operators, and fleet contracts check.
    """

    def one(place: _Place) -> Sequence[str]:
        from custody.destinations.contracts import CREATE2_DEPLOYER
        from custody.destinations.contracts.checking import check_contracts, deployer_fault

        if check_contracts(place.client, place.contracts, ()).is_deployed:
            return ("is there",)
        if place.chain.is_development:
            _deploy_on_development_chain(place)
            return ("deployed",)
        fault = deployer_fault(place.client)
        if fault is not None:
            return (fault,)
        path = to / f"deploy-{place.chain.name}.json"
        return (_write(path, place.chain.id, None, CREATE2_DEPLOYER, place.contracts.deployment),)

    _each("deploying", chain_id, one)


@contracts.command()
def operators(chain_id: ChainId = None, to: Folder = Path(), operator: Operators = None) -> None:
    """Have the treasury name the batcher's operators: the gas payers, all of them at once, nobody else.

    Only the treasury can. Its transaction is written to a file: sign it with the treasury's own device, or let a Safe's
    owners, in a wallet of yours. It spends a nonce that the fleet did not give out: the watcher pauses the chain until two
    persons say go on (R5), unless it is done before the fleet's first release. On a development chain it is done at once.
    """
    payers = _payers(operator)

    def one(place: _Place) -> Sequence[str]:
        from custody.destinations.contracts import set_operators_call
        from custody.destinations.contracts.checking import check_contracts

        found = check_contracts(place.client, place.contracts, payers)
        if not found.faults:
            return ("are the gas payers",)
        if not found.is_deployed:
            return found.faults
        if place.chain.is_development:
            _name_on_development_chain(place, payers)
            return ("named",)
        path = to / f"operators-{place.chain.name}.json"
        call = set_operators_call(payers)
        return (_write(path, place.chain.id, place.contracts.treasury, place.contracts.batcher, call),)

    _each("naming operators", chain_id, one)


@contracts.command()
def check(
    chain_id: ChainId = None,
    operator: Operators = None,
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False,
) -> None:
    """Compare code, immutables and operators with the genesis and the gas payers. Exit code 1 if sweeps may not use them."""
    from custody.destinations.contracts.checking import check_contracts

    payers = _payers(operator)
    found: list[ContractsCheck] = []

    def one(place: _Place) -> Sequence[str]:
        found.append(check_contracts(place.client, place.contracts, payers))
        return found[-1].faults or ("is as it must be",)

    _each("checking", chain_id, one, quiet=as_json)
    if as_json:
        typer.echo(json.dumps([_as_dict(each) for each in found], indent=2))
    if any(each.faults for each in found):
        raise typer.Exit(EXIT_FAULTY)


def _each(what: str, chain_id: int | None, work: Callable[[_Place], Sequence[str]], *, quiet: bool = False) -> None:
    """Do ``work`` on every chain and print what it says of each; a chain that does not answer stops no other."""
    from custody.chain import ChainClient, ChainUnavailable, WrongChain, connections
    from custody.destinations.contracts import sweep_contracts
    from custody.settings.chains import load_chains

    chosen = settings().require("chains_file")
    chains = load_chains(chosen.path("chains_file"))
    treasuries = _treasuries(chosen, chains)
    table = Table("chain", "treasury", "batcher", "delegate", Column("state", overflow="fold"))
    console = Console()
    failed = False
    with console.status(what) as status:
        for chain in chains.chains if chain_id is None else [chains.chain(chain_id)]:
            status.update(f"{what}: {chain.name}")
            made = sweep_contracts(treasuries[chain.id])
            client = ChainClient(connections(chain)[0])
            try:
                client.require_identity(chain.id, chain.genesis_hash)
                said: Iterable[str] = work(_Place(chain, client, made))
            except (ChainUnavailable, WrongChain) as error:
                failed, said = True, (str(error),)
            finally:
                client.close()
            table.add_row(f"{chain.name} ({chain.id})", made.treasury, made.batcher, made.delegate, "\n".join(said))
    if not quiet:
        console.print(table)
    if failed:
        if quiet:
            typer.secho("a chain did not answer; see fleet contracts check", fg="red", err=True)
        raise typer.Exit(2)


def _treasuries(chosen: FleetSettings, chains: "Chains") -> dict[int, str]:
    """Each chain's treasury, from the verified genesis (R8). Raises SettingsError where it is not the chains file's."""
    from custody.policy import PolicyRefused, verify_genesis
    from custody.policy.verified import read_genesis_versions

    said = {chain.id: chain.treasury for chain in chains.chains}
    if chosen.policy_dir is None and chosen.genesis_hash is None:
        if chosen.trezor_safekeeping_required or not all(chain.is_development for chain in chains.chains):
            raise SettingsError(
                "POLICY_DIR and GENESIS_HASH are not set: the contracts' treasury is the signed genesis' (R8). On a "
                "development chain alone TREZOR_SAFEKEEPING_REQUIRED=false lets it be the chains file's (R17)"
            )
        return said
    chosen.require("policy_dir", "genesis_hash")
    try:
        verified = verify_genesis(
            read_genesis_versions(chosen.path("policy_dir")), root=chosen.genesis_hash, now=datetime.now(UTC)
        )
    except (PolicyRefused, OSError) as error:
        raise SettingsError(f"the genesis is not believed: {error}") from None
    pinned = {chain.id: chain.treasury.address for chain in verified.genesis.chains}
    for chain in chains.chains:
        if pinned.get(chain.id) != chain.treasury:
            raise SettingsError(
                f"CHAINS_FILE: chain {chain.id} has the treasury {chain.treasury}, the genesis "
                f"{pinned.get(chain.id, 'does not name the chain')}"
            )
    return said


def _payers(given: list[str] | None) -> list[str]:
    """The gas payers: those given, else the keys agent's. Exit code 2 with a sentence when neither can be had."""
    from custody.chain import InvalidAddress, parse_address
    from custody.destinations.keys.client import KeysAgent, KeysAgentAway

    try:
        if given:
            return [parse_address(address, field="--operator", require_checksum=True) for address in given]
        chosen = settings().require("keys_agent_socket")
        assert chosen.keys_agent_socket is not None
        return list(KeysAgent(chosen.keys_agent_socket).identity().gas_payers)
    except (InvalidAddress, KeysAgentAway) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None


def _write(path: Path, chain_id: int, sender: str | None, to: str, data: bytes) -> str:
    """Write an unsigned transaction as wallets take it (eth_sendTransaction's object); say where."""
    transaction = {"chainId": hex(chain_id), "to": to, "value": "0x0", "data": f"0x{data.hex()}"}
    if sender is not None:
        transaction["from"] = sender
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(transaction, indent=1) + "\n", encoding="utf-8")
    return f"to be signed{'' if sender is None else ' by the treasury'}: {path}"


def _deploy_on_development_chain(place: _Place) -> None:
    from workers.demo.development_chain import DevelopmentChain
    from workers.demo.sweep_contracts import deploy_sweep_contracts
    from workers.demo.wallet import Wallet

    chain = DevelopmentChain(place.chain.rpc_urls[0])
    wallet = Wallet.open(chain.rpc_url, chain.new_account())
    try:
        deploy_sweep_contracts(wallet, chain, place.contracts.treasury)
    finally:
        wallet.client.close()
        chain.close()


def _name_on_development_chain(place: _Place, payers: Sequence[str]) -> None:
    from workers.demo.development_chain import DevelopmentChain
    from workers.demo.sweep_contracts import name_operators

    chain = DevelopmentChain(place.chain.rpc_urls[0])
    try:
        name_operators(chain, place.contracts, payers)
    finally:
        chain.close()


def _as_dict(found: "ContractsCheck") -> dict[str, object]:
    return {
        "chain_id": found.chain_id,
        "treasury": found.contracts.treasury,
        "batcher": found.contracts.batcher,
        "delegate": found.contracts.delegate,
        "operators": list(found.operators),
        "faults": list(found.faults),
    }


def register(app: typer.Typer) -> None:
    app.add_typer(contracts, name="contracts")

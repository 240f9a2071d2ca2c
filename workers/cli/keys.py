"""``fleet keys``: the keys of deposits and gas, made, checked, and held by one process."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from custody.settings.environment import SettingsError, load_settings, read_secret_file
from workers.processes import process

keys = typer.Typer(no_args_is_help=True, help="The keys agent: signs sweeps to the treasury and nothing else.")

_SEED_NAME = "deposit_seed"
_PAYERS_NAME = "gas_payer_key"


@keys.command()
def agent() -> None:
    """Run the keys agent in the foreground, with this shell's settings."""
    arguments = process("keys-agent").arguments
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - the table's own arguments, no shell


@keys.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where the two encrypted files are made; nothing is written over")],
    payers: Annotated[int, typer.Option(min=1, max=8, help="gas payers; each sends from a lane of its own")] = 1,
    seed_file: Annotated[
        Path | None, typer.Option("--seed-file", help="take this BIP-39 phrase (mode 0600) instead of making one")
    ] = None,
) -> None:
    """Make the deposit seed and the gas payers' keys, encrypted under the passphrase of KEYS_PASSPHRASE_FILE.

    Shows what others may know: the account's xpub and fingerprint, the payers' addresses. Keep both files and the passphrase
    in different places; whoever has all of them has the keys, and without them nobody has.
    """
    from bip_utils import Bip39MnemonicGenerator, Bip39WordsNum

    from custody.destinations.derivation import DerivationError, seed_from_phrase
    from custody.destinations.keys.key_files import read_passphrase, write_key_file

    try:
        passphrase = read_passphrase(load_settings().require("keys_passphrase_file"))
        if seed_file is None:
            phrase = str(Bip39MnemonicGenerator().FromWordsNumber(Bip39WordsNum.WORDS_NUM_24))
        else:
            phrase = read_secret_file(seed_file, what="--seed-file")
        seed_from_phrase(phrase)
        made = "\n".join(secrets.token_hex(32) for _ in range(payers))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_key_file(folder.joinpath(_SEED_NAME), phrase, passphrase, name="deposit_seed_file")
        write_key_file(folder.joinpath(_PAYERS_NAME), made, passphrase, name="gas_payer_key_file")
    except (SettingsError, DerivationError) as error:
        _refuse(error)
    typer.echo(f"DEPOSIT_SEED_FILE={folder.joinpath(_SEED_NAME)}")
    typer.echo(f"GAS_PAYER_KEY_FILE={folder.joinpath(_PAYERS_NAME)}")
    _show(phrase, made)
    typer.echo(
        "next: back both files up, name the account in the genesis, register and fund each payer; fleet keys check"
    )


@keys.command()
def seal(
    plain: Annotated[Path, typer.Argument(help="a file with the phrases or keys, mode 0600")],
    sealed: Annotated[Path, typer.Argument(help="the encrypted file to make")],
    setting: Annotated[str, typer.Option("--for", help="DEPOSIT_SEED_FILE or GAS_PAYER_KEY_FILE")],
) -> None:
    """Encrypt a key file that exists, as after one line more for a new account or payer. The plain one stays: destroy it."""
    from custody.destinations.keys.key_files import read_passphrase, write_key_file

    try:
        if setting not in {"DEPOSIT_SEED_FILE", "GAS_PAYER_KEY_FILE"}:
            raise SettingsError(f"--for: expected DEPOSIT_SEED_FILE or GAS_PAYER_KEY_FILE, got {setting}")
        passphrase = read_passphrase(load_settings().require("keys_passphrase_file"))
        write_key_file(sealed, read_secret_file(plain, what=str(plain)), passphrase, name=setting.lower())
    except SettingsError as error:
        _refuse(error)
    typer.echo(f"{setting}={sealed}; now destroy {plain}")


@keys.command()
def check() -> None:
    """Open the key files as the agent would, and say whose they are; with a running agent, that it has the same.

    Exit code 2 where a file is missing, can be read by others, does not open, or is not what the agent has.
    """
    from custody.destinations.derivation import DerivationError
    from custody.destinations.keys.client import KeysAgent, KeysAgentAway
    from custody.destinations.keys.key_files import read_key_file, require_sealed

    try:
        settings = load_settings().require("deposit_seed_file", "gas_payer_key_file")
        found = {name: read_key_file(settings, name) for name in ("deposit_seed_file", "gas_payer_key_file")}
        for name, (_, sealed) in found.items():
            require_sealed(name, sealed=sealed, development=not settings.trezor_safekeeping_required)
        accounts, payers = _show(found["deposit_seed_file"][0], found["gas_payer_key_file"][0])
        if settings.keys_agent_socket is None or not settings.keys_agent_socket.exists():
            typer.echo("no keys agent runs here to compare with")
            return
        identity = KeysAgent(settings.keys_agent_socket).identity()
        if (list(identity.accounts), list(identity.gas_payers)) != (accounts, payers):
            raise SettingsError("the running keys agent has other keys than these files: start it again")
    except (SettingsError, DerivationError, KeysAgentAway) as error:
        _refuse(error)
    typer.echo("the running keys agent has the same")


@keys.command()
def status() -> None:
    """Ask the agent who it is: its deposit accounts, its gas payers, and what binds it. Exit code 2 if it is away."""
    from custody.destinations.keys.client import KeysAgent, KeysAgentAway

    settings = load_settings().require("keys_agent_socket")
    assert settings.keys_agent_socket is not None
    try:
        identity = KeysAgent(settings.keys_agent_socket).identity()
    except KeysAgentAway as error:
        _refuse(error)
    for fingerprint in identity.accounts:
        typer.echo(f"deposit account {fingerprint}")
    for payer in identity.gas_payers:
        typer.echo(f"gas payer       {payer}")
    typer.echo(f"bound by        {identity.binding}")


def _show(phrases: str, payer_keys: str) -> tuple[list[str], list[str]]:
    """Print what others may know of these keys; return fingerprints and addresses. Raises SettingsError, DerivationError."""
    from custody.destinations.derivation import account_xpub_from_seed, seed_from_phrase, xpub_fingerprint
    from custody.destinations.keys.vault import payer_address, read_payer_keys

    xpubs = [account_xpub_from_seed(seed_from_phrase(line)) for line in phrases.splitlines() if line.strip()]
    accounts = [xpub_fingerprint(xpub) for xpub in xpubs]
    payers = [payer_address(key) for key in read_payer_keys(payer_keys)]
    for fingerprint, xpub in zip(accounts, xpubs, strict=True):
        typer.echo(f"deposit account {fingerprint}  {xpub}")
    for payer in payers:
        typer.echo(f"gas payer       {payer}")
    return accounts, payers


def _refuse(error: Exception) -> NoReturn:
    typer.secho(str(error), fg="red", err=True)
    raise typer.Exit(2) from None


def register(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys")

"""``fleet signer definitions``: what the device's maker says of chains and tokens, fetched once and checked (R2)."""

from pathlib import Path
from typing import Annotated, Final

import httpx
import typer
from rich.console import Console

from custody.settings.chains import NATIVE, Chain, Token
from custody.settings.environment import SettingsError, settings
from custody.trezor.definitions import (
    FILE_MAXIMUM_BYTES,
    DefinitionRefused,
    network_path,
    read_definitions,
    token_path,
)
from workers.cli.signer.desk import SENTENCES, ChainsFile, chains, fail, signer

MAKERS_SITE: Final = "https://data.trezor.io/firmware/definitions/"
TIMEOUT_SECONDS: Final = 20.0  # a file is some 500 bytes

definitions = typer.Typer(help="The maker's definitions of chains and tokens.", no_args_is_help=True)
signer.add_typer(definitions, name="definitions")

Folder = Annotated[Path | None, typer.Argument(help="default TREZOR_DEFINITIONS_DIR")]


@definitions.command()
def fetch(
    folder: Folder = None,
    source: Annotated[str, typer.Option("--from", help="where they are published")] = MAKERS_SITE,
    chains_file: ChainsFile = None,
) -> None:
    """Fetch what the chains file's chains and tokens need, and check it. The folder can be carried to another machine."""
    try:
        target, known = _folder(folder), chains(chains_file)
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as http:
            for path in (path for chain in known.chains for path in _paths(chain)):
                _fetch(http, source.rstrip("/"), path, target)
    except (*SENTENCES, DefinitionRefused) as error:
        raise fail(error) from None
    check(folder, chains_file)


@definitions.command()
def check(folder: Folder = None, chains_file: ChainsFile = None) -> None:
    """Check the folder without any network: signatures, chain, address, symbol and decimals of each token.

    Exit code 2 when a token's definition is missing or wrong: a device would show its smallest units, if anything.
    """
    try:
        target, known = _folder(folder), chains(chains_file)
    except SENTENCES as error:
        raise fail(error) from None
    wrong = 0
    for chain in known.chains:
        for token in chain.tokens:
            why = _why_wrong(target, chain, token)
            Console().print(
                f"{chain.name} {token.symbol}: {why or 'signed by the maker, says what is pinned'}", soft_wrap=True
            )
            wrong += why is not None
    if wrong:
        raise typer.Exit(2)


def _why_wrong(folder: Path, chain: Chain, token: Token) -> str | None:
    address = None if token.address == NATIVE else token.address
    try:
        read_definitions(folder, chain.id, address, symbol=token.symbol, decimals=token.decimals)
    except DefinitionRefused as error:
        return str(error)
    return None


def _folder(given: Path | None) -> Path:
    found = given or settings().trezor_definitions_dir
    if found is None:
        raise SettingsError("TREZOR_DEFINITIONS_DIR is not set: name a folder")
    return found


def _paths(chain: Chain) -> list[str]:
    tokens = [token.address for token in chain.tokens if token.address != NATIVE]
    return [network_path(chain.id), *(token_path(chain.id, each) for each in tokens)]


def _fetch(http: httpx.Client, source: str, path: str, folder: Path) -> None:
    try:
        with http.stream("GET", f"{source}/{path}") as answer:
            content = bytearray()
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > FILE_MAXIMUM_BYTES:
                    raise DefinitionRefused(f"{source} answers more than a definition for {path}; nothing was kept.")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DefinitionRefused(
            f"{source} does not answer ({type(error).__name__}); try again, or use --from."
        ) from None
    if answer.status_code != 200:
        Console().print(f"{path}: not published ({answer.status_code})", soft_wrap=True)
        return
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    part.replace(target)

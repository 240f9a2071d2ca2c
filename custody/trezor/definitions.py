"""Definitions of networks and tokens that a device does not know by itself, signed by its maker (R2).

A folder holds them as the maker's site does: `eth/chain-id/ID/network.dat` and `eth/chain-id/ID/token-ADDRESS.dat`. What
is read here is checked as the device checks it, so that a wrong file is refused before a person stands at a device: two of
the maker's three keys over a Merkle root (CoSi), and a content that says what the fleet pins. The library's own check
takes the maker's development key (0.20.2), so it is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

FILE_MAXIMUM_BYTES: Final = 4_096  # a definition is some 500 bytes; the device takes no more than 1,024 for each


class DefinitionRefused(Exception):
    """A definition file is missing or not what the device would take. The message is a sentence that names the file."""


@dataclass(frozen=True, slots=True)
class MakerKeys:
    """Who signs definitions: Ed25519 public keys, and how many of them must have."""

    keys: Sequence[bytes]
    required: int


@dataclass(frozen=True, slots=True)
class Definitions:
    """What goes to the device with a transaction. `symbol` and `decimals` are what it will show of the token."""

    network: bytes | None
    token: bytes | None
    symbol: str | None = None
    decimals: int | None = None


def maker_keys() -> MakerKeys:
    """The keys of SatoshiLabs, as the library names them."""
    from trezorlib import definitions as library

    return MakerKeys(library.DEFINITIONS_PUBLIC_KEYS, library.DEFINITIONS_SIGS_REQUIRED)


def network_path(chain_id: int) -> str:
    """Where a chain's definition lies in the folder, and at the maker's site."""
    return f"eth/chain-id/{chain_id}/network.dat"


def token_path(chain_id: int, token: str) -> str:
    """Where a token's definition lies."""
    return f"eth/chain-id/{chain_id}/token-{token.lower().removeprefix('0x')}.dat"


def read_definitions(
    folder: Path, chain_id: int, token: str | None, *, symbol: str, decimals: int, keys: MakerKeys | None = None
) -> Definitions:
    """The definitions of a chain and, unless it is None, of a token, checked. Raises DefinitionRefused.

    `symbol` and `decimals` are what this machine pins for the token: the device must show the same.
    """
    trusted = keys or maker_keys()
    network = _read(folder, network_path(chain_id))
    _check_network(network, network_path(chain_id), chain_id, trusted)
    if token is None:
        return Definitions(network, None)
    path = token_path(chain_id, token)
    encoded = _read(folder, path)
    check_token(encoded, path, chain_id, token, symbol=symbol, decimals=decimals, keys=trusted)
    return Definitions(network, encoded, symbol, decimals)


def check_token(
    encoded: bytes, path: str, chain_id: int, token: str, *, symbol: str, decimals: int, keys: MakerKeys
) -> None:
    """Refuse a token definition that is not the maker's, or says something else. Raises DefinitionRefused."""
    from trezorlib.messages import DefinitionType, EthereumTokenInfo

    said = _verified(encoded, path, DefinitionType.ETHEREUM_TOKEN, EthereumTokenInfo, keys)
    for field, found, expected in (
        ("chain id", said.chain_id, chain_id),
        ("token", "0x" + said.address.hex(), token.lower()),
        ("symbol", said.symbol, symbol),
        ("decimals", said.decimals, decimals),
    ):
        if found != expected:
            raise DefinitionRefused(f"{path} says {field} {found}, this machine pins {expected}; do not use it.")


def _check_network(encoded: bytes, path: str, chain_id: int, keys: MakerKeys) -> None:
    from trezorlib.messages import DefinitionType, EthereumNetworkInfo

    said = _verified(encoded, path, DefinitionType.ETHEREUM_NETWORK, EthereumNetworkInfo, keys)
    if said.chain_id != chain_id:
        raise DefinitionRefused(f"{path} is of chain {said.chain_id}, not {chain_id}; fetch it again.")


def _verified(encoded: bytes, path: str, kind: Any, message: Any, keys: MakerKeys) -> Any:
    """What a definition says, once its signatures hold."""
    from trezorlib import cosi, merkle_tree
    from trezorlib import definitions as library
    from trezorlib.protobuf import load_message

    try:
        parsed = library.Definition.parse(encoded)
        root = merkle_tree.evaluate_proof(parsed.payload.build(), parsed.proof)
        cosi.verify(parsed.signature, root, keys.required, list(keys.keys), parsed.sigmask)
        content = load_message(BytesIO(parsed.payload.data), message)
    except Exception as error:  # the library raises its parser's errors, ValueError and one of its own
        raise DefinitionRefused(
            f"{path} is no definition signed by the device's maker ({type(error).__name__}); fetch it again: "
            "fleet signer definitions fetch"
        ) from None
    if parsed.payload.data_type != kind:
        raise DefinitionRefused(f"{path} is a definition of another kind; fetch it again.")
    return content


def _read(folder: Path, path: str) -> bytes:
    try:
        with (folder / path).open("rb") as file:
            content = file.read(FILE_MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise DefinitionRefused(
            f"{path} is not in {folder}; on a machine with a network: fleet signer definitions fetch"
        ) from None
    except OSError as error:
        raise DefinitionRefused(f"{folder / path} cannot be read: {error.strerror}.") from None
    if len(content) > FILE_MAXIMUM_BYTES:
        raise DefinitionRefused(f"{path} is over {FILE_MAXIMUM_BYTES} bytes: no definition.")
    return content

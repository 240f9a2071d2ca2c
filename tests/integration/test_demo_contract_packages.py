"""Contracts are read out of their npm packages as data, and only in the form their generators write."""

from pathlib import Path

import pytest
from eth_abi.abi import encode

from tests.conftest import STATE_DIR
from workers.demo.contract_packages import (
    CIRCLE_PACKAGE,
    REQUEST_NETWORK_PACKAGE,
    MalformedPackage,
    circle_contract,
    request_network_contract,
)
from workers.demo.contracts import tether_token
from workers.embedded import npm_packages


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    return {name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)}


def test_abi_and_bytecode_are_read_whole(packages: dict[str, Path]):
    build = request_network_contract(packages[REQUEST_NETWORK_PACKAGE], "ERC20FeeProxy")
    # The initcode's length and the selector as measured from the package by JavaScript.
    assert len(build.bytecode) == 2197
    zero = "0x" + "0" * 40
    call = build.calldata("transferFromWithReferenceAndFee", zero, zero, 0, b"", 0, zero)
    assert call[:4].hex() == "c219a14d"


def test_a_package_in_another_form_is_refused(packages: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "types/factories/src/contracts"
    folder.mkdir(parents=True)
    with pytest.raises(MalformedPackage, match="is it the right package and version"):
        request_network_contract(tmp_path, "ERC20FeeProxy")
    for text in (
        "",
        'const _abi = [\n];\nconst _bytecode = require("x");\n',
        "const _abi = [\n{a: b()}\n];\n",
    ):
        (folder / "Odd__factory.js").write_text(text)
        with pytest.raises(MalformedPackage, match="expected `const _abi"):
            request_network_contract(tmp_path, "Odd")
    (folder / "Odd__factory.js").write_text('const _abi = [\nalert(1)\n];\nconst _bytecode =\n "0x00";\n')
    with pytest.raises(MalformedPackage):
        request_network_contract(tmp_path, "Odd")
    with pytest.raises(MalformedPackage, match="needs the address of library SignatureChecker"):
        circle_contract(packages[CIRCLE_PACKAGE], "FiatTokenV2_2", "v2")


def test_constructor_arguments_are_encoded_by_the_abi(packages: dict[str, Path]):
    build = tether_token(packages[REQUEST_NETWORK_PACKAGE])
    arguments = encode(["uint256", "string", "string", "uint256"], [1, "a", "b", 6])
    assert build.initcode(1, "a", "b", 6) == build.bytecode + arguments
    with pytest.raises(ValueError, match=r"noSuch: 0 functions"):
        build.calldata("noSuch")

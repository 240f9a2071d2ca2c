"""Deriving issued addresses again for an audit, against bip-utils' own loop over the same indices.

Ours yields the 20 bytes that an audit compares; bip-utils' loop is its documented one and yields checksum text, so its
bare child derivation, hashed by the same keccak, is shown beside it.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from bip_utils import Bip44, Bip44Changes, Bip44Coins

from benchmarks.measure import Row, compare
from custody.destinations.bulk_derivation import addresses_of
from custody.destinations.derivation import account_xpub_from_seed, address_at

ADDRESSES: Final = 1_000  # a run: a quarter of a second of bip-utils
RUNS: Final = 11
_XPUB: Final = account_xpub_from_seed(bytes(range(64)))
_OURS: Final = addresses_of(_XPUB)
_THEIRS: Final = Bip44.FromExtendedKey(_XPUB, Bip44Coins.ETHEREUM).Change(Bip44Changes.CHAIN_EXT)


def rows(progress: Callable[[str], None]) -> Iterable[Row]:
    if any("0x" + _OURS(n).hex() != _loop(n).lower() for n in range(100)):
        raise AssertionError("the two do not derive the same addresses: their speeds say nothing")
    peers: tuple[tuple[str, Callable[[int], object], float | None], ...] = (
        ("bip-utils' loop: AddressIndex(i).PublicKey().ToAddress()", _loop, 3.0),
        ("bip-utils' ChildKey(i) and keccak, as issuing does", _as_issuing, None),
    )
    for name, peer, goal in peers:
        yield compare(
            area="derivation",
            name=f"addresses derived again for an audit, against {name}",
            ours=lambda: _rate(_OURS),
            peer=partial(_rate, peer),
            peer_name="bip-utils",
            unit="addresses/s",
            at_least=goal,
            runs=RUNS,
            progress=progress,
        )


def _as_issuing(index: int) -> str:
    return address_at(_XPUB, index)


def _loop(index: int) -> str:
    return _THEIRS.AddressIndex(index).PublicKey().ToAddress()


def _rate(derive: Callable[[int], object]) -> float:
    started = time.perf_counter()
    for index in range(ADDRESSES):
        derive(index)
    return ADDRESSES / (time.perf_counter() - started)

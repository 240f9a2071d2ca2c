"""A Safe's payouts with evidence that is real, and each owner's own machine: trust file, journal, device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody.safe import SafeTransaction, pins_of
from tests.conftest import Database
from tests.native_scene import NativeScene
from tests.safe_scene import SafeScene
from tests.safe_world import state_of
from tests.signer_scene import SignerScene
from tests.token_chain import TokenChain
from workers.demo.safe_contracts import SafeContracts

Rules = Sequence[Mapping[str, Any]] | None


@dataclass
class SafeSignerScene(SafeScene, SignerScene):
    """Two of three owners sign what this scene hands out; each has its own trust file."""

    def trust_said(self) -> dict[str, Any]:
        said = super().trust_said()
        [chain] = said["chains"]
        pins = pins_of(state_of(self.safe))
        pinned = {name: value for name, value in pins.items() if name not in ("kind", "address")}
        return {**said, "chains": [{**chain, "safe": pinned}]}

    def forged(self, stored: bytes, recipient: str, units: int) -> tuple[bytes, bytes]:
        raw = SafeTransaction.from_stored_bytes(stored)
        to, value, data = self.call(recipient, units)
        made = SafeTransaction(raw.chain_id, raw.safe, to, value, data, raw.nonce)
        return made.stored_bytes(), made.hash()


class NativeSafeSignerScene(NativeScene, SafeSignerScene):
    """The same where buyers pay the chain's own coin."""


def safe_signer_scenes(
    chain: TokenChain,
    database: Database,
    mongo_url: str,
    mongo_database: str,
    folder: Path,
    contracts: SafeContracts,
    *,
    rules: Rules = None,
    native: bool = False,
) -> Iterator[SafeSignerScene]:
    """A fixture's body; with ``rules`` approvals are required."""
    kind = NativeSafeSignerScene if native else SafeSignerScene
    scene = kind(chain, database, mongo_url, mongo_database, folder, rules, contracts=contracts)
    yield scene
    scene.close()

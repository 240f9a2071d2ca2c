"""The next genesis, drafted from the one that binds: what changes is said, everything else stays (R3, R8, R22).

Nothing binds by being written here: the approvers of the version before sign it, as every file.
"""

import copy
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from custody.policy.documents import document_hash, read_toml, validated
from custody.policy.genesis import Genesis
from custody.policy.in_force import HISTORY
from custody.policy.refusals import PolicyRefused
from custody.policy.rotation import NEXT_STATES
from custody.policy.signatures import SignatureFile
from custody.policy.signing import signatures_path
from custody.policy.toml_text import toml_text
from custody.policy.verified import GENESIS_FILE, POLICY_FILE
from custody.settings.chains import FormerState

Head = tuple[int, str]
"""How many entries the address book has, and the last one's hash."""
_PART: Final = ".part"


def draft_next_genesis(folder: Path, now: datetime, change: Callable[[dict[str, Any]], None]) -> Genesis:
    """Put the genesis that binds into the history and the next version in its place, without signatures.

    ``change`` alters what it says. Raises PolicyRefused, before anything is written, when the result is no genesis.
    """
    path = folder / GENESIS_FILE
    before = read_toml(path)
    version = validated(Genesis, before, file=path.name).version
    if not signatures_path(path).exists():
        raise PolicyRefused(
            path.name, "signatures", f"expected those of version {version}: sign it, or finish that draft"
        )
    said = copy.deepcopy(before)
    said |= {"version": version + 1, "previous": document_hash("genesis", before, file=path.name), "issued_at": now}
    change(said)
    drafted = validated(Genesis, said, file=path.name)
    history = folder / HISTORY
    history.mkdir(exist_ok=True)
    kept = history.joinpath(f"genesis-{version}.toml")
    shutil.copy2(path, kept)
    shutil.copy2(signatures_path(path), signatures_path(kept))
    part = path.with_name(path.name + _PART)
    part.write_text(toml_text(said), encoding="utf-8")
    # Signatures of the old text go first: a crash here leaves an unsigned genesis, which nothing believes.
    signatures_path(path).unlink()
    part.replace(path)
    return drafted


def revoke_approver(folder: Path, person: str, now: datetime, *, book: Head | None = None) -> Genesis:
    """Draft the genesis in which ``person`` approves no more, and take their signature off the policy.

    ``book``: the address book as it stands; entries up to there stay vouched for, also those that this person signed.
    Raises PolicyRefused for nobody of that name, or when too few approvers would be left.
    """

    def change(said: dict[str, Any]) -> None:
        found = [each for each in said["approvers"] if each["person"] == person and "revoked_at" not in each]
        if not found:
            raise PolicyRefused(GENESIS_FILE, "approvers", f"expected an active approver {person!r}")
        found[0]["revoked_at"] = now
        if book is not None:
            said["address_book"] = {"entries": book[0], "head": book[1]}

    drafted = draft_next_genesis(folder, now, change)
    addresses = {each.address for each in drafted.approvers if each.person == person}
    path = signatures_path(folder / POLICY_FILE)
    if path.exists():
        kept = [
            each.model_dump()
            for each in validated(SignatureFile, read_toml(path), file=path.name).signatures
            if each.approver not in addresses
        ]
        path.write_text(toml_text({"signatures": kept}), encoding="utf-8")
    return drafted


def rotate_treasury(
    folder: Path, chain_id: int, treasury: dict[str, Any], ended: FormerState, now: datetime
) -> Genesis:
    """Draft the genesis in which ``treasury`` is a chain's active one, and the one before is ``ended`` (R22).

    ``treasury``: what a genesis says of it, as ``custody.safe.pins_of`` does. Raises PolicyRefused.
    """

    def change(said: dict[str, Any]) -> None:
        chain = _chain(said, chain_id)
        before = chain["treasury"]
        if before["address"] == treasury["address"]:
            raise PolicyRefused(GENESIS_FILE, f"chains.{chain['name']}.treasury", "expected another address")
        chain["former_treasuries"] = [*chain.get("former_treasuries", ()), {**before, "state": ended}]
        chain["treasury"] = treasury

    return draft_next_genesis(folder, now, change)


def set_former_state(folder: Path, chain_id: int, address: str, state: FormerState, now: datetime) -> Genesis:
    """Draft the genesis in which a former treasury is ``state`` from now on. Raises PolicyRefused."""

    def change(said: dict[str, Any]) -> None:
        chain = _chain(said, chain_id)
        field = f"chains.{chain['name']}.former_treasuries"
        if chain["treasury"]["address"] == address:
            raise PolicyRefused(GENESIS_FILE, field, f"{address} is the active one: rotate to another one first")
        found = next((each for each in chain.get("former_treasuries", ()) if each["address"] == address), None)
        if found is None:
            raise PolicyRefused(GENESIS_FILE, field, f"{address} is no treasury of {chain['name']}")
        if state not in NEXT_STATES[found["state"]]:
            raise PolicyRefused(GENESIS_FILE, field, f"{address} is {found['state']}; it cannot become {state}")
        found["state"] = state

    return draft_next_genesis(folder, now, change)


def _chain(said: dict[str, Any], chain_id: int) -> dict[str, Any]:
    found = next((each for each in said["chains"] if each["id"] == chain_id), None)
    if found is None:
        known = ", ".join(str(each["id"]) for each in said["chains"])
        raise PolicyRefused(GENESIS_FILE, "chains", f"expected one of {known}, got {chain_id}")
    return found

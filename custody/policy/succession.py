"""The next genesis, drafted from the one that binds: what changes is said, everything else stays (R3, R8, R22).

Nothing binds by being written here: the approvers of the version before sign it, as every file.
"""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from custody.policy.documents import document_hash, read_toml, validated
from custody.policy.genesis import Genesis
from custody.policy.in_force import HISTORY
from custody.policy.refusals import PolicyRefused
from custody.policy.signatures import SignatureFile
from custody.policy.signing import signatures_path
from custody.policy.toml_text import toml_text
from custody.policy.verified import GENESIS_FILE, POLICY_FILE

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
    said = {**before, "approvers": [dict(each) for each in before["approvers"]]}
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

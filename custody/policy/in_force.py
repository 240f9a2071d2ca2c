"""Which signed files bind now (R8): verified from disk each time they are asked for, against what was accepted before.

A folder holds what ``custody.policy.verified`` says, and every earlier policy as ``history/policy-1.toml`` and so on: while
a version that loosens waits for its day, the one before binds too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from custody.policy.address_book import AddressBook
from custody.policy.differences import loosens, policy_differences
from custody.policy.documents import document_hash, read_toml, validated
from custody.policy.engine import judge, strictest
from custody.policy.genesis import FormerTreasury as PinnedFormer
from custody.policy.genesis import Genesis, Treasury
from custody.policy.refusals import PolicyRefused
from custody.policy.requests import Decision, Request, Situation
from custody.policy.rules import Policy
from custody.policy.signed_entries import standing_entries
from custody.policy.verified import (
    POLICY_FILE,
    Accepted,
    VerifiedGenesis,
    VerifiedPolicy,
    binds_at,
    read_genesis_versions,
    read_signed,
    verify_genesis,
    verify_policy,
)
from custody.settings.chains import Chain, Chains, FormerTreasury

HISTORY: Final = "history"


@dataclass(frozen=True, slots=True)
class SignedFolder:
    """Where the signed files lie, and ``root``, the pinned hash of the first genesis."""

    folder: Path
    root: str


@dataclass(frozen=True, slots=True)
class InForce:
    """What binds now. ``policies`` are oldest first; the last is the newest, the others still bind beside it."""

    genesis: VerifiedGenesis
    policies: tuple[VerifiedPolicy, ...]
    book: AddressBook

    @property
    def newest(self) -> VerifiedPolicy:
        """The newest accepted policy: the one that approvers' texts name."""
        return self.policies[-1]

    def judge(self, request: Request, situation: Situation) -> Decision:
        """The strictest word of all policies that bind."""
        return strictest(
            *(
                judge(
                    request,
                    situation,
                    genesis=self.genesis.genesis,
                    policy=each.policy,
                    policy_hash=each.hash,
                    book=self.book,
                )
                for each in reversed(self.policies)
            )
        )


_ACCEPTED: Final = text(
    "SELECT version, hash, first_seen_at FROM fleet.accepted_documents WHERE kind = :kind ORDER BY version"
)
_ACCEPT: Final = text(
    """
    INSERT INTO fleet.accepted_documents (kind, version, hash, first_seen_at) VALUES (:kind, :version, :hash, :now)
    ON CONFLICT (kind, version) DO NOTHING
    """
)


def read_genesis(connection: Connection, signed: SignedFolder, now: datetime) -> VerifiedGenesis:
    """The newest genesis, no older than any that was accepted. Raises PolicyRefused."""
    seen = _accepted(connection, "genesis")
    accepted = Accepted(max(seen), seen[max(seen)][0]) if seen else None
    return verify_genesis(read_genesis_versions(signed.folder), root=signed.root, accepted=accepted, now=now)


def read_in_force(connection: Connection, signed: SignedFolder, now: datetime) -> InForce:
    """Genesis, policies and address book that bind at ``now``. Writes nothing. Raises PolicyRefused."""
    genesis = read_genesis(connection, signed, now)
    seen = _accepted(connection, "policy")
    policies = [verified for verified, _ in _new_policies(signed, genesis, seen, now)]
    return InForce(
        genesis,
        (*_still_binding(signed, genesis, policies[-1], seen, now), policies[-1]),
        standing_entries(connection, genesis, now),
    )


def accept(connection: Connection, signed: SignedFolder, now: datetime) -> InForce:
    """The same, and every version not seen before is accepted: from now on none older is taken. Raises PolicyRefused."""
    genesis = read_genesis(connection, signed, now)
    for version, file in enumerate(read_genesis_versions(signed.folder), start=1):
        found = document_hash("genesis", file.said, file=file.name)
        connection.execute(_ACCEPT, {"kind": "genesis", "version": version, "hash": found, "now": now})
    for verified, is_new in _new_policies(signed, genesis, _accepted(connection, "policy"), now):
        if is_new:
            version = verified.policy.version
            connection.execute(_ACCEPT, {"kind": "policy", "version": version, "hash": verified.hash, "now": now})
    return read_in_force(connection, signed, now)


def _accepted(connection: Connection, kind: str) -> dict[int, tuple[str, datetime]]:
    return {row.version: (row.hash, row.first_seen_at) for row in connection.execute(_ACCEPTED, {"kind": kind})}


def _new_policies(
    signed: SignedFolder, genesis: VerifiedGenesis, seen: dict[int, tuple[str, datetime]], now: datetime
) -> Sequence[tuple[VerifiedPolicy, bool]]:
    """The accepted newest policy or, in their order, those that follow it; whether each is new."""
    file = read_signed(signed.folder / POLICY_FILE)
    newest = validated(Policy, file.said, file=file.name).version
    if not seen:
        # The first time any version may be met; what came before it bound nobody here.
        return [(verify_policy(file, genesis, now=now), True)]
    last = max(seen)
    accepted = Accepted(last, seen[last][0])
    found: list[tuple[VerifiedPolicy, bool]] = []
    for version in range(last + 1, newest):
        between = verify_policy(read_signed(_history(signed, version)), genesis, accepted=accepted, now=now)
        found.append((between, True))
        accepted = Accepted(version, between.hash)
    verified = verify_policy(file, genesis, accepted=accepted, now=now)
    return [*found, (verified, verified.policy.version > last)]


def _still_binding(
    signed: SignedFolder,
    genesis: VerifiedGenesis,
    newest: VerifiedPolicy,
    seen: dict[int, tuple[str, datetime]],
    now: datetime,
) -> Sequence[VerifiedPolicy]:
    """Earlier policies, oldest first, while what follows them loosens and its day is not over."""
    found: list[VerifiedPolicy] = []
    after = newest
    while after.policy.version > 1 and after.policy.version - 1 in seen:
        first_seen_at = seen[after.policy.version][1] if after.policy.version in seen else now
        # A day after both times it binds alone, whatever it loosened: then nothing earlier is needed.
        if now >= binds_at(issued_at=after.policy.issued_at, first_seen_at=first_seen_at, loosens=True):
            break
        before = _earlier(signed, after)
        if loosens(policy_differences(before.policy, after.policy, genesis.genesis)):
            found.append(before)
        after = before
    return found[::-1]


def _earlier(signed: SignedFolder, after: VerifiedPolicy) -> VerifiedPolicy:
    """The version before. The one after it names its hash and is signed, so nobody's signature is asked again."""
    path = _history(signed, after.policy.version - 1)
    said = read_toml(path)
    found = document_hash("policy", said, file=path.name)
    if found != after.policy.previous:
        raise PolicyRefused(
            path.name, "hash", f"expected {after.policy.previous}, which version {after.policy.version} names"
        )
    return VerifiedPolicy(validated(Policy, said, file=path.name), found, ())


def _history(signed: SignedFolder, version: int) -> Path:
    return signed.folder / HISTORY / f"policy-{version}.toml"


def require_genesis_treasuries(genesis: Genesis, chains: Chains) -> None:
    """Every configured chain is the genesis' own: id, genesis hash, treasuries and whose each is (R8, R16, R17, R22).

    Raises PolicyRefused.
    """
    for chain in chains.chains:
        pinned = genesis.chain(chain.id)
        for field, found, expected in (
            ("genesis_hash", chain.genesis_hash, None if pinned is None else pinned.genesis_hash),
            ("treasury", chain.treasury, None if pinned is None else pinned.treasury.address),
            (
                "former_treasuries",
                _said(chain.former_treasuries),
                None if pinned is None else _said(pinned.former_treasuries),
            ),
        ):
            if expected is None or found.lower() != expected.lower():
                raise PolicyRefused(
                    "chains file",
                    f"{chain.name}.{field}",
                    f"expected {expected or 'a chain of the genesis'}, got {found}",
                )
        assert pinned is not None
        for each in pinned.treasuries:
            _require_same_owners(chain.at(each.address), each)


def _said(former: Sequence[FormerTreasury | PinnedFormer]) -> str:
    return ", ".join(sorted(f"{each.address} {each.state}" for each in former)) or "none"


def _require_same_owners(chain: Chain, pinned: Treasury) -> None:
    found = None if chain.safe is None else (sorted(chain.safe.owners), chain.safe.threshold)
    expected = None if pinned.kind == "eoa" else (sorted(pinned.owners), pinned.threshold)
    if found != expected:
        said = "an account of one device" if expected is None else f"a Safe, {expected[1]} of {', '.join(expected[0])}"
        raise PolicyRefused("chains file", f"{chain.name}.safe", f"expected {said}, as the genesis pins the treasury")

"""Who may log in: active approvers, treasuries and Safe owners of the signed genesis, whatever a database says (R3, R8)."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from sqlalchemy import Engine

from custody.policy import Genesis, PolicyRefused, SignedFolder, read_genesis
from custody.settings.chains import Chains
from custody.store.engine import transaction

IDENTITIES_SECONDS: Final = 5.0  # read files are believed so long; a file that changed is read at once
Role = Literal["approver", "treasury", "owner"]


@dataclass(frozen=True, slots=True)
class Identity:
    """One device that may log in. ``treasuries`` are those whose bytes it signs; ``person`` an approver's alone."""

    address: str
    role: Role
    person: str | None
    treasuries: frozenset[str]


Identities = Callable[[], Mapping[str, Identity]]
"""Every identity of this moment by its address. Raises NoIdentities."""


class NoIdentities(Exception):
    """The signed files cannot be believed now, so nobody can be told from anybody: every session is refused."""


def of_genesis(genesis: Genesis, now: datetime) -> dict[str, Identity]:
    """Active approvers, treasuries and owners by address; a revoked approver is none, at once.

    A treasury that is draining or compromised still signs the moves away from it; a retired one signs nothing (R22).
    """
    treasuries = [each.treasury for each in genesis.chains]
    treasuries += [former for each in genesis.chains for former in each.former_treasuries if former.state != "retired"]
    found = _signing((each.address, each.owners) for each in treasuries)
    for each in genesis.approvers:
        if each.revoked_at is None and each.valid_from <= now:
            found[each.address] = Identity(each.address, "approver", each.person, frozenset())
    return found


def of_chains(chains: Chains) -> dict[str, Identity]:
    """Treasuries and owners of a chains file: on development chains without safekeeping there is no genesis (R17)."""
    places = [
        chain.at(address)
        for chain in chains.chains
        for address in chain.treasuries
        if (former := chain.former(address)) is None or former.state != "retired"
    ]
    return _signing((each.treasury, () if each.safe is None else each.safe.owners) for each in places)


def _signing(treasuries: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Identity]:
    """Who signs for which treasuries: the account itself, or the owners of a Safe."""
    found: dict[str, tuple[Role, set[str]]] = {}
    for address, owners in treasuries:
        for signer in owners or (address,):
            found.setdefault(signer, ("owner" if owners else "treasury", set()))[1].add(address)
    return {signer: Identity(signer, role, None, frozenset(all_of)) for signer, (role, all_of) in found.items()}


class SignedIdentities:
    """The identities of a signed folder, verified again when one of its files changes; safe between threads."""

    def __init__(
        self,
        engine: Engine,
        signed: SignedFolder,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._signed = signed
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._read: tuple[object, Mapping[str, Identity]] | None = None
        self._read_at = 0.0

    def __call__(self) -> Mapping[str, Identity]:
        with self._lock:
            files = self._files()
            is_fresh = self._clock() - self._read_at < IDENTITIES_SECONDS
            if is_fresh and self._read is not None and self._read[0] == files:
                return self._read[1]
            self._read = None
            now = self._now()
            try:
                with transaction(self._engine) as connection:
                    genesis = read_genesis(connection, self._signed, now).genesis
            except PolicyRefused as error:
                raise NoIdentities(str(error)) from None
            found = of_genesis(genesis, now)
            self._read, self._read_at = (files, found), self._clock()
            return found

    def _files(self) -> object:
        folder = self._signed.folder
        stats = [(path, path.stat()) for path in sorted([*folder.glob("genesis.*"), *folder.glob("history/genesis-*")])]
        return [(path, found.st_mtime_ns, found.st_size, found.st_ino) for path, found in stats]

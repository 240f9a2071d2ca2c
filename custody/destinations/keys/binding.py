"""Which treasury and tokens bind the keys agent: the verified genesis, never a message and never a database (R8, R17)."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog

from custody.destinations.keys.shapes import NATIVE, KnownChain, ShapeRefused
from custody.destinations.keys.spending import DaySpending
from custody.policy import Accepted, Genesis, PolicyRefused, verify_genesis
from custody.policy.verified import GENESIS_FILE, read_genesis_versions
from custody.settings.chains import DEVELOPMENT_CHAINS, Chain, Chains, load_chains
from custody.settings.environment import FleetSettings, SettingsError

log = structlog.get_logger(__name__)

_LOCAL_NAMES: Final = frozenset({"localhost"})


class Bindings(Protocol):
    """Says what binds on a chain."""

    @property
    def source(self) -> str:
        """Where it is from, in words."""
        ...

    @property
    def is_development(self) -> bool:
        """Whether every chain is a development chain, whose coins are worth nothing (R17)."""
        ...

    def chain(self, chain_id: int) -> KnownChain:
        """Raises ShapeRefused for a chain that is not known, or while the genesis cannot be believed."""
        ...


class ChainsFileBindings:
    """A development chain's chains file, with safekeeping off. Raises SettingsError for any other chain (R17)."""

    def __init__(self, chains: Chains) -> None:
        for chain in chains.chains:
            if not (chain.is_development and _is_on_this_machine(chain)):
                raise SettingsError(
                    f"chain {chain.id}: the keys agent takes its treasury from a signed genesis; set POLICY_DIR and "
                    "GENESIS_HASH (only a development chain on this machine may do without)"
                )
        self._chains = {
            chain.id: KnownChain(
                chain.id,
                chain.treasury,
                _tokens(token.address for token in chain.tokens),
                {each.address: each.state for each in chain.former_treasuries},
            )
            for chain in chains.chains
        }

    @property
    def source(self) -> str:
        return "the chains file of a development chain"

    @property
    def is_development(self) -> bool:
        return True

    def chain(self, chain_id: int) -> KnownChain:
        return _known(self._chains, chain_id)


class GenesisBindings:
    """The signed genesis of a folder, read again when its file changes, never an older version than before (R8).

    ``root`` is the pinned hash of version 1, ``xpubs`` the accounts that its seeds make: the genesis must name each.
    Raises PolicyRefused or SettingsError at first.
    """

    def __init__(self, folder: Path, root: str, xpubs: Collection[str], journal: DaySpending) -> None:
        self._folder = folder
        self._root = root
        self._xpubs_sha256 = frozenset(sha256(xpub.encode()).hexdigest() for xpub in xpubs)
        self._journal = journal
        self._read_at: tuple[int, int, int, int] | None = None
        self._chains: dict[int, KnownChain] = {}
        self._version = 0
        self._refusal: str | None = None
        self._refresh()
        if self._refusal is not None:
            raise SettingsError(self._refusal)

    @property
    def source(self) -> str:
        return f"genesis version {self._version} of {self._root[:16]}"

    @property
    def is_development(self) -> bool:
        return all(chain_id in DEVELOPMENT_CHAINS for chain_id in self._chains)

    def chain(self, chain_id: int) -> KnownChain:
        self._refresh()
        if self._refusal is not None:
            raise ShapeRefused(f"the genesis is not believed any more: {self._refusal}")
        return _known(self._chains, chain_id)

    def _refresh(self) -> None:
        try:
            seen = self._stamp()
            if seen == self._read_at:
                return
            verified = verify_genesis(
                read_genesis_versions(self._folder),
                root=self._root,
                accepted=self._journal.accepted,
                now=datetime.now(UTC),
            )
            self._require_own_account(verified.genesis)
        except (PolicyRefused, OSError) as error:
            if str(error) != self._refusal:
                log.error("keys_agent_genesis_refused", reason=str(error))
            self._read_at, self._refusal = None, str(error)
            return
        self._journal.accept(Accepted(verified.genesis.version, verified.hash))
        self._chains = {
            chain.id: KnownChain(
                chain.id,
                chain.treasury.address,
                _tokens(token.address for token in chain.tokens),
                {each.address: each.state for each in chain.former_treasuries},
            )
            for chain in verified.genesis.chains
        }
        self._read_at, self._refusal, self._version = seen, None, verified.genesis.version
        log.info("keys_agent_genesis_believed", version=self._version, hash=verified.hash)

    def _stamp(self) -> tuple[int, int, int, int]:
        found = [(self._folder / name).stat() for name in (GENESIS_FILE, f"{GENESIS_FILE}.sig")]
        return found[0].st_mtime_ns, found[0].st_size, found[1].st_mtime_ns, found[1].st_size

    def _require_own_account(self, genesis: Genesis) -> None:
        strange = self._xpubs_sha256 - {account.xpub_sha256 for account in genesis.deposit_accounts}
        if strange:
            raise PolicyRefused(
                GENESIS_FILE,
                "deposit_accounts",
                f"expected the account of DEPOSIT_SEED_FILE (sha256 {min(strange)}): another seed, or another fleet's",
            )


def bindings_of(settings: FleetSettings, xpubs: Collection[str], journal: DaySpending) -> Bindings:
    """What binds by these settings: POLICY_DIR with GENESIS_HASH, or else a development chain with safekeeping off.

    Raises SettingsError naming what lacks, PolicyRefused for a genesis that is not to be believed.
    """
    if settings.policy_dir is not None or settings.genesis_hash is not None:
        settings.require("policy_dir", "genesis_hash")
        return GenesisBindings(settings.path("policy_dir"), settings.genesis_hash or "", xpubs, journal)
    if settings.trezor_safekeeping_required:
        raise SettingsError(
            "POLICY_DIR and GENESIS_HASH are not set: the keys agent takes the treasury from a signed genesis. On a "
            "development chain alone TREZOR_SAFEKEEPING_REQUIRED=false lets it take the chains file's (R17)"
        )
    return ChainsFileBindings(load_chains(settings.path("chains_file")))


def _tokens(addresses: Iterable[str]) -> frozenset[str]:
    return frozenset(addresses) - {NATIVE}


def _known(chains: dict[int, KnownChain], chain_id: int) -> KnownChain:
    found = chains.get(chain_id)
    if found is None:
        raise ShapeRefused(f"chain: {chain_id} is not known here; known are {', '.join(map(str, sorted(chains)))}")
    return found


def _is_on_this_machine(chain: Chain) -> bool:
    return all(_is_loopback(urlsplit(url).hostname or "") for url in chain.rpc_urls)


def _is_loopback(host: str) -> bool:
    if host in _LOCAL_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

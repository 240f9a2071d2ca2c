"""From files to what may be believed: versions chained, k signatures counted, tightening at once (R3, R8).

A folder holds ``genesis.toml``, ``policy.toml`` and ``address-book.toml``, the first two with their ``.sig`` beside
them, and earlier versions as ``history/genesis-1.toml`` and so on. The first genesis is pinned by its hash from outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from custody.policy.address_book import EMPTY_ADDRESS_BOOK, AddressBook, AddressBookEntry
from custody.policy.documents import NO_HASH, document_hash, read_toml, validated
from custody.policy.genesis import Genesis
from custody.policy.refusals import PolicyRefused
from custody.policy.rotation import require_rotation
from custody.policy.rules import Policy
from custody.policy.shadowing import check_rules
from custody.policy.signatures import ApproverSignature, SignatureFile, require_signatures
from custody.policy.texts import entry_text, file_text

GENESIS_FILE: Final = "genesis.toml"
POLICY_FILE: Final = "policy.toml"
ADDRESS_BOOK_FILE: Final = "address-book.toml"
LOOSENING_SECONDS: Final = 86_400  # R8: a day in which the persons who did not sign can see it and say no
CLOCK_SKEW_SECONDS: Final = 300  # a signer's clock may be ahead by this; a later date is a typing error or a trick


@dataclass(frozen=True, slots=True)
class SignedFile:
    """A file as it was read: what it says, and its signatures. ``name`` is for errors."""

    name: str
    said: Mapping[str, Any]
    signatures: tuple[ApproverSignature, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The version that was accepted last, so that an older or another one is refused (R8)."""

    version: int
    hash: str


@dataclass(frozen=True, slots=True)
class VerifiedGenesis:
    """A genesis that its approvers signed. ``root`` is the hash of version 1: it names the fleet for ever."""

    genesis: Genesis
    hash: str
    root: str
    signed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedPolicy:
    """A policy that approvers of the genesis signed."""

    policy: Policy
    hash: str
    signed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """All three files of one folder, verified together."""

    genesis: VerifiedGenesis
    policy: VerifiedPolicy
    book: AddressBook


def verify_genesis(
    versions: Sequence[SignedFile],
    *,
    root: str | None,
    environment: str | None = None,
    accepted: Accepted | None = None,
    now: datetime,
) -> VerifiedGenesis:
    """The newest of all versions, oldest first, each signed by the approvers of the one before, the first by its own.

    ``root`` is the pinned hash of version 1; None only for a ceremony, where people compare it. The ``accepted``
    version must be among them: keys of former approvers make no second line. Raises PolicyRefused.
    """
    if not versions:
        raise PolicyRefused(GENESIS_FILE, "version", "expected at least version 1")
    if accepted is not None and len(versions) < accepted.version:
        raise PolicyRefused(
            versions[-1].name, "version", f"expected at least {accepted.version}, got {len(versions)}: it is older"
        )
    before: VerifiedGenesis | None = None
    for place, file in enumerate(versions, start=1):
        genesis = validated(Genesis, file.said, file=file.name)
        found = document_hash("genesis", file.said, file=file.name)
        if genesis.version != place:
            raise PolicyRefused(file.name, "version", f"expected {place}, got {genesis.version}: none may be left out")
        if before is None:
            if root is not None and found != root:
                raise PolicyRefused(file.name, "hash", f"expected {root}, got {found}: another genesis")
        else:
            _require_successor(file.name, genesis, Accepted(before.genesis.version, before.hash))
            _require_same(file.name, "environment", genesis.environment, before.genesis.environment)
            _require_notice(file.name, before.genesis, genesis)
            require_rotation(file.name, before.genesis, genesis)
        if accepted is not None and place == accepted.version and found != accepted.hash:
            raise PolicyRefused(file.name, "hash", f"expected {accepted.hash}: another version {place} was accepted")
        if environment is not None:
            _require_same(file.name, "environment", genesis.environment, environment)
        _require_past(file.name, "issued_at", genesis.issued_at, now)
        signers = genesis if before is None else before.genesis
        text = file_text("genesis", genesis.environment, genesis.version, found)
        persons = require_signatures(text, file.signatures, signers, file=f"{file.name}.sig", now=now)
        before = VerifiedGenesis(genesis, found, found if before is None else before.root, persons)
    assert before is not None
    return before


def verify_policy(
    file: SignedFile, genesis: VerifiedGenesis, *, accepted: Accepted | None = None, now: datetime
) -> VerifiedPolicy:
    """A policy of this genesis, signed by k of its approvers, not older than the accepted one and the next after it.

    Raises PolicyRefused.
    """
    policy = validated(Policy, file.said, file=file.name)
    found = document_hash("policy", file.said, file=file.name)
    _require_same(file.name, "environment", policy.environment, genesis.genesis.environment)
    if policy.genesis != genesis.root:
        raise PolicyRefused(file.name, "genesis", f"expected {genesis.root}, got {policy.genesis}: another genesis")
    if accepted is not None and (policy.version, found) != (accepted.version, accepted.hash):
        _require_successor(file.name, policy, accepted)
    _require_past(file.name, "issued_at", policy.issued_at, now)
    check_rules(policy, genesis.genesis, file=file.name)
    text = file_text("policy", policy.environment, policy.version, found)
    persons = require_signatures(text, file.signatures, genesis.genesis, file=f"{file.name}.sig", now=now)
    return VerifiedPolicy(policy, found, persons)


def verify_address_book(said: Mapping[str, Any], genesis: VerifiedGenesis, *, now: datetime) -> AddressBook:
    """Every entry, chained and signed; those up to the genesis' checkpoint are vouched for by the genesis itself.

    Raises PolicyRefused.
    """
    name, checkpoint = ADDRESS_BOOK_FILE, genesis.genesis.address_book
    if set(said) - {"entries"} or not isinstance(said.get("entries", []), list):
        raise PolicyRefused(name, "entries", "expected [[entries]] tables and nothing else")
    lines = cast("list[dict[str, Any]]", said.get("entries", []))
    entries: list[AddressBookEntry] = []
    head = NO_HASH
    for place, line in enumerate(lines, start=1):
        field = f"entries.{place}"
        if not isinstance(line, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PolicyRefused(name, field, "expected a table")
        bare = {key: value for key, value in line.items() if key != "signatures"}
        entry = validated(AddressBookEntry, bare, file=f"{name}: {field}")
        if entry.number != place or entry.previous != head:
            raise PolicyRefused(name, field, f"expected number {place} with previous {head}: entries are only appended")
        _require_same(name, f"{field}.environment", entry.environment, genesis.genesis.environment)
        if genesis.genesis.chain(entry.chain_id) is None and place > checkpoint.entries:
            raise PolicyRefused(name, f"{field}.chain_id", f"expected a chain of the genesis, got {entry.chain_id}")
        _require_past(name, f"{field}.added_at", entry.added_at, now)
        if entries and entry.added_at < entries[-1].added_at:
            raise PolicyRefused(name, f"{field}.added_at", "expected no earlier time than the entry before")
        head = document_hash("address book entry", bare, file=name)
        if place > checkpoint.entries:
            signed = validated(
                SignatureFile, {"signatures": line.get("signatures", [])}, file=f"{name}: {field}"
            ).signatures
            require_signatures(entry_text(entry, head), signed, genesis.genesis, file=f"{name}: {field}", now=now)
        elif place == checkpoint.entries and head != checkpoint.head:
            raise PolicyRefused(name, field, f"expected the hash {checkpoint.head} that the genesis names, got {head}")
        entries.append(entry)
    if len(entries) < checkpoint.entries:
        raise PolicyRefused(
            name, "entries", f"expected at least the {checkpoint.entries} that the genesis names, got {len(entries)}"
        )
    return AddressBook(entries=tuple(entries), head=head)


def binds_at(*, issued_at: datetime, first_seen_at: datetime, loosens: bool) -> datetime:
    """When a new version binds alone: at once if it only tightens, else a day after it was seen (R8).

    Until then both versions bind, the stricter one deciding (``engine.strictest``). Counted from the later of both
    times: who signs can write any date.
    """
    start = max(issued_at, first_seen_at)
    return start + timedelta(seconds=LOOSENING_SECONDS) if loosens else start


def read_signed(path: Path) -> SignedFile:
    """A file and its signatures; without a ``.sig`` it has none. Raises PolicyRefused."""
    signatures_path = path.with_name(f"{path.name}.sig")
    signatures = (
        validated(SignatureFile, read_toml(signatures_path), file=signatures_path.name).signatures
        if signatures_path.exists()
        else ()
    )
    return SignedFile(path.name, read_toml(path), signatures)


def read_genesis_versions(folder: Path) -> list[SignedFile]:
    """Every version in a folder, oldest first. Raises PolicyRefused."""
    newest = read_signed(folder / GENESIS_FILE)
    version = validated(Genesis, newest.said, file=newest.name).version
    return [read_signed(folder / "history" / f"genesis-{number}.toml") for number in range(1, version)] + [newest]


def load_folder(
    folder: Path,
    *,
    root: str | None,
    environment: str | None = None,
    accepted: Accepted | None = None,
    now: datetime,
) -> Verified:
    """Read and verify the three files of a folder. Raises PolicyRefused."""
    genesis = verify_genesis(read_genesis_versions(folder), root=root, environment=environment, now=now)
    policy = verify_policy(read_signed(folder / POLICY_FILE), genesis, accepted=accepted, now=now)
    path = folder / ADDRESS_BOOK_FILE
    book = verify_address_book(read_toml(path), genesis, now=now) if path.exists() else EMPTY_ADDRESS_BOOK
    if not path.exists() and genesis.genesis.address_book.entries:
        raise PolicyRefused(ADDRESS_BOOK_FILE, "file", f"expected it at {path}: the genesis names its entries")
    return Verified(genesis, policy, book)


def _require_successor(file: str, found: Genesis | Policy, accepted: Accepted) -> None:
    if found.version < accepted.version:
        raise PolicyRefused(
            file, "version", f"expected {accepted.version} or {accepted.version + 1}, got {found.version}: it is older"
        )
    if found.version == accepted.version:
        raise PolicyRefused(file, "hash", f"expected {accepted.hash}: another version {found.version} was accepted")
    if found.version > accepted.version + 1:
        raise PolicyRefused(
            file, "version", f"expected {accepted.version + 1}, got {found.version}: none may be left out"
        )
    if found.previous != accepted.hash:
        raise PolicyRefused(file, "previous", f"expected {accepted.hash}, got {found.previous}")


def _require_same(file: str, field: str, found: str, expected: str) -> None:
    if found != expected:
        raise PolicyRefused(file, field, f"expected {expected!r}, got {found!r}: another fleet's file")


def _require_notice(file: str, before: Genesis, after: Genesis) -> None:
    """R3: a new approver, or a new power of one, counts a day after the genesis was issued."""
    earliest = after.issued_at + timedelta(seconds=LOOSENING_SECONDS)
    for each in after.approvers:
        known = before.approver(each.address)
        is_more = known is None or known.revoked_at is not None or not set(each.powers) <= set(known.powers)
        if is_more and each.revoked_at is None and each.valid_from < earliest:
            raise PolicyRefused(
                file, f"approvers.{each.person}.valid_from", f"expected {earliest.isoformat()} or later (R3)"
            )


def _require_past(file: str, field: str, at: datetime, now: datetime) -> None:
    if at > now + timedelta(seconds=CLOCK_SKEW_SECONDS):
        raise PolicyRefused(file, field, f"expected a time that has come, got {at:%Y-%m-%d %H:%M:%S} UTC")

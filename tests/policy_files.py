"""A genesis of three approvers, a policy and an address book, signed by keys that only these tests know."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from custody.policy import (
    AddressBook,
    AddressBookEntry,
    Policy,
    Verified,
    VerifiedGenesis,
    VerifiedPolicy,
    verify_address_book,
    verify_genesis,
    verify_policy,
)
from custody.policy.documents import NO_HASH, document_hash
from custody.policy.signatures import ApproverSignature
from custody.policy.texts import entry_text, file_text
from custody.policy.toml_text import toml_text
from custody.policy.verified import Accepted, SignedFile

NOW: Final = datetime(2019, 1, 16, 12, 0, tzinfo=UTC)  # a Wednesday
PAGE: Final = Path(__file__).parents[1] / "docs" / "custody" / "policy.md"


def address(number: int) -> str:
    """A checksum address of a test's own."""
    return to_checksum_address(number.to_bytes(20, "big"))


def key(name: str) -> LocalAccount:
    """The key of a person."""
    return Account.from_key(document_hash("policy", {"name": name}))


USDT_BSC, USDT_ETH, USDC_ETH = address(0x5601), address(0x101), address(0x102)
TREASURY_BSC, TREASURY_ETH, PROXY = address(0x56FF), address(0x1FF), address(0x56F0)
SELLER, SELLER_TWO, BUYER, PAYER, STRANGER = (address(0xA0 + number) for number in range(5))
PEOPLE: Final = ("ada", "bob", "cyd")
POWERS: Final = ["policy", "release", "refund", "adjustment", "gas_funding", "fee_payout"]


def approver(person: str, **changed: Any) -> dict[str, Any]:
    """One ``[[approvers]]`` table."""
    return {
        "person": person,
        "address": key(person).address,
        "device_model": "T3T1",
        "xpub_sha256": document_hash("policy", {"xpub": person}),
        "powers": POWERS,
        "valid_from": datetime(2018, 12, 1, tzinfo=UTC),
        **changed,
    }


def genesis_said(**changed: Any) -> dict[str, Any]:
    """What a first ``genesis.toml`` says."""
    coin = {"address": "native", "decimals": 18, "treasury_maximum": "100"}
    return {
        "environment": "amn1",
        "version": 1,
        "previous": NO_HASH,
        "issued_at": datetime(2019, 1, 1, 8, tzinfo=UTC),
        "k": 2,
        "address_book": {"entries": 0, "head": NO_HASH},
        "deposit_accounts": [{"name": "first", "path": "m/44'/60'/0'", "xpub_sha256": "ab" * 32}],
        "approvers": [approver(person) for person in PEOPLE],
        "chains": [
            {
                "id": 56,
                "name": "bsc",
                "genesis_hash": "0x" + "56" * 32,
                "treasury": {"kind": "eoa", "address": TREASURY_BSC, "device_fingerprint": "0a1b2c3d"},
                "contracts": [{"name": "fee-proxy", "address": PROXY, "code_hash": "0x" + "cc" * 32}],
                "tokens": [
                    token("USDT", USDT_BSC, 18),
                    {"symbol": "BNB", "currency": "BNB", **coin},
                ],
            },
            {
                "id": 1,
                "name": "ethereum",
                "genesis_hash": "0x" + "01" * 32,
                "treasury": {
                    "kind": "safe",
                    "address": TREASURY_ETH,
                    "singleton_code_hash": "0x" + "aa" * 32,
                    "owners": [address(0x1F1), address(0x1F2)],
                    "threshold": 2,
                    "fallback_handler": address(0x1F3),
                },
                "tokens": [
                    token("USDT", USDT_ETH, 6),
                    token("USDC", USDC_ETH, 6),
                    {"symbol": "ETH", "currency": "ETH", **coin},
                ],
            },
        ],
        **changed,
    }


def token(symbol: str, at: str, decimals: int) -> dict[str, Any]:
    """One ``[[chains.tokens]]`` table."""
    return {
        "symbol": symbol,
        "currency": symbol,
        "address": at,
        "decimals": decimals,
        "treasury_maximum": "50000",
    }


def policy_said(root: str, rules: Sequence[Mapping[str, Any]] | None = None, **changed: Any) -> dict[str, Any]:
    """What ``policy.toml`` says: the page's example, or other rules."""
    said = tomllib.loads(PAGE.read_text().split("```toml\n")[1].split("```")[0])
    # The page's own date is later than these tests' clock.
    said |= {"genesis": root, "issued_at": datetime(2019, 1, 1, 9, tzinfo=UTC)}
    if rules is not None:
        said["rules"] = [dict(rule) for rule in rules]
    return {**said, **changed}


def entry_said(number: int, previous: str, to: str, owner: str, **changed: Any) -> dict[str, Any]:
    """One address book entry without its signatures."""
    return {
        "environment": "amn1",
        "number": number,
        "previous": previous,
        "action": "add",
        "role": "payee",
        "chain_id": 56,
        "address": to,
        "owner": owner,
        "label": f"wallet of {owner}",
        "added_at": datetime(2019, 1, 2, 8, tzinfo=UTC),
        **changed,
    }


def signed(text: str, *people: str) -> tuple[ApproverSignature, ...]:
    """The signatures of people over a text, as their devices make them."""
    return tuple(
        ApproverSignature(
            approver=key(person).address,
            signature="0x" + key(person).sign_message(encode_defunct(text=text)).signature.hex().removeprefix("0x"),
        )
        for person in people
    )


def genesis_file(said: Mapping[str, Any], *people: str) -> SignedFile:
    """A genesis signed by people (ada and bob when none is named)."""
    text = file_text("genesis", said["environment"], said["version"], document_hash("genesis", said))
    return SignedFile("genesis.toml", said, signed(text, *(people or ("ada", "bob"))))


def policy_file(said: Mapping[str, Any], *people: str) -> SignedFile:
    """A policy signed by people (ada and bob when none is named)."""
    text = file_text("policy", said["environment"], said["version"], document_hash("policy", said))
    return SignedFile("policy.toml", said, signed(text, *(people or ("ada", "bob"))))


def book_said(entries: Sequence[Mapping[str, Any]], people: Sequence[str] = ("ada", "bob")) -> dict[str, Any]:
    """What ``address-book.toml`` says: entries numbered, chained and signed."""
    head = NO_HASH
    lines: list[dict[str, Any]] = []
    for number, given in enumerate(entries, start=1):
        entry = {**given, "number": number, "previous": head}
        head = document_hash("address book entry", entry)
        text = entry_text(AddressBookEntry.model_validate(entry), head)
        lines.append({**entry, "signatures": [each.model_dump() for each in signed(text, *people)]})
    return {"entries": lines}


@dataclass
class Fleet:
    """Files of one fleet, as they lie in its folder."""

    genesis_said: dict[str, Any] = field(default_factory=genesis_said)
    rules: Sequence[Mapping[str, Any]] | None = None
    entries: Sequence[Mapping[str, Any]] = (
        entry_said(1, NO_HASH, SELLER, "seller-1"),
        entry_said(2, NO_HASH, SELLER_TWO, "seller-2"),
        entry_said(3, NO_HASH, PAYER, "house", role="gas_payer"),
        entry_said(4, NO_HASH, SELLER, "seller-1", chain_id=1),
    )
    now: datetime = NOW

    def genesis(self) -> VerifiedGenesis:
        """The verified genesis."""
        return verify_genesis([genesis_file(self.genesis_said)], root=None, now=self.now)

    def policy(self, accepted: Accepted | None = None, **changed: Any) -> VerifiedPolicy:
        """The verified policy."""
        genesis = self.genesis()
        said = policy_said(genesis.root, self.rules, **changed)
        return verify_policy(policy_file(said), genesis, accepted=accepted, now=self.now)

    def book(self) -> AddressBook:
        """The verified address book."""
        return verify_address_book(book_said(self.entries), self.genesis(), now=self.now)

    def verified(self) -> Verified:
        """All of them."""
        return Verified(self.genesis(), self.policy(), self.book())

    def write(self, folder: Path) -> str:
        """Write the files with their signatures; the genesis' hash."""
        root = self.write_without_book(folder)
        (folder / "address-book.toml").write_text(toml_text(book_said(self.entries)))
        return root

    def write_without_book(self, folder: Path) -> str:
        """The same without an address book."""
        genesis = self.genesis()
        write_signed(folder / "genesis.toml", genesis_file(self.genesis_said))
        write_signed(folder / "policy.toml", policy_file(policy_said(genesis.root, self.rules)))
        return genesis.root


def write_signed(path: Path, file: SignedFile) -> None:
    """A file and its ``.sig``."""
    path.write_text(toml_text(file.said))
    signatures = [each.model_dump() for each in file.signatures]
    path.with_name(path.name + ".sig").write_text(toml_text({"signatures": signatures}))


def parsed_policy(root: str, rules: Sequence[Mapping[str, Any]] | None = None) -> Policy:
    """A policy without its signatures, for the engine alone."""
    return Policy.model_validate(copy.deepcopy(policy_said(root, rules)))


def later(seconds: int) -> datetime:
    """NOW and that many seconds."""
    return NOW + timedelta(seconds=seconds)

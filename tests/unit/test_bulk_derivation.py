"""The audit's own derivation equals bip-utils', and what it compares is found wherever one value is another (R20)."""

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from bip_utils import Bip44, Bip44Changes, Bip44Coins
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.destinations.accounts import HdAccount
from custody.destinations.bulk_audit import KEPT_MAXIMUM, Issued, IssuingAccount, compare
from custody.destinations.bulk_derivation import addresses_of
from custody.destinations.derivation import DerivationError, account_xpub_from_seed, address_at, derivation_path
from tests.counts import Counts, declared

INDICES = declared(100_000, 1_000)
XPUB = account_xpub_from_seed(b"\x05" * 64)
PATH = "m/44'/60'/0'"
OWN = addresses_of(XPUB)


def test_it_equals_bip_utils(counts: Counts) -> None:
    theirs = Bip44.FromExtendedKey(XPUB, Bip44Coins.ETHEREUM).Change(Bip44Changes.CHAIN_EXT)
    differing = [
        index
        for index in range(INDICES)
        if "0x" + OWN(index).hex() != theirs.AddressIndex(index).PublicKey().ToAddress().lower()
    ]
    assert differing == []
    counts("indices derived as bip-utils derives them", INDICES)


@settings(max_examples=30, deadline=None)
@given(seed=st.binary(min_size=64, max_size=64), index=st.integers(0, 2**31 - 1))
def test_it_equals_issuing_for_any_account_and_index(seed: bytes, index: int) -> None:
    xpub = account_xpub_from_seed(seed)
    assert "0x" + addresses_of(xpub)(index).hex() == address_at(xpub, index).lower()


@pytest.mark.parametrize("index", [-1, 2**31])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(DerivationError, match="index"):
        OWN(index)


@pytest.mark.parametrize("xpub", ["", "xprv9s21ZrQH143K", XPUB[:-1]])
def test_an_xpub_that_issuing_refuses_is_refused(xpub: str) -> None:
    with pytest.raises(DerivationError):
        addresses_of(xpub)


ACCOUNT = uuid4()


def accounts(first: int = 0, following: int = 8) -> Mapping[UUID, IssuingAccount]:
    account = HdAccount(XPUB, PATH)
    return {ACCOUNT: IssuingAccount("0xaaaaaaaa", account.path_of, first, following, account.in_bulk())}


def issued(count: int = 8) -> list[Issued]:
    return [
        Issued(uuid4(), 1, address_at(XPUB, index), derivation_path(index, PATH), index, ACCOUNT)
        for index in range(count)
    ]


def test_what_was_issued_is_whole_however_it_is_spelled() -> None:
    rows = issued()
    rows[3] = replace(rows[3], address=rows[3].address.lower())
    rows[4] = replace(rows[4], account_id=None)
    report = compare(accounts(), rows)
    assert (report.ok, report.audited, report.accounts) == (True, 8, ["0xaaaaaaaa"])


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"address": address_at(XPUB, 99)}, "OWN"),
        ({"path": f"{PATH}/0/99"}, f"the path {PATH}/0/"),
        ({"account_id": uuid4()}, "a known deposit account"),
        ({"account_id": None, "address": address_at(XPUB, 99)}, "a deposit account that it comes from"),
    ],
    ids=["address", "path", "account", "no account"],
)
def test_one_changed_value_is_the_one_difference(at: int, changes: dict[str, object], expected: str) -> None:
    rows = issued()
    rows[at] = replace(rows[at], **changes)  # pyright: ignore[reportArgumentType]
    report = compare(accounts(), rows)
    [found] = report.differences
    assert (found.index, found.destination, found.address) == (at, str(rows[at].id), rows[at].address)
    assert found.expected.startswith(address_at(XPUB, at) if expected == "OWN" else expected)
    assert str(rows[at].id) in str(found)


def test_rows_that_are_gone_or_were_never_issued_are_found() -> None:
    rows = issued(10)
    report = compare(accounts(first=1), [*rows[3:5], *rows[6:7], *rows[9:]])
    assert [(each.index, each.expected) for each in report.differences if each.destination is None] == [
        (1, "a row for each index up to 2, got none for 2: what was issued there is watched by nobody"),
        (5, "a row for each index up to 5, got none for 1: what was issued there is watched by nobody"),
        (7, "a row for each index up to 7, got none for 1: what was issued there is watched by nobody"),
    ]
    [beyond] = [each for each in report.differences if each.destination is not None]
    assert (beyond.index, beyond.expected) == (9, "an index below 8, up to which the account has issued")
    assert "index 1 of account 0xaaaaaaaa" in str(report.differences[0])
    report = compare(accounts(), rows[:5])
    assert [(each.index, each.expected[:32]) for each in report.differences] == [
        (5, "a row for each index up to 7, go")
    ]


def test_an_account_that_derives_nothing_and_a_flood_are_said_within_bounds() -> None:
    broken = {ACCOUNT: replace(accounts()[ACCOUNT], address=None)}
    assert "this one's xpub does not" in compare(broken, issued(1)).differences[0].expected
    wrong = replace(issued(1)[0], address="0x" + "ab" * 20)
    report = compare(accounts(following=9_999), [replace(wrong, index=each) for each in range(KEPT_MAXIMUM + 5)])
    assert len(report.differences) == KEPT_MAXIMUM
    assert report.differing == KEPT_MAXIMUM + 6
    assert not report.ok

"""The text an approver sees (R18) and the hash it carries: no two payouts share either."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from eth_account import Account
from hypothesis import assume, given
from hypothesis import strategies as st

from custody.releases.approval_text import Names, approval_text
from custody.releases.intent import Intent, Share
from custody.trezor.text_rows import CHARACTERS_MAXIMUM, COLUMNS, TextNotShowable, in_rows, rows_of

ADDRESSES = [Account.from_key(bytes([number]) * 32).address for number in range(1, 9)]
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
NAMES = Names(chain="ethereum", symbol="USDC", decimals=6, native_symbol="ETH", label="wallet of the seller")
INTENT = Intent(
    environment="prod",
    instruction_id=UUID("0198f000-0000-7000-8000-0000deadbeef"),
    purpose="release",
    chain_id=1,
    treasury=ADDRESSES[0],
    token=ADDRESSES[1],
    recipient=ADDRESSES[2],
    amount_units=1_234_567_890_000,
    payments=(UUID(int=5), UUID(int=9)),
    release_epoch=3,
    policy_version=2,
    max_total_fee_wei=5 * 10**15,
    expires_at=NOW + timedelta(minutes=30),
)

OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "environment": st.text("abcdefgh", min_size=4, max_size=4),
    "instruction_id": st.uuids(),
    "purpose": st.sampled_from(["release", "refund"]),
    "chain_id": st.integers(1, 10**6),
    "treasury": st.sampled_from(ADDRESSES),
    "token": st.sampled_from([*ADDRESSES, "native"]),
    "recipient": st.sampled_from(ADDRESSES),
    "amount_units": st.integers(1, 10**16),
    "payments": st.lists(st.uuids(), min_size=1, max_size=5, unique=True).map(tuple),
    "release_epoch": st.integers(0, 2**40),
    "policy_version": st.integers(1, 2**20),
    "max_total_fee_wei": st.integers(1, 10**6).map(lambda gwei: gwei * 10**12),
    "expires_at": st.integers(1, 10**6).map(lambda minutes: NOW + timedelta(minutes=minutes)),
    "raw_units": st.booleans(),
}
intents = st.builds(Intent, **OTHERS)
SPLITS = st.tuples(st.integers(1, INTENT.amount_units - 1), st.integers(0, 2**40), st.integers(0, 2**40))


def group(split: tuple[int, int, int]) -> Intent:
    """INTENT's two payments as a group: the first one's share, and the epoch of each."""
    first, epoch, other = split
    shares = (Share(first, epoch), Share(INTENT.amount_units - first, other))
    return replace(INTENT, release_epoch=0, shares=shares)


def test_the_rows_that_a_device_shows() -> None:
    assert rows_of(approval_text(INTENT, NAMES)) == (
        "APPROVE rel prod  ",
        "ethereum 1        ",
        "1234567.89 USDC   ",
        ADDRESSES[2][:18],
        ADDRESSES[2][18:36],
        ADDRESSES[2][36:].ljust(18),
        "wallet of the sell",
        "nr deadbeef       ",
        f"# {INTENT.hash().hex()[:16]}",
        "fee<0.005 ETH     ",
        "2026-11-27 12:30Z ",
    )


@given(intents)
def test_every_text_fits_every_device(intent: Intent) -> None:
    text = approval_text(intent, NAMES)
    assert len(text) <= CHARACTERS_MAXIMUM
    assert len(text) % COLUMNS == 0
    assert text.isascii()
    assert text.isprintable()
    assert len(text) > 32  # R6: 32 bytes could be the digest of something else


def test_every_field_is_told_apart() -> None:
    assert {*OTHERS, "shares"} == {each.name for each in fields(Intent)}


@given(SPLITS, SPLITS)
def test_a_group_binds_each_payments_share_and_epoch(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assume(one != other)
    assert len({group(one).hash(), group(other).hash(), replace(INTENT, release_epoch=0).hash()}) == 3
    turned = replace(group(one), payments=INTENT.payments[::-1], shares=group(one).shares[::-1])
    assert turned.hash() == group(one).hash()
    assert "nr deadbeef 2 pay " in rows_of(approval_text(group(one), NAMES))


@pytest.mark.parametrize(
    "shares", [(Share(1, 0),), (Share(1, 0), Share(2, 0)), (Share(0, 0), Share(INTENT.amount_units, 0))]
)
def test_a_groups_shares_are_its_amount(shares: tuple[Share, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        replace(INTENT, release_epoch=0, shares=shares)


@pytest.mark.parametrize("field", list(OTHERS))
@given(st.data())
def test_any_change_changes_hash_and_text(field: str, data: st.DataObject) -> None:
    other = data.draw(OTHERS[field])
    assume(other != getattr(INTENT, field))
    changed = replace(INTENT, **{field: other})
    assert changed.hash() != INTENT.hash()
    assert approval_text(changed, NAMES) != approval_text(INTENT, NAMES)


@given(intents, intents)
def test_no_two_intents_have_the_same_bytes(one: Intent, other: Intent) -> None:
    assume(one != other)
    assert one.canonical_bytes() != other.canonical_bytes()


def test_the_same_payout_written_otherwise_is_the_same() -> None:
    written = replace(
        INTENT,
        payments=INTENT.payments[::-1],
        treasury=INTENT.treasury.lower(),
        expires_at=INTENT.expires_at.astimezone(timezone(timedelta(hours=4))),
    )
    assert written.hash() == INTENT.hash()


def test_the_hash_stays_what_it_was() -> None:
    """Approvals on devices are over it: a change of its bytes would void every one of them."""
    assert INTENT.hash().hex() == "f5361aafa0a4b538c5c087bd5ad62b9ee02c426d45807ca6d9597ce531a74df8"


@pytest.mark.parametrize("amount", [1, 10**12 + 1, 10**30 - 1])
def test_the_amount_is_never_rounded(amount: int) -> None:
    shown = "".join(rows_of(approval_text(replace(INTENT, amount_units=amount), NAMES))[2:4]).split()[0]
    assert Decimal(shown) * 10**6 == amount


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (replace(NAMES, label="caf\N{LATIN SMALL LETTER E WITH ACUTE}"), "label"),
        (replace(NAMES, label="two\nlines"), "label"),
        (replace(NAMES, label=""), "label"),
        (replace(NAMES, chain="a\x7fb"), "chain"),
        (replace(NAMES, symbol="S" * 60), "text"),
    ],
)
def test_what_a_device_would_not_show_is_refused(names: Names, named: str) -> None:
    with pytest.raises(TextNotShowable, match=f"^{named}"):
        approval_text(INTENT, names)


@pytest.mark.parametrize("expires_at", [NOW.replace(second=1), NOW.replace(microsecond=1), NOW.replace(tzinfo=None)])
def test_an_expiry_that_the_text_would_not_show_whole_is_refused(expires_at: datetime) -> None:
    with pytest.raises(ValueError, match="expires_at"):
        replace(INTENT, expires_at=expires_at)


@pytest.mark.parametrize("payments", [(), (UUID(int=1), UUID(int=1))])
def test_an_intent_names_each_payment_once(payments: tuple[UUID, ...]) -> None:
    with pytest.raises(ValueError, match="payments"):
        replace(INTENT, payments=payments)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text(min_size=1, max_size=40), min_size=1))
def test_rows_hold_each_field_whole_or_are_refused(given_fields: dict[str, str]) -> None:
    try:
        text = in_rows(**given_fields)
    except TextNotShowable:
        return
    rows = iter(rows_of(text))
    for value in given_fields.values():
        shown = "".join(next(rows) for _ in range(-(-len(value) // COLUMNS)))
        assert shown.rstrip() == value.rstrip()
    assert next(rows, None) is None

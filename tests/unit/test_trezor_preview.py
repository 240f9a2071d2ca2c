"""What a signer is told before the device asks: exact lines, plain words, and what cannot be read."""

from __future__ import annotations

import pytest

from custody.trezor import (
    DerivationPathError,
    UnsignedTransaction,
    device_screens,
    encode_erc20_transfer,
    format_derivation_path,
    human_lines,
    parse_derivation_path,
)
from custody.trezor.readability import why_amount_not_readable

ONE = ("T1B1", "1.14.2")
USDC = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
BSC_USDT = "0x55d398326f99059fF775485246999027B3197955"
SELLER = "0x73d0385F4d8E00C5e6504C6030F47BF6212736A8"
GWEI = 10**9


def transfer(chain_id: int, token: str, amount: int) -> UnsignedTransaction:
    data = encode_erc20_transfer(SELLER, amount)
    return UnsignedTransaction(chain_id, 7, GWEI, 30 * GWEI, 65_000, token, 0, data)


def payment(chain_id: int, wei: int, data: bytes = b"") -> UnsignedTransaction:
    return UnsignedTransaction(chain_id, 7, 1_500_000_000, 30 * GWEI, 21_000, SELLER, wei, data)


def test_a_known_token_is_shown_in_its_own_units() -> None:
    assert device_screens(transfer(1, USDC, 1_234_500_000), *ONE) == [
        "Send\n1,234.5\nUSDC to 0x73d0385F\n4d8E00C5e6504C6030\nF47BF6212736A8?",
        "Confirm fee\nMaximum fee per gas\n30 Gwei",
        "Confirm fee\nPriority fee per gas\n1 Gwei",
        "Confirm fee\nMaximum fee\n0.00195 ETH",
    ]


def test_an_unknown_token_is_shown_in_smallest_units_and_called_unreadable() -> None:
    transaction = transfer(56, BSC_USDT, 100 * 10**18)
    first = device_screens(transaction, *ONE)[0]
    assert first.split("\n")[1:3] == ["100,000,000,000,000,000,000", "UNKN to 0x73d0385F"]
    assert "amount_not_readable" in (why_amount_not_readable(transaction, *ONE) or "")


def test_native_coin_small_amounts_and_unknown_chains() -> None:
    assert device_screens(payment(1, 15 * 10**17), *ONE)[0].startswith("Send\n1.5\nETH to 0x73d0385F4")
    assert device_screens(payment(1, 999), *ONE)[0].startswith("Send\n999\nWei to ")
    assert device_screens(payment(31337, 10**18), *ONE)[0].startswith("Send\n1\nUNKN to ")
    assert device_screens(payment(1, 0), *ONE)[0].startswith("Send\nmessage\nto 0x73d0385F4d8E0")


def test_other_call_data_takes_five_pages_and_a_warning() -> None:
    screens = device_screens(payment(1, 0, bytes(range(200)) + bytes(1_304)), *ONE)
    assert len(screens) == 10
    assert screens[1] == ("Transaction data:\n0001020304050607\n08090a0b0c0d0e0f\n1011121314151617\n... 24/1504 bytes")
    assert screens[6] == "Warning! Too long\ndata to view.\n\nProceed with caution."


@pytest.mark.parametrize(("model", "firmware"), [("T1B1", "1.13.0"), ("T3T1", "2.9.0")])
def test_other_firmware_gets_values_to_compare_and_no_claim(model: str, firmware: str) -> None:
    (only,) = device_screens(transfer(1, USDC, 5), model, firmware)
    assert "not known" in only
    for value in (SELLER, USDC, "chain id 1", "1950000000000000 wei"):
        assert value in only


@pytest.mark.parametrize(
    ("transaction", "readable"),
    [
        (transfer(1, USDC, 1), True),
        (payment(1, 10**18), True),
        (payment(31337, 10**18), False),
        (transfer(8453, USDC, 1), False),
        (payment(1, 0, b"\x01"), False),
        (payment(1, 1, encode_erc20_transfer(SELLER, 1)), False),
    ],
)
def test_readability_on_a_trezor_one(transaction: UnsignedTransaction, readable: bool) -> None:
    assert (why_amount_not_readable(transaction, *ONE) is None) is readable
    assert why_amount_not_readable(transaction, "T1B1", "1.12.1") is not None


def test_plain_words_name_amount_token_recipient_chain_and_fee() -> None:
    lines = human_lines(
        transfer(1, USDC, 1_234_500_000),
        chain_name="Ethereum",
        native_symbol="ETH",
        token_symbol="USDC",
        token_decimals=6,
    )
    assert lines == [
        f"Amount     1,234.5 USDC ({USDC})",
        f"Recipient  {SELLER}",
        "Chain      Ethereum (id 1)",
        "Fee        at most 0.00195 ETH",
        "Nonce      7",
    ]
    bare = human_lines(transfer(1, USDC, 1_234), chain_name="Ethereum", native_symbol="ETH")
    assert bare[0] == f"Amount     1,234 smallest units of token {USDC}"
    assert human_lines(payment(1, 10**18, b"x"), chain_name="Ethereum", native_symbol="ETH")[-1].startswith("Data")


@pytest.mark.parametrize("text", ["m/44'/60'/0'/0/0", "m/44'/60'/0'", "m/0'", "m/2147483647/0"])
def test_paths_round_trip(text: str) -> None:
    assert format_derivation_path(parse_derivation_path(text)) == text
    assert parse_derivation_path(text.replace("'", "h")) == parse_derivation_path(text)


@pytest.mark.parametrize(
    "text",
    ["", "m", "m/", "44'/60'", "m/44''", "m/-1", "m/01", "m/2147483648", "m/٣", "m/1 ", "m" + "/0" * 11],
)
def test_other_paths_are_refused(text: str) -> None:
    with pytest.raises(DerivationPathError):
        parse_derivation_path(text)

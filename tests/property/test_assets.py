from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.chain import NATIVE, Asset, InvalidAddress, InvalidAmount, TokenTraits, to_amount, to_units

TOKEN = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
UNITS = st.one_of(st.integers(0, 2**256 - 1), st.integers(0, 10**9))
DECIMALS = st.integers(0, 77)


@given(UNITS, DECIMALS)
def test_units_come_back_exactly(units: int, decimals: int):
    amount = to_amount(units, decimals)
    assert to_units(amount, decimals) == units
    # An independent account of the value, by text.
    digits = str(units).rjust(decimals + 1, "0")
    text = digits[: len(digits) - decimals] + ("." + digits[len(digits) - decimals :] if decimals else "")
    assert f"{amount:f}" == text


@given(UNITS, DECIMALS, st.integers(1, 28))
def test_the_decimal_context_rounds_nothing(units: int, decimals: int, precision: int):
    with localcontext() as context:
        context.prec = precision
        assert to_units(to_amount(units, decimals), decimals) == units


@given(st.integers(1, 10**30).filter(lambda units: units % 10), st.integers(0, 18), st.integers(1, 18))
def test_more_decimals_than_the_token_has_are_refused(units: int, decimals: int, extra: int):
    with pytest.raises(InvalidAmount, match=f"more than the token's {decimals} decimals"):
        to_units(Decimal((0, tuple(map(int, str(units))), -(decimals + extra))), decimals)


@given(st.integers(0, 10**20), st.integers(0, 18), st.integers(0, 18))
def test_zeros_behind_the_last_decimal_are_none(units: int, decimals: int, zeros: int):
    padded = Decimal((0, tuple(map(int, str(units * 10**zeros))), -(decimals + zeros)))
    assert to_units(padded, decimals) == units


def test_what_numeric_38_18_returns_is_taken():
    assert to_units(Decimal("12.345678000000000000"), 6) == 12_345_678
    with pytest.raises(InvalidAmount):
        to_units(Decimal("12.345678000000000001"), 6)


def test_known_amounts():
    assert to_units(Decimal("1.5"), 6) == 1_500_000
    assert to_units(Decimal("1E+3"), 6) == 10**9
    assert to_units(Decimal("0E-30"), 6) == 0
    assert to_units(Decimal("-0"), 6) == 0
    assert to_amount(2**256 - 1, 0) == 2**256 - 1
    assert str(to_amount(1, 6)) == "0.000001"


@pytest.mark.parametrize(
    "amount",
    [
        "NaN",
        "sNaN",
        "Infinity",
        "-Infinity",
        "-1",
        "-0.000001",
        str(2**256),
        "1E+78",
        "1E+999999",
        "1E-999999",
        "9" * 2000,
    ],
)
def test_what_is_no_amount_is_refused(amount: str):
    with pytest.raises(InvalidAmount):
        to_units(Decimal(amount), 0)


@pytest.mark.parametrize("amount", [1.5, 1, "1"])
def test_only_a_decimal_is_an_amount(amount: object):
    with pytest.raises(TypeError, match="expected a Decimal"):
        to_units(amount, 6)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("units", [-1, 2**256])
def test_units_outside_uint256_are_refused(units: int):
    with pytest.raises(InvalidAmount):
        to_amount(units, 6)


@pytest.mark.parametrize("units", [1.0, True, "1", Decimal(1)])
def test_only_an_int_is_units(units: object):
    with pytest.raises(TypeError, match="expected an int"):
        to_amount(units, 6)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("decimals", [-1, 78, True])
def test_decimals_have_their_range(decimals: int):
    for ask in (lambda: to_units(Decimal(1), decimals), lambda: to_amount(1, decimals)):
        with pytest.raises(ValueError, match="decimals: expected 0 to 77"):
            ask()
    with pytest.raises(ValueError, match="decimals"):
        TokenTraits("USDC", decimals)


def test_an_asset_is_chain_and_token():
    assert Asset(1, NATIVE).is_native
    assert not Asset(1, TOKEN).is_native
    assert Asset(1, TOKEN) != Asset(56, TOKEN)
    assert str(Asset(1, TOKEN)) == f"1:{TOKEN}"


@pytest.mark.parametrize("token", [TOKEN.lower(), "0x" + "0" * 40, "USDT", "Native", ""])
def test_a_token_that_is_no_checksum_address_is_refused(token: str):
    with pytest.raises(InvalidAddress):
        Asset(1, token)


@pytest.mark.parametrize("chain_id", [0, -1, True])
def test_a_chain_id_that_is_none_is_refused(chain_id: int):
    with pytest.raises(ValueError, match="chain_id"):
        Asset(chain_id, NATIVE)


@pytest.mark.parametrize("symbol", ["", "US\nDT"])
def test_a_symbol_is_printable(symbol: str):
    with pytest.raises(ValueError, match="symbol"):
        TokenTraits(symbol, 6)

"""The digests' shortcut for Decimal128: the text of the same amount by the long way, or the same refusal."""

from decimal import Decimal

from bson import Decimal128
from hypothesis import example, given
from hypothesis import strategies as st

from custody.mirror.agreement.canonical import _decimal, _decimal128


def _amount(sign: int, digits: int, exponent: int) -> Decimal:
    return Decimal((sign, tuple(map(int, str(digits))), exponent))


AMOUNTS = st.builds(_amount, st.integers(0, 1), st.integers(0, 10**34 - 1), st.integers(-60, 60))


@given(AMOUNTS, st.sampled_from([8, 18]))
@example(Decimal("-0.00"), 18)
@example(Decimal("1E-18"), 18)
@example(Decimal("12.50"), 18)
@example(Decimal("1E+5"), 8)
def test_a_decimal128_is_said_as_its_decimal_is(amount: Decimal, decimals: int) -> None:
    assert outcome(amount, decimals, short=True) == outcome(amount, decimals, short=False)


def outcome(amount: Decimal, decimals: int, *, short: bool) -> str:
    try:
        return _decimal128(Decimal128(amount), decimals) if short else _decimal(amount, decimals)
    except ValueError as error:
        return str(error)

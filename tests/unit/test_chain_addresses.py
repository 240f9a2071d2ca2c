import pytest

from custody.chain import ZERO_ADDRESS, InvalidAddress, parse_address

# The first example of EIP-55.
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.mark.parametrize("text", [ADDRESS, ADDRESS.lower(), "0x" + ADDRESS[2:].upper()])
def test_an_address_gets_its_checksum(text: str):
    assert parse_address(text) == ADDRESS


def test_a_wrong_checksum_is_refused_and_says_what_to_do():
    with pytest.raises(InvalidAddress, match=r"treasury: .* wrong EIP-55 checksum.*copy the address again"):
        parse_address(ADDRESS.replace("aAe", "aae"), field="treasury")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        ADDRESS[:-1],
        ADDRESS + "0",
        ADDRESS[2:],
        "0X" + ADDRESS[2:],
        ADDRESS + "\n",
        "0x" + "g" * 40,
        " " + ADDRESS,
    ],
)
def test_what_is_not_forty_hex_digits_is_refused(text: str):
    with pytest.raises(InvalidAddress, match="treasury: expected 0x and 40 hex digits"):
        parse_address(text, field="treasury")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("vitalik.eth", "an ENS name"),
        ("pay.some-shop.eth", "an ENS name"),
        ("TJRabPrwbZy45sbavfcjinPJC18kjpRTv8", "a Tron address"),
        ("EQCD39VS5jcptHL8vMjEXrzGaRcCVYto7HUn4bpAOg8xqB2N", "a TON address"),
        ("0:83dfd552e63729b472fcbcc8c45ebcc6691702558b68ec7527e1ba403a0f31a8", "a TON address"),
    ],
)
def test_an_address_of_another_kind_is_called_what_it_is(text: str, what: str):
    """R24: the person who pasted it is told what it is, and what to ask for."""
    with pytest.raises(InvalidAddress, match=f"it is {what}.*ask for the address itself"):
        parse_address(text, field="recipient")


@pytest.mark.parametrize("value", [None, 5, b"\x11" * 20])
def test_another_type_is_refused(value: object):
    with pytest.raises(InvalidAddress, match="expected 0x and 40 hex digits"):
        parse_address(value)  # pyright: ignore[reportArgumentType]


def test_without_a_checksum_only_where_it_is_not_required():
    with pytest.raises(InvalidAddress, match="checksum"):
        parse_address(ADDRESS.lower(), require_checksum=True)
    assert parse_address(ADDRESS, require_checksum=True) == ADDRESS


def test_the_zero_address_only_where_it_is_allowed():
    with pytest.raises(InvalidAddress, match="coins sent there are lost"):
        parse_address(ZERO_ADDRESS)
    assert parse_address(ZERO_ADDRESS, allow_zero=True) == ZERO_ADDRESS

import pytest

from custody.chain import erc20

RECIPIENT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def test_selectors_are_the_published_ones():
    assert erc20.TRANSFER.hex() == "a9059cbb"
    assert erc20.APPROVE.hex() == "095ea7b3"
    assert erc20.BALANCE_OF.hex() == "70a08231"
    assert erc20.DECIMALS.hex() == "313ce567"
    assert erc20.TRANSFER_FROM_WITH_REFERENCE_AND_FEE.hex() == "c219a14d"


def test_transfer_is_selector_and_two_words():
    call = erc20.encode_transfer(RECIPIENT, 258)
    assert call.hex() == "a9059cbb" + "0" * 24 + RECIPIENT[2:].lower() + "0" * 61 + "102"
    assert erc20.decode_transfer_call(call) == (RECIPIENT, 258)


@pytest.mark.parametrize("amount", [-1, 2**256])
def test_an_amount_that_is_no_uint256_is_not_encoded(amount: int):
    with pytest.raises(ValueError, match="calldata: "):
        erc20.encode_transfer(RECIPIENT, amount)


def test_only_exactly_one_transfer_call_is_decoded():
    call = erc20.encode_transfer(RECIPIENT, 1)
    dirty = call[:4] + b"\x01" + call[5:]
    for wrong in (b"", call[:-1], call + b"\x00", erc20.encode_approve(RECIPIENT, 1), dirty):
        with pytest.raises(ValueError, match=r"expected transfer\(address,uint256\) and nothing else"):
            erc20.decode_transfer_call(wrong)


def test_no_answer_is_no_zero():
    assert erc20.decode_uint256(bytes(31) + b"\x07") == 7
    with pytest.raises(ValueError, match="is there a contract at this address"):
        erc20.decode_uint256(b"")

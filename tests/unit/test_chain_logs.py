from collections.abc import Mapping

import pytest

from custody.chain import MalformedLog, payment_reference, reference_topic
from custody.chain.logs import FEE_PROXY_TOPIC, TRANSFER_TOPIC, read_fee_proxy, read_transfer

CHAIN = 31337
TOKEN = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
PROXY = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
RECIPIENT = "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB"
REFERENCE = bytes.fromhex("d9a0d7923a32bc34")


def word(value: int | str) -> str:
    return (f"{value:x}" if isinstance(value, int) else value[2:].lower()).rjust(64, "0")


def raw_log(address: str, topics: list[str], data: str) -> dict[str, object]:
    return {
        "address": address.lower(),
        "topics": topics,
        "data": "0x" + data,
        "blockNumber": "0x10",
        "blockHash": "0x" + "bb" * 32,
        "transactionHash": "0x" + "aa" * 32,
        "transactionIndex": "0x2",
        "logIndex": "0x3",
        "removed": False,
    }


def transfer_log() -> dict[str, object]:
    return raw_log(TOKEN, [TRANSFER_TOPIC, "0x" + word(PROXY), "0x" + word(RECIPIENT)], word(258))


def proxy_log() -> dict[str, object]:
    data = word(TOKEN) + word(RECIPIENT) + word(258) + word(9) + word(PROXY)
    return raw_log(PROXY, [FEE_PROXY_TOPIC, reference_topic(REFERENCE)], data)


def test_topics_are_the_published_ones():
    assert TRANSFER_TOPIC == "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    assert FEE_PROXY_TOPIC == "0x9f16cbcc523c67a60c450e5ffe4f3b7b6dbe772e7abcadb2686ce029a9a0a2b6"


def test_a_transfer_is_decoded():
    log = read_transfer(transfer_log(), CHAIN)
    assert (log.chain_id, log.block_number, log.transaction_index, log.log_index) == (CHAIN, 16, 2, 3)
    assert (log.block_hash, log.transaction_hash) == ("0x" + "bb" * 32, "0x" + "aa" * 32)
    assert (log.token, log.sender, log.recipient, log.amount) == (TOKEN, PROXY, RECIPIENT, 258)


def test_the_proxys_event_is_decoded():
    log = read_fee_proxy(proxy_log(), CHAIN)
    assert (log.proxy, log.token, log.recipient, log.amount) == (PROXY, TOKEN, RECIPIENT, 258)
    assert (log.reference_topic, log.fee_amount, log.fee_address) == (reference_topic(REFERENCE), 9, PROXY)


def test_the_largest_amount_is_exact():
    assert read_transfer({**transfer_log(), "data": "0x" + "f" * 64}, CHAIN).amount == 2**256 - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed": True}, "removed"),
        ({"removed": "false"}, "removed"),
        ({"topics": [TRANSFER_TOPIC]}, "expected 3 topics, got 1"),
        ({"topics": [TRANSFER_TOPIC, *["0x" + word(1)] * 3]}, "expected 3 topics, got 4"),
        ({"topics": []}, "topic0 is None"),
        ({"topics": [FEE_PROXY_TOPIC, "0x" + word(1)]}, "topic0 is 0x9f16"),
        ({"topics": [TRANSFER_TOPIC, "0x" + "1" * 64, "0x" + word(RECIPIENT)]}, "from: 12 zero bytes"),
        (
            {"topics": [TRANSFER_TOPIC, "0x" + word(RECIPIENT), "0x01" + word(RECIPIENT)[2:]]},
            "to: 12 zero bytes",
        ),
        ({"topics": [TRANSFER_TOPIC[:-1], "0x" + word(1), "0x" + word(1)]}, r"topics\[0\]"),
        ({"topics": None}, "topics: expected an array"),
        ({"data": "0x"}, "expected 32 bytes of data, got 0"),
        ({"data": "0x" + word(1) * 2}, "expected 32 bytes of data, got 64"),
        ({"data": "0x1"}, "data: expected hex data of whole bytes"),
        ({"blockHash": None}, "blockHash"),
        ({"blockNumber": None}, "blockNumber"),
        ({"blockNumber": 16}, "blockNumber: expected a hex quantity"),
        ({"logIndex": "0x"}, "logIndex"),
        ({"logIndex": "-0x1"}, "logIndex"),
        ({"transactionHash": "0xaa"}, "transactionHash"),
        ({"address": None}, "address: expected a 20-byte address"),
    ],
)
def test_a_malformed_transfer_is_refused(change: Mapping[str, object], message: str):
    with pytest.raises(MalformedLog, match=message):
        read_transfer({**transfer_log(), **change}, CHAIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed": True}, "removed"),
        ({"topics": [FEE_PROXY_TOPIC]}, "expected 2 topics, got 1"),
        ({"data": "0x" + word(TOKEN) + word(RECIPIENT)}, "expected 160 bytes of data, got 64"),
        (
            {"data": "0x" + "1" * 64 + word(RECIPIENT) + word(1) + word(1) + word(PROXY)},
            "tokenAddress: 12 zero bytes",
        ),
        ({"data": "0x" + word(TOKEN) + "1" * 64 + word(1) + word(1) + word(PROXY)}, "to: 12 zero bytes"),
        (
            {"data": "0x" + word(TOKEN) + word(RECIPIENT) + word(1) + word(1) + "1" * 64},
            "feeAddress: 12 zero bytes",
        ),
    ],
)
def test_a_malformed_proxy_event_is_refused(change: Mapping[str, object], message: str):
    with pytest.raises(MalformedLog, match=message):
        read_fee_proxy({**proxy_log(), **change}, CHAIN)


@pytest.mark.parametrize("field", sorted(transfer_log().keys() - {"removed"}))
def test_each_field_is_needed(field: str):
    raw = transfer_log()
    del raw[field]
    with pytest.raises(MalformedLog, match=field):
        read_transfer(raw, CHAIN)


def test_references_agree_with_request_network():
    assert payment_reference("01847474747474", "8d03ea7", "0x000001").hex() == "a0098add01acc736"
    reference = payment_reference("01" + "ab" * 32, "ea3bc7caf64110ca", "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
    assert reference == REFERENCE
    assert reference_topic(reference) == "0xefda6d4737ee1459728f4c1b646909403057bef010d64ad1628a4712f01ee30a"


@pytest.mark.parametrize("reference", [b"", bytes(7), bytes(9), bytes(32)])
def test_a_reference_has_eight_bytes(reference: bytes):
    with pytest.raises(ValueError, match="expected 8 bytes"):
        reference_topic(reference)

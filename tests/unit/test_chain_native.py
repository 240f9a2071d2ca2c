"""Native coin without a node: the proxy's event, what a receipt says, and how its value is asked for (L8)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from custody.chain import MalformedLog, Receipt, reference_topic
from custody.chain.logs import NATIVE_FEE_PROXY_TOPIC, decode_native_fee_proxy, read_log
from custody.chain.native import TOP_LEVEL, Unproved, native_transfers, proxy_events
from custody.settings.chains import Chain
from tests.unit.test_chain_logs import CHAIN, PROXY, RECIPIENT, REFERENCE, TOKEN, raw_log, word
from tests.unit.test_chain_rpc import ChainUnavailable, block, client_of, receipt, result

TX = "0x" + "aa" * 32
SENDER = to_checksum_address("0x" + "77" * 20)
US = to_checksum_address(RECIPIENT)


def event(amount: int = 258, *, recipient: str = RECIPIENT, proxy: str = PROXY) -> dict[str, object]:
    data = word(recipient) + word(amount) + word(9) + word(PROXY)
    return raw_log(proxy, [NATIVE_FEE_PROXY_TOPIC, reference_topic(REFERENCE)], data)


def a_receipt(*logs: dict[str, object], to: str = RECIPIENT, value: int | None = 5, status: int = 1) -> Receipt:
    return Receipt(
        chain_id=CHAIN,
        transaction_hash=TX,
        transaction_index=2,
        block_number=16,
        block_hash="0x" + "bb" * 32,
        status=status,
        sender=SENDER,
        to=to_checksum_address(to),
        contract_address=None,
        gas_used=21_000,
        effective_gas_price=1,
        l1_fee=0,
        logs=tuple(read_log({**log, "logIndex": hex(3 + place)}, CHAIN) for place, log in enumerate(logs)),
        value=value,
    )


def found(one: Receipt, *watched: str) -> list[tuple[int, int, int]]:
    """(log index, place in the transaction, wei)."""
    return [
        (inbound.transfer.log_index, inbound.tx_ordinal, inbound.transfer.amount)
        for inbound in native_transfers(one, watched=watched or {US}, fee_proxies={PROXY})
    ]


def test_the_topic_is_the_published_one_and_the_event_is_decoded():
    assert NATIVE_FEE_PROXY_TOPIC == "0xa1c241e337c4610a9d0f881111e977e9dc8690c85fe2108897bb1483c66e6a96"
    log = decode_native_fee_proxy(read_log(event(), CHAIN))
    assert (log.proxy, log.recipient, log.amount, log.log_index) == (PROXY, RECIPIENT, 258, 3)
    assert (log.reference_topic, log.fee_amount, log.fee_address) == (reference_topic(REFERENCE), 9, PROXY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topics": [NATIVE_FEE_PROXY_TOPIC]}, "expected 2 topics, got 1"),
        ({"data": "0x" + word(RECIPIENT)}, "expected 128 bytes of data, got 32"),
        ({"data": "0x" + "1" * 64 + word(1) + word(1) + word(PROXY)}, "to: 12 zero bytes"),
        ({"data": "0x" + word(RECIPIENT) + word(1) + word(1) + "1" * 64}, "feeAddress: 12 zero bytes"),
    ],
)
def test_a_malformed_event_is_refused(change: Mapping[str, object], message: str):
    with pytest.raises(MalformedLog, match=message):
        native_transfers(a_receipt({**event(), **change}), watched={US}, fee_proxies={PROXY})
    # Of another contract it is nobody's business.
    assert proxy_events(a_receipt({**event(proxy=TOKEN), **change}), {PROXY}) == []


def test_what_a_receipt_says():
    assert found(a_receipt()) == [(TOP_LEVEL, TOP_LEVEL, 5)]
    assert found(a_receipt(value=0)) == found(a_receipt(status=0)) == found(a_receipt(), TOKEN) == []
    assert found(replace(a_receipt(), to=None)) == found(replace(a_receipt(), to=SENDER), SENDER) == []
    assert found(a_receipt(event(), event(0), event(7), to=PROXY)) == [(3, 0, 258), (5, 2, 7)]
    assert found(a_receipt(event(proxy=TOKEN), to=TOKEN)) == []
    assert found(a_receipt(event(recipient=SENDER), to=PROXY), SENDER) == []
    assert found(a_receipt(event(), to=PROXY, status=0)) == []


def test_a_value_that_nobody_asked_for_is_not_taken_for_nothing():
    with pytest.raises(Unproved, match="not the transaction"):
        found(a_receipt(value=None))
    assert found(a_receipt(event(), to=PROXY, value=None)) == [(3, 0, 258)]


@given(
    value=st.integers(0, 2**256 - 1),
    amounts=st.lists(st.integers(0, 2**256 - 1), max_size=4),
    ours=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_only_what_names_us_is_found_and_each_place_once(value: int, amounts: list[int], ours: list[bool]):
    logs = [event(amount, recipient=US if mine else TOKEN) for amount, mine in zip(amounts, ours, strict=False)]
    inbound = native_transfers(a_receipt(*logs, value=value), watched={US}, fee_proxies={PROXY})
    wanted = [value] + [amount for amount, mine in zip(amounts, ours, strict=False) if mine]
    assert [one.transfer.amount for one in inbound] == [amount for amount in wanted if amount]
    assert len({one.tx_ordinal for one in inbound}) == len({one.transfer.log_index for one in inbound}) == len(inbound)


def node_with(transaction: Any) -> Any:
    def node(body: Any) -> Any:
        known = {"latest": block(9), hex(5): block(5)}

        def one(call: Any) -> Any:
            [what, *_] = call["params"]
            if call["method"] == "eth_getTransactionByHash":
                return result(transaction)(call)
            return result(receipt(TX, 5) if what == TX else known[what])(call)

        return [one(call) for call in body] if isinstance(body, list) else one(body)

    return node


def test_values_are_asked_for_in_the_receipts_own_request():
    with client_of(node_with({"hash": TX, "value": "0x5"})) as (client, scripted):
        seen = client.receipts_and_headers([TX], values=True).canonical(TX)
        assert [len(body) if isinstance(body, list) else 1 for body in scripted.bodies] == [3, 1]
        assert seen is not None
        assert seen.value == 5
        plain = client.receipts_and_headers([TX]).canonical(TX)
        assert plain == replace(seen, value=None)


def test_a_transaction_that_the_node_does_not_show_has_no_value():
    with client_of(node_with(None)) as (client, _):
        assert client.receipts_and_headers([TX], values=True).receipts[TX].value is None


@pytest.mark.parametrize(
    ("transaction", "reason"),
    [
        ({"hash": "0x" + "bb" * 32, "value": "0x5"}, "got another one"),
        ({"hash": TX, "value": 5}, "value: expected a hex quantity"),
        ({"hash": TX}, "value: expected a hex quantity"),
    ],
)
def test_a_malformed_transaction_is_refused(transaction: dict[str, Any], reason: str):
    with client_of(node_with(transaction)) as (client, _), pytest.raises(ChainUnavailable, match=reason):
        client.receipts_and_headers([TX], values=True)


def test_the_native_proxy_is_a_contract_of_its_own():
    fields: dict[str, Any] = {
        "id": CHAIN,
        "name": "anvil",
        "genesis_hash": "0x" + "11" * 32,
        "rpc_urls": ["http://127.0.0.1:8545"],
        "treasury": SENDER,
        "fee_proxy": PROXY,
        "tokens": [{"symbol": "ETH", "address": "native", "decimals": 18}],
    }
    assert Chain.model_validate(fields).native_fee_proxy is None
    assert Chain.model_validate({**fields, "native_fee_proxy": TOKEN}).native_fee_proxy == TOKEN
    for wrong, message in ((PROXY, "a contract of its own"), (SENDER, "the treasury is"), (TOKEN.lower(), "EIP-55")):
        with pytest.raises(ValueError, match=message):
            Chain.model_validate({**fields, "native_fee_proxy": wrong})

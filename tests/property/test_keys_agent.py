"""The keys agent signs three shapes; a change of any field of any of them is refused (R8, R19, R20)."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_utils.address import to_checksum_address
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from custody.chain import erc20
from custody.destinations.derivation import (
    INDEX_LIMIT,
    account_xpub_from_seed,
    address_at,
    seed_from_phrase,
    xpub_fingerprint,
)
from custody.destinations.keys.answering import answer
from custody.destinations.keys.shapes import PAYER_SHAPES, Asked, Shape
from custody.destinations.keys.vault import KeyVault
from custody.destinations.sweeps.fees import (
    GAS_LIMIT_MAXIMUM,
    MAX_FEE_PER_GAS_WEI,
    TOP_UP_MAXIMUM_WEI,
    TOTAL_FEE_MAXIMUM_WEI,
)
from custody.settings.chains import Chains
from custody.trezor import Signature, UnsignedTransaction
from tests.counts import Counts, declared
from tests.keys_agent import vault_of

PHRASE = "all all all all all all all all all all all all"
XPUB = account_xpub_from_seed(seed_from_phrase(PHRASE))
ACCOUNT = xpub_fingerprint(XPUB)
PAYER_KEY = bytes(range(1, 33))
PAYER = Account.from_key(PAYER_KEY).address
TOKEN = Account.from_key(b"\x07" * 32).address
TREASURY = Account.from_key(b"\x08" * 32).address
STRANGER = Account.from_key(b"\x09" * 32).address
CHAIN = 31337
INDEX = 5
EXAMPLES = declared(2_000, 15)
CHAINS = Chains.model_validate(
    {
        "chains": [
            {
                "id": CHAIN,
                "name": "anvil",
                "genesis_hash": "0x" + "11" * 32,
                "rpc_urls": ["http://127.0.0.1:1"],
                "treasury": TREASURY,
                "fee_proxy": STRANGER,
                "tokens": [
                    {"symbol": "USDC", "address": TOKEN, "decimals": 6},
                    {"symbol": "ETH", "address": "native", "decimals": 18},
                ],
            }
        ]
    }
)
SHAPES: tuple[Shape, ...] = ("token_sweep", "native_sweep", "top_up", "cancel")
OTHER_PAYER_KEY = b"\x33" * 32
OTHER_PAYER = Account.from_key(OTHER_PAYER_KEY).address


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> KeyVault:
    journal = tmp_path_factory.mktemp("keys") / "journal"
    return vault_of(PHRASE, PAYER_KEY, CHAINS, journal, 10**24, [OTHER_PAYER_KEY])


def good(shape: Shape, nonce: int = 3) -> Asked:
    to, value, data = {
        "token_sweep": (TOKEN, 0, erc20.encode_transfer(TREASURY, 77)),
        "native_sweep": (TREASURY, 10**15, b""),
        "top_up": (address_at(XPUB, INDEX), 10**15, b""),
        "cancel": (PAYER, 0, b""),
    }[shape]
    return Asked(
        shape,
        None if shape == "cancel" else ACCOUNT,
        None if shape == "cancel" else INDEX,
        TREASURY,
        UnsignedTransaction(
            chain_id=CHAIN,
            nonce=nonce,
            max_priority_fee_per_gas=10**9,
            max_fee_per_gas=3 * 10**9,
            gas_limit=60_000,
            to=to,
            value=value,
            data=data,
        ),
        PAYER if shape in PAYER_SHAPES else None,
    )


def _rlp(fields: object) -> bytes:
    encoded: Any = rlp.encode(fields)
    return bytes(encoded)


def request(asked: Asked, mutated: bytes | None = None, **changed: Any) -> bytes:
    raw = asked.transaction.signing_bytes() if mutated is None else mutated
    fields = {
        "ask": "sign",
        "shape": asked.shape,
        "account": asked.account,
        "index": asked.index,
        "payer": asked.payer,
        "treasury": asked.treasury,
        "unsigned": "0x" + raw.hex(),
        **changed,
    }
    return json.dumps(fields).encode()


def signed_by(vault: KeyVault, asked: Asked, raw: bytes) -> str | None:
    """Who signed, or None when it was refused with a sentence."""
    reply = answer(vault, raw)
    if reply.signature is None:
        assert reply.refused, reply
        return None
    signature = Signature(reply.signature.y_parity, int(reply.signature.r, 16), int(reply.signature.s, 16))
    return asked.transaction.recover(signature)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_signed_by_its_own_key(vault: KeyVault, shape: Shape):
    signer = PAYER if shape in PAYER_SHAPES else address_at(XPUB, INDEX)
    assert signed_by(vault, good(shape), request(good(shape))) == signer


@dataclass(frozen=True)
class Change:
    """A field and how a request's transaction looks with it changed. ``shapes``: those that it makes wrong."""

    field: str
    values: Callable[[Shape], st.SearchStrategy[dict[str, Any]]]
    shapes: tuple[Shape, ...] = SHAPES


addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)


def _data(shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    """Any other data: another call, recipient or length; a transfer of nothing."""
    right = good(shape).transaction.data
    others = st.one_of(
        st.binary(min_size=0, max_size=100),
        st.builds(erc20.encode_transfer, addresses, st.integers(1, 2**256 - 1)),
        st.just(erc20.encode_transfer(TREASURY, 0)),
        st.builds(erc20.encode_approve, st.sampled_from([TREASURY, STRANGER]), st.integers(0, 2**256 - 1)),
        st.binary(min_size=1, max_size=32).map(lambda more: erc20.encode_transfer(TREASURY, 77) + more),
        st.binary(min_size=12, max_size=12)
        .filter(any)
        .map(lambda dirt: erc20.TRANSFER + dirt + bytes.fromhex(TREASURY[2:]) + (77).to_bytes(32)),
    )
    if shape == "token_sweep":
        start = erc20.encode_transfer(TREASURY, 1)[:36]
        others = others.filter(lambda data: not (data[:36] == start and len(data) == 68 and any(data[36:])))
    return others.filter(lambda data: data != right).map(lambda data: {"data": data})


CHANGES = (
    Change("chain", lambda _: st.integers(1, 2**63).filter(lambda n: n != CHAIN).map(lambda n: {"chain_id": n})),
    Change(
        "recipient",
        lambda shape: addresses.filter(lambda at: at != good(shape).transaction.to).map(lambda at: {"to": at}),
    ),
    Change(
        "recipient is another of the fleet's",
        lambda shape: st.sampled_from(
            [
                at
                for at in (TOKEN, TREASURY, PAYER, OTHER_PAYER, address_at(XPUB, 6))
                if at != good(shape).transaction.to
            ]
        ).map(lambda at: {"to": at}),
    ),
    Change(
        "value beside a token",
        lambda _: st.integers(1, 2**256 - 1).map(lambda n: {"value": n}),
        ("token_sweep", "cancel"),
    ),
    Change("no value", lambda _: st.just({"value": 0}), ("native_sweep", "top_up")),
    Change(
        "value above the cap",
        lambda _: st.integers(TOP_UP_MAXIMUM_WEI + 1, 2**256 - 1).map(lambda n: {"value": n}),
        ("top_up",),
    ),
    Change("data", _data),
    Change("gas", lambda _: st.integers(GAS_LIMIT_MAXIMUM + 1, 2**63).map(lambda n: {"gas_limit": n})),
    Change(
        "price",
        lambda _: st.integers(MAX_FEE_PER_GAS_WEI + 1, 2**255).map(lambda n: {"max_fee_per_gas": n}),
    ),
    Change(
        "whole fee",
        lambda _: st.integers(TOTAL_FEE_MAXIMUM_WEI // MAX_FEE_PER_GAS_WEI + 1, GAS_LIMIT_MAXIMUM).map(
            lambda n: {"gas_limit": n, "max_fee_per_gas": MAX_FEE_PER_GAS_WEI}
        ),
    ),
    Change("no price", lambda _: st.just({"max_fee_per_gas": 0, "max_priority_fee_per_gas": 0})),
)


@pytest.mark.parametrize(
    ("change", "shape"),
    [(change, shape) for change in CHANGES for shape in change.shapes],
    ids=[f"{change.field}-{shape}" for change in CHANGES for shape in change.shapes],
)
def test_a_changed_field_is_refused(vault: KeyVault, change: Change, shape: Shape, counts: Counts):
    tried = 0

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
    )
    @given(change.values(shape))
    def run(fields: dict[str, Any]) -> None:
        nonlocal tried
        tried += 1
        asked = good(shape)
        other = replace(asked, transaction=replace(asked.transaction, **fields))
        assert signed_by(vault, other, request(other)) is None

    run()
    counts(f"requests with another {change.field} for a {shape}, all refused", tried)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_changed_byte_is_refused_or_signs_the_same_shape(vault: KeyVault, shape: Shape, counts: Counts):
    """Of the bytes themselves: a signature comes only for another nonce, amount, tip or price within the caps."""
    tried = signed = 0
    right = good(shape).transaction
    raw = right.signing_bytes()

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
    )
    @given(st.integers(0, len(raw) - 1), st.integers(1, 255))
    def run(place: int, flip: int) -> None:
        nonlocal tried, signed
        tried += 1
        mutated = raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :]
        reply = answer(vault, request(good(shape), mutated))
        if reply.signature is None:
            assert reply.refused or reply.later, reply
            return
        signed += 1
        got = UnsignedTransaction.from_signing_bytes(mutated)
        assert (got.chain_id, got.to, got.data[:36]) == (right.chain_id, right.to, right.data[:36])
        assert got.max_total_fee_wei <= TOTAL_FEE_MAXIMUM_WEI

    run()
    counts(f"changed bytes of a {shape}", tried)


@pytest.mark.parametrize("shape", SHAPES)
def test_another_kind_of_transaction_is_refused(vault: KeyVault, shape: Shape):
    transaction = good(shape).transaction
    fields = transaction._fields()
    destination = bytes.fromhex(TREASURY[2:])
    delegation = [CHAIN, destination, 0, 0, 1, 1]
    others = {
        "a legacy transaction": _rlp(fields[1:2] + fields[3:8]),
        "EIP-2930": b"\x01" + _rlp(fields),
        "EIP-7702 with a delegation": b"\x04" + _rlp([*fields, [delegation]]),
        "EIP-7702 under the type of EIP-1559": b"\x02" + _rlp([*fields, [delegation]]),
        "a filled access list": b"\x02" + _rlp([*fields[:8], [[destination, [bytes(32)]]]]),
        "chain id 0": b"\x02" + _rlp([0, *fields[1:]]),
        "a contract's creation": b"\x02" + _rlp([*fields[:5], b"", *fields[6:]]),
        "a signed one": transaction.signed_raw(Signature(0, 1, 1)),
        "a leading zero": b"\x02" + _rlp([b"\x00" + CHAIN.to_bytes(2), *fields[1:]]),
        "bytes behind it": transaction.signing_bytes() + b"\x00",
        "a login challenge": b"\x19Ethereum Signed Message:\n32" + bytes(32),
        "typed data": b"\x19\x01" + bytes(64),
    }
    for what, raw in others.items():
        assert signed_by(vault, good(shape), request(good(shape), raw)) is None, what


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "changed",
    [
        {"account": "0x00000000"},
        {"account": ""},
        {"index": INDEX_LIMIT},
        {"index": -1},
        {"payer": STRANGER},
        {"payer": ""},
        {"index": True},
        {"index": "5"},
        {"treasury": STRANGER},
        {"treasury": TREASURY.lower()},
        {"treasury": ""},
        {"shape": "release"},
        {"ask": "export"},
        {"unsigned": "0x"},
        {"unsigned": "0x" + "02" * 600},
        {"unsigned": "02"},
    ],
    ids=lambda changed: " ".join(f"{name}={str(value)[:12]}" for name, value in changed.items()),
)
def test_a_changed_request_is_refused(vault: KeyVault, shape: Shape, changed: dict[str, Any]):
    assert signed_by(vault, good(shape), request(good(shape), **changed)) is None


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "native_sweep"])
def test_another_index_is_refused_or_signs_for_itself_alone(vault: KeyVault, shape: Shape):
    """A top-up of another index than its recipient's; a sweep of another index is that address's own."""
    asked = good(shape)
    signer = signed_by(vault, asked, request(asked, index=6))
    assert signer == (None if shape in PAYER_SHAPES else address_at(XPUB, 6))


@pytest.mark.parametrize(
    ("shape", "as_shape"),
    [(shape, other) for shape in SHAPES for other in SHAPES if shape != other],
)
def test_no_shape_passes_as_another(vault: KeyVault, shape: Shape, as_shape: Shape):
    assert signed_by(vault, good(shape), request(good(shape), shape=as_shape)) is None


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"ask":"sign"}', b"\xff", b"[" * 5_000, b"1e400"])
def test_what_is_no_request_is_refused(vault: KeyVault, raw: bytes):
    reply = answer(vault, raw)
    assert reply.refused
    assert reply.signature is None


def test_a_further_field_is_refused(vault: KeyVault):
    body = request(good("token_sweep"))[:-1] + b',"authorizationList":[]}'
    reply = answer(vault, body)
    assert reply.refused is not None
    assert "authorizationList" in reply.refused
    assert "Extra inputs are not permitted" in reply.refused

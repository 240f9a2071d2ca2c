"""What the keys agent signs for batches, and that it signs nothing else (R20)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from custody.destinations.contracts import sweep_contracts, sweep_many_call
from custody.destinations.contracts.multicall3 import MULTICALL3
from custody.destinations.derivation import account_xpub_from_seed, address_at, seed_from_phrase
from custody.destinations.keys.authorizations import (
    VALID_SECONDS_MAXIMUM,
    AskedAuthorizations,
    Domain,
    Item,
    transfer_digest,
)
from custody.destinations.keys.payer_calls import (
    AGGREGATE3,
    AGGREGATE3_TYPES,
    TRANSFER_TYPES,
    TRANSFER_WITH_AUTHORIZATION,
)
from custody.destinations.keys.set_code import Authorization, SetCodeTransaction, SignedAuthorization
from custody.destinations.keys.shapes import KnownChain, ShapeRefused
from custody.destinations.keys.spending import DaySpending
from custody.destinations.keys.vault import KeyVault
from custody.trezor import Signature, TransactionError, UnsignedTransaction
from custody.trezor.transaction import recover_signer

CHAIN_ID = 31337
TREASURY = Account.create().address
TOKEN = Account.create().address
STRANGER = Account.create().address
CONTRACTS = sweep_contracts(TREASURY)
PHRASE = "test test test test test test test test test test test junk"
SEED = seed_from_phrase(PHRASE)
NOW = 1_000_000
PAYER = Account.create()
ACCOUNTS = [address_at(account_xpub_from_seed(SEED), index) for index in range(3)]
DOMAIN = Domain("USD Coin", "2")


class _Bound:
    source = "a test"
    is_development = True

    def chain(self, chain_id: int) -> KnownChain:
        return KnownChain(CHAIN_ID, TREASURY, frozenset({TOKEN}))


@pytest.fixture
def vault(tmp_path: Path) -> KeyVault:
    return KeyVault(
        seeds=[SEED],
        gas_payer_keys=[bytes(PAYER.key)],
        bind=lambda _: _Bound(),
        spending=DaySpending(tmp_path / "journal", 10**18),
        clock=lambda: NOW,
    )


def delegations(vault: KeyVault, **changes: Any) -> AskedAuthorizations:
    asked = AskedAuthorizations(
        "eip7702", CHAIN_ID, TREASURY, vault.accounts[0], [Item(0, 0), Item(2, 5)], delegate=CONTRACTS.delegate
    )
    return replace(asked, **changes)


def transfers(vault: KeyVault, **changes: Any) -> AskedAuthorizations:
    items = [Item(1, 7, 1_000_000, NOW + 60)]
    asked = AskedAuthorizations("eip3009", CHAIN_ID, TREASURY, vault.accounts[0], items, token=TOKEN, domain=DOMAIN)
    return replace(asked, **changes)


def test_each_deposit_key_signs_its_own_delegation_to_our_delegate(vault: KeyVault):
    signatures = vault.authorize(delegations(vault))
    found = [
        recover_signer(Authorization(CHAIN_ID, CONTRACTS.delegate, nonce).digest(), signature)
        for nonce, signature in zip((0, 5), signatures, strict=True)
    ]
    assert found == [ACCOUNTS[0], ACCOUNTS[2]]
    # The same bytes as the library that wallets use.
    theirs = Account.from_key(PAYER.key).sign_authorization(
        {"chainId": CHAIN_ID, "address": CONTRACTS.delegate, "nonce": 5}
    )
    ours = Authorization(CHAIN_ID, CONTRACTS.delegate, 5)
    assert recover_signer(ours.digest(), Signature(theirs.y_parity, theirs.r, theirs.s)) == PAYER.address


def test_a_transfer_authorization_is_what_the_standard_says(vault: KeyVault):
    [signature] = vault.authorize(transfers(vault))
    kinds = [
        {"name": name, "type": kind}
        for name, kind in (
            ("from", "address"),
            ("to", "address"),
            ("value", "uint256"),
            ("validAfter", "uint256"),
            ("validBefore", "uint256"),
            ("nonce", "bytes32"),
        )
    ]
    message = {
        "from": ACCOUNTS[1],
        "to": TREASURY,
        "value": 1_000_000,
        "validAfter": 0,
        "validBefore": NOW + 60,
        "nonce": (7).to_bytes(32),
    }
    domain = {"name": "USD Coin", "version": "2", "chainId": CHAIN_ID, "verifyingContract": TOKEN}
    said = encode_typed_data(domain, {"TransferWithAuthorization": kinds}, message)
    digest = keccak(b"\x19" + said.version + said.header + said.body)
    assert recover_signer(digest, signature) == ACCOUNTS[1]
    assert digest == transfer_digest(
        DOMAIN.separator(CHAIN_ID, TOKEN),
        sender=ACCOUNTS[1],
        treasury=TREASURY,
        value=1_000_000,
        valid_before=NOW + 60,
        nonce=7,
    )


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (delegations, {"delegate": STRANGER}, "delegate"),
        (delegations, {"delegate": MULTICALL3}, "delegate"),
        (delegations, {"delegate": None}, "delegate"),
        (delegations, {"chain_id": 0}, "chain"),
        (delegations, {"chain_id": 1}, "chain"),
        (delegations, {"treasury": STRANGER}, "treasury"),
        (delegations, {"account": "0x00000000"}, "account"),
        (delegations, {"items": []}, "items"),
        (delegations, {"items": [Item(0, 0)] * 251}, "items"),
        (delegations, {"items": [Item(0, 0, value=1)]}, "delegation"),
        (delegations, {"items": [Item(0, 2**64)]}, "nonce"),
        (transfers, {"token": STRANGER}, "token"),
        (transfers, {"token": None}, "token"),
        (transfers, {"domain": None}, "domain"),
        (transfers, {"treasury": STRANGER}, "treasury"),
        (transfers, {"items": [Item(1, 7, 0, NOW + 60)]}, "value"),
        (transfers, {"items": [Item(1, 7, 5, NOW)]}, "valid_before"),
        (transfers, {"items": [Item(1, 7, 5, NOW + VALID_SECONDS_MAXIMUM + 1)]}, "valid_before"),
    ],
)
def test_no_other_authorization_is_signed(
    vault: KeyVault, make: Callable[..., AskedAuthorizations], changes: dict[str, Any], words: str
):
    with pytest.raises(ShapeRefused, match=words):
        vault.authorize(make(vault, **changes))


def payer_call(to: str = CONTRACTS.batcher, data: bytes | None = None, **changes: Any) -> UnsignedTransaction:
    call = sweep_many_call(TOKEN, ACCOUNTS, 150_000) if data is None else data
    return replace(UnsignedTransaction(CHAIN_ID, 3, 10**9, 10**9, 500_000, to, 0, call), **changes)


def inner(recipient: str = TREASURY, value: int = 5, selector: bytes = TRANSFER_WITH_AUTHORIZATION) -> bytes:
    return selector + encode(
        TRANSFER_TYPES, [ACCOUNTS[0], recipient, value, 0, NOW + 60, bytes(32), 27, bytes(32), bytes(32)]
    )


def aggregate(*calls: tuple[str, bool, bytes]) -> bytes:
    return AGGREGATE3 + encode(AGGREGATE3_TYPES, [list(calls)])


def with_tuple(delegate: str = CONTRACTS.delegate, chain_id: int = CHAIN_ID) -> SetCodeTransaction:
    signature = Signature(0, 1, 1)
    return SetCodeTransaction(payer_call(), (SignedAuthorization(Authorization(chain_id, delegate, 0), signature),))


@pytest.mark.parametrize(
    "transaction",
    [payer_call(), with_tuple(), payer_call(MULTICALL3, aggregate((TOKEN, True, inner()), (TOKEN, True, inner())))],
    ids=["repeat", "first", "multicall3"],
)
def test_a_payer_signs_batches_to_the_treasury(vault: KeyVault, transaction: UnsignedTransaction | SetCodeTransaction):
    vault.check_batch(transaction, payer=PAYER.address, treasury=TREASURY)
    signature = vault.sign_batch(transaction, payer=PAYER.address, treasury=TREASURY)
    assert transaction.recover(signature) == PAYER.address


@pytest.mark.parametrize(
    ("transaction", "words"),
    [
        (payer_call(STRANGER), "to:"),
        (payer_call(CONTRACTS.delegate), "to:"),
        (payer_call(TOKEN), "to:"),
        (payer_call(value=1), "value"),
        (payer_call(chain_id=1), "chain"),
        (payer_call(gas_limit=16_000_001), "gas limit"),
        (payer_call(max_fee_per_gas=10**13), "max fee"),
        (payer_call(data=sweep_many_call(STRANGER, ACCOUNTS, 1)), "token"),
        (payer_call(data=sweep_many_call(TOKEN, [], 1)), "destinations"),
        (payer_call(data=sweep_many_call(TOKEN, ACCOUNTS, 10**7)), "gas of a destination"),
        (payer_call(data=sweep_many_call(TOKEN, ACCOUNTS, 1) + b"\0"), "canonical"),
        (payer_call(data=b"\x12\x34\x56\x78"), "data"),
        (payer_call(MULTICALL3), "data"),
        (payer_call(MULTICALL3, aggregate()), "calls"),
        (payer_call(MULTICALL3, aggregate((STRANGER, True, inner()))), "call"),
        (payer_call(MULTICALL3, aggregate((TOKEN, False, inner()))), "call"),
        (payer_call(MULTICALL3, aggregate((TOKEN, True, inner(STRANGER)))), "treasury"),
        (payer_call(MULTICALL3, aggregate((TOKEN, True, inner(value=0)))), "above zero"),
        (payer_call(MULTICALL3, aggregate((TOKEN, True, inner(selector=b"\xa9\x05\x9c\xbb")))), "call"),
        (payer_call(MULTICALL3, aggregate((TOKEN, True, inner() + b"\0"))), "canonical"),
        (with_tuple(STRANGER), "authorization"),
        (with_tuple(MULTICALL3), "authorization"),
        (with_tuple(chain_id=1), "authorization"),
    ],
)
def test_no_other_call_of_a_payer_is_signed(
    vault: KeyVault, transaction: UnsignedTransaction | SetCodeTransaction, words: str
):
    for ask in (vault.check_batch, vault.sign_batch):
        with pytest.raises(ShapeRefused, match=words):
            ask(transaction, payer=PAYER.address, treasury=TREASURY)


def test_a_chain_id_of_zero_cannot_even_be_said():
    with pytest.raises(TransactionError, match="chain_id"):
        Authorization(0, CONTRACTS.delegate, 0)


def test_a_type_4_transaction_is_read_back_in_one_form_only():
    transaction = with_tuple()
    raw = transaction.signing_bytes()
    assert SetCodeTransaction.from_signing_bytes(raw) == transaction
    for spoiled in (raw + b"\0", raw[:-1], b"\x02" + raw[1:], raw.replace(b"\x82\x7a\x69", b"\x83\x00\x7a\x69", 1)):
        with pytest.raises(TransactionError):
            SetCodeTransaction.from_signing_bytes(spoiled)

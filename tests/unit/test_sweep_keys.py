"""The sweeps worker's keys sign two shapes and nothing else, and are never shown."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from custody.chain import erc20
from custody.chain.lanes import LaneTransaction
from custody.destinations.derivation import address_at, private_key_at, seed_from_phrase
from custody.destinations.sweeps.fees import (
    GAS_LIMIT_MAXIMUM,
    MAX_FEE_PER_GAS_WEI,
    TOP_UP_MAXIMUM_WEI,
    FeeQuote,
    FeesTooHigh,
    GasTerms,
    gas_limit_for,
)
from custody.destinations.sweeps.keys import SigningRefused, SweepSigner, gas_terms_of
from custody.settings.chains import Chains
from custody.settings.environment import SettingsError, load_settings

PHRASE = "all all all all all all all all all all all all"
PAYER_KEY = bytes(range(1, 33))
TOKEN = Account.from_key(b"\x07" * 32).address
TREASURY = Account.from_key(b"\x08" * 32).address
STRANGER = Account.from_key(b"\x09" * 32).address
CHAINS = Chains.model_validate(
    {
        "chains": [
            {
                "id": 31337,
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
GAS = GasTerms(60_000, 3 * 10**9, 10**9)


@pytest.fixture
def signer() -> SweepSigner:
    return SweepSigner(seed=seed_from_phrase(PHRASE), gas_payer_key=PAYER_KEY, chains=CHAINS)


def sweep(signer: SweepSigner) -> LaneTransaction:
    return LaneTransaction(
        id=uuid4(),
        chain_id=31337,
        sender=address_at(signer.xpub, 5),
        nonce=3,
        purpose="sweep",
        subject_id=uuid4(),
        recipient=TOKEN,
        value_wei=0,
        data=erc20.encode_transfer(TREASURY, 77),
        state="intent",
        signed_bytes=None,
        transaction_hash=None,
    )


def top_up(signer: SweepSigner) -> LaneTransaction:
    return replace(
        sweep(signer),
        sender=signer.gas_payer,
        purpose="top_up",
        recipient=address_at(signer.xpub, 5),
        value_wei=10**15,
        data=b"",
    )


def test_a_sweep_is_signed_by_the_destination_and_says_what_was_asked(signer: SweepSigner):
    raw = signer.sign_sweep(sweep(signer), index=5, gas=GAS)
    assert Account.recover_transaction(raw) == address_at(signer.xpub, 5)
    fields: dict[str, Any] = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    assert (fields["chainId"], fields["nonce"], fields["value"], fields["gas"]) == (31337, 3, 0, 60_000)
    assert bytes(fields["data"]) == erc20.encode_transfer(TREASURY, 77)
    assert gas_terms_of(raw) == GAS


def test_a_top_up_is_signed_by_the_gas_payer(signer: SweepSigner):
    raw = signer.sign_top_up(top_up(signer), index=5, gas=GAS)
    assert Account.recover_transaction(raw) == signer.gas_payer == Account.from_key(PAYER_KEY).address


@pytest.mark.parametrize(
    "change",
    [
        {"data": erc20.encode_transfer(STRANGER, 77)},
        {"data": erc20.encode_transfer(TREASURY, 0)},
        {"data": erc20.encode_transfer(TREASURY, 77) + b"\x00"},
        {"data": erc20.encode_approve(TREASURY, 77)},
        {"data": b""},
        {"recipient": STRANGER},
        {"value_wei": 1},
        {"purpose": "release"},
        {"purpose": "top_up"},
        {"sender": STRANGER},
    ],
    ids=str,
)
def test_any_other_sweep_is_refused(signer: SweepSigner, change: dict[str, Any]):
    with pytest.raises(SigningRefused):
        signer.sign_sweep(replace(sweep(signer), **change), index=5, gas=GAS)


@pytest.mark.parametrize(
    "change",
    [
        {"recipient": STRANGER},
        {"recipient": TREASURY},
        {"data": b"\x01"},
        {"value_wei": 0},
        {"value_wei": TOP_UP_MAXIMUM_WEI + 1},
        {"sender": STRANGER},
        {"purpose": "sweep"},
    ],
    ids=str,
)
def test_any_other_top_up_is_refused(signer: SweepSigner, change: dict[str, Any]):
    with pytest.raises(SigningRefused):
        signer.sign_top_up(replace(top_up(signer), **change), index=5, gas=GAS)


def test_the_wrong_index_a_foreign_chain_and_dear_gas_are_refused(signer: SweepSigner):
    with pytest.raises(SigningRefused):
        signer.sign_sweep(sweep(signer), index=6, gas=GAS)
    with pytest.raises(SigningRefused):
        signer.sign_top_up(top_up(signer), index=6, gas=GAS)
    with pytest.raises(SettingsError, match="chain 1 "):
        signer.sign_sweep(replace(sweep(signer), chain_id=1), index=5, gas=GAS)
    for gas in (replace(GAS, gas_limit=GAS_LIMIT_MAXIMUM + 1), replace(GAS, max_fee=MAX_FEE_PER_GAS_WEI + 1)):
        with pytest.raises(SigningRefused, match="caps"):
            signer.sign_sweep(sweep(signer), index=5, gas=gas)


def test_no_key_is_shown_or_leaves_the_process(signer: SweepSigner):
    shown = f"{signer!r} {signer} {signer._seed!r} {signer._payer_key!r}"
    for secret in (PAYER_KEY, seed_from_phrase(PHRASE), private_key_at(seed_from_phrase(PHRASE), 5)):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    with pytest.raises(SettingsError) as caught:
        SweepSigner(seed=seed_from_phrase(PHRASE), gas_payer_key=b"\xff" * 32, chains=CHAINS)
    assert "ff" * 8 not in str(caught.value)


def _files(tmp_path: Path, phrase: str, key: str, mode: int = 0o600) -> dict[str, Path]:
    paths = {"deposit_seed_file": tmp_path / "seed", "gas_payer_key_file": tmp_path / "key"}
    for path, content in zip(paths.values(), (phrase, key), strict=True):
        path.write_text(content)
        path.chmod(mode)
    return paths


def test_both_secret_files_are_read(tmp_path: Path, signer: SweepSigner):
    settings = load_settings(**_files(tmp_path, PHRASE + "\n", "0x" + PAYER_KEY.hex() + "\n"))
    made = SweepSigner.from_settings(settings, CHAINS)
    assert (made.xpub, made.gas_payer) == (signer.xpub, signer.gas_payer)


@pytest.mark.parametrize(
    ("phrase", "key", "mode", "expected"),
    [
        (PHRASE, PAYER_KEY.hex(), 0o644, "chmod 600"),
        (PHRASE, "not-a-key", 0o600, "GAS_PAYER_KEY_FILE"),
        ("zebra " * 12, PAYER_KEY.hex(), 0o600, "BIP-39"),
    ],
)
def test_a_wrong_secret_file_is_refused_without_its_content(
    tmp_path: Path, phrase: str, key: str, mode: int, expected: str
):
    settings = load_settings(**_files(tmp_path, phrase, key, mode))
    with pytest.raises(Exception, match=expected) as caught:
        SweepSigner.from_settings(settings, CHAINS)
    assert phrase not in str(caught.value)
    assert key not in str(caught.value)


def test_fees_are_capped_and_leave_room():
    quote = FeeQuote.capped(10 * 10**9, 10**9)
    assert quote.max_fee == 21 * 10**9
    terms = quote.terms(50_000)
    assert terms == GasTerms(50_000, 21 * 10**9, 10**9)
    # What the next block takes at most is enough; a wei a gas less is not.
    assert quote.terms(50_000, 50_000 * quote.least_fee) == GasTerms(50_000, quote.least_fee, 10**9)
    assert quote.terms(50_000, 50_000 * quote.least_fee - 1) is None
    with pytest.raises(FeesTooHigh):
        FeeQuote.capped(MAX_FEE_PER_GAS_WEI, 1)
    assert gas_limit_for(100_001) == 110_002
    with pytest.raises(FeesTooHigh):
        gas_limit_for(GAS_LIMIT_MAXIMUM)

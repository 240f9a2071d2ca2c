"""A payout of the chain's own coin as the signer's machine reads it: value exact, no data, no changed bit (R4, R19)."""

import dataclasses
from typing import Any

import pytest
from eth_account import Account

from custody.settings.chains import Chains
from custody.trezor import UnsignedTransaction, encode_erc20_transfer
from tests.counts import Counts
from tests.unit.test_signer_checks import chain
from workers.signer import ApiInstruction, InstructionRefused, check_instruction

CHAIN = chain(31337)
CHAINS = Chains(chains=(CHAIN,))
SELLER = Account.create().address
WEI = 3 * 10**18
PAYOUT = UnsignedTransaction(31337, 4, 10**9, 2 * 10**9, 25_200, SELLER, WEI)
FEE_CAP_WEI = 10**16


def claimed(transaction: UnsignedTransaction = PAYOUT) -> ApiInstruction:
    """The payout as the API shows it, with a hash and a fee that are the transaction's."""
    return ApiInstruction.model_validate(
        {
            "id": "01a21e29-aeb2-751b-b2c5-ec9daa314b1e", "payment_id": "ac3d561e-56bd-417f-a87b-6567e164b0b0",
            "purpose": "release", "state": "handed_out", "chain_id": 31337, "treasury": CHAIN.treasury, "token": "native",
            "symbol": "ETH", "decimals": 18, "recipient": SELLER, "label": None, "amount": "3", "amount_units": str(WEI),
            "nonce": transaction.nonce, "unsigned_bytes": "0x" + transaction.signing_bytes().hex(),
            "signing_hash": "0x" + transaction.signing_hash().hex(),
            "max_total_fee_wei": str(transaction.max_total_fee_wei), "held_reason": None, "rejected_reason": None,
            "created_at": "2030-01-01T00:00:00+00:00", "handed_out_at": None, "last_submission": None,
        }
    )  # fmt: skip


def test_every_changed_bit_of_the_transaction_is_refused(counts: Counts) -> None:
    honest = claimed()
    assert check_instruction(honest, CHAINS, fee_cap_wei=FEE_CAP_WEI).transaction == PAYOUT
    tried, raw = 0, PAYOUT.signing_bytes()
    for place in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            with pytest.raises(InstructionRefused):
                check_instruction(
                    honest.model_copy(update={"unsigned_bytes": "0x" + changed.hex()}), CHAINS, fee_cap_wei=FEE_CAP_WEI
                )
            tried += 1
    counts("changed bits of a coin payout, each refused", tried)


@pytest.mark.parametrize(
    "changed",
    [
        {"value": WEI + 1}, {"value": WEI - 1}, {"value": 0}, {"to": Account.create().address}, {"data": b"\x00"},
        {"data": encode_erc20_transfer(SELLER, WEI)}, {"to": CHAIN.treasury, "value": 0}, {"chain_id": 1},
        {"gas_limit": 10**8},
    ],
    ids="-".join,
)  # fmt: skip
def test_another_payout_is_refused_whatever_hash_goes_with_it(changed: dict[str, Any]) -> None:
    with pytest.raises(InstructionRefused):
        check_instruction(claimed(dataclasses.replace(PAYOUT, **changed)), CHAINS, fee_cap_wei=FEE_CAP_WEI)

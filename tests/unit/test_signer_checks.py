"""What a signer's machine refuses on a chain with real money (R2, R17, R22), without any server."""

import dataclasses
from typing import Any

import pytest
from eth_account import Account

from custody.settings.chains import Chain, Token
from custody.trezor import DeviceFacts, UnsignedTransaction, encode_erc20_transfer
from custody.trezor.accounts import Role
from workers.signer.checks import (
    CheckedInstruction,
    InstructionRefused,
    payments_in_words,
    require_device_in_order,
    require_device_path,
    require_readable,
    require_whole_group,
)
from workers.signer.client import ApiInstruction
from workers.signer.desk import SigningDeskSettings

FACTS = DeviceFacts("T1B1", "1.14.2", "id", "5c9e228d", True, False, True, True)
UNKNOWN_TOKEN = Account.create().address
RECIPIENT = Account.create().address


def chain(chain_id: int) -> Chain:
    return Chain(
        id=chain_id,
        name="somewhere",
        genesis_hash="0x" + "0" * 64,
        rpc_urls=("http://127.0.0.1:1",),
        treasury=Account.create().address,
        fee_proxy=Account.create().address,
        tokens=(
            Token.model_validate({"symbol": "ETH", "address": "native", "decimals": 18}),
            Token.model_validate({"symbol": "USDT", "address": UNKNOWN_TOKEN, "decimals": 6}),
        ),
    )


def checked(chain_id: int) -> CheckedInstruction:
    transaction = UnsignedTransaction(chain_id, 0, 0, 1, 60_000, UNKNOWN_TOKEN, 0, encode_erc20_transfer(RECIPIENT, 5))
    claimed = ApiInstruction.model_construct(id="0")
    return CheckedInstruction(claimed, transaction, chain(chain_id), "USDT", 6)


def test_a_software_device_signs_on_development_chains_only() -> None:
    require_device_path(chain(31337), "udp:127.0.0.1:21324")
    require_device_path(chain(1), "webusb:001:4")
    with pytest.raises(InstructionRefused, match="development chains only"):
        require_device_path(chain(1), "udp:127.0.0.1:21324")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"pin_on": False}, "PIN"), ({"backup_done": False}, "backup"), ({"strict_path_checks": False}, "loosened")],
)
def test_a_device_that_is_not_in_order_is_refused_before_its_first_screen(change: dict[str, bool], words: str) -> None:
    require_device_in_order(chain(1), FACTS)
    with pytest.raises(InstructionRefused, match=words):
        require_device_in_order(chain(1), dataclasses.replace(FACTS, **change))


def test_each_role_has_an_account_and_another_roles_is_refused() -> None:
    """R6: a signature is never worth two things."""
    desk = SigningDeskSettings("udp:", None, 5.0, 1)
    assert (desk.path_of("treasury"), desk.path_of("safe_owner")) == ("m/44'/60'/4'/0/0", "m/44'/60'/3'/0/0")
    own = dataclasses.replace(desk, derivation_path="m/44'/60'/0'/0/7")
    assert own.path_of("treasury") == "m/44'/60'/0'/0/7"
    others: tuple[tuple[Role, str], ...] = (
        ("treasury", "m/44'/60'/1'/0/0"), ("treasury", "m/44h/60h/2h/0/0"), ("treasury", "m/44'/60'/3'/0/5"),
        ("safe_owner", "m/44'/60'/4'/0/0"), ("safe_owner", "m/44'/60'/2'/0/0"),
    )  # fmt: skip
    for role, path in others:
        with pytest.raises(InstructionRefused, match="must never be worth two things"):
            dataclasses.replace(desk, derivation_path=path).path_of(role)


@pytest.mark.parametrize(("chain_id", "is_readable"), [(1, True), (8453, True), (777, False)])
def test_a_one_signs_the_coin_of_chains_that_it_knows_alone(chain_id: int, is_readable: bool) -> None:
    """R2: elsewhere it shows the unit UNKN; a core model names a chain's own coin everywhere."""
    transaction = UnsignedTransaction(chain_id, 0, 0, 1, 21_000, RECIPIENT, 5, b"")
    payout = CheckedInstruction(ApiInstruction.model_construct(id="0"), transaction, chain(chain_id), "ETH", 18)
    assert require_readable(payout, "T3T1", "2.8.10") is None
    if is_readable:
        assert require_readable(payout, "T1B1", "1.14.2") is None
        return
    with pytest.raises(InstructionRefused, match="does not know chain 777 and shows the unit UNKN"):
        require_readable(payout, "T1B1", "1.14.2")


def test_on_a_development_chain_only_loosened_path_checks_are_refused() -> None:
    require_device_in_order(chain(31337), dataclasses.replace(FACTS, pin_on=False, backup_done=False))
    with pytest.raises(InstructionRefused, match="loosened"):
        require_device_in_order(chain(31337), dataclasses.replace(FACTS, strict_path_checks=False))


def test_an_amount_the_device_cannot_show_is_refused_where_money_is_real_and_warned_of_elsewhere() -> None:
    with pytest.raises(InstructionRefused, match="amount_not_readable"):
        require_readable(checked(1), FACTS.model, FACTS.firmware)
    assert "amount_not_readable" in (require_readable(checked(31337), FACTS.model, FACTS.firmware) or "")


def test_smallest_units_are_read_on_a_core_model_alone_where_they_were_agreed_to() -> None:
    """R2: the mark counts for a core model; what a One cuts at its edge is refused always."""
    marked = checked(1)
    marked = dataclasses.replace(marked, claimed=marked.claimed.model_copy(update={"raw_units": True}))
    assert require_readable(marked, "T3T1", "2.8.9") is None
    for device, model, firmware in ((checked(1), "T3T1", "2.8.9"), (marked, "T1B1", "1.14.2")):
        with pytest.raises(InstructionRefused, match="amount_not_readable"):
            require_readable(device, model, firmware)


HOUSE = "01a21fb9-1e26-73ff-8a1a-f7ace65f0f23"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"purpose": "release"}, "it is a release of the house's own coins, which are moved and never paid out"),
        ({"payment_id": HOUSE}, "it names one payment and several, or none"),
        ({"house_id": None}, "it names one payment and several, or none"),
    ],
)
def test_the_houses_own_coins_are_moved_and_never_paid_out(changed: dict[str, Any], words: str | None) -> None:
    """R22: what has no payment to show evidence of goes to our active treasury, as a drain, or nowhere."""
    said: dict[str, Any] = {"id": "0", "payment_id": None, "house_id": HOUSE, "payments": (), "purpose": "drain"}
    claimed = ApiInstruction.model_construct(None, **{**said, "amount_units": "7", **changed})
    if words is None:
        require_whole_group(claimed)
        assert claimed.shares == {HOUSE: 7}
        assert payments_in_words(claimed) == ("Payments   none: the house's own coins",)
        return
    with pytest.raises(InstructionRefused, match=words):
        require_whole_group(claimed)

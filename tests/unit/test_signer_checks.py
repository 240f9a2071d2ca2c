"""What a signer's machine refuses on a chain with real money (R2, R17, R22), without any server."""

import dataclasses

import pytest
from eth_account import Account

from custody.settings.chains import Chain, Token
from custody.trezor import DeviceFacts, UnsignedTransaction, encode_erc20_transfer
from workers.signer.checks import (
    CheckedInstruction,
    InstructionRefused,
    require_device_in_order,
    require_device_path,
    require_readable,
)
from workers.signer.client import ApiInstruction

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

"""What an execution's logs prove, and the key that pays for it (R16): pure, with the shapes of Safe 1.3.0 and 1.4.1."""

import pickle
from pathlib import Path

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address

from custody.chain import MalformedLog, Receipt
from custody.chain.logs import TRANSFER_TOPIC, Log
from custody.chain.safe_logs import EXECUTION_FAILURE_TOPIC, EXECUTION_SUCCESS_TOPIC, executions, read_execution
from custody.releases.outcome import NATIVE_LOG_INDEX, NotPaid, Paid, Unclear
from custody.releases.payout import BytesDiffer
from custody.releases.rows import SAFE_TRANSACTION, Instruction
from custody.releases.safe_outcome import judge_execution
from custody.releases.safe_treasury import payout_of, stored_payout
from custody.safe import PayerRefused, ReleasePayer
from custody.settings.chains import NATIVE
from custody.settings.environment import SettingsError, load_settings
from custody.trezor import UnsignedTransaction
from tests.unit.test_release_states import RECIPIENT, TOKEN, instruction

SAFE = Account.from_key(b"\x0a" * 32).address
OTHER = to_checksum_address("0x" + "42" * 20)
BLOCK, TRANSACTION = "0x" + "b1" * 32, "0x" + "71" * 32
KEY = b"\x0d" * 32
PAYER = Account.from_key(KEY).address


def _payout(**changes: object) -> Instruction:
    drafted = instruction(treasury=SAFE, unsigned_kind=SAFE_TRANSACTION, nonce=3, state="broadcast", **changes)
    payout = payout_of(drafted, 3)
    values = {"signing_hash": payout.hash(), "unsigned_bytes": payout.stored_bytes()}
    return instruction(**(_fields(drafted) | values))


def _fields(drafted: Instruction) -> dict[str, object]:
    return {name: getattr(drafted, name) for name in Instruction.__dataclass_fields__}


def _log(place: int, address: str, topics: list[str], data: bytes) -> Log:
    return Log(31337, 7, BLOCK, TRANSACTION, 0, place, to_checksum_address(address), tuple(topics), data)


def _executed(place: int, tx_hash: bytes, *, failed: bool = False, old: bool = False, safe: str = SAFE) -> Log:
    topic = EXECUTION_FAILURE_TOPIC if failed else EXECUTION_SUCCESS_TOPIC
    if old:
        return _log(place, safe, [topic], tx_hash + bytes(32))
    return _log(place, safe, [topic, "0x" + tx_hash.hex()], bytes(32))


def _moved(place: int, amount: int = 5_000_000, *, sender: str = SAFE, recipient: str = RECIPIENT) -> Log:
    padded = ["0x" + address[2:].lower().rjust(64, "0") for address in (sender, recipient)]
    return _log(place, TOKEN, [TRANSFER_TOPIC, *padded], amount.to_bytes(32, "big"))


def _receipt(*logs: Log, status: int = 1) -> Receipt:
    payer, safe = to_checksum_address(PAYER), to_checksum_address(SAFE)
    return Receipt(31337, TRANSACTION, 0, 7, BLOCK, status, payer, safe, None, 90_000, 10**9, 0, logs)


@pytest.mark.parametrize("old", [False, True], ids=["1.4.1", "1.3.0"])
def test_transfer_and_success_together_are_a_payout(old: bool) -> None:
    payout = _payout()
    assert payout.signing_hash is not None
    receipt = _receipt(_moved(4), _executed(5, payout.signing_hash, old=old))
    assert judge_execution(payout, receipt) == Paid(4, 0)


def test_neither_alone_is_one() -> None:
    payout = _payout()
    assert payout.signing_hash is not None
    assert judge_execution(payout, _receipt(_moved(4))) is None
    found = judge_execution(payout, _receipt(_executed(5, payout.signing_hash)))
    assert isinstance(found, NotPaid)
    assert found.reason.startswith("no_transfer")
    assert judge_execution(payout, _receipt(_moved(4), _executed(5, b"\x01" * 32))) is None
    assert judge_execution(payout, _receipt(_moved(4), _executed(5, payout.signing_hash, safe=OTHER))) is None


def test_an_execution_failure_paid_nothing() -> None:
    payout = _payout()
    assert payout.signing_hash is not None
    found = judge_execution(payout, _receipt(_executed(5, payout.signing_hash, failed=True)))
    assert isinstance(found, NotPaid)
    assert found.reason.startswith("execution_failed")


def test_a_reverted_transaction_executed_nothing() -> None:
    payout = _payout()
    assert payout.signing_hash is not None
    assert judge_execution(payout, _receipt(_moved(4), _executed(5, payout.signing_hash), status=0)) is None


def test_what_moved_in_another_execution_of_the_same_transaction_is_not_its() -> None:
    """A front-runner may execute several of one Safe at once: each is judged by what was logged while it ran."""
    payout = _payout()
    assert payout.signing_hash is not None
    before = [_moved(1, 1), _executed(2, b"\x02" * 32)]
    assert judge_execution(payout, _receipt(*before, _moved(3), _executed(4, payout.signing_hash))) == Paid(3, 2)
    found = judge_execution(payout, _receipt(_moved(1), _executed(2, b"\x02" * 32), _executed(3, payout.signing_hash)))
    assert isinstance(found, NotPaid)


@pytest.mark.parametrize(
    "logs",
    [[_moved(1, 4_999_999)], [_moved(1, recipient=OTHER)], [_moved(1), _moved(2)]],
    ids=["less", "other", "twice"],
)
def test_another_transfer_is_for_people(logs: list[Log]) -> None:
    payout = _payout()
    assert payout.signing_hash is not None
    assert isinstance(judge_execution(payout, _receipt(*logs, _executed(9, payout.signing_hash))), Unclear)


def test_the_chains_own_coin_needs_no_log_but_the_safes() -> None:
    payout = _payout(token=NATIVE)
    assert payout.signing_hash is not None
    assert stored_payout(payout).value == 5_000_000
    assert judge_execution(payout, _receipt(_executed(0, payout.signing_hash))) == Paid(
        NATIVE_LOG_INDEX, NATIVE_LOG_INDEX
    )


def test_a_log_of_no_known_shape_is_refused() -> None:
    payout = _payout()
    assert payout.signing_hash is not None
    strange = _log(3, SAFE, [EXECUTION_SUCCESS_TOPIC], b"\x00" * 32)
    with pytest.raises(MalformedLog, match="unknown shape"):
        read_execution(strange)
    with pytest.raises(MalformedLog, match="no execution event"):
        read_execution(_moved(1))
    assert isinstance(judge_execution(payout, _receipt(strange)), Unclear)
    twice = _receipt(_moved(1), _executed(2, payout.signing_hash), _executed(3, payout.signing_hash))
    assert isinstance(judge_execution(payout, twice), Unclear)
    assert executions([_moved(1), _executed(2, b"\x03" * 32, safe=OTHER)], SAFE) == []


@pytest.mark.parametrize(
    "field", ["treasury", "recipient", "amount_units", "token", "chain_id", "nonce", "signing_hash"]
)
def test_a_row_that_was_changed_has_other_bytes(field: str) -> None:
    changed = {
        "treasury": OTHER, "recipient": OTHER, "amount_units": 5_000_001, "token": OTHER, "chain_id": 1, "nonce": 4,
        "signing_hash": b"\x00" * 32,
    }  # fmt: skip
    payout = _payout()
    assert stored_payout(payout).nonce == 3
    with pytest.raises(BytesDiffer, match="unsigned bytes"):
        stored_payout(instruction(**(_fields(payout) | {field: changed[field]})))


def _execution(**changes: object) -> UnsignedTransaction:
    data = stored_payout(_payout()).calldata(bytes(130))
    values: dict[str, object] = {
        "chain_id": 31337, "nonce": 0, "max_priority_fee_per_gas": 1, "max_fee_per_gas": 10**9, "gas_limit": 100_000,
        "to": SAFE, "value": 0, "data": data,
    }  # fmt: skip
    return UnsignedTransaction(**(values | changes))  # pyright: ignore[reportArgumentType]


def test_the_payer_signs_executions_of_the_safe_and_nothing_else() -> None:
    payer = ReleasePayer(KEY)
    raw = payer.sign(_execution(), safe=SAFE, ceiling_wei=10**14)
    assert Account.recover_transaction(raw) == payer.address == PAYER
    for wrong in ({"to": OTHER}, {"value": 1}, {"data": b""}, {"data": b"\xa9\x05\x9c\xbb" + bytes(64)}):
        with pytest.raises(PayerRefused, match="expected execTransaction"):
            payer.sign(_execution(**wrong), safe=SAFE, ceiling_wei=10**14)
    with pytest.raises(PayerRefused, match="expected at most 99999999999999"):
        payer.sign(_execution(), safe=SAFE, ceiling_wei=10**14 - 1)


def test_the_payers_key_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    payer = ReleasePayer(KEY)
    assert KEY.hex() not in repr(payer) + repr(vars(type(payer)))
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(payer)
    with pytest.raises(SettingsError, match="RELEASE_PAYER_KEY_FILE: not a private key") as refused:
        ReleasePayer(b"\xff" * 32)
    assert "ff" * 32 not in str(refused.value)
    file = tmp_path / "key"
    file.write_text("0x" + KEY.hex() + "\n")
    file.chmod(0o600)
    found = ReleasePayer.from_settings(load_settings(release_payer_key_file=file))
    assert found is not None
    assert found.address == PAYER
    file.write_text("no key\n")
    with pytest.raises(SettingsError, match="RELEASE_PAYER_KEY_FILE: expected one private key"):
        ReleasePayer.from_settings(load_settings(release_payer_key_file=file))
    assert ReleasePayer.from_settings(load_settings()) is None

"""R1, R4 for a Safe: one intent a nonce, the rejection is its cancel, and any owner's signature of it is assumed to exist."""

from pathlib import Path

import pytest
from eth_account import Account

from custody.safe import SafeTransaction
from custody.settings.chains import SafeOwners
from custody.trezor import Signature, encode_erc20_transfer
from tests.unit.test_signer_checks import chain
from workers.signer import ApiInstruction, Journal
from workers.signer.coverage import Promise
from workers.signer.journal import JournalRefused, open_promises
from workers.signer.nonce_rule import require_one_intent
from workers.signer.safe_checks import CheckedSafe

CHAIN = chain(31337)
TOKEN = CHAIN.tokens[1].address
RECIPIENT = Account.create().address
OWNERS = SafeOwners(owners=(Account.create().address, Account.create().address), threshold=2)
SAFE = CHAIN.treasury
PAYOUT = SafeTransaction(31337, SAFE, TOKEN, 0, encode_erc20_transfer(RECIPIENT, 100), 5)
SIGNATURE = Signature(0, 7, 9)
PROMISE = Promise(TOKEN, {"payment-1": 100}, frozenset({RECIPIENT}), {("0x" + "ab" * 32, 3): 100})


def checked(transaction: SafeTransaction = PAYOUT, instruction: str = "instruction-1") -> CheckedSafe:
    claimed = ApiInstruction.model_construct(id=instruction, payment_id="payment-1", purpose="release")
    return CheckedSafe(claimed, transaction, CHAIN, OWNERS, "USDT", 6)


@pytest.fixture(name="journal")
def _journal(tmp_path: Path) -> Journal:
    """One in which the first owner's device was asked for PAYOUT."""
    journal = Journal(tmp_path / "journal.jsonl", create=True)
    journal.record_asked(checked(), PROMISE, owner=OWNERS.owners[0], safe=(77, 5))
    return journal


def require(journal: Journal, transaction: SafeTransaction, instruction: str = "instruction-1") -> None:
    earlier = journal.asked(31337, CHAIN.genesis_hash, SAFE)
    require_one_intent(transaction, instruction, SAFE, earlier)


def test_a_line_says_whose_device_and_how_the_safe_was(journal: Journal) -> None:
    journal.record_signed(PAYOUT.hash(), SIGNATURE, owner=OWNERS.owners[0])
    journal.close()
    with Journal(journal.path, create=False) as again:
        [asked] = again.asked(31337, CHAIN.genesis_hash, SAFE)
        assert (asked.transaction, asked.promise, asked.digest) == (PAYOUT, PROMISE, PAYOUT.hash())
        assert (asked.owner, asked.safe_block, asked.safe_nonce) == (OWNERS.owners[0], 77, 5)
        assert again.signature_of(asked.signing_hash, OWNERS.owners[0]) == SIGNATURE
        assert again.signature_of(asked.signing_hash, OWNERS.owners[1]) is None


@pytest.mark.parametrize(
    "other",
    [
        SafeTransaction(31337, SAFE, TOKEN, 0, encode_erc20_transfer(RECIPIENT, 101), 5),
        SafeTransaction(31337, SAFE, TOKEN, 0, encode_erc20_transfer(OWNERS.owners[0], 100), 5),
        SafeTransaction(31337, SAFE, RECIPIENT, 0, encode_erc20_transfer(RECIPIENT, 100), 5),
        SafeTransaction(31337, SAFE, RECIPIENT, 100, b"", 5),
    ],
    ids=["amount", "recipient", "token", "native"],
)
def test_another_intent_for_a_seen_nonce_of_a_safe_is_refused(journal: Journal, other: SafeTransaction) -> None:
    for instruction in ("instruction-1", "instruction-2"):
        with pytest.raises(JournalRefused, match="One nonce has one intent"):
            require(journal, other, instruction)


def test_the_same_safetx_and_the_rejection_of_its_nonce_are_legal(journal: Journal) -> None:
    require(journal, PAYOUT)
    require(journal, PAYOUT.rejection())
    journal.record_asked(checked(PAYOUT.rejection()), Promise(TOKEN, {"payment-1": 0}, frozenset()))
    require(journal, PAYOUT.rejection())
    require(journal, PAYOUT)  # the payout was signed before: whichever is executed first decides


def test_a_nonce_that_was_rejected_here_is_no_other_instructions(tmp_path: Path) -> None:
    with Journal(tmp_path / "rejected.jsonl", create=True) as journal:
        journal.record_asked(checked(PAYOUT.rejection()), Promise(TOKEN, {"payment-1": 0}, frozenset()))
        with pytest.raises(JournalRefused, match="asked for here for instruction instruction-1"):
            require(journal, PAYOUT, "instruction-2")
        require(journal, PAYOUT)


def test_an_instruction_is_never_signed_with_two_nonces_of_a_safe(journal: Journal) -> None:
    later = SafeTransaction(31337, SAFE, TOKEN, 0, PAYOUT.data, 6)
    with pytest.raises(JournalRefused, match="both could be mined"):
        require(journal, later)
    require(journal, later, "instruction-2")


def test_an_owners_no_does_not_end_a_promise_that_others_may_have_signed(journal: Journal) -> None:
    asked = journal.asked(31337, CHAIN.genesis_hash, SAFE)
    journal.record_rejected(PAYOUT.hash())
    assert open_promises(journal, asked, nonce=6) == [(asked[0], [])]
    assert open_promises(journal, asked, nonce=5) == []

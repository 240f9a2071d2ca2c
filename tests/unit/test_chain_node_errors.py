import pytest

from custody.chain import (
    AlreadyKnown,
    InsufficientFunds,
    NonceTooLow,
    Rejected,
    ReplacementUnderpriced,
    SendRefused,
)
from custody.chain.node_errors import PHRASES, classify

# One message a row of the table, as the client named there writes it.
MESSAGES: dict[str, tuple[str, type[SendRefused]]] = {
    "already known": ("already known", AlreadyKnown),
    "alreadyknown": ("AlreadyKnown", AlreadyKnown),
    "already_exists": ("INTERNAL_ERROR: ALREADY_EXISTS", AlreadyKnown),
    "known transaction": ("Known transaction", AlreadyKnown),
    "transaction already imported": ("transaction already imported", AlreadyKnown),
    "already in mempool": ("tx already in mempool", AlreadyKnown),
    "replacement transaction underpriced": ("replacement transaction underpriced", ReplacementUnderpriced),
    "replacement_underpriced": ("REPLACEMENT_UNDERPRICED", ReplacementUnderpriced),
    "could not replace existing tx": ("could not replace existing tx", ReplacementUnderpriced),
    "replacementnotallowed": ("ReplacementNotAllowed, higher fee needed", ReplacementUnderpriced),
    "nonce too low": ("nonce too low: next nonce 5, tx nonce 4", NonceTooLow),
    "nonce_too_low": ("NONCE_TOO_LOW", NonceTooLow),
    "nonce is too low": ("Transaction nonce is too low. Try incrementing the nonce.", NonceTooLow),
    "oldnonce": ("OldNonce, Current nonce: 5, nonce of rejected tx: 4", NonceTooLow),
    "insufficient funds": (
        "insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000",
        InsufficientFunds,
    ),
    "insufficientfunds": ("InsufficientFunds, Account balance: 0", InsufficientFunds),
    "upfront cost exceeds account balance": ("Upfront cost exceeds account balance", InsufficientFunds),
    "upfront_cost_exceeds_balance": ("UPFRONT_COST_EXCEEDS_BALANCE", InsufficientFunds),
}


def test_every_row_has_its_message():
    assert set(MESSAGES) == set(PHRASES)


@pytest.mark.parametrize("phrase", MESSAGES)
def test_words_are_classified(phrase: str):
    words, kind = MESSAGES[phrase]
    assert phrase in words.lower()
    assert classify(words) is kind
    assert classify(f"err: {words.upper()} (supplied gas 7)") is kind


@pytest.mark.parametrize(
    "words",
    [
        "",
        "nonce too high",
        "transaction underpriced",
        "exceeds block gas limit",
        "invalid sender",
        "unknown transaction type",
    ],
)
def test_other_words_are_a_plain_refusal(words: str):
    assert classify(words) is Rejected

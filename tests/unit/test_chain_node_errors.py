import pytest

from custody.chain.errors import (
    AlreadyKnown,
    BytesInvalid,
    DelegationBusy,
    FeeOverNodeCap,
    FeeTooLow,
    GasLimitTooHigh,
    GasLimitTooLow,
    InsufficientFunds,
    NonceTooHigh,
    NonceTooLow,
    PoolFull,
    Rejected,
    ReplacementUnderpriced,
    SendRefused,
)
from custody.chain.node_errors import DOES, PHRASES, Doing, classify, does

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
    "existing tx with same hash": ("existing tx with same hash", AlreadyKnown),
    "nonce below sender account nonce": ("Transaction nonce below sender account nonce", NonceTooLow),
    "nonce too high": (
        "nonce too high: address 0x0000000000000000000000000000000000000001, tx: 7 state: 5",
        NonceTooHigh,
    ),
    "nonce_too_high": ("NONCE_TOO_HIGH", NonceTooHigh),
    "noncegap": ("NonceGap, Future nonce. Expected nonce: 5", NonceTooHigh),
    "noncetoofarinfuture": ("NonceTooFarInFuture", NonceTooHigh),
    "nonce is too distant from current sender nonce": (
        "Transaction nonce is too distant from current sender nonce",
        NonceTooHigh,
    ),
    "an invalid transaction with a lower nonce exists": (
        "An invalid transaction with a lower nonce exists",
        NonceTooHigh,
    ),
    "gapped-nonce tx from delegated accounts": ("gapped-nonce tx from delegated accounts", NonceTooHigh),
    "in-flight transaction limit reached for delegated": (
        "in-flight transaction limit reached for delegated accounts",
        DelegationBusy,
    ),
    "authority already reserved": ("authority already reserved", DelegationBusy),
    "delegatorhaspendingtx": ("DelegatorHasPendingTx", DelegationBusy),
    "notcurrentnoncefordelegation": ("NotCurrentNonceForDelegation", DelegationBusy),
    "address already reserved": ("address already reserved", DelegationBusy),
    "intrinsic gas too low": ("intrinsic gas too low: gas 20000, minimum needed 21000", GasLimitTooLow),
    "intrinsic gas exceeds gas limit": ("Intrinsic gas exceeds gas limit", GasLimitTooLow),
    "insufficient gas for floor data gas cost": (
        "insufficient gas for floor data gas cost: gas 21000, minimum needed 25000",
        GasLimitTooLow,
    ),
    "gas floor exceeds the gas limit": ("gas floor exceeds the gas limit", GasLimitTooLow),
    "gas limit exceeds block gas limit": ("Transaction gas limit exceeds block gas limit", GasLimitTooHigh),
    "exceeds block gas limit": ("exceeds block gas limit", GasLimitTooHigh),
    "gaslimitexceeded": ("GasLimitExceeded, Gas limit: 30000000, gas limit of rejected tx: 40000000", GasLimitTooHigh),
    "transaction gas limit too high": (
        "transaction gas limit too high (cap: 16777216, tx: 20000000)",
        GasLimitTooHigh,
    ),
    "intrinsic gas too high": ("intrinsic gas too high -- CallGasCostMoreThanGasLimit", GasLimitTooHigh),
    "max fee per gas less than block base fee": (
        "max fee per gas less than block base fee: address 0x01, maxFeePerGas: 1, baseFee: 7",
        FeeTooLow,
    ),
    "gas price below current base fee": ("Gas price below current base fee", FeeTooLow),
    "gas price below configured minimum gas price": ("Gas price below configured minimum gas price", FeeTooLow),
    "transaction gas price below minimum": (
        "transaction gas price below minimum: gas tip cap 1, minimum needed 25000000000",
        FeeTooLow,
    ),
    "transaction underpriced": ("transaction underpriced: tip needed 1, tip permitted 0", FeeTooLow),
    "underpriced": ("underpriced", FeeTooLow),
    "fee too low": ("fee too low", FeeTooLow),
    "feetoolow": ("FeeTooLowToCompete", FeeTooLow),
    "exceeds the configured cap": ("tx fee (2.10 ether) exceeds the configured cap (1.00 ether)", FeeOverNodeCap),
    "transaction fee cap exceeded": ("Transaction fee cap exceeded", FeeOverNodeCap),
    "txpool is full": ("txpool is full", PoolFull),
    "sub-pool is full": ("pending sub-pool is full", PoolFull),
    "account limit exceeded": ("account limit exceeded: pooled 16 txs", PoolFull),
    "future transaction tries to replace pending": ("future transaction tries to replace pending", PoolFull),
    "spammer": ("spammer", PoolFull),
    "invalid sender": ("invalid sender", BytesInvalid),
    "failedtoresolvesender": ("FailedToResolveSender", BytesInvalid),
    "invalid signature": ("Invalid signature", BytesInvalid),
    "invalid chain id": ("invalid chain id for signer: have 1 want 10", BytesInvalid),
    "wrong chainid": ("Wrong chainId", BytesInvalid),
    "transaction type not supported": ("transaction type not supported", BytesInvalid),
    "notsupportedtxtype": ("NotSupportedTxType", BytesInvalid),
    "oversized data": ("oversized data: transaction size 140000, limit 131072", BytesInvalid),
    "max priority fee per gas higher than max fee": (
        "max priority fee per gas higher than max fee per gas: address 0x01, maxPriorityFeePerGas: 2, maxFeePerGas: 1",
        BytesInvalid,
    ),
    "max priority fee per gas exceeds max fee": ("Max priority fee per gas exceeds max fee per gas", BytesInvalid),
}

WHAT_IS_DONE: dict[type[SendRefused], Doing] = {
    AlreadyKnown: "sent",
    NonceTooLow: "look",
    ReplacementUnderpriced: "outbid",
    FeeTooLow: "outbid",
    InsufficientFunds: "wait_for_coins",
    NonceTooHigh: "close_gap",
    PoolFull: "send_again",
    DelegationBusy: "send_again",
    GasLimitTooLow: "cancel",
    GasLimitTooHigh: "cancel",
    BytesInvalid: "cancel",
    FeeOverNodeCap: "tell_operator",
    Rejected: "tell_operator",
}


@pytest.mark.parametrize("kind", [*SendRefused.__subclasses__()])
def test_every_refusal_is_answered_by_something(kind: type[SendRefused]):
    assert does(kind(1, "node", "words")) == WHAT_IS_DONE[kind]
    assert set(DOES) == set(WHAT_IS_DONE)


def test_a_sequencer_s_own_sentence_hides_no_reason():
    said = (
        "failed to forward tx to sequencer, please try again. Error message: 'nonce too low: next nonce 5, tx nonce 4'"
    )
    assert classify(said) is NonceTooLow


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
        "internal error",
        "method not found",
        "unknown transaction type",
    ],
)
def test_other_words_are_a_plain_refusal(words: str):
    assert classify(words) is Rejected

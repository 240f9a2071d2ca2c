"""What a transaction brought: examples, and generated sequences of calls with a known outcome."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.chain import InboundTransfer, MalformedLog, MalformedReceipt, inbound_transfers, read_receipt
from custody.chain.logs import FEE_PROXY_TOPIC, TRANSFER_TOPIC

CHAIN = 31337


def address(byte: int) -> str:
    return "0x" + f"{byte:02d}" * 20  # digits only: its own checksum


def topic(byte: int) -> str:
    return "0x" + f"{byte:02x}" * 32


TOKEN, OTHER_TOKEN, WORTHLESS = address(11), address(12), address(13)
PROXY, FOREIGN_PROXY = address(21), address(22)
DESTINATION, OTHER_DESTINATION, STRANGER, PAYER = address(31), address(32), address(33), address(34)
ZERO = address(0)


def word(value: int | str) -> str:
    return (f"{value:x}" if isinstance(value, int) else value[2:]).rjust(64, "0")


@dataclass
class Transaction:
    """Collects logs as contracts would emit them, and what should be found."""

    logs: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    status: int = 1
    first_log_index: int = 5

    def emit(self, emitter: str, topics: list[str], data: str) -> int:
        ordinal = len(self.logs)
        self.logs.append(
            {
                "address": emitter,
                "topics": topics,
                "data": "0x" + data,
                "blockNumber": "0x10",
                "blockHash": topic(0xBB),
                "transactionHash": topic(0xAA),
                "transactionIndex": "0x1",
                "logIndex": hex(self.first_log_index + ordinal),
                "removed": False,
            }
        )
        return ordinal

    def transfer(self, token: str, recipient: str, amount: int, sender: str = PAYER) -> int:
        return self.emit(token, [TRANSFER_TOPIC, "0x" + word(sender), "0x" + word(recipient)], word(amount))

    def event(
        self,
        token: str,
        recipient: str,
        amount: int,
        reference: str,
        *,
        proxy: str = PROXY,
        fee: int = 0,
        fee_address: str = ZERO,
    ) -> int:
        data = word(token) + word(recipient) + word(amount) + word(fee) + word(fee_address)
        return self.emit(proxy, [FEE_PROXY_TOPIC, reference], data)

    def pay(
        self,
        token: str,
        recipient: str,
        amount: int,
        reference: str,
        *,
        proxy: str = PROXY,
        cut: int = 0,
        fee: int = 0,
    ) -> int:
        """The proxy's call: the transfer, the fee's transfer, the event."""
        ordinal = self.transfer(token, recipient, amount - cut)
        if cut:
            self.transfer(token, STRANGER, cut)
        if fee:
            self.transfer(token, STRANGER, fee)
        self.event(token, recipient, amount, reference, proxy=proxy, fee=fee, fee_address=STRANGER if fee else ZERO)
        return ordinal

    def raw(self) -> dict[str, object]:
        return {
            "transactionHash": topic(0xAA),
            "transactionIndex": "0x1",
            "blockNumber": "0x10",
            "blockHash": topic(0xBB),
            "status": hex(self.status),
            "from": PAYER,
            "to": PROXY,
            "contractAddress": None,
            "gasUsed": "0x5208",
            "effectiveGasPrice": "0x2",
            "logs": self.logs,
        }

    def inbound(self) -> list[InboundTransfer]:
        return inbound_transfers(
            read_receipt(self.raw(), CHAIN),
            tokens={TOKEN, OTHER_TOKEN},
            watched={DESTINATION, OTHER_DESTINATION},
            fee_proxies={PROXY},
        )

    def found(self) -> list[tuple[int, int, str | None]]:
        return [(found.tx_ordinal, found.transfer.amount, found.reference_topic) for found in self.inbound()]


def test_a_payment_is_the_transfer_attributed_by_the_event():
    transaction = Transaction()
    transaction.pay(TOKEN, DESTINATION, 1000, topic(1), fee=10)
    [found] = transaction.inbound()
    assert (found.tx_ordinal, found.reference_topic) == (0, topic(1))
    assert (found.transfer.token, found.transfer.recipient, found.transfer.amount) == (
        TOKEN,
        DESTINATION,
        1000,
    )
    assert (found.transfer.sender, found.transfer.log_index, found.transfer.chain_id) == (PAYER, 5, CHAIN)


def test_a_plain_transfer_has_no_reference():
    transaction = Transaction()
    transaction.transfer(TOKEN, DESTINATION, 7)
    assert transaction.found() == [(0, 7, None)]


def test_the_event_alone_brings_nothing():
    transaction = Transaction()
    transaction.event(TOKEN, DESTINATION, 10**30, topic(1))
    transaction.event(WORTHLESS, DESTINATION, 10**30, topic(1))
    assert transaction.found() == []


def test_a_worthless_token_brings_nothing():
    transaction = Transaction()
    transaction.pay(WORTHLESS, DESTINATION, 10**30, topic(1))
    assert transaction.found() == []


def test_another_contracts_event_attributes_nothing():
    transaction = Transaction()
    transaction.pay(TOKEN, DESTINATION, 5, topic(1), proxy=FOREIGN_PROXY)
    assert transaction.found() == [(0, 5, None)]


def test_two_payments_of_one_reference_in_one_transaction_are_two():
    transaction = Transaction()
    transaction.pay(TOKEN, DESTINATION, 30, topic(1))
    transaction.pay(TOKEN, DESTINATION, 70, topic(1))
    assert transaction.found() == [(0, 30, topic(1)), (2, 70, topic(1))]


def test_equal_payments_keep_their_own_references():
    transaction = Transaction()
    transaction.pay(TOKEN, DESTINATION, 30, topic(1))
    transaction.pay(TOKEN, DESTINATION, 30, topic(2))
    assert transaction.found() == [(0, 30, topic(1)), (2, 30, topic(2))]


def test_one_event_speaks_for_one_transfer_only():
    transaction = Transaction()
    transaction.transfer(TOKEN, DESTINATION, 30)
    transaction.pay(TOKEN, DESTINATION, 30, topic(1))
    transaction.transfer(TOKEN, DESTINATION, 30)
    assert transaction.found() == [(0, 30, None), (1, 30, topic(1)), (3, 30, None)]


def test_a_second_event_takes_no_transfer_from_the_first():
    transaction = Transaction()
    transaction.pay(TOKEN, DESTINATION, 30, topic(1))
    transaction.event(TOKEN, DESTINATION, 30, topic(2))
    transaction.event(TOKEN, DESTINATION, 40, topic(3))
    assert transaction.found() == [(0, 30, topic(1))]


def test_less_than_the_event_says_is_what_was_received():
    transaction = Transaction()
    transaction.pay(TOKEN, DESTINATION, 1_000_000_000, topic(1), cut=1_900_000, fee=100)
    assert transaction.found() == [(0, 998_100_000, topic(1))]


def test_more_than_the_event_says_is_not_its_transfer():
    transaction = Transaction()
    transaction.transfer(TOKEN, DESTINATION, 31)
    transaction.event(TOKEN, DESTINATION, 30, topic(1))
    assert transaction.found() == [(0, 31, None)]


def test_an_event_of_nothing_takes_no_transfer():
    transaction = Transaction()
    transaction.transfer(TOKEN, DESTINATION, 30)
    transaction.pay(TOKEN, DESTINATION, 0, topic(1))
    assert transaction.found() == [(0, 30, None)]


def test_a_transfer_to_itself_brings_nothing():
    transaction = Transaction()
    transaction.transfer(TOKEN, DESTINATION, 30, sender=DESTINATION)
    transaction.event(TOKEN, DESTINATION, 30, topic(1))
    assert transaction.found() == []


def test_another_token_or_recipient_is_not_the_events_transfer():
    transaction = Transaction()
    transaction.transfer(OTHER_TOKEN, DESTINATION, 30)
    transaction.transfer(TOKEN, OTHER_DESTINATION, 30)
    transaction.event(TOKEN, DESTINATION, 30, topic(1))
    assert transaction.found() == [(0, 30, None), (1, 30, None)]


def test_a_reverted_transaction_brought_nothing():
    transaction = Transaction(status=0)
    transaction.transfer(TOKEN, DESTINATION, 30)
    assert transaction.found() == []


def test_a_transfer_away_is_not_inbound():
    transaction = Transaction()
    transaction.transfer(TOKEN, STRANGER, 30, sender=DESTINATION)
    assert transaction.found() == []


def test_a_listed_token_with_a_broken_transfer_is_an_error_not_a_guess():
    transaction = Transaction()
    transaction.emit(TOKEN, [TRANSFER_TOPIC, topic(0), topic(0), topic(0)], "")
    with pytest.raises(MalformedLog):
        transaction.inbound()
    foreign = Transaction()
    foreign.emit(WORTHLESS, [TRANSFER_TOPIC, topic(0), topic(0), topic(0)], "")
    foreign.emit(STRANGER, [], "00")
    assert foreign.found() == []


@dataclass(frozen=True)
class Step:
    """One generated call.

    Amounts paid by our proxy are even, all others odd: none equals what a payment whose token kept a cut
    was meant to be.
    """

    kind: str
    token: str
    recipient: str
    amount: int
    reference: int
    cut: int
    fee: int


STEPS = st.builds(
    Step,
    kind=st.sampled_from(["pay", "pay", "foreign", "plain", "event", "self"]),
    token=st.sampled_from([TOKEN, OTHER_TOKEN, WORTHLESS]),
    recipient=st.sampled_from([DESTINATION, OTHER_DESTINATION, STRANGER]),
    amount=st.integers(0, 20),
    reference=st.integers(1, 3),
    cut=st.integers(0, 3),
    fee=st.integers(0, 3),
)


@given(st.lists(STEPS, max_size=12), st.integers(0, 500))
def test_any_sequence_yields_what_was_received_and_who_paid_it(steps: list[Step], first_log_index: int):
    transaction = Transaction(first_log_index=first_log_index)
    expected: list[tuple[int, int, str | None]] = []
    for step in steps:
        amount, reference = 2 * step.amount, topic(step.reference)
        counts = step.token != WORTHLESS and step.recipient != STRANGER
        if step.kind in {"pay", "foreign"}:
            ours = step.kind == "pay"
            amount += not ours
            cut = min(step.cut, amount) if ours else 0
            proxy = PROXY if ours else FOREIGN_PROXY
            ordinal = transaction.pay(step.token, step.recipient, amount, reference, proxy=proxy, cut=cut, fee=step.fee)
            if counts and amount > cut:
                expected.append((ordinal, amount - cut, reference if ours else None))
        elif step.kind == "plain":
            ordinal = transaction.transfer(step.token, step.recipient, amount + 1)
            if counts:
                expected.append((ordinal, amount + 1, None))
        elif step.kind == "event":
            transaction.event(WORTHLESS, step.recipient, amount, reference)
        else:
            transaction.transfer(step.token, step.recipient, amount, sender=step.recipient)
            transaction.event(step.token, step.recipient, amount, reference)
    assert transaction.found() == expected


@given(st.lists(STEPS, max_size=12))
def test_the_fact_does_not_depend_on_the_proxys_events(steps: list[Step]):
    spoken, silent = Transaction(), Transaction()
    for step in steps:
        spoken.pay(step.token, step.recipient, step.amount, topic(step.reference))
        silent.transfer(step.token, step.recipient, step.amount)
    assert [found.transfer.amount for found in spoken.inbound()] == [
        found.transfer.amount for found in silent.inbound()
    ]


def test_a_receipt_tells_what_it_cost():
    receipt = read_receipt(Transaction().raw() | {"l1Fee": "0x7"}, CHAIN)
    assert receipt.fee == 21_000 * 2 + 7
    assert receipt.succeeded
    assert read_receipt(Transaction().raw(), CHAIN).fee == 42_000


@pytest.mark.parametrize("name", sorted(Transaction().raw().keys() - {"to", "contractAddress"}))
def test_each_field_of_a_receipt_is_needed(name: str):
    raw = Transaction().raw()
    del raw[name]
    with pytest.raises(MalformedReceipt, match=name):
        read_receipt(raw, CHAIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transactionHash": topic(1)}, "another transaction or block"),
        ({"blockHash": topic(1)}, "another transaction or block"),
        ({"blockNumber": "0x11"}, "another transaction or block"),
        ({"transactionIndex": "0x0"}, "another transaction or block"),
        ({"logIndex": "0x5"}, "out of order"),
        ({"logIndex": "0x4"}, "out of order"),
        ({"removed": True}, "removed"),
    ],
)
def test_a_log_that_contradicts_its_receipt_is_refused(change: dict[str, object], message: str):
    transaction = Transaction()
    transaction.transfer(TOKEN, DESTINATION, 1)
    transaction.transfer(TOKEN, DESTINATION, 2)
    transaction.logs[1] |= change
    with pytest.raises(MalformedReceipt, match=message):
        read_receipt(transaction.raw(), CHAIN)

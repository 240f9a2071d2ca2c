"""Deposits and sweeps of an instruction's evidence, as one node shows them (R4, L8). Amounts in smallest units.

A token's is a Transfer log. The chain's own coin leaves none: most deposits, and a sweep by the address's own key, are
the value of a transaction of their own, a forwarder's sweep is told by its own log; what a payment proxy's event says, or
only a balance told, counts as far as the address held it.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from custody.chain import ChainClient, Receipt
from custody.chain.blocks import ReceiptsAndHeaders
from custody.chain.depth import confirmations
from custody.chain.logs import (
    NATIVE_SWEPT_TOPIC,
    TRANSFER_TOPIC,
    MalformedLog,
    TransferLog,
    decode_native_swept,
    decode_transfer,
)
from custody.chain.native import BALANCE, TOP_LEVEL, proxy_events
from workers.signer.case import Case
from workers.signer.coverage import SweptLog
from workers.signer.evidence import Deposit, Sweep

_NO_TRANSACTION: Final = "native:"


def read_movements(case: Case, client: ChainClient) -> ReceiptsAndHeaders:
    """The head, and all that the node knows of the transactions that the evidence names. Raises ChainUnavailable."""
    hashes = [each.transaction_hash for each in (*case.deposits, *case.sweeps)]
    heights = [each.block_number for each in case.deposits]
    return client.receipts_and_headers(
        [each for each in hashes if not each.startswith(_NO_TRANSACTION)],
        heights if case.is_native else (),
        values=case.is_native,
    )


def confirmed_sweeps(case: Case, client: ChainClient, found: ReceiptsAndHeaders) -> dict[SweptLog, int]:
    """Units that came to the treasury, by log. Raises InstructionRefused naming what the node shows otherwise."""
    return {
        (each.transaction_hash, case.log_of(each)): _sweep(_Shown(case, client, found), each) for each in case.sweeps
    }


def confirmed_deposits(case: Case, client: ChainClient, found: ReceiptsAndHeaders) -> dict[SweptLog, int]:
    """Units that came to the deposit addresses, by log. Raises InstructionRefused naming what the node shows otherwise.

    What only a log speaks of, of the chain's own coin, counts as far as its address ever held it.
    """
    shown = _Shown(case, client, found)
    claimed = {(each.transaction_hash, each.log_index): each for each in case.deposits}
    if not case.is_native:
        return {log: _token_deposit(shown, each) for log, each in claimed.items()}
    units = {log: _native_deposit(shown, each) for log, each in claimed.items()}
    sent: defaultdict[str, int] = defaultdict(int)
    for (transaction_hash, log_index), each in claimed.items():
        if log_index == TOP_LEVEL:
            sent[each.recipient] += units[(transaction_hash, log_index)]
    room: dict[str, int] = {}
    for log, each in claimed.items():
        if each.log_index == TOP_LEVEL:
            continue
        if each.recipient not in room:
            room[each.recipient] = max(0, _ever_held(shown, each.recipient) - sent[each.recipient])
        units[log] = min(units[log], room[each.recipient])
        room[each.recipient] -= units[log]
    return units


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one node answered."""

    case: Case
    client: ChainClient
    found: ReceiptsAndHeaders

    @property
    def node(self) -> str:
        return self.client.chain.masked_url

    def receipt(self, what: str, transaction_hash: str) -> Receipt:
        receipt = self.found.canonical(transaction_hash)
        if receipt is None:
            raise self.case.refused(f"{what} is in no canonical block, says {self.node}")
        self.require_depth(what, receipt.block_number)
        return receipt

    def require_depth(self, what: str, block_number: int) -> None:
        deep, needed = confirmations(self.found.head.number, block_number), self.case.pinned.depth
        if deep < needed:
            raise self.case.refused(f"{what} has {deep} confirmations, {needed} are needed, says {self.node}")

    def require(self, what: str, *facts: tuple[str, object, object]) -> None:
        """``facts``: a field, what the API says of it, what the node does."""
        for field, said, found in facts:
            if said != found:
                raise self.case.refused(f"{what}: the API says {field} {said}, {self.node} says {found}")


def _sweep(shown: _Shown, claimed: Sweep) -> int:
    log_index = shown.case.log_of(claimed)
    if shown.case.is_native and claimed.from_address in shown.case.forwarders:
        return _forwarded(shown, claimed, log_index)
    if shown.case.is_native:
        what = f"sweep {claimed.transaction_hash}"
        receipt = _value_transfer(shown, what, claimed.transaction_hash)
        shown.require(
            what,
            ("log", TOP_LEVEL if claimed.log_index is None else claimed.log_index, TOP_LEVEL),
            ("sender", claimed.from_address, receipt.sender),
            ("recipient", claimed.to_address, receipt.to),
            ("amount", claimed.amount_units, receipt.value),
        )
        return claimed.amount_units
    what = f"sweep {claimed.transaction_hash} log {log_index}"
    transfer = _transfer(shown, what, claimed.transaction_hash, log_index)
    shown.require(
        what,
        ("token", claimed.token_address, transfer.token),
        ("sender", claimed.from_address, transfer.sender),
        ("recipient", claimed.to_address, transfer.recipient),
        ("amount", claimed.amount_units, transfer.amount),
    )
    return transfer.amount


def _forwarded(shown: _Shown, claimed: Sweep, log_index: int) -> int:
    """The chain's own coin that a forwarder sent, by its own log: it runs nothing but the delegate."""
    what = f"sweep {claimed.transaction_hash} log {log_index}"
    receipt = shown.receipt(what, claimed.transaction_hash)
    log = next((each for each in receipt.logs if each.log_index == log_index), None)
    if log is None or log.event != NATIVE_SWEPT_TOPIC or not receipt.succeeded:
        raise shown.case.refused(f"{what} is no NativeSwept, says {shown.node}")
    try:
        treasury, wei = decode_native_swept(log)
    except MalformedLog as error:
        raise shown.case.refused(f"{what}: {error}") from None
    shown.require(
        what,
        ("sender", claimed.from_address, log.address),
        ("recipient", claimed.to_address, treasury),
        ("amount", claimed.amount_units, wei),
    )
    return wei


def _token_deposit(shown: _Shown, claimed: Deposit) -> int:
    what = f"deposit {claimed.transaction_hash} log {claimed.log_index}"
    transfer = _transfer(shown, what, claimed.transaction_hash, claimed.log_index)
    shown.require(
        what,
        ("token", claimed.token, transfer.token),
        ("sender", claimed.sender, transfer.sender),
        ("recipient", claimed.recipient, transfer.recipient),
        ("amount", claimed.amount_units, transfer.amount),
        ("block", claimed.block_hash, transfer.block_hash),
    )
    return transfer.amount


def _native_deposit(shown: _Shown, claimed: Deposit) -> int:
    """Units of one deposit of the chain's own coin, as they were said; where no value shows them, not proved yet."""
    what = f"deposit {claimed.transaction_hash} log {claimed.log_index}"
    if claimed.log_index == BALANCE:
        header = shown.found.headers.get(claimed.block_number)
        name = f"{_NO_TRANSACTION}{shown.case.pinned.id}:{claimed.recipient}:{claimed.block_hash}"
        shown.require(
            what, ("name", claimed.transaction_hash, name), ("block", claimed.block_hash, header and header.hash)
        )
        shown.require_depth(what, claimed.block_number)
        return claimed.amount_units
    if claimed.log_index == TOP_LEVEL:
        receipt = _value_transfer(shown, what, claimed.transaction_hash)
        recipient, amount = receipt.to, receipt.value
    else:
        receipt, recipient, amount = _proxy_event(shown, what, claimed)
    shown.require(
        what,
        ("sender", claimed.sender, receipt.sender),
        ("recipient", claimed.recipient, recipient),
        ("amount", claimed.amount_units, amount),
        ("block", claimed.block_hash, receipt.block_hash),
    )
    if receipt.sender == recipient:
        raise shown.case.refused(f"{what}: {recipient} paid itself")
    return claimed.amount_units


def _proxy_event(shown: _Shown, what: str, claimed: Deposit) -> tuple[Receipt, str, int]:
    receipt = shown.receipt(what, claimed.transaction_hash)
    proxy = shown.case.pinned.native_fee_proxy
    try:
        events = [] if proxy is None else proxy_events(receipt, {proxy})
    except MalformedLog as error:
        raise shown.case.refused(f"{what}: {error}") from None
    for _, event in events:
        if event.log_index == claimed.log_index:
            return receipt, event.recipient, event.amount
    raise shown.case.refused(f"{what} is no event of the pinned native_fee_proxy, says {shown.node}")


def _ever_held(shown: _Shown, address: str) -> int:
    """Coins that an address held at depth, and those that its confirmed sweeps took from it with their fees, wei.

    All that it ever received is this at least; coins that left by no confirmed sweep are not counted.
    """
    deep = max(0, shown.found.head.number - shown.case.pinned.depth + 1)
    if address in shown.case.forwarders:  # it pays no fee
        swept = sum(each.amount_units for each in shown.case.sweeps if each.from_address == address)
        return shown.client.balance(address, deep) + swept
    left = {each.transaction_hash for each in shown.case.sweeps if each.from_address == address}
    gone = [shown.receipt(f"sweep {each}", each) for each in left]
    return shown.client.balance(address, deep) + sum((each.value or 0) + each.fee for each in gone)


def _value_transfer(shown: _Shown, what: str, transaction_hash: str) -> Receipt:
    receipt = shown.receipt(what, transaction_hash)
    if not receipt.succeeded or not receipt.value:
        raise shown.case.refused(f"{what} carried no coins of its own, says {shown.node}")
    return receipt


def _transfer(shown: _Shown, what: str, transaction_hash: str, log_index: int) -> TransferLog:
    receipt = shown.receipt(what, transaction_hash)
    log = next((each for each in receipt.logs if each.log_index == log_index), None)
    if log is None or log.event != TRANSFER_TOPIC or not receipt.succeeded:
        raise shown.case.refused(f"{what} is no Transfer, says {shown.node}")
    try:
        return decode_transfer(log)
    except MalformedLog as error:
        raise shown.case.refused(f"{what}: {error}") from None

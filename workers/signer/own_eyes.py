"""The evidence of an instruction against the chain, read through a node that the fleet does not run (R4).

Nothing here believes a database: a destination derives from the pinned account or it does not, a Transfer stands in a
canonical block at depth or it does not. Every named node must confirm everything. Amounts in smallest units.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

from custody.chain import ChainClient, ChainConnection, ChainUnavailable, WrongChain
from custody.chain.blocks import ReceiptsAndHeaders
from custody.chain.depth import confirmations
from custody.chain.logs import TRANSFER_TOPIC, MalformedLog, TransferLog, decode_transfer
from custody.destinations.derivation import DerivationError, address_at, derivation_path
from custody.settings.chains import NATIVE
from workers.signer.checks import CheckedInstruction, InstructionRefused
from workers.signer.coverage import SweptLog
from workers.signer.evidence import Deposit, Destination, Evidence, Sweep
from workers.signer.trust import Trust, TrustedChain

_Answer = TypeVar("_Answer")
_DELEGATION: Final = b"\xef\x01\x00"  # EIP-7702: a wallet that lends its account some code is still a wallet


class EvidenceUnavailable(InstructionRefused):
    """An own node gave no usable answer, so nothing could be judged; the same may be asked again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was confirmed. Units: the token's smallest."""

    destinations: frozenset[str]
    deposited: int
    swept: dict[SweptLog, int]


@dataclass(frozen=True, slots=True)
class Case:
    """An instruction with its evidence, and what this machine believes. Raises InstructionRefused when built with a
    deposit address that derives from no pinned account, or coins whose way is not shown.
    """

    checked: CheckedInstruction
    evidence: Evidence
    trust: Trust
    pinned: TrustedChain

    def __post_init__(self) -> None:
        if self.token == NATIVE:
            # No log says where native coin went, and the fleet sweeps none.
            raise self.refused("it pays the chain's own coin, whose sweeps this machine cannot check yet")
        for each in self.evidence.destinations:
            _require_derived(self, each)
        for where in (*(each.recipient for each in self.deposits), *(each.from_address for each in self.sweeps)):
            if where not in self.destinations:
                raise self.refused(f"coins of it are said to have been at {where}, whose derivation is not shown")
        for sweep in self.sweeps:
            if sweep.to_address != self.pinned.treasury:
                raise self.refused(
                    f"sweep {sweep.transaction_hash} went to {sweep.to_address}, the pinned treasury is "
                    f"{self.pinned.treasury}"
                )
        if self.checked.claimed.recipient in self.destinations:
            raise self.refused(f"recipient {self.checked.claimed.recipient} is a deposit address")

    @property
    def token(self) -> str:
        return self.checked.claimed.token

    @property
    def destinations(self) -> frozenset[str]:
        return frozenset(each.address for each in self.evidence.destinations)

    @property
    def deposits(self) -> list[Deposit]:
        """Those that count: judged deep enough by the fleet."""
        return [each for each in self.evidence.deposits if each.judged_at is not None and each.token == self.token]

    @property
    def sweeps(self) -> list[Sweep]:
        return [each for each in self.evidence.sweeps if each.token_address == self.token]

    def refused(self, why: str) -> InstructionRefused:
        """The error to raise: the instruction is refused, and why."""
        return self.checked.refusal(why)


def look(case: Case, urls: Sequence[str]) -> Seen:
    """Have each node confirm everything. Raises InstructionRefused naming what differs, EvidenceUnavailable."""
    if not urls:
        raise case.refused("no node of your own is named: give --verify-rpc URL, or verify_rpc in the trust file")
    return [_at_node(case, url) for url in urls][-1]


def as_claimed(case: Case) -> Seen:
    """The same without any node: for a machine that is offline and believes the one that made the bundle."""
    deposits = {(each.transaction_hash, each.log_index): each.amount_units for each in case.deposits}
    swept: dict[SweptLog, int] = {}
    for each in case.sweeps:
        if each.log_index is None:
            raise case.refused(f"sweep {each.transaction_hash} names no log")
        swept[(each.transaction_hash, each.log_index)] = each.amount_units
    return Seen(case.destinations, sum(deposits.values()), swept)


def can_pay_no_more(pinned: TrustedChain, urls: Sequence[str], nonce: int, transaction_hashes: Sequence[str]) -> bool:
    """Whether each node shows that the treasury's nonce was spent, at depth, by none of these transactions (R1).

    Raises EvidenceUnavailable, InstructionRefused for a node of another chain.
    """

    def ask(client: ChainClient) -> bool:
        found = client.receipts_and_headers(transaction_hashes)
        if any(receipt.succeeded for receipt in found.receipts.values()):
            return False
        deep = found.head.number - pinned.depth + 1
        return deep >= 0 and client.nonce(pinned.treasury, deep) > nonce

    return all(_asked(pinned, url, ask) for url in urls)


def _require_derived(case: Case, claimed: Destination) -> None:
    try:
        right_path = derivation_path(claimed.derivation_index) == claimed.derivation_path
        found = [address_at(account.xpub, claimed.derivation_index) for account in case.trust.deposit_accounts]
    except DerivationError as error:
        raise case.refused(str(error)) from None
    if not right_path or claimed.address not in found:
        raise case.refused(
            f"deposit address {claimed.address} is not the one at {claimed.derivation_path} of a pinned deposit account"
        )


def _at_node(case: Case, url: str) -> Seen:
    def ask(client: ChainClient) -> Seen:
        hashes = [each.transaction_hash for each in (*case.deposits, *case.sweeps)]
        found = client.receipts_and_headers(hashes)
        deposited = {
            (each.transaction_hash, each.log_index): _deposit(case, client, found, each).amount
            for each in case.deposits
        }
        swept: dict[SweptLog, int] = {}
        for each in case.sweeps:
            transfer = _sweep(case, client, found, each)
            swept[(transfer.transaction_hash, transfer.log_index)] = transfer.amount
        nonce = client.nonce(case.pinned.treasury)
        if case.checked.transaction.nonce < nonce:
            raise case.refused(
                f"nonce {case.checked.transaction.nonce} of the treasury is spent already, "
                f"{client.chain.masked_url} says the next one is {nonce}"
            )
        code = client.code(case.checked.claimed.recipient)
        if code and not code.startswith(_DELEGATION):
            raise case.refused(f"recipient {case.checked.claimed.recipient} is a contract (R21)")
        return Seen(case.destinations, sum(deposited.values()), swept)

    return _asked(case.pinned, url, ask)


def _asked(pinned: TrustedChain, url: str, ask: Callable[[ChainClient], _Answer]) -> _Answer:
    try:
        connection = ChainConnection(pinned.id, url, pinned.genesis_hash)
    except ValueError as error:
        raise InstructionRefused(f"verify_rpc: {error}.") from None
    try:
        with closing(ChainClient(connection)) as client:
            client.require_identity(pinned.id, pinned.genesis_hash)
            return ask(client)
    except WrongChain as error:
        raise InstructionRefused(
            f"Your own node {error.url} is of another chain than the trust file pins: {error.reason}. Nothing was signed."
        ) from None
    except ChainUnavailable as error:
        raise EvidenceUnavailable(
            f"Your own node {error.url} could not confirm the evidence ({error.reason}). Nothing was signed; try again."
        ) from None


def _deposit(case: Case, client: ChainClient, found: ReceiptsAndHeaders, claimed: Deposit) -> TransferLog:
    what = f"deposit {claimed.transaction_hash} log {claimed.log_index}"
    transfer = _transfer(case, client, found, what, claimed.transaction_hash, claimed.log_index)
    for field, said, expected in (
        ("token", claimed.token, transfer.token),
        ("sender", claimed.sender, transfer.sender),
        ("recipient", claimed.recipient, transfer.recipient),
        ("amount", claimed.amount_units, transfer.amount),
        ("block", claimed.block_hash, transfer.block_hash),
    ):
        _require(case, client, what, field, said, expected)
    return transfer


def _sweep(case: Case, client: ChainClient, found: ReceiptsAndHeaders, claimed: Sweep) -> TransferLog:
    what = f"sweep {claimed.transaction_hash} log {claimed.log_index}"
    if claimed.log_index is None:
        raise case.refused(f"{what}: no log is named, so no node can confirm it")
    transfer = _transfer(case, client, found, what, claimed.transaction_hash, claimed.log_index)
    for field, said, expected in (
        ("token", claimed.token_address, transfer.token),
        ("sender", claimed.from_address, transfer.sender),
        ("recipient", claimed.to_address, transfer.recipient),
        ("amount", claimed.amount_units, transfer.amount),
    ):
        _require(case, client, what, field, said, expected)
    return transfer


def _transfer(
    case: Case, client: ChainClient, found: ReceiptsAndHeaders, what: str, transaction_hash: str, log_index: int
) -> TransferLog:
    where = client.chain.masked_url
    receipt = found.canonical(transaction_hash)
    if receipt is None:
        raise case.refused(f"{what} is in no canonical block, says {where}")
    deep = confirmations(found.head.number, receipt.block_number)
    if deep < case.pinned.depth:
        raise case.refused(f"{what} has {deep} confirmations, {case.pinned.depth} are needed, says {where}")
    log = next((each for each in receipt.logs if each.log_index == log_index), None)
    if log is None or log.event != TRANSFER_TOPIC or not receipt.succeeded:
        raise case.refused(f"{what} is no Transfer, says {where}")
    try:
        return decode_transfer(log)
    except MalformedLog as error:
        raise case.refused(f"{what}: {error}") from None


def _require(case: Case, client: ChainClient, what: str, field: str, said: object, found: object) -> None:
    if said != found:
        raise case.refused(f"{what}: the API says {field} {said}, {client.chain.masked_url} says {found}")

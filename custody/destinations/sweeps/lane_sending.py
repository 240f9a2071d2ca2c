"""Signing, replacing, cancelling and sending one transaction of a gas payer's lane (L15, R1).

Bytes are read back and compared with their intent, then stored, then sent: never other bytes than those stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain import CallRequest, ExecutionReverted, SendOutcomeUnknown, SendRefused
from custody.chain.lane_leases import hold
from custody.chain.lanes import (
    SIGNATURES_LIMIT,
    LaneTransaction,
    SignatureKind,
    add_signed,
    ask_cancel,
    mark_broadcast,
    signatures_of,
    store_signed,
    transactions_of,
)
from custody.chain.node_errors import Doing, does
from custody.chain.signed_bytes import (
    SignedBytesDiffer,
    SignedTransaction,
    read_signed,
    require_cancel,
    require_replaces,
)
from custody.destinations.keys.client import SigningPostponed
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms, gas_limit_for
from custody.destinations.sweeps.jobs import QUEUE
from custody.destinations.sweeps.payers import PayerLane
from custody.destinations.sweeps.strategy import SweepRound
from custody.store.work import bury

log = structlog.get_logger(__name__)

CANCEL_GAS: Final = 21_000


class IntentSigner(Protocol):
    """What a strategy knows of its intents: how each is signed, at which gas, and whether it is still wanted."""

    def gas_limit(self, work: SweepRound, intent: LaneTransaction) -> int:
        """The gas limit of an intent that was never signed. Raises ExecutionReverted, FeesTooHigh, LookupError."""
        ...

    def sign(self, work: SweepRound, intent: LaneTransaction, terms: GasTerms) -> bytes:
        """The raw transaction at these terms: the same call each time. Raises ShapeRefused, SigningPostponed, LookupError."""
        ...

    def why_pointless(self, connection: Connection, intent: LaneTransaction) -> str | None:
        """Why the intent should be cancelled while no block holds it; None as long as it is wanted."""
        ...


@dataclass(slots=True)
class LaneSending:
    """Sends of one lane in one round. ``terms`` found already, by intent."""

    work: SweepRound
    lane: PayerLane
    head: int
    terms: dict[UUID, GasTerms] = field(default_factory=dict[UUID, GasTerms])
    _quote: FeeQuote | None = None

    def begin(self, row: LaneTransaction, terms: GasTerms | None = None) -> None:
        """Sign and send an intent for the first time. Raises LaneLost and KeysAgentAway."""
        if terms is not None:
            self.terms[row.id] = terms
        self._guarded(row, self._first)

    def replace(self, row: LaneTransaction) -> None:
        """Outbid what is out on the nonce, with the same call or, once that is wanted, with the cancel."""
        self._guarded(row, self._next)

    def send(self, row: LaneTransaction) -> None:
        """Send the stored bytes once more, and do what the table says where a node refuses them."""
        doing = self._broadcast(row)
        if doing == "outbid":
            self._guarded(row, self._next)
        elif doing == "cancel":
            self.cancel(row, "refused: no block can hold it")

    def cancel(self, row: LaneTransaction, reason: str) -> None:
        """Spend the nonce on nothing from now on: its intent is pointless or impossible."""
        if row.cancel_reason is None:
            log.warning("lane_cancels", sender=row.sender, nonce=row.nonce, reason=reason)
            self._apply(lambda connection: ask_cancel(connection, row.id, reason))
        self._guarded(self._reload(row), self._next)

    def _guarded(self, row: LaneTransaction, sign: "_Signing") -> None:
        try:
            signed = sign(row)
        except FeesTooHigh as error:
            self._wait(row, f"fees_too_high: {error}")
        except SigningPostponed as error:
            self._wait(row, f"gas_payer_day_spent: {error}")
        except (SignedBytesDiffer, ValueError) as error:
            self._tell(row, f"signed_bytes_differ: {error}", "find out what signs for this payer; nothing was sent")
        except (ShapeRefused, ExecutionReverted, LookupError) as error:
            reason = f"{type(error).__name__}: {error}"
            if row.cancel_reason is not None:
                self._tell(row, f"cancel_refused: {reason}", "see why the keys agent refuses the cancel of this nonce")
            else:
                self.cancel(row, f"impossible: {reason}")
        else:
            if signed is not None and self._broadcast(signed) == "outbid":
                self._wait(signed, "outbid_again: the node wants more; it is outbid in the next round")

    def _first(self, row: LaneTransaction) -> LaneTransaction | None:
        if row.state != "intent":
            return row
        if row.cancel_reason is not None:
            return self._next(row)
        signer = self.work.signers[row.purpose]
        terms = self.terms.get(row.id)
        if terms is None:
            limit = signer.gas_limit(self.work, row)
            terms = self._market().terms(limit)
            assert terms is not None  # without a budget they are found, or FeesTooHigh is raised
        raw = signer.sign(self.work, row, terms)
        signed = _require_intent(read_signed(raw), row)
        self._apply(lambda connection: store_signed(connection, row.id, raw, signed.hash))
        return self._reload(row)

    def _next(self, row: LaneTransaction) -> LaneTransaction | None:
        before = [read_signed(raw) for raw in self.work.apply(lambda connection: signatures_of(connection, row.id))]
        if len(before) >= SIGNATURES_LIMIT:
            self._tell(row, f"too_many_signatures: outbid {len(before)} times", "find out why nothing is mined")
            return None
        kind: SignatureKind = "bump" if row.cancel_reason is None else "cancel"
        raw = self._cancel_bytes(row, before) if kind == "cancel" else self._bump_bytes(row, before)
        signed = read_signed(raw)
        for each in before:
            require_replaces(signed, each, is_cancel=kind == "cancel")
        if kind == "cancel":
            require_cancel(signed)
        else:
            _require_intent(signed, row)
        if (signed.chain_id, signed.nonce, signed.sender) != (row.chain_id, row.nonce, row.sender):
            raise SignedBytesDiffer("chain, nonce or sender: not this nonce's")
        self._apply(lambda connection: add_signed(connection, row.id, raw, signed.hash, to_send=True, kind=kind))
        log.info("lane_replaced", sender=row.sender, nonce=row.nonce, kind=kind, max_fee=signed.bid.max_fee)
        return self._reload(row)

    def _bump_bytes(self, row: LaneTransaction, before: Sequence[SignedTransaction]) -> bytes:
        terms = self._market().outbidding([each.bid for each in before], before[0].gas_limit)
        return self.work.signers[row.purpose].sign(self.work, row, terms)

    def _cancel_bytes(self, row: LaneTransaction, before: Sequence[SignedTransaction]) -> bytes:
        limit = self.work.client.estimate_gas(CallRequest(to=row.sender, sender=row.sender))
        gas = CANCEL_GAS if limit == CANCEL_GAS else gas_limit_for(limit)
        terms = self._market().outbidding([each.bid for each in before], gas)
        return self.work.signer.sign_cancel(row, treasury=self.work.chain.treasury, gas=terms)

    def _broadcast(self, row: LaneTransaction) -> Doing:
        assert row.signed_bytes is not None
        try:
            self.work.client.send_raw(row.signed_bytes)
            doing: Doing = "sent"
        except SendOutcomeUnknown as error:
            self._wait(row, f"send_outcome_unknown: {error.reason}")
            return "send_again"
        except SendRefused as error:
            doing = does(error)
            if doing == "tell_operator":
                self._tell(
                    row, f"send_refused: {error.reason}", "see what the node means; the same bytes are sent again"
                )
            elif doing == "wait_for_coins":
                self._wait(row, f"sender_cannot_pay: {row.sender}: {error.reason}")
            elif doing != "sent":
                self._wait(row, f"{type(error).__name__}: {error.reason}")
        if doing != "sent":
            return doing
        is_first = row.state == "signed"
        self._apply(lambda connection: _taken(connection, row, self.head))
        if is_first:
            self.work.step()
            log.info(
                "lane_transaction_sent",
                sender=row.sender,
                nonce=row.nonce,
                purpose=row.purpose,
                transaction_hash=row.transaction_hash,
            )
        return doing

    def _market(self) -> FeeQuote:
        if self._quote is None:
            self._quote = FeeQuote.capped(*self.work.client.fees(), self.work.chain.gas)
        return self._quote

    def _apply(self, write: "_Write") -> None:
        """One write under the lane's lease. Raises LaneLost."""

        def fenced(connection: Connection) -> None:
            hold(connection, self.lane.lease)
            write(connection)

        self.work.apply(fenced)

    def _reload(self, row: LaneTransaction) -> LaneTransaction:
        rows = self.work.apply(lambda connection: transactions_of(connection, row.subject_id))
        return next(each for each in rows if each.id == row.id)

    def _wait(self, row: LaneTransaction, reason: str) -> None:
        self.work.reasons[row.subject_id] = reason

    def _tell(self, row: LaneTransaction, reason: str, unblocks: str) -> None:
        self._wait(row, reason)
        log.error("lane_needs_people", sender=row.sender, nonce=row.nonce, reason=reason)
        self._apply(
            lambda connection: bury(
                connection,
                queue=QUEUE,
                subject_kind="chain_transaction",
                subject_id=row.id,
                reason=f"nonce {row.nonce} of {row.sender}: {reason}",
                unblocks=unblocks,
                attempts=1,
            )
        )


def _taken(connection: Connection, row: LaneTransaction, head: int) -> None:
    """A node has it: what operators were told of it is over."""
    mark_broadcast(connection, row.id, head=head)
    connection.execute(
        text(
            "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue WHERE queue = :queue "
            "AND subject_kind = 'chain_transaction' AND subject_id = :id AND resolved_at IS NULL"
        ),
        {"queue": QUEUE, "id": str(row.id)},
    )


class _Signing(Protocol):
    def __call__(self, row: LaneTransaction, /) -> LaneTransaction | None: ...


class _Write(Protocol):
    def __call__(self, connection: Connection, /) -> object: ...


def _require_intent(signed: SignedTransaction, row: LaneTransaction) -> SignedTransaction:
    """The signed call is the stored intent's, field by field (design §2, rule 5). Raises SignedBytesDiffer."""
    compared = (
        ("chain_id", signed.chain_id, row.chain_id),
        ("nonce", signed.nonce, row.nonce),
        ("sender", signed.sender, row.sender),
        ("to", signed.to, row.recipient),
        ("value", signed.value, row.value_wei),
        ("data", signed.data, row.data),
    )
    for field_name, found, expected in compared:
        if found != expected:
            raise SignedBytesDiffer(f"{field_name}: another one than the intent's")
    return signed

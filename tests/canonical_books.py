"""Payments against what the canonical chain says of them: its logs, its balances, and what was written before (L1, L2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from custody.chain import erc20
from custody.chain.logs import TRANSFER_TOPIC
from tests.branching_chain import BranchingChain
from tests.integration.chain_fixtures import Expected, WatchingFleet, units


@dataclass(frozen=True, slots=True)
class CanonicalTransfer:
    """A Transfer log to one of the checked addresses; ``units`` in the token's smallest."""

    transaction_hash: str
    log_index: int
    block_number: int
    block_hash: str
    recipient: str
    units: int


@dataclass
class CanonicalBooks:
    """What the buyers meant, and what the ledger held of each payment when it was compared last."""

    fleet: WatchingFleet
    chain: BranchingChain
    parts: dict[str, list[tuple[UUID, int]]] = field(default_factory=dict[str, list[tuple[UUID, int]]])
    """Whom each transaction pays how many units, as the buyer meant it."""
    entries: dict[UUID, list[tuple[UUID, bytes]]] = field(default_factory=dict[UUID, list[tuple[UUID, bytes]]])
    since: dict[UUID, int] = field(default_factory=dict[UUID, int])
    """The lowest block that may hold a payment's money."""

    def check(self, payments: Sequence[Expected], told: Callable[[object], str]) -> None:
        """Facts, books and states of the payments against the chain's own logs and balances."""
        canonical = self._canonical(payments)
        assert self._facts(payments) == canonical, told("live facts are not the canonical logs")
        there = {each.transaction_hash for each in canonical}
        owed = dict.fromkeys((each.payment for each in payments), 0)
        for transaction_hash in there:
            for payment, amount in self.parts[transaction_hash]:
                owed[payment] = owed.get(payment, 0) + amount
        booked = self._booked(payments)
        for each in payments:
            row = booked[each.payment]
            held, seen = row.held or 0, sum(filter(None, (row.detected, row.held, row.suspense)))
            assert units(seen) == owed[each.payment], told(f"{each}: booked {seen}")
            assert (row.destination or 0) == seen, told(f"{each}: {row}")
            assert units(row.detected or 0) == row.unjudged, told(f"{each}: {row}")
            state = None if not held else "funded" if held >= each.amount else "partial"
            assert row.escrow_state == state, told(f"{each}: {row}")
        self._check_balances(payments, booked, told)
        self._check_appended(payments, told)

    def _canonical(self, payments: Sequence[Expected]) -> set[CanonicalTransfer]:
        addresses = sorted({"0x" + each.destination[2:].lower().rjust(64, "0") for each in payments})
        query = {
            "fromBlock": hex(min(self.since[each.payment] for each in payments)),
            "toBlock": "latest",
            "address": self.fleet.token,
            "topics": [TRANSFER_TOPIC, None, addresses],
        }
        return {
            CanonicalTransfer(
                raw["transactionHash"],
                int(raw["logIndex"], 16),
                int(raw["blockNumber"], 16),
                raw["blockHash"],
                "0x" + raw["topics"][2][-40:],
                int(raw["data"], 16),
            )
            for raw in self.fleet.world.rpc("eth_getLogs", query)
        }

    def _facts(self, payments: Sequence[Expected]) -> set[CanonicalTransfer]:
        rows = self.fleet.market.execute(
            "SELECT transaction_hash, log_index, block_number, block_hash, lower(recipient) AS recipient, amount_units "
            "FROM fleet.chain_facts WHERE live AND direction = 'inbound' AND recipient = ANY(:addresses)",
            addresses=[each.destination for each in payments],
        )
        return {
            CanonicalTransfer(
                row.transaction_hash,
                row.log_index,
                row.block_number,
                row.block_hash,
                row.recipient,
                int(row.amount_units),
            )
            for row in rows
        }

    def _booked(self, payments: Sequence[Expected]) -> dict[UUID, Any]:
        rows = self.fleet.market.execute(
            """
            SELECT p.id, p.escrow_state::text, b.destination, b.detected, b.held, b.suspense,
                (SELECT coalesce(sum(f.amount_units), 0) FROM fleet.chain_facts f
                 WHERE f.payment_id = p.id AND f.live AND f.judged_at IS NULL) AS unjudged
            FROM public.payments p LEFT JOIN fleet.ledger_balances b ON b.book_id = p.id
            WHERE p.id = ANY(:ids)
            """,
            ids=[each.payment for each in payments],
        )
        assert len(rows) == len(payments)
        return {row.id: row for row in rows}

    def _check_balances(
        self, payments: Sequence[Expected], booked: dict[UUID, Any], told: Callable[[object], str]
    ) -> None:
        at: dict[str, Decimal] = {}
        for each in payments:
            at[each.destination] = at.get(each.destination, Decimal(0)) + (booked[each.payment].destination or 0)
        calls = [
            ("eth_call", [{"to": self.fleet.token, "data": "0x" + erc20.encode_balance_of(each).hex()}, "latest"])
            for each in at
        ]
        for address, raw in zip(at, self.chain.ask(*calls), strict=True):
            assert units(at[address]) == int(raw, 16), told(f"{address}: booked {at[address]}")

    def _check_appended(self, payments: Sequence[Expected], told: Callable[[object], str]) -> None:
        """L1: what was written stays as it was; what has changed since stands behind it."""
        now: dict[UUID, list[tuple[UUID, bytes]]] = {each.payment: [] for each in payments}
        for row in self.fleet.market.execute(
            "SELECT book_id, id, entry_hash FROM public.funds_ledger_entries WHERE book_id = ANY(:ids) "
            "ORDER BY book_id, book_seq",
            ids=list(now),
        ):
            now[row.book_id].append((row.id, bytes(row.entry_hash)))
        for payment, entries in now.items():
            before = self.entries.get(payment, [])
            assert entries[: len(before)] == before, told(f"{payment}: earlier entries are not what they were")
            self.entries[payment] = entries

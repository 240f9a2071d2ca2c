"""The gas payers of one chain in one round: whose lanes this worker has, and which of them pays the next transaction.

A payer that is frozen, empty, full or another worker's keeps nobody waiting while another one can pay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain import ChainClient
from custody.chain.lane_leases import LaneLease, give_back, hold, take_lease
from custody.chain.lanes import LaneTransaction, Purpose, in_flight, open_lane, take_nonce, unfinished
from custody.chain.signed_bytes import read_signed
from custody.ledger.house import house_account


@dataclass(slots=True)
class PayerLane:
    """One payer whose lane this round has leased. Wei; ``house_book`` is its own book (L6).

    ``why_not`` is set while it takes no new transactions; what was sent already is tended all the same.
    """

    lease: LaneLease
    house_book: UUID
    in_flight_limit: int
    balance_wei: int = 0
    in_flight: int = 0
    free_wei: int = 0
    why_not: str | None = None

    @property
    def address(self) -> str:
        """The payer's checksum address."""
        return self.lease.address

    def count(self, connection: Connection) -> None:
        """What is in flight, and what neither the chain's coins nor the book's are promised to yet.

        The book's as well as the chain's: a mined transaction must not find its book too small and wait for funding that
        waits for it.
        """
        rows = unfinished(connection, self.lease.chain_id, self.address)
        promised = {row.id: _most(row) for row in rows}
        unseen = sum(promised[row.id] for row in rows if row.block_hash is None)
        booked = _booked_wei(connection, self.house_book, self.lease.chain_id)
        self.in_flight = in_flight(connection, self.lease.chain_id, self.address)
        self.free_wei = min(self.balance_wei - unseen, booked - sum(promised.values()))

    def why_not_pay(self, wei: int) -> str | None:
        """Why this payer does not send a transaction that may cost ``wei`` in all, or None if it does."""
        if self.why_not is not None:
            return self.why_not
        if self.in_flight >= self.in_flight_limit:
            return "in_flight_limit"
        if wei > self.balance_wei:
            return f"gas_payer_empty: {self.address} has {self.balance_wei} wei, {wei} wei are needed"
        if wei > self.free_wei:
            return f"house_float_low: the gas payer's book lacks {wei - self.free_wei} wei; fund {self.address}"
        return None

    def take(
        self,
        connection: Connection,
        *,
        purpose: Purpose,
        subject_id: UUID,
        recipient: str,
        value_wei: int,
        data: bytes = b"",
    ) -> LaneTransaction:
        """The lane's next nonce for one intent, in the transaction that stores what it is for.

        Raises LaneBlocked and LaneLost. Tell the lane with ``promise`` once that transaction is committed.
        """
        hold(connection, self.lease)
        return take_nonce(
            connection,
            chain_id=self.lease.chain_id,
            sender=self.address,
            purpose=purpose,
            subject_id=subject_id,
            recipient=recipient,
            value_wei=value_wei,
            data=data,
            fence=self.lease.fence,
            in_flight_limit=self.in_flight_limit,
        )

    def promise(self, wei: int) -> None:
        """Count a transaction that was taken and may cost ``wei`` in all."""
        self.in_flight += 1
        self.free_wei -= wei


@dataclass(slots=True)
class Payers:
    """The lanes that this round has, and why it has not the others."""

    lanes: Sequence[PayerLane]
    absent: Sequence[str]

    @property
    def free_places(self) -> int:
        """Transactions that all lanes together may still send before a block."""
        return sum(max(0, lane.in_flight_limit - lane.in_flight) for lane in self.lanes if lane.why_not is None)

    def pick(self, wei: int) -> PayerLane | str:
        """The payer with the fewest nonces in flight of those that can pay ``wei`` in all; else why none can."""
        able = [lane for lane in self.lanes if lane.why_not_pay(wei) is None]
        if able:
            return min(able, key=lambda lane: (lane.in_flight, lane.address))
        reasons = [lane.why_not_pay(wei) or "" for lane in self.lanes] + list(self.absent)
        return "; ".join(dict.fromkeys(reasons)) or "no_gas_payer: the keys agent names none"


def open_payers(
    apply: Callable[[Callable[[Connection], Payers]], Payers],
    client: ChainClient,
    chain_id: int,
    addresses: Sequence[str],
    in_flight_limit: int,
) -> Payers:
    """Lease the lanes of the keys agent's payers on one chain, made where they are new. Raises ChainUnavailable."""
    found = client.accounts(addresses)

    def take(connection: Connection) -> Payers:
        lanes: list[PayerLane] = []
        absent: list[str] = []
        for address in sorted(addresses):
            house_book = house_account(connection, chain_id, address, "gas_payer")
            if house_book is None:
                absent.append(f"house_account_missing: register the gas payer {address} as a house account")
                continue
            open_lane(connection, chain_id, address, "gas_payer", found[address].nonce)
            lease = take_lease(connection, chain_id, address)
            if lease is None:
                absent.append(f"payer_lane_busy: another worker sends from {address}")
                continue
            lanes.append(PayerLane(lease, house_book, in_flight_limit, found[address].balance))
        return Payers(lanes, absent)

    return apply(take)


def close_payers(connection: Connection, payers: Payers) -> None:
    """Give the lanes back; of a worker that died they are free once their lease has ended."""
    for lane in payers.lanes:
        give_back(connection, lane.lease)


def _most(row: LaneTransaction) -> int:
    """The most that a transaction of the lane takes from its payer, wei."""
    gas = 0 if row.signed_bytes is None else read_signed(row.signed_bytes).max_fee_wei
    return row.value_wei + gas


def _booked_wei(connection: Connection, book: UUID, chain_id: int) -> int:
    booked = connection.execute(
        text(
            "SELECT (gas_payer * 1000000000000000000)::numeric(78, 0) FROM fleet.ledger_balances "
            "WHERE book_id = :book AND chain_id = :chain AND token = 'native'"
        ),
        {"book": book, "chain": chain_id},
    ).scalar_one_or_none()
    return int(booked or 0)

"""The books' side of a proof of escrow: everything it needs from Postgres, read at one moment (L22).

Units: smallest unit of the token, signed where coins may be missing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.assets import to_units
from custody.chain.signed_bytes import SignedBytesDiffer, read_signed
from custody.ledger.positions import ASSET_ACCOUNTS, asset_positions
from custody.ledger.reports.balances import AccountTotal, account_totals
from custody.settings.chains import Chain

LOOKS_MAXIMUM: Final = 10_000  # announced transactions asked for in one proof: 100 batched requests

Place = tuple[str, str]
"""A token (or ``native``) and the address its coins sit at."""


class NothingJudged(Exception):
    """The watcher has not judged a block of the chain yet, or the block asked for is newer. The message says which."""


@dataclass(frozen=True, slots=True)
class Token:
    """As fleet.tokens pins it."""

    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Booked:
    """A leg of an entry whose transaction was mined after B: in the books, not yet in the chain at B."""

    entry_id: UUID
    movement: str
    place: Place
    units: int
    transaction_hash: str | None
    block_number: int


@dataclass(frozen=True, slots=True)
class Fact:
    """A live inbound chain fact."""

    token: str
    recipient: str
    units: int
    transaction_hash: str
    log_index: int
    block_number: int
    block_hash: str


@dataclass(frozen=True, slots=True)
class OwnTransaction:
    """A signature of ours for a nonce that no deep block has ended: the ledger has nothing of it yet."""

    sender: str
    purpose: str
    recipient: str
    value_wei: int
    hash: str


@dataclass(frozen=True, slots=True)
class Books:
    """One moment of the books of a chain, to be compared with block B."""

    block: int
    judged_number: int
    judged_hash: str
    tokens: Mapping[str, Token]
    held: Mapping[Place, int]
    """What the books say lies at each place, the ones that only wait for coins included."""
    addresses: frozenset[str]
    """Every address ever issued, and the house's."""
    house: frozenset[str]
    later: Sequence[Booked]
    own: Sequence[OwnTransaction]
    announced: Sequence[str]
    """Transactions that somebody asked to look at and no look has concluded."""
    unattributed: Sequence[Fact]
    """Seen, but booked to nobody: the address has no payment."""
    booked: frozenset[tuple[str, str, int]]
    """(transaction, block, log index) of the booked facts that a node may still show us."""
    doubtful: Sequence[Fact]
    """Booked facts that are looked at again."""
    totals: Sequence[AccountTotal]
    imbalances: Sequence[str]


def read_books(connection: Connection, chain: Chain, at_block: int | None, window: int) -> Books:
    """Read the books of a chain in the caller's REPEATABLE READ transaction. ``window``: blocks looked back.

    Raises NothingJudged.
    """
    chain_id = chain.id
    head = connection.execute(
        text("SELECT head_number, head_hash FROM fleet.chain_cursors WHERE chain_id = :chain"), {"chain": chain_id}
    ).one_or_none()
    if head is None:
        raise NothingJudged(f"chain {chain_id}: no block was judged yet; start its watcher: fleet watch")
    if at_block is not None and at_block > head.head_number:
        raise NothingJudged(f"chain {chain_id}: block {at_block} is above the last judged one, {head.head_number}")
    block = head.head_number if at_block is None else at_block
    values = {
        "chain": chain_id,
        "block": block,
        "oldest": block - window,
        "coins": list(ASSET_ACCOUNTS),
        "legs": list(_TRANSACTION_LEGS),
    }
    tokens = {
        row.token: Token(row.symbol, row.decimals)
        for row in connection.execute(
            text("SELECT token, symbol, decimals FROM fleet.tokens WHERE chain_id = :chain"), values
        )
    }
    expected = connection.execute(_EXPECTED, values).all()
    held: dict[Place, int] = {(row.token, row.address): 0 for row in expected if row.token is not None}
    # A treasury's whole content is escrow or the house's, booked or not; a former one's too, whatever its state (R22).
    held |= {(token, treasury): 0 for token in tokens for treasury in chain.treasuries}
    for position in asset_positions(connection, chain_id):
        held[position.token, position.address] = _signed(position.amount, tokens[position.token])
    totals = account_totals(connection, chain_id=chain_id)
    return Books(
        block=block,
        judged_number=head.head_number,
        judged_hash=head.head_hash,
        tokens=tokens,
        held=held,
        addresses=frozenset({row.address for row in expected} | {address for _, address in held}),
        house=frozenset({row.address for row in expected if row.is_house} | {*chain.treasuries}),
        later=[
            Booked(
                row.id,
                row.movement,
                (row.token, row.address),
                _signed(row.amount, tokens[row.token]),
                row.transaction_hash,
                row.block_number,
            )
            for row in connection.execute(_LATER, values)
        ],
        own=[
            OwnTransaction(row.sender, row.purpose, row.recipient, _value_of(row), row.hash)
            for row in connection.execute(_OWN, values)
        ],
        announced=list(connection.execute(_ANNOUNCED, {**values, "limit": LOOKS_MAXIMUM}).scalars()),
        unattributed=[_fact(row) for row in connection.execute(_UNATTRIBUTED, values)],
        booked=frozenset(
            (row.transaction_hash, row.block_hash, row.log_index) for row in connection.execute(_BOOKED, values)
        ),
        doubtful=[_fact(row) for row in connection.execute(_DOUBTFUL, values)],
        totals=totals,
        imbalances=_imbalances(totals, held, tokens),
    )


def _signed(amount: Decimal, token: Token) -> int:
    units = to_units(amount.copy_abs(), token.decimals)
    return -units if amount.is_signed() else units


def _fact(row: Any) -> Fact:
    return Fact(
        row.token,
        row.recipient,
        int(row.amount_units),
        row.transaction_hash,
        row.log_index,
        row.block_number,
        row.block_hash,
    )


def _value_of(row: Any) -> int:
    """What these very bytes send, wei; what the nonce is for, where they are not kept or cannot be read."""
    if row.purpose == "cancel":
        return 0
    try:
        return int(row.value_wei) if row.signed_bytes is None else read_signed(bytes(row.signed_bytes)).value
    except SignedBytesDiffer:
        return int(row.value_wei)


def _imbalances(totals: Sequence[AccountTotal], held: Mapping[Place, int], tokens: Mapping[str, Token]) -> list[str]:
    """Where the balance rows disagree with themselves or with the entries: tampering, never a matter of time."""
    sides: dict[tuple[str, str], int] = defaultdict(int)
    coins: dict[str, int] = defaultdict(int)
    for total in totals:
        units = _signed(total.amount, tokens[total.token])
        sides[total.token, total.side] += units
        if total.account in ASSET_ACCOUNTS:
            coins[total.token] += units if total.side == "debit" else -units
    at_places: dict[str, int] = defaultdict(int)
    for (token, _), units in held.items():
        at_places[token] += units
    found: list[str] = []
    for token, named in tokens.items():
        if sides[token, "debit"] != sides[token, "credit"]:
            found.append(
                f"{named.symbol}: debit accounts {sides[token, 'debit']}, credit accounts {sides[token, 'credit']}"
            )
        if coins[token] != at_places[token]:
            found.append(f"{named.symbol}: balance rows hold {coins[token]}, the entries {at_places[token]}")
    return found


# Where coins are expected, though none was ever booked: an unannounced deposit must be seen as well.
_EXPECTED = text(
    """
    SELECT r.token, d.address, false AS is_house
    FROM public.derived_destinations d LEFT JOIN fleet.payment_routes r ON r.destination_id = d.id AND r.chain_id = :chain
    UNION SELECT 'native', h.address, true FROM fleet.house_accounts h WHERE h.chain_id = :chain
    """
)
_TRANSACTION_LEGS: Final = (":topup", ":gas", *(f":gas:{book}" for book in range(1, 8)))  # at most eight payers' books
# A fact has its block; the house's gas and top-ups have their transaction's; funding says the block it was read at.
_LATER = text(
    """
    WITH later AS (
        SELECT e.*, f.transaction_hash, f.block_number
        FROM fleet.chain_facts f JOIN public.funds_ledger_entries e ON e.fact_id = f.id
        WHERE f.chain_id = :chain AND f.live AND f.block_number > :block
        UNION ALL
        SELECT e.*, sent.hash, t.block_number
        FROM fleet.chain_transactions t CROSS JOIN LATERAL unnest(t.hashes) AS sent (hash)
        JOIN fleet.house_accounts h ON h.chain_id = t.chain_id
        JOIN public.funds_ledger_entries e ON e.book_id = h.id AND e.idempotency_key IN (
            SELECT 'transaction:' || sent.hash || leg FROM unnest(CAST(:legs AS text[])) AS leg
            UNION ALL SELECT 'gas:' || t.chain_id || ':' || sent.hash)
        WHERE t.chain_id = :chain AND t.state = 'final' AND t.block_number > :block
        UNION ALL
        SELECT e.*, NULL, CAST(e.metadata ->> 'block_number' AS bigint)
        FROM fleet.house_accounts h JOIN public.funds_ledger_entries e ON e.book_id = h.id
        WHERE h.chain_id = :chain AND e.reason = 'funding' AND CAST(e.metadata ->> 'block_number' AS bigint) > :block)
    SELECT l.id, l.entry_type || ':' || l.reason AS movement, l.token, leg.address, leg.amount, l.transaction_hash,
        l.block_number
    FROM later l CROSS JOIN LATERAL (VALUES
        (l.debit, l.debit_address, l.amount), (l.credit, l.credit_address, -l.amount)) AS leg (account, address, amount)
    WHERE leg.account = ANY(:coins) ORDER BY l.block_number, l.tx_id, l.id
    """
)
# A nonce's cancel moves nothing but its gas, whatever the nonce was for. Signatures of one drain bring different values.
_OWN = text(
    """
    SELECT t.sender, CASE WHEN s.kind = 'cancel' THEN 'cancel' ELSE t.purpose END AS purpose,
        CASE WHEN s.kind = 'cancel' THEN t.sender ELSE t.recipient END AS recipient, t.value_wei, sent.hash, s.signed_bytes
    FROM fleet.chain_transactions t CROSS JOIN LATERAL unnest(t.hashes) WITH ORDINALITY AS sent (hash, place)
    LEFT JOIN fleet.nonce_signatures s ON s.transaction_hash = sent.hash
    WHERE t.chain_id = :chain AND t.state IN ('signed', 'broadcast') ORDER BY t.sender, t.nonce, sent.place
    """
)
_ANNOUNCED = text(
    "SELECT transaction_hash FROM fleet.chain_looks WHERE chain_id = :chain AND state IN ('due', 'missing') "
    "AND transaction_hash ~ '^0x[0-9a-f]{64}$' ORDER BY created_at DESC LIMIT :limit"
)
_UNATTRIBUTED = text(
    """
    SELECT f.* FROM fleet.chain_facts f
    WHERE f.chain_id = :chain AND f.live AND f.direction = 'inbound' AND f.block_number <= :block
      AND NOT EXISTS (SELECT FROM public.funds_ledger_entries e WHERE e.fact_id = f.id)
    ORDER BY f.block_number, f.log_index
    """
)
_BOOKED = text(
    """
    SELECT f.transaction_hash, f.block_hash, f.log_index FROM fleet.chain_facts f
    WHERE f.chain_id = :chain AND f.live AND f.direction = 'inbound' AND (f.block_number >= :oldest OR EXISTS (
        SELECT FROM fleet.chain_looks l WHERE l.chain_id = f.chain_id AND l.transaction_hash = f.transaction_hash
            AND l.state IN ('due', 'missing')))
    """
)
_DOUBTFUL = text(
    """
    SELECT f.* FROM fleet.chain_facts f
    JOIN fleet.chain_looks l ON l.chain_id = f.chain_id AND l.transaction_hash = f.transaction_hash AND l.state = 'due'
    WHERE f.chain_id = :chain AND f.live AND f.direction = 'inbound' AND f.block_number <= :block
      AND EXISTS (SELECT FROM public.funds_ledger_entries e WHERE e.fact_id = f.id)
    ORDER BY f.block_number, f.log_index
    """
)

"""Finding what leaves the treasury without us (custody-rules R5): reads one scanned block and the fleet's own lanes.

Ours is a transaction of the treasury's lane, by one of its hashes, or by (sender, nonce) with the very recipient, value
and data: a signer may broadcast our own bytes himself, and the lane's row is written with the bytes that are handed
out. A lane that ended as ``failed`` is not ours any more: its money was given back to its payment. Everything else
that the treasury sent, and every Transfer out of it in a transaction that is not ours (an approved spender's
transferFrom too), is not ours.

A Safe says itself what it executed, by hash: ours is what was handed out to its owners, whoever sent it (R16).

Native coin has no log (L8): it is what the treasury's balance lacks of its book, beyond what ours under way may cost
at most; the rest of it shows once nothing of ours is under way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from custody.chain.addresses import ZERO_ADDRESS
from custody.chain.assets import NATIVE, to_units
from custody.chain.blocks import BlockTransaction, ScannedBlock
from custody.chain.house_funding import NATIVE_DECIMALS
from custody.chain.logs import TRANSFER_TOPIC, MalformedLog, decode_transfer
from custody.chain.safe_logs import executions
from custody.settings.chains import Chain

NATIVE_PLACE: Final = -1  # a movement of native coin has no log; its fact carries this instead of a log's place
NONCES_MAXIMUM: Final = 64  # spent without us and not seen in a block: one line each for a person, the newest ones
_PAYOUTS: Final = ("release", "cancel")


@dataclass(frozen=True, slots=True)
class Outflow:
    """One thing that left the treasury, or a nonce that was spent, without us.

    ``units``: smallest unit of ``token``; 0 where nothing is known to have moved, a nonce spent on a call for instance.
    ``log_index``: in its block, NATIVE_PLACE without a log. ``nonce``: the one that was spent, where that is what is told.
    ``transaction_hash``: the block's own hash where no transaction of the block explains what is missing.
    """

    transaction_hash: str
    log_index: int
    token: str
    recipient: str
    units: int
    nonce: int | None
    why: str


def unauthorised(connection: Connection, chain: Chain, block: ScannedBlock) -> list[Outflow]:
    """Every movement out of the treasury in this block that is not ours. Reads only."""
    sent = [each for each in block.transactions if each.sender == chain.treasury]
    leaving = _leaving(chain.treasury, block)
    foreign_executions: list[Outflow] = []
    if chain.safe is not None:
        paid, foreign_executions = _executed(connection, chain, block)
        leaving = [
            each for each in leaving if (each.transaction_hash, each.token, each.recipient, each.units) not in paid
        ]
    involved = {each.hash for each in sent} | {each.transaction_hash for each in leaving}
    ours = _ours(connection, chain.id, [each for each in block.transactions if each.hash in involved])
    foreign = [each for each in sent if each.hash not in ours]
    return [
        # Ours calls one token; another one that moves in it is as foreign as in any other transaction.
        *(each for each in leaving if ours.get(each.transaction_hash) != each.token),
        *_native(connection, chain, block, foreign),
        *(_spent(each) for each in foreign),
        *_unseen_nonces(connection, chain, block, foreign),
        *foreign_executions,
    ]


def _executed(
    connection: Connection, chain: Chain, block: ScannedBlock
) -> tuple[set[tuple[str, str, str, int]], list[Outflow]]:
    """What a Safe executed in this block (R16): the payouts that are ours, by their hash, and all that is not.

    A payout is ours whoever sent it; as (transaction, token, recipient, units), so that another transfer beside it is not.
    """
    try:
        found = executions(block.logs, chain.treasury)
    except MalformedLog as error:
        why = f"a log of the Safe cannot be read ({error})"
        return set(), [Outflow(block.header.hash, NATIVE_PLACE, chain.treasury, ZERO_ADDRESS, 0, None, why)]
    if not found:
        return set(), []
    rows = connection.execute(
        text(
            """
            SELECT token, recipient, amount_units, signing_hash, rejection_hash FROM fleet.release_instructions
            WHERE chain_id = :chain AND treasury = :safe AND state <> 'failed'
                AND (signing_hash = ANY(:hashes) OR rejection_hash = ANY(:hashes))
            """
        ),
        {"chain": chain.id, "safe": chain.treasury, "hashes": [each.tx_hash for each in found]},
    ).all()
    payouts = {bytes(row.signing_hash): row for row in rows}
    rejections = {bytes(row.rejection_hash) for row in rows if row.rejection_hash is not None}
    paid = {
        (each.log.transaction_hash, row.token, row.recipient, int(row.amount_units))
        for each in found
        if (row := payouts.get(each.tx_hash)) is not None
    }
    foreign = [
        Outflow(
            each.log.transaction_hash,
            each.log.log_index,
            chain.treasury,
            ZERO_ADDRESS,
            0,
            None,
            f"the Safe executed 0x{each.tx_hash.hex()}, which the fleet never handed out to its owners",
        )
        for each in found
        if each.tx_hash not in payouts and each.tx_hash not in rejections
    ]
    return paid, foreign


def _spent(sent: BlockTransaction) -> Outflow:
    return Outflow(
        sent.hash,
        NATIVE_PLACE,
        NATIVE,
        sent.to or ZERO_ADDRESS,
        0,
        sent.nonce,
        f"the treasury sent a transaction that is not ours: value {sent.value} wei, {len(sent.data)} bytes of data",
    )


def _leaving(treasury: str, block: ScannedBlock) -> list[Outflow]:
    found: list[Outflow] = []
    for each in block.logs:
        if each.event != TRANSFER_TOPIC:
            continue
        try:
            transfer = decode_transfer(each)
        except MalformedLog as error:
            if treasury[2:].lower() in "".join(each.topics) + each.data.hex():
                why = f"the token's log names the treasury and cannot be read ({error})"
                found.append(Outflow(each.transaction_hash, each.log_index, each.address, ZERO_ADDRESS, 0, None, why))
            continue
        if transfer.sender == treasury != transfer.recipient and transfer.amount > 0:
            found.append(
                Outflow(
                    transfer.transaction_hash,
                    transfer.log_index,
                    transfer.token,
                    transfer.recipient,
                    transfer.amount,
                    None,
                    "the token says that it left the treasury, in a transaction that is not ours",
                )
            )
    return found


def _ours(connection: Connection, chain_id: int, transactions: Sequence[BlockTransaction]) -> dict[str, str]:
    """The payouts among these: hash to the address that they call."""
    if not transactions:
        return {}
    rows = connection.execute(
        text(
            """
            WITH lanes AS (
                SELECT id, subject_id, sender, nonce, recipient, value_wei, data, hashes FROM fleet.chain_transactions
                WHERE chain_id = :chain AND purpose = ANY(:payouts) AND state <> 'failed'
                    AND (hashes && CAST(:hashes AS text[]) OR (sender = ANY(:senders) AND nonce = ANY(:nonces))))
            SELECT sender, nonce, recipient, value_wei, data, hashes FROM lanes
            UNION ALL
            -- A nonce whose cancel was handed out may be spent by it: nothing, from the treasury to itself (R1).
            SELECT sender, nonce, sender, 0, '', '{}' FROM lanes
            WHERE EXISTS (SELECT FROM fleet.nonce_digests d WHERE d.instruction_id = lanes.subject_id AND d.kind = 'cancel')
            """
        ),
        {
            "chain": chain_id,
            "payouts": list(_PAYOUTS),
            "hashes": [each.hash for each in transactions],
            "senders": sorted({each.sender for each in transactions}),
            "nonces": sorted({each.nonce for each in transactions}),
        },
    ).all()
    return {each.hash: row.recipient for each in transactions for row in rows if _is_same(each, row)}


def _is_same(sent: BlockTransaction, row: Any) -> bool:
    return sent.hash in row.hashes or (sent.sender, sent.nonce, sent.to, sent.value, sent.data) == (
        row.sender,
        row.nonce,
        row.recipient,
        int(row.value_wei),
        bytes(row.data),
    )


# Native coin ---------------------------------------------------------------------------------------------------------

_HOUSE_COINS = text(
    """
    SELECT coalesce(b.treasury_house - b.overdraft, 0) AS booked, (
            SELECT count(*) FILTER (WHERE i.max_total_fee_wei IS NULL) FROM fleet.chain_transactions t
            LEFT JOIN fleet.release_instructions i ON i.id = t.subject_id
            WHERE t.chain_id = h.chain_id AND t.sender = h.address AND t.state IN ('intent', 'signed', 'broadcast')) AS open_ends, (
            SELECT coalesce(sum(t.value_wei + greatest(i.max_total_fee_wei, (
                SELECT max(d.max_total_fee_wei) FROM fleet.nonce_digests d WHERE d.instruction_id = i.id))), 0)
            FROM fleet.chain_transactions t
            JOIN fleet.release_instructions i ON i.id = t.subject_id
            WHERE t.chain_id = h.chain_id AND t.sender = h.address AND t.state IN ('intent', 'signed', 'broadcast')) AS at_most
    FROM fleet.house_accounts h
    LEFT JOIN fleet.ledger_balances b ON b.book_id = h.id AND b.chain_id = h.chain_id AND b.token = :native
    WHERE h.chain_id = :chain AND h.address = :treasury AND h.kind = 'treasury'
    """
)
_NEWEST_FUNDING = text(
    """
    SELECT CAST(e.metadata ->> 'block_number' AS bigint) FROM public.funds_ledger_entries e
    JOIN fleet.house_accounts h ON h.id = e.book_id
    WHERE h.chain_id = :chain AND h.address = :treasury AND e.chain_id = :chain AND e.token = :native
        AND e.reason IN ('funding', 'rotation') AND e.debit = 'treasury_house'
    ORDER BY e.book_seq DESC LIMIT 1
    """
)


def _native(
    connection: Connection, chain: Chain, block: ScannedBlock, foreign: Sequence[BlockTransaction]
) -> list[Outflow]:
    """What the treasury's balance lacks of its book. A part may only show once nothing of ours is under way."""
    if block.treasury_balance is None:
        return []
    values = {"chain": chain.id, "treasury": chain.treasury, "native": NATIVE}
    row = connection.execute(_HOUSE_COINS, values).one_or_none()
    if row is None or row.open_ends or row.booked <= 0:
        return []
    missing = to_units(row.booked, NATIVE_DECIMALS) - int(row.at_most) - block.treasury_balance
    if missing <= 0:
        return []
    funded_at = connection.execute(_NEWEST_FUNDING, values).scalar_one_or_none()
    if funded_at is not None and funded_at > block.header.number:
        return []  # the book knows a later block than this one
    cause = max(foreign, key=lambda each: each.value, default=None)
    return [
        Outflow(
            block.header.hash if cause is None else cause.hash,
            NATIVE_PLACE,
            NATIVE,
            ZERO_ADDRESS if cause is None else cause.to or ZERO_ADDRESS,
            missing,
            None,
            "the treasury has less of the chain's own coin than its book and our transactions explain",
        )
    ]


def _unseen_nonces(
    connection: Connection, chain: Chain, block: ScannedBlock, foreign: Sequence[BlockTransaction]
) -> list[Outflow]:
    """Nonces that the chain says are spent, that the lane never gave out, and that no block we scanned shows."""
    if block.treasury_nonce is None:
        return []
    next_nonce = connection.execute(
        text("SELECT next_nonce FROM fleet.nonce_lanes WHERE chain_id = :chain AND address = :treasury"),
        {"chain": chain.id, "treasury": chain.treasury},
    ).scalar_one_or_none()
    if next_nonce is None:  # it never paid out: what it sent before it was ours is not ours to judge
        return []
    seen = {each.nonce for each in foreign}
    first = max(next_nonce, block.treasury_nonce - NONCES_MAXIMUM)
    return [
        Outflow(
            block.header.hash,
            NATIVE_PLACE,
            NATIVE,
            ZERO_ADDRESS,
            0,
            nonce,
            "the chain says that this nonce is spent; we never gave it out, and no scanned block shows how",
        )
        for nonce in range(first, block.treasury_nonce)
        if nonce not in seen
    ]

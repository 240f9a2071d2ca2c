"""Executing what a Safe's owners signed: the Safe is read again, then the release payer sends ``execTransaction`` (R16).

Nonce, signature and bytes of the payer's transaction are stored in one database transaction before anybody sends it, so
a crash sends the same bytes again or none. A SafeTx is executed once, whoever sends it: the Safe's own nonce says so.
"""

from dataclasses import replace
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import CallRequest, ExecutionReverted, to_amount
from custody.chain.assets import NATIVE
from custody.chain.fee_bids import FeeBid, outbid
from custody.chain.lanes import LaneTransaction, open_lane, replace_signed, store_signed, take_nonce, transactions_of
from custody.chain.nodes import ChainNodes
from custody.chain.signed_bytes import hash_of, read_signed
from custody.ledger.house import house_account
from custody.releases import rows
from custody.releases.payout import GAS_MARGIN_DENOMINATOR, GAS_MARGIN_NUMERATOR, BytesDiffer
from custody.releases.rows import Instruction
from custody.releases.safe_signing import owner_signatures
from custody.releases.safe_treasury import SafeStopped, SafeTreasury, asked_of_owners, require_pinned
from custody.safe import OwnerSignatureRefused, PayerRefused, ReleasePayer, pack_signatures
from custody.store.engine import transaction
from custody.trezor.transaction import SignatureError, TransactionError, UnsignedTransaction

log = structlog.get_logger(__name__)

_ETHER_DECIMALS: Final = 18
_UNDER_WAY: Final = frozenset({"signed", "broadcast"})
_PROMISED: Final = text(
    """
    SELECT coalesce(b.gas_payer - b.overdraft, 0) AS coins, (
        SELECT coalesce(sum(i.max_total_fee_wei), 0) FROM fleet.chain_transactions t
        JOIN fleet.release_instructions i ON i.id = t.subject_id
        WHERE t.chain_id = :chain AND t.sender = :payer AND t.state IN ('signed', 'broadcast')) AS promised
    FROM fleet.house_accounts h
    LEFT JOIN fleet.ledger_balances b ON b.book_id = h.id AND b.chain_id = h.chain_id AND b.token = :native
    WHERE h.chain_id = :chain AND h.address = :payer AND h.kind = 'release_payer'
    """
)


def execution_to_send(
    engine: Engine, nodes: ChainNodes, safe: SafeTreasury | None, instruction: Instruction
) -> LaneTransaction | None:
    """The payer's transaction that executes what the owners signed, made and stored if there is none under way.

    The payout, or its rejection while it is cancelled: that takes the place of the payout's on the payer's own nonce.

    None when its Safe nonce is spent: what was executed decides, and the next step looks. ``instruction`` is leased.
    Raises SafeStopped, ChainUnavailable, WrongChain.
    """
    if safe is None:
        raise SafeStopped(f"safe_not_pinned: no signed genesis pins the Safe {instruction.treasury}.")
    state = require_pinned(nodes, safe)
    assert instruction.nonce is not None
    if state.nonce > instruction.nonce:
        return None
    if state.nonce < instruction.nonce:
        raise SafeStopped(
            f"safe_nonce_waits: it is signed for nonce {instruction.nonce} of the Safe, which is at {state.nonce}; "
            "what is before it must be executed first."
        )
    if safe.payer is None:
        raise SafeStopped("release_payer_missing: set RELEASE_PAYER_KEY_FILE for the releases worker.")
    with transaction(engine) as connection:
        calldata = _calldata(connection, safe, instruction)
        under_way = [lane for lane in transactions_of(connection, instruction.id) if lane.state in _UNDER_WAY]
    if under_way and (under_way[0].data == calldata or instruction.state != "cancelling"):
        return under_way[0]
    return _make(engine, nodes, safe.payer, instruction, calldata, under_way[0] if under_way else None)


def _make(
    engine: Engine,
    nodes: ChainNodes,
    payer: ReleasePayer,
    instruction: Instruction,
    calldata: bytes,
    replaced: LaneTransaction | None,
) -> LaneTransaction | None:
    # A payout's limit is enough for its rejection, and a node may estimate on what is still in its pool.
    before = None if replaced is None else read_signed(replaced.signed_bytes or b"")
    estimate = _estimate(nodes, payer, instruction, calldata) if before is None else before.gas_limit
    base_fee, priority_fee = nodes.any(lambda client: client.fees())
    nonce = nodes.nonce(payer.address)
    with transaction(engine) as connection:
        now = rows.lock_leased(connection, instruction)
        if now is None:
            return None
        _require_coins(connection, now, payer)
        if replaced is not None and before is not None:
            lane = replace(replaced, data=calldata)
            bid = outbid([before.bid], base_fee=base_fee, priority_fee=priority_fee)
            raw, transaction_hash = _sign(now, payer, lane, estimate, bid)
            replace_signed(connection, lane.id, calldata, raw, transaction_hash)
            return _lane(connection, now, lane)
        open_lane(connection, now.chain_id, payer.address, "release_payer", nonce)
        taken = take_nonce(
            connection,
            chain_id=now.chain_id,
            sender=payer.address,
            purpose="release",
            subject_id=now.id,
            recipient=now.treasury,
            value_wei=0,
            data=calldata,
        )
        bid = outbid([], base_fee=base_fee, priority_fee=priority_fee)
        raw, transaction_hash = _sign(now, payer, taken, estimate, bid)
        store_signed(connection, taken.id, raw, transaction_hash)
        return _lane(connection, now, taken)


def _estimate(nodes: ChainNodes, payer: ReleasePayer, instruction: Instruction, calldata: bytes) -> int:
    request = CallRequest(to=instruction.treasury, data=calldata, sender=payer.address)
    try:
        return nodes.any(lambda client: client.estimate_gas(request))
    except ExecutionReverted as error:
        raise SafeStopped(
            f"would_revert: the Safe refuses the signed transaction now ({error.reason}); nothing was sent. It is tried "
            "again; check the Safe's balance and whether the token blocks Safe or seller."
        ) from error


def _lane(connection: Connection, instruction: Instruction, lane: LaneTransaction) -> LaneTransaction:
    return next(each for each in transactions_of(connection, instruction.id) if each.id == lane.id)


def _calldata(connection: Connection, safe: SafeTreasury, instruction: Instruction) -> bytes:
    """The call with the owners' signatures, each recovered again over our own stored bytes (R9)."""
    try:
        asked = asked_of_owners(instruction)
        digest = asked.hash()
        signed = owner_signatures(connection, instruction, digest)
        return asked.calldata(pack_signatures(digest, signed, safe.pinned.owners, safe.pinned.threshold or 0))
    except BytesDiffer as error:
        raise SafeStopped(f"stored_bytes_differ: {error}; an operator looks at it.") from error
    except (OwnerSignatureRefused, SignatureError) as error:
        raise SafeStopped(f"signatures_refused: {error}; an operator looks at it.") from error


def _sign(
    instruction: Instruction,
    payer: ReleasePayer,
    taken: LaneTransaction,
    estimate: int,
    bid: FeeBid,
) -> tuple[bytes, str]:
    """The raw transaction and its hash."""
    ceiling_wei = instruction.max_total_fee_wei or 0
    try:
        unsigned = UnsignedTransaction(
            chain_id=taken.chain_id,
            nonce=taken.nonce,
            max_priority_fee_per_gas=bid.priority,
            max_fee_per_gas=bid.max_fee,
            gas_limit=estimate * GAS_MARGIN_NUMERATOR // GAS_MARGIN_DENOMINATOR,
            to=taken.recipient,
            value=0,
            data=taken.data,
        )
        if unsigned.max_total_fee_wei > ceiling_wei:
            raise SafeStopped(
                f"fee_over_ceiling: executing it may cost {unsigned.max_total_fee_wei} wei, the ceiling is {ceiling_wei}; "
                "it is sent once fees fall."
            )
        raw = payer.sign(unsigned, safe=instruction.treasury, ceiling_wei=ceiling_wei)
    except (TransactionError, PayerRefused) as error:
        raise SafeStopped(f"not_executable: {error}") from error
    return raw, hash_of(raw)


def _require_coins(connection: Connection, instruction: Instruction, payer: ReleasePayer) -> None:
    """R11: the payer's own book covers this execution and those under way, so that no fee is left unbooked."""
    if house_account(connection, instruction.chain_id, payer.address, "release_payer") is None:
        raise SafeStopped(
            f"release_payer_unknown: {payer.address} has no house account of kind release_payer on chain "
            f"{instruction.chain_id}; register it."
        )
    row = connection.execute(_PROMISED, {"chain": instruction.chain_id, "payer": payer.address, "native": NATIVE}).one()
    needed = to_amount(int(row.promised) + (instruction.max_total_fee_wei or 0), _ETHER_DECIMALS)
    if row.coins < needed:
        raise SafeStopped(
            f"release_payer_short: its book has {row.coins:f} coins and up to {needed:f} may be needed; send coins to "
            f"{payer.address}, the watcher books them."
        )

"""What a signer is shown of an instruction, read with the signer API's own database role (R4, R9).

Amounts are decimal texts, fees wei as texts, bytes hex with 0x: nothing passes through a float.
"""

from itertools import islice
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.ledger.seals import newest_seal, seal_as_json, seals_after
from custody.policy.requests import role_paid

LIST_LIMIT: Final = 100  # a signer's day; the rest follows as these are done
ROWS_LIMIT: Final = 200  # of each kind of evidence of one payment; the largest amounts first
GROUP_ROWS_LIMIT: Final = 50  # the same of each payment of a group, so that 50 of them fit into one answer
SEALS_LIMIT: Final = 500  # seals in one answer: about 300 KiB

OPEN_STATES: Final = (
    "handed_out",
    "ready",
    "awaiting_approval",
    "drafted",
    "signed",
    "broadcast",
    "cancelling",
)

WAITING_STATES: Final = frozenset({"handed_out", "signed", "broadcast", "cancelling"})
"""A transaction of the nonce may wait for a signature in these (R1)."""

_COLUMNS: Final = """
    SELECT i.*, t.symbol, t.decimals, approvals.persons, s.kind AS last_kind, s.state AS last_state,
        coalesce(s.refused_reason, s.reason) AS last_reason, (
            SELECT a.label FROM fleet.address_book a WHERE a.chain_id = i.chain_id AND a.address = i.recipient
            ORDER BY a.created_at DESC LIMIT 1) AS label, (
            SELECT coalesce(array_agg(o.signer ORDER BY o.received_at, o.id), '{}') FROM fleet.signature_submissions o
            WHERE o.instruction_id = i.id
              AND o.digest = CASE i.state WHEN 'cancelling' THEN i.rejection_hash ELSE i.signing_hash END) AS signed_by,
        parts.payments, coalesce(asked.signs, 'payout') AS signs, asked.waits, asked.unsigned_bytes AS asked_bytes, asked.signing_hash AS asked_hash,
        asked.max_total_fee_wei AS asked_fee
    FROM fleet.release_instructions i
    JOIN fleet.tokens t ON t.chain_id = i.chain_id AND t.token = i.token
    LEFT JOIN LATERAL (
        SELECT array_agg(DISTINCT a.person ORDER BY a.person) AS persons FROM fleet.approvals a
        WHERE a.subject_kind = 'release_instruction' AND a.subject_id = i.id AND a.digest = i.intent_hash
          AND a.state <> 'refused'
    ) approvals ON true
    LEFT JOIN LATERAL (   -- a group's payments (R23), each with its own instruction, share and epoch
        SELECT jsonb_agg(jsonb_build_object('payment_id', m.payment_id, 'instruction_id', m.id,
            'amount', trim_scale(m.amount)::text, 'amount_units', m.amount_units::text, 'release_epoch', m.release_epoch)
            ORDER BY m.payment_id) AS payments
        FROM fleet.release_instructions m WHERE m.group_id = i.id
    ) parts ON true
    LEFT JOIN LATERAL (
        SELECT kind, state, reason, refused_reason FROM fleet.signature_submissions s
        WHERE s.instruction_id = i.id ORDER BY s.received_at DESC, s.id DESC LIMIT 1
    ) s ON true
    -- What was handed out last for its nonce: the payout, the payout outbid, or the cancel (R1). A Safe's owners have its
    -- payout's bytes in either case: each desk makes the rejection from them by itself (R16).
    LEFT JOIN LATERAL (
        (SELECT kind AS signs, signed_bytes IS NULL AS waits, unsigned_bytes, signing_hash, max_total_fee_wei
        FROM fleet.nonce_digests d WHERE d.instruction_id = i.id ORDER BY d.place DESC LIMIT 1)
        UNION ALL
        SELECT CASE i.state WHEN 'cancelling' THEN 'cancel' ELSE 'payout' END,
            i.state = 'handed_out' OR i.state = 'cancelling' AND i.rejection_signed_at IS NULL,
            i.unsigned_bytes, CASE i.state WHEN 'cancelling' THEN i.rejection_hash ELSE i.signing_hash END,
            i.max_total_fee_wei
        WHERE i.unsigned_kind = 'safe_transaction'
    ) asked ON true
"""


def open_instructions(connection: Connection) -> list[dict[str, Any]]:
    """Instructions that have not ended, those that wait for a signature first, then the oldest."""
    statement = f"""
        {_COLUMNS} WHERE i.state = ANY (:states) AND i.group_id IS NULL
        ORDER BY NOT coalesce(asked.waits, false),
            array_position(CAST(:states AS text[]), i.state), i.created_at, i.id LIMIT :limit
    """
    found = connection.execute(text(statement), {"states": list(OPEN_STATES), "limit": LIST_LIMIT})
    return [_instruction(row) for row in found]


def instruction_with_evidence(connection: Connection, instruction_id: UUID) -> dict[str, Any] | None:
    """One instruction with all that stands behind it; None if unknown.

    Of a group (R23), for each of its payments. That is: deposits of its payment, every deposit address they came to with its derivation, all sweeps of these, the
    payment's other instructions, its approvals with their signatures, its ledger entries, the ledger's newest seal, and
    the recipient's address book entry with its signatures.
    """
    row = connection.execute(text(f"{_COLUMNS} WHERE i.id = :id"), {"id": instruction_id}).one_or_none()
    if row is None:
        return None
    evidence = _evidence(connection, row)
    return {**_instruction(row), "evidence": {**evidence, "address_book": _entries_of(connection, row)}}


def seals_from(connection: Connection, number: int | None) -> list[dict[str, Any]]:
    """The ledger's seals from a number on, at most SEALS_LIMIT; the newest alone when no number is given."""
    if number is None:
        newest = newest_seal(connection)
        return [] if newest is None else [seal_as_json(newest)]
    return [seal_as_json(seal) for seal in islice(seals_after(connection, number - 1), SEALS_LIMIT)]


def _instruction(row: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "payment_id": None if row.payment_id is None else str(row.payment_id),
        "house_id": None if row.house_id is None else str(row.house_id),
        "payments": row.payments or [],
        "group_id": None if row.group_id is None else str(row.group_id),
        "purpose": row.purpose,
        "state": row.state,
        "chain_id": row.chain_id,
        "treasury": row.treasury,
        "token": row.token,
        "symbol": row.symbol,
        "decimals": row.decimals,
        "recipient": row.recipient,
        "label": row.label,
        "amount": f"{row.amount.normalize():f}",
        "amount_units": str(int(row.amount_units)),
        "nonce": row.nonce,
        "signs": row.signs,
        "waits_for_signature": bool(row.waits) and row.state in WAITING_STATES,
        "unsigned_kind": row.unsigned_kind,
        "unsigned_bytes": _hex(row.asked_bytes),
        "signed_by": list(row.signed_by),
        "signing_hash": _hex(row.asked_hash),
        "max_total_fee_wei": None if row.asked_fee is None else str(int(row.asked_fee)),
        "release_epoch": row.release_epoch,
        "raw_units": row.raw_units,
        "held_reason": row.held_reason,
        "rejected_reason": row.rejected_reason,
        "created_at": row.created_at.isoformat(),
        "handed_out_at": None if row.handed_out_at is None else row.handed_out_at.isoformat(),
        "approval": None
        if row.intent_hash is None
        else {
            "environment": row.environment,
            "policy_version": row.policy_version,
            "policy_hash": row.policy_hash,
            "fee_ceiling_wei": str(int(row.fee_ceiling_wei)),
            "expires_at": row.expires_at.isoformat(),
            "intent_hash": bytes(row.intent_hash).hex(),
            "approved_by": row.persons or [],
        },
        "last_submission": None
        if row.last_kind is None
        else {"kind": row.last_kind, "state": row.last_state, "reason": row.last_reason},
    }


def _evidence(connection: Connection, row: Any) -> dict[str, list[dict[str, Any]]]:
    """Of every payment that it pays for; what belongs to one says to which. The house's own coins have no deposits."""
    if row.payment_id is not None:
        found = _evidence_of_payment(connection, row, row.payment_id, ROWS_LIMIT)
    else:
        found: dict[str, list[dict[str, Any]]] = {}
        for each in row.payments or []:
            of_payment = _evidence_of_payment(connection, row, UUID(each["payment_id"]), GROUP_ROWS_LIMIT)
            for name, lines in of_payment.items():
                found.setdefault(name, []).extend(lines)
    return {
        **found,
        "approvals": _rows(connection, _APPROVALS, {"instruction": row.id, "limit": ROWS_LIMIT}),
        "seals": seals_from(connection, None),
    }


_APPROVALS: Final = """
    SELECT a.person, a.approver, '0x' || encode(a.signature, 'hex') AS signature, a.state
    FROM fleet.approvals a JOIN fleet.release_instructions i ON i.id = a.subject_id AND i.intent_hash = a.digest
    WHERE a.subject_kind = 'release_instruction' AND a.subject_id = :instruction AND a.state <> 'refused'
    ORDER BY a.id LIMIT :limit
"""


def _rows(connection: Connection, statement: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in each._mapping.items()}
        for each in connection.execute(text(statement), parameters)
    ]


def _evidence_of_payment(
    connection: Connection, row: Any, payment_id: UUID, limit: int
) -> dict[str, list[dict[str, Any]]]:
    parameters = {"payment": payment_id, "chain": row.chain_id, "instruction": row.id, "limit": limit}
    # Coins may have come to another address than the payment's route (L10).
    places = """
        WITH places AS (
            SELECT destination_id FROM fleet.payment_routes WHERE payment_id = :payment
            UNION SELECT destination_id FROM fleet.chain_facts
            WHERE payment_id = :payment AND chain_id = :chain AND direction = 'inbound' AND live
              AND destination_id IS NOT NULL)
    """
    queries = {
        "destinations": f"""
            {places}
            SELECT d.address, d.derivation_path, d.derivation_index, a.xpub_fingerprint AS deposit_account
            FROM places JOIN public.derived_destinations d ON d.id = places.destination_id
            LEFT JOIN fleet.deposit_accounts a ON a.id = d.deposit_account_id
            ORDER BY d.derivation_index LIMIT :limit
        """,  # noqa: S608  (a fixed text of this function)
        "deposits": """
            SELECT CAST(:payment AS text) AS payment_id, block_number, block_hash, transaction_hash, log_index, token,
                sender, recipient, amount_units::text AS amount_units, judged_at
            FROM fleet.chain_facts
            WHERE payment_id = :payment AND chain_id = :chain AND direction = 'inbound' AND live
            ORDER BY chain_facts.amount_units DESC, block_number, log_index LIMIT :limit
        """,
        "sweeps": f"""
            {places}
            SELECT s.transaction_hash, s.log_index, s.block_number, s.token_address, s.from_address,
                s.to_address, s.amount::text AS amount_units, d.derivation_path
            FROM places JOIN public.derived_destinations d ON d.id = places.destination_id
            JOIN public.derived_destination_sweeps s ON s.derived_destination_id = d.id AND s.chain_id = :chain
            ORDER BY s.amount DESC, s.created_at, s.id LIMIT :limit
        """,  # noqa: S608  (the same)
        "payouts": """
            -- One that is paid with others is in the transaction, and the nonce, of its group.
            SELECT coalesce(g.id, i.id)::text AS id, i.payment_id::text AS payment_id, i.purpose, i.state, i.token, i.recipient,
                i.amount_units::text AS amount_units, coalesce(g.nonce, i.nonce) AS nonce
            FROM fleet.release_instructions i LEFT JOIN fleet.release_instructions g ON g.id = i.group_id
            WHERE i.payment_id = :payment AND i.chain_id = :chain AND coalesce(g.id, i.id) <> :instruction
            ORDER BY i.created_at, i.id LIMIT :limit
        """,
        # For a refund to an address that the buyer proved: the text's fields and the signature over it (R21).
        "refund_proofs": """
            SELECT f.payment_id::text AS payment_id, f.chain_id, f.address, f.signed_at, f.y_parity, f.r::text AS r, f.s::text AS s
            FROM fleet.refund_addresses f JOIN fleet.release_instructions i ON i.id = :instruction
            WHERE f.payment_id = :payment AND f.chain_id = :chain AND f.address = i.recipient AND i.purpose = 'refund'
            ORDER BY f.created_at DESC LIMIT :limit
        """,
        "ledger": """
            SELECT id::text AS id, payment_id::text AS payment_id, entry_type::text AS entry_type, reason, debit, credit,
                amount::text AS amount, currency, idempotency_key, book_seq, encode(entry_hash, 'hex') AS entry_hash, created_at
            FROM public.funds_ledger_entries WHERE book_id = :payment AND chain_id = :chain
            ORDER BY token, book_seq LIMIT :limit
        """,
    }
    return {name: _rows(connection, statement, parameters) for name, statement in queries.items()}


def _entries_of(connection: Connection, row: Any) -> list[dict[str, Any]]:
    """The recipient's newest entry with its signatures, for a signer that believes no database (R4, R8)."""
    entries = entries_with_signatures(
        connection,
        "b.chain_id = :chain AND b.address = :address AND b.role = :role",
        {"chain": row.chain_id, "address": row.recipient, "role": role_paid(row.purpose)},
        newest_first=True,
    )
    return entries[:1]


def entries_with_signatures(
    connection: Connection, where: str, parameters: dict[str, Any], *, newest_first: bool = False
) -> list[dict[str, Any]]:
    """Address book entries that satisfy ``where``, a condition written in this package, each with who signed it."""
    statement = f"""
        SELECT b.id::text AS id, b.environment, b.number, b.previous, b.action, b.role, b.chain_id, b.address, b.owner, b.label,
            b.added_at, b.hash, coalesce((
                SELECT jsonb_agg(jsonb_build_object('person', a.person, 'approver', a.approver,
                                                    'signature', '0x' || encode(a.signature, 'hex')) ORDER BY a.id)
                FROM fleet.approvals a WHERE a.subject_kind = 'address_book_entry' AND a.subject_id = b.id
                  AND a.state <> 'refused'), '[]') AS signatures
        FROM fleet.address_book b WHERE b.number IS NOT NULL AND {where}
        ORDER BY b.number {"DESC" if newest_first else ""} LIMIT :limit
    """  # noqa: S608
    found = connection.execute(text(statement), {**parameters, "limit": LIST_LIMIT})
    return [{**row._mapping, "added_at": row.added_at.isoformat()} for row in found]


def _hex(raw: bytes | None) -> str | None:
    return None if raw is None else "0x" + bytes(raw).hex()

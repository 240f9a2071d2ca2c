"""What waits for an operator: paused chains, work that was given up, quarantined addresses, failed releases, documents that
somebody changed in MongoDB, and what providers say of money that the chain does not show (rule 7)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

LIMIT: Final = 200  # lines a person reads; the oldest come first
UNSEEN_PATIENCE: Final = timedelta(minutes=10)
"""How long a provider's word may be ahead of the chain: a block and its look take seconds, a repeat hours."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that goes no further without a person."""

    since: datetime
    what: str
    reason: str
    unblocks: str


_FIND = text(
    """
    SELECT paused_at AS since, 'chain ' || chain_id || ' is paused' AS what, paused_reason AS reason,
        'settle the reason, then two persons: fleet chain go-on ' || chain_id AS unblocks
    FROM fleet.chain_cursors WHERE paused_reason IS NOT NULL
    UNION ALL
    SELECT created_at, queue || ': ' || subject_kind || ' ' || subject_id, reason, unblocks
    FROM fleet.dead_work WHERE resolved_at IS NULL
    UNION ALL
    SELECT updated_at, 'deposit address ' || address || ' is quarantined', quarantine_reason,
        'settle the reason, then: fleet destinations release ' || id
    FROM public.derived_destinations WHERE status = 'quarantined'
    UNION ALL
    SELECT g.created_at, 'security gap ' || g.id || coalesce((
            SELECT ' pauses ' || CASE count(*) WHEN 1 THEN 'payment ' || min(s.payment_id::text) ELSE count(*) || ' payments' END
            FROM fleet.security_pauses s WHERE s.gap_id = g.id HAVING count(*) > 0), ''),
        g.collection || ' ' || coalesce(g.legacy_object_id, 'of no id') || ': ' || g.reason,
        'two persons close it: fleet gaps show ' || g.id || ', then fleet gaps resolve ' || g.id
    FROM public.pg_dualwrite_gaps g WHERE g.severity = 'security' AND g.resolved_at IS NULL
    UNION ALL
    SELECT i.updated_at, 'the ' || i.purpose || ' of ' || coalesce('payment ' || i.payment_id, 'the house at ' || i.treasury) || ' ' || i.state, coalesce(i.held_reason, ''),
        'settle the reason, then: fleet ' || CASE i.purpose WHEN 'release' THEN 'release ' || i.payment_id || ' --again'
            WHEN 'drain' THEN 'treasury rotate ' || i.chain_id || ' --drain'
            WHEN 'refund' THEN 'releases refund ' || i.payment_id || ' --source ' || i.source
            ELSE 'releases pay-fees' END
    FROM fleet.release_instructions i WHERE i.state IN ('failed', 'expired', 'cancelled') AND num_nonnulls(i.payment_id, i.house_id) > 0
      -- Voided with its treasury: it is drafted again by itself (R22).
      AND NOT (i.state = 'expired' AND coalesce(i.held_reason, '') ~ '^treasury_(compromised|rotated):') AND NOT EXISTS (
        SELECT FROM fleet.release_instructions later
        WHERE coalesce(later.payment_id, later.house_id) = coalesce(i.payment_id, i.house_id) AND later.purpose = i.purpose AND later.created_at > i.created_at)
      -- Cancelled for a security gap: it is drafted again once two persons have closed that (R7).
      AND NOT (i.purpose IN ('release', 'refund') AND NOT starts_with(i.request_key, 'part:') AND EXISTS (
        SELECT FROM fleet.release_requests q WHERE q.instruction_id = coalesce(i.group_id, i.id) AND q.kind = 'cancel'
            AND q.requested_by = 'security_gaps'))
      AND NOT EXISTS (SELECT FROM fleet.payment_disputes d
                      WHERE d.payment_id = i.payment_id AND (d.state = 'open' OR d.release_due OR d.outcome = 'refund'))
    UNION ALL
    SELECT opened_at, 'dispute ' || dispute_id || ' of payment ' || payment_id, held_reason,
        'settle what the reason names, in the marketplace'
    FROM fleet.payment_disputes WHERE state = 'open' AND held_reason IS NOT NULL
    UNION ALL
    SELECT ordered_at, 'a refund of payment ' || payment_id, held_reason,
        'hand in the buyer''s signature: fleet releases refund-address ' || payment_id
    FROM fleet.refund_orders WHERE instruction_id IS NULL AND held_reason IS NOT NULL
    UNION ALL
    SELECT requested_at, kind || ' of instruction ' || instruction_id, answer, 'settle what the reason names; it is tried again'
    FROM fleet.release_requests WHERE state = 'received' AND answer IS NOT NULL
    UNION ALL
    -- A provider names a transaction: is it on chain, and does it pay that payment? (A look given up is dead work.)
    SELECT min(w.received_at), w.provider || ' delivery ' || min(w.id::text) || ': payment ' || w.payment_id
            || ' is said to be paid by ' || l.transaction_hash,
        'on chain ' || l.chain_id || ' it pays nothing to that payment: '
            || coalesce(l.outcome, l.last_error, 'no look at it was answered'),
        'name the right transaction: fleet look ' || l.chain_id || ' HASH; or end it: fleet delivery '
            || min(w.id::text) || ' --close REASON'
    FROM fleet.webhook_deliveries w JOIN fleet.chain_looks l ON l.id = w.look_id
    WHERE w.state = 'linked' AND w.received_at <= now() - :patience AND l.state <> 'missing' AND NOT EXISTS (
        SELECT FROM fleet.chain_facts f WHERE f.chain_id = l.chain_id AND f.transaction_hash = l.transaction_hash
            AND f.payment_id = w.payment_id AND f.live)
    GROUP BY w.provider, w.payment_id, l.id
    UNION ALL
    SELECT w.received_at, w.provider || ' delivery ' || w.id || ' is ' || w.state
            || coalesce(', of payment ' || w.payment_id, ''),
        coalesce(w.reason, w.last_error, 'no worker has read it'),
        CASE w.state WHEN 'received' THEN 'see whether the webhooks worker runs, and what it says'
            WHEN 'unknown_request' THEN 'issue its route, then: fleet delivery ' || w.id || ' --again'
            WHEN 'no_transaction' THEN 'once its transaction is known: fleet look CHAIN HASH'
            ELSE 'compare it with what the provider says, then: fleet delivery ' || w.id || ' --again' END
            || CASE w.state WHEN 'received' THEN '' ELSE '; or end it: fleet delivery ' || w.id || ' --close REASON' END
    FROM fleet.webhook_deliveries w
    WHERE NOT w.is_test AND w.received_at <= now() - :patience
        AND w.state IN ('received', 'unknown_request', 'no_transaction', 'malformed', 'mismatched') AND NOT EXISTS (
            SELECT FROM fleet.chain_facts f WHERE f.payment_id = w.payment_id AND f.direction = 'inbound' AND f.live)
    UNION ALL
    SELECT failing_since, 'the payments of ' || source || ' are not read', last_error,
        'settle what it says; its key and address are settings of the housekeeping worker'
    FROM fleet.reconciliation_cursors WHERE failing_since <= now() - :patience
    ORDER BY since LIMIT :limit
    """
)


def needs_attention(connection: Connection) -> list[Attention]:
    """At most LIMIT things, the oldest first."""
    return [Attention(*row) for row in connection.execute(_FIND, {"limit": LIMIT, "patience": UNSEEN_PATIENCE})]

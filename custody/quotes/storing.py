"""Quotes as rows: who is due, the prices accepted last, what was decided, and payments that Postgres does not have yet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.quotes.arithmetic import QuoteRefused, plain
from custody.quotes.deciding import PriceJumped, Quote, Wanted
from custody.quotes.prices import DOLLAR, SETTLING
from custody.store.outbox import mirror
from custody.store.work import backoff_seconds, bury

LEASE_SECONDS: Final = 30  # a worker that dies leaves its rows to the next one after this
WINDOW: Final = "1 day"
"""Payments are quoted that changed within this: an older checkout was left, and a scan of all would grow for ever."""

MIRRORED_AS: Final = "paymentquotes"
"""The outbox's name for a quote whose payment only MongoDB has: the mirror writes it into that document."""
GAP_OP: Final = "quote"
_QUEUE: Final = "housekeeping"
_KIND: Final = "quote"

# now() and not clock_timestamp(): a volatile time would keep payments_escrow_state from being used.
_ENLIST: Final = text(
    f"""
    INSERT INTO fleet.quotes (payment_id, owed, currency, chain_id, token, asked_by)
    SELECT p.id, o.price_amount, o.price_currency, t.chain_id, t.token, 'the payment''s offer'
    FROM public.payments p JOIN public.seller_offers o ON o.id = p.seller_offer_id
    JOIN fleet.tokens t ON t.chain_id = p.chain_id AND lower(t.token) = lower(p.token_address)
    WHERE p.escrow_state IS NULL AND p.updated_at > now() - interval '{WINDOW}'
      AND p.status = 'pending' AND p.direction = 'in' AND o.price_amount > 0 AND t.symbol = ANY(:settling)
      AND NOT EXISTS (SELECT FROM fleet.payment_routes r WHERE r.payment_id = p.id)
      AND NOT EXISTS (SELECT FROM public.payment_quotes q WHERE q.payment_id = p.id)
      AND NOT EXISTS (SELECT FROM fleet.quotes f WHERE f.payment_id = p.id)
      AND NOT EXISTS (SELECT FROM fleet.quotes f WHERE f.payment_object_id = p.legacy_object_id)
      AND NOT EXISTS (SELECT FROM public.id_map m JOIN fleet.quotes f ON f.payment_object_id = m.legacy_object_id
                      WHERE m.new_id = p.id)
    ORDER BY p.updated_at LIMIT :limit ON CONFLICT DO NOTHING
    """  # noqa: S608 - the window is the constant above
)
_STATUS: Final = text(
    "SELECT p.status::text AS status, EXISTS (SELECT FROM fleet.payment_routes r WHERE r.payment_id = p.id) AS is_routed "
    "FROM public.payments p WHERE p.id = :id"
)
_ASK: Final = text(
    """
    INSERT INTO fleet.quotes (payment_id, payment_object_id, owed, currency, chain_id, token, asked_by)
    VALUES (:payment, :object_id, :owed, CAST(:currency AS public.offer_currency), :chain, :token, :by)
    ON CONFLICT DO NOTHING
    """
)
_DROP: Final = text(
    """
    UPDATE fleet.quotes q SET state = 'dropped', bound = NULL, reason = CASE
        WHEN r.payment_id IS NOT NULL THEN 'its route was issued without a quote'
        ELSE 'the payment is ' || p.status || ' and waits for no quote' END
    FROM public.payments p LEFT JOIN fleet.payment_routes r ON r.payment_id = p.id
    WHERE q.payment_id = p.id AND q.state IN ('asked', 'waits_for_people')
      AND (p.status <> 'pending' OR r.payment_id IS NOT NULL)
    RETURNING q.id
    """
)
_CLAIM: Final = text(
    """
    WITH due AS (
        SELECT id FROM fleet.quotes WHERE state IN ('asked', 'waits_for_people') AND run_after <= clock_timestamp()
        ORDER BY run_after, id LIMIT :limit FOR UPDATE SKIP LOCKED)
    UPDATE fleet.quotes q SET attempts = q.attempts + 1, run_after = clock_timestamp() + make_interval(secs => :lease)
    FROM due, fleet.tokens t WHERE q.id = due.id AND t.chain_id = q.chain_id AND t.token = q.token
    RETURNING q.id, q.payment_id, q.payment_object_id, q.owed, q.currency::text AS currency, q.chain_id, q.token, t.symbol,
        t.decimals, q.attempts
    """
)
_ACCEPTED: Final = text(
    """
    SELECT found.price, found.quoted_at FROM (
        (SELECT q.fx_rate AS price, q.quoted_at FROM fleet.quotes q
         WHERE q.state = 'quoted' AND q.currency::text = :unit ORDER BY q.quoted_at DESC LIMIT 1)
        UNION ALL
        (SELECT q.token_price_usd, q.quoted_at FROM fleet.quotes q JOIN fleet.tokens t USING (chain_id, token)
         WHERE q.state = 'quoted' AND t.symbol = :unit ORDER BY q.quoted_at DESC LIMIT 1)) found
    ORDER BY found.quoted_at DESC LIMIT 1
    """
)
_STORE: Final = text(
    """
    UPDATE fleet.quotes SET state = 'quoted', bound = NULL, reason = NULL, fx_rate = :fx_rate,
        token_price_usd = :token_price, depeg_adjustment_bps = :depeg, settle_amount = :amount, quoted_at = :quoted_at,
        expires_at = :expires_at, sources = CAST(:sources AS jsonb)
    WHERE id = :id AND state IN ('asked', 'waits_for_people') RETURNING id
    """
)
_ROW: Final = text(
    """
    INSERT INTO public.payment_quotes (payment_id, fx_rate, token_price_usd, depeg_adjustment_bps, settle_amount, chain_id,
        token_address, expires_at, created_at)
    SELECT q.payment_id, q.fx_rate, q.token_price_usd, q.depeg_adjustment_bps, q.settle_amount, q.chain_id, q.token,
        q.expires_at, q.quoted_at
    FROM fleet.quotes q WHERE q.id = :id AND q.payment_id IS NOT NULL ON CONFLICT (payment_id) DO NOTHING RETURNING id
    """
)
_TAKEN: Final = text(
    """
    UPDATE fleet.quotes q SET state = 'dropped', bound = NULL, reason = 'payment_quotes has a quote of another writer already'
    FROM public.payment_quotes p
    WHERE q.id = :id AND p.payment_id = :payment AND q.state IN ('asked', 'waits_for_people') RETURNING q.id
    """
)
_REFUSE: Final = text(
    """
    UPDATE fleet.quotes SET state = :state, bound = :bound, reason = :reason,
        run_after = clock_timestamp() + make_interval(secs => :wait)
    WHERE id = :id AND state IN ('asked', 'waits_for_people')
    """
)
_SETTLED: Final = text(
    "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = 'fleet_housekeeping' "
    "WHERE resolved_at IS NULL AND queue = :queue AND subject_kind = :kind AND subject_id = :id"
)
_PARENT: Final = text(
    """
    SELECT p.id FROM (
        SELECT l.id FROM public.payments l WHERE l.legacy_object_id = :object_id
        UNION SELECT i.id FROM public.id_map m JOIN public.payments i ON i.id = m.new_id
        WHERE m.collection = 'payments' AND m.legacy_object_id = :object_id) p
    WHERE NOT EXISTS (SELECT FROM fleet.quotes o WHERE o.payment_id = p.id)
    """
)
_ORPHANS: Final = text(
    """
    SELECT q.id, q.payment_object_id, p.id AS payment_id FROM fleet.quotes q, LATERAL (
        SELECT l.id FROM public.payments l WHERE l.legacy_object_id = q.payment_object_id
        UNION SELECT i.id FROM public.id_map m JOIN public.payments i ON i.id = m.new_id
        WHERE m.collection = 'payments' AND m.legacy_object_id = q.payment_object_id) p
    WHERE q.state = 'quoted' AND q.payment_id IS NULL
      AND NOT EXISTS (SELECT FROM fleet.quotes o WHERE o.payment_id = p.id) ORDER BY q.id LIMIT :limit FOR UPDATE OF q SKIP LOCKED
    """
)
_LINK: Final = text("UPDATE fleet.quotes SET payment_id = :payment WHERE id = :id")
_GAP: Final = text(
    """
    INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason)
    VALUES ('payments', :op, :object_id, CAST(:payload AS jsonb), 'error', :reason)
    """
)
_GAP_CLOSED: Final = text(
    """
    UPDATE public.pg_dualwrite_gaps SET resolved_at = clock_timestamp(), resolved_by = 'fleet_housekeeping',
        resolution = :resolution
    WHERE resolved_at IS NULL AND collection = 'payments' AND op = :op AND legacy_object_id = :object_id
    """
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One quote that is due. One of payment and object id is known, or both."""

    id: UUID
    payment_id: UUID | None
    payment_object_id: str | None
    wanted: Wanted
    attempts: int


def enlist(connection: Connection, limit: int) -> int:
    """Ask for quotes of payments that have a price and no route yet; drop those that wait for none any more."""
    asked = connection.execute(_ENLIST, {"settling": sorted(SETTLING), "limit": limit}).rowcount
    dropped = connection.execute(_DROP).all()
    for row in dropped:
        _resolve(connection, row.id)
    return asked + len(dropped)


def ask_for(connection: Connection, wanted: Wanted, *, payment_id: UUID | None, object_id: str | None, by: str) -> bool:
    """Ask for the quote of a payment, by its id or, while only MongoDB has it, by its ObjectId. False: asked already.

    Raises ValueError for a payment that waits for none.
    """
    if payment_id is not None:
        status = connection.execute(_STATUS, {"id": payment_id}).one()
        if status.status != "pending" or status.is_routed:
            raise ValueError(
                f"the payment is {status.status}{' and has its route' if status.is_routed else ''}: no quote"
            )
    return (
        connection.execute(
            _ASK,
            {
                "payment": payment_id,
                "object_id": object_id,
                "owed": wanted.owed,
                "currency": wanted.currency,
                "chain": wanted.chain_id,
                "token": wanted.token,
                "by": by,
            },
        ).rowcount
        > 0
    )


def claim(connection: Connection, limit: int) -> list[Asked]:
    """Lease quotes that are due. The prices are asked for outside this transaction (L15)."""
    return [
        Asked(
            row.id,
            row.payment_id,
            row.payment_object_id,
            Wanted(row.owed.normalize(), row.currency, row.chain_id, row.token, row.symbol, row.decimals),
            row.attempts,
        )
        for row in connection.execute(_CLAIM, {"limit": limit, "lease": LEASE_SECONDS})
    ]


def accepted_prices(
    connection: Connection, units: Sequence[str], vouched: tuple[datetime, Mapping[str, Decimal]] | None
) -> dict[str, list[Decimal]]:
    """Of each pair of ``units``, the price of the last quote, and what approvers vouch for since (``vouched``)."""
    found: dict[str, list[Decimal]] = {}
    for unit in sorted(set(units) - {DOLLAR}):
        pair = f"{unit}/{DOLLAR}"
        row = connection.execute(_ACCEPTED, {"unit": unit}).one_or_none()
        prices = [] if row is None else [row.price.normalize()]
        # Without any quote yet there is nothing to jump from, whatever approvers say.
        if row is not None and vouched is not None and pair in vouched[1] and vouched[0] > row.quoted_at:
            prices.append(vouched[1][pair])
        found[pair] = prices
    return found


def store(connection: Connection, asked: Asked, quote: Quote) -> bool:
    """Keep a quote with everything it was made of. False when somebody else answered, or wrote the payment's row, first.

    A payment that Postgres does not have gets a gap row, and the mirror brings the quote to MongoDB alone (facts §1.2).
    """
    if asked.payment_id is not None:
        taken = connection.execute(_TAKEN, {"id": asked.id, "payment": asked.payment_id}).one_or_none()
        if taken is not None:
            _resolve(connection, asked.id)
            return False
    stored = connection.execute(
        _STORE,
        {
            "id": asked.id,
            "fx_rate": quote.fx_rate,
            "token_price": quote.token_price_usd,
            "depeg": quote.settlement.depeg_adjustment_bps,
            "amount": quote.settlement.amount,
            "quoted_at": quote.quoted_at,
            "expires_at": quote.expires_at,
            "sources": json.dumps(sources_json(quote)),
        },
    ).one_or_none()
    if stored is None:
        return False
    _resolve(connection, asked.id)
    payment = asked.payment_id or _link_parent(connection, asked)
    if payment is not None:
        connection.execute(_ROW, {"id": asked.id})
        mirror(connection, "payments", payment)
        return True
    connection.execute(
        _GAP,
        {
            "op": GAP_OP,
            "object_id": asked.payment_object_id,
            "payload": json.dumps(quote_json(quote)),
            "reason": f"payment_quotes needs payment {asked.payment_object_id}, which Postgres does not have yet; "
            f"the quote is kept as fleet.quotes {asked.id}",
        },
    )
    mirror(connection, MIRRORED_AS, asked.id)
    return True


def refuse(connection: Connection, asked: Asked, refused: QuoteRefused, attempts_limit: int) -> None:
    """Keep why there is no quote, and try again after a growing wait. What waits for people is shown to them at once."""
    jumped = isinstance(refused, PriceJumped)
    connection.execute(
        _REFUSE,
        {
            "id": asked.id,
            "state": "waits_for_people" if jumped else "asked",
            "bound": refused.bound,
            "reason": refused.sentence[:2000],
            "wait": backoff_seconds(asked.attempts),
        },
    )
    if jumped or asked.attempts == attempts_limit:
        bury(
            connection,
            queue=_QUEUE,
            subject_kind=_KIND,
            subject_id=asked.id,
            reason=refused.sentence,
            unblocks="approvers sign prices.toml with an anchor of the pair, if the price is right"
            if jumped
            else "what the reason names; it is tried again by itself: fleet quotes sources",
            attempts=asked.attempts,
            payment_id=asked.payment_id,
        )


def link_parents(connection: Connection, limit: int) -> int:
    """Give quotes whose payment has come to Postgres their payment_quotes row, and close their gaps."""
    found = connection.execute(_ORPHANS, {"limit": limit}).all()
    for row in found:
        connection.execute(_LINK, {"id": row.id, "payment": row.payment_id})
        is_new = connection.execute(_ROW, {"id": row.id}).one_or_none() is not None
        connection.execute(
            _GAP_CLOSED,
            {
                "op": GAP_OP,
                "object_id": row.payment_object_id,
                "resolution": f"payment {row.payment_id} came; "
                + ("its quote was written" if is_new else "another writer's quote stood there already"),
            },
        )
        mirror(connection, "payments", row.payment_id)
    return len(found)


def _link_parent(connection: Connection, asked: Asked) -> UUID | None:
    payment: UUID | None = connection.execute(_PARENT, {"object_id": asked.payment_object_id}).scalar_one_or_none()
    if payment is not None:
        connection.execute(_LINK, {"id": asked.id, "payment": payment})
    return payment


def _resolve(connection: Connection, quote_id: UUID) -> None:
    connection.execute(_SETTLED, {"queue": _QUEUE, "kind": _KIND, "id": str(quote_id)})


def sources_json(quote: Quote) -> list[dict[str, str]]:
    """The prices of a quote, as they are kept."""
    return [
        {"pair": each.pair, "source": each.source, "value": plain(each.value), "as_of": each.as_of.isoformat()}
        for each in quote.prices
    ]


def quote_json(quote: Quote) -> dict[str, Any]:
    """A quote as JSON; amounts and rates are text."""
    wanted = quote.wanted
    return {
        "owed": plain(wanted.owed),
        "currency": wanted.currency,
        "chain_id": wanted.chain_id,
        "token": wanted.token,
        "symbol": wanted.symbol,
        "fx_rate": plain(quote.fx_rate),
        "token_price_usd": plain(quote.token_price_usd),
        "depeg_adjustment_bps": quote.settlement.depeg_adjustment_bps,
        "settle_amount": plain(quote.settlement.amount),
        "quoted_at": quote.quoted_at.isoformat(),
        "expires_at": quote.expires_at.isoformat(),
        "sources": sources_json(quote),
    }

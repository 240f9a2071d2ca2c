"""What a payment's quote says of what was paid: the right coin, enough of it, in time. Reads only Postgres."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.quotes.arithmetic import plain

Outcome = Literal["as_quoted", "not_paid", "expired_unpaid", "late", "too_little", "other_coin", "other_route"]

OK: Final[frozenset[Outcome]] = frozenset({"as_quoted", "not_paid"})


@dataclass(frozen=True, slots=True)
class Paid:
    """A transfer that came for a payment. ``amount`` whole tokens; ``at``: its block's time, or when it was seen."""

    chain_id: int
    token: str
    amount: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class StoredQuote:
    """A payment's quote as the database has it. ``sources`` and ``owed`` are None for a quote that the fleet did not make."""

    fx_rate: Decimal
    token_price_usd: Decimal
    depeg_adjustment_bps: int
    settle_amount: Decimal
    chain_id: int
    token: str
    symbol: str
    quoted_at: datetime
    expires_at: datetime
    owed: Decimal | None = None
    currency: str | None = None
    sources: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How what was paid stands to its quote, and why in one sentence."""

    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class QuoteStory:
    """What ``fleet explain`` says of a payment's quote: the quote and its verdict, or what it waits for."""

    quote: StoredQuote | None
    verdict: Verdict | None
    state: str
    reason: str | None
    asked_at: datetime | None


def judge_paid(
    quote: StoredQuote, paid: Sequence[Paid], *, route: tuple[int, str, Decimal] | None, now: datetime
) -> Verdict:
    """The verdict of a quote over all that came. ``route``: chain, token and amount that the payment expects.

    What came after the expiry counts as late, however much it is: the price was promised until then.
    """
    amount = plain(quote.settle_amount)
    if route is not None and route != (quote.chain_id, quote.token, quote.settle_amount):
        return Verdict(
            "other_route",
            f"its route expects {plain(route[2])} of {route[1]} on chain {route[0]}, "
            f"quoted were {amount} of {quote.token} on chain {quote.chain_id}",
        )
    if not paid:
        return _unpaid(quote, now)
    right = [each for each in paid if (each.chain_id, each.token) == (quote.chain_id, quote.token)]
    if not right:
        other = paid[0]
        return Verdict(
            "other_coin",
            f"paid in {other.token} on chain {other.chain_id}, quoted in {quote.token} on chain {quote.chain_id}",
        )
    in_time = sum((each.amount for each in right if each.at <= quote.expires_at), Decimal(0))
    total = sum((each.amount for each in right), Decimal(0))
    if in_time >= quote.settle_amount:
        return Verdict("as_quoted", f"{plain(in_time)} of {amount} {quote.symbol} came before the quote expired")
    if total >= quote.settle_amount:
        last = max(each.at for each in right)
        return Verdict(
            "late",
            f"{plain(total)} of {amount} {quote.symbol} came, but only {plain(in_time)} before the quote expired "
            f"{_time(quote.expires_at)}; the last part {_time(last)}",
        )
    return Verdict("too_little", f"{plain(total)} of {amount} {quote.symbol} came")


def _unpaid(quote: StoredQuote, now: datetime) -> Verdict:
    if now <= quote.expires_at:
        return Verdict("not_paid", f"nothing was paid yet; the quote is good until {_time(quote.expires_at)}")
    return Verdict("expired_unpaid", f"it expired {_time(quote.expires_at)} and nothing was paid")


def quote_of(connection: Connection, payment_id: UUID, now: datetime) -> QuoteStory | None:
    """What there is to say of a payment's quote; None without a quote and without anybody who asked for one."""
    row = connection.execute(_QUOTE, {"id": payment_id}).one_or_none()
    if row is None:
        return None
    if row.settle_amount is None:
        return QuoteStory(None, None, row.state, row.reason, row.asked_at)
    quote = _stored(row)
    route = connection.execute(_ROUTE, {"id": payment_id}).one_or_none()
    paid = [
        Paid(each.chain_id, each.token, each.amount_units * Decimal((0, (1,), -each.decimals)), each.at)
        for each in connection.execute(_PAID, {"id": payment_id})
    ]
    expects = None if route is None else (route.chain_id, route.token, route.expected.normalize())
    return QuoteStory(quote, judge_paid(quote, paid, route=expects, now=now), "quoted", None, row.asked_at)


def quote_of_object(connection: Connection, object_id: str) -> QuoteStory | None:
    """The same of a payment that only MongoDB has, by its ObjectId. What was paid for it nobody here can know yet."""
    row = connection.execute(_OBJECT_QUOTE, {"id": object_id}).one_or_none()
    if row is None:
        return None
    if row.settle_amount is None:
        return QuoteStory(None, None, row.state, row.reason, row.asked_at)
    waits = f"payment {object_id} is not in Postgres yet; payment_quotes follows when it comes"
    return QuoteStory(_stored(row), None, row.state, waits, row.asked_at)


def _stored(row: Any) -> StoredQuote:
    return StoredQuote(
        fx_rate=row.fx_rate.normalize(),
        token_price_usd=row.token_price_usd.normalize(),
        depeg_adjustment_bps=row.depeg_adjustment_bps,
        settle_amount=row.settle_amount.normalize(),
        chain_id=row.chain_id,
        token=row.token,
        symbol=row.symbol or "tokens",
        quoted_at=row.quoted_at,
        expires_at=row.expires_at,
        owed=None if row.owed is None else row.owed.normalize(),
        currency=row.currency,
        sources=tuple(row.sources or ()),
    )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


# The marketplace's row is the truth; what the fleet knows besides says where it comes from.
_QUOTE: Final = text(
    """
    SELECT p.id, coalesce(f.state, 'quoted') AS state, f.reason, coalesce(f.created_at, q.created_at) AS asked_at,
        q.fx_rate, q.token_price_usd, q.depeg_adjustment_bps, q.settle_amount, q.chain_id, q.token_address AS token,
        t.symbol, q.created_at AS quoted_at, q.expires_at, f.owed, f.currency::text AS currency, f.sources
    FROM public.payments p LEFT JOIN public.payment_quotes q ON q.payment_id = p.id
    LEFT JOIN fleet.quotes f ON f.payment_id = p.id AND (q.id IS NULL OR f.settle_amount = q.settle_amount)
    LEFT JOIN fleet.tokens t ON t.chain_id = q.chain_id AND t.token = q.token_address
    WHERE p.id = :id AND (q.id IS NOT NULL OR f.id IS NOT NULL)
    """
)
_OBJECT_QUOTE: Final = text(
    """
    SELECT f.state, f.reason, f.created_at AS asked_at, f.fx_rate, f.token_price_usd, f.depeg_adjustment_bps,
        f.settle_amount, f.chain_id, f.token, t.symbol, f.quoted_at, f.expires_at, f.owed, f.currency::text AS currency,
        f.sources
    FROM fleet.quotes f JOIN fleet.tokens t USING (chain_id, token)
    WHERE f.payment_object_id = :id AND f.payment_id IS NULL
    """
)
_ROUTE: Final = text("SELECT chain_id, token, expected FROM fleet.payment_routes WHERE payment_id = :id")
_PAID: Final = text(
    """
    SELECT f.chain_id, f.token, f.amount_units, t.decimals, coalesce(b.mined_at, f.created_at) AS at
    FROM fleet.chain_facts f JOIN fleet.tokens t ON t.chain_id = f.chain_id AND t.token = f.token
    LEFT JOIN fleet.chain_blocks b ON b.chain_id = f.chain_id AND b.number = f.block_number AND b.hash = f.block_hash
    WHERE f.payment_id = :id AND f.direction = 'inbound' AND f.live ORDER BY f.block_number, f.log_index
    """
)

"""``fleet quotes``: what a buyer pays in tokens for a price in another currency, from which sources, and why not."""

import json
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection, Engine, text

from custody.payments.story import PaymentUnknown, find_payment
from custody.quotes import PAIRS, Answer, Bounds, Quote, QuoteRefused, QuoteStory, Unusable, Wanted, quote_of
from custody.quotes.arithmetic import plain
from custody.quotes.storing import ask_for, quote_json
from custody.quotes.verdicts import OK, quote_of_object
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.actions import as_operator
from workers.cli.terminal import ago, shown

EXIT_REFUSED: Final = 1
_CURRENCIES: Final = ("USD", "EUR", "IRR", "TRY", "USDT", "USDC")
_OBJECT_ID: Final = re.compile(r"[0-9a-f]{24}")

quotes = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="What buyers pay in tokens for a price in another currency. Off unless ORACLE_QUOTING_ENABLED; docs/quotes.md.",
)

Owed = Annotated[str, typer.Argument(help="the seller's price, a number as 12.50")]
Currency = Annotated[str, typer.Argument(help=f"what the price is in: {', '.join(_CURRENCIES)}")]
Token = Annotated[str, typer.Argument(help="what the buyer pays in: USDC or USDT")]
Chain = Annotated[int, typer.Option("--chain", help="the chain that the buyer pays on")]
AsJson = Annotated[bool, typer.Option("--json", help="the same as JSON")]


@quotes.command()
def show(
    payment: Annotated[
        str, typer.Argument(help="payment id, Mongo id, request id, payment reference or transaction hash")
    ],
    as_json: AsJson = False,
) -> None:
    """A payment's quote: rates, amount, sources with their age, and how what was paid stands to it.

    Without a quote yet: what it waits for. A Mongo id that Postgres does not have is found as well. Exit code 1 if nobody
    asked for a quote, or if what was paid is not what was quoted.
    """
    now = datetime.now(UTC)
    with _engine() as engine, engine.connect() as connection:
        try:
            found = quote_of(connection, find_payment(connection, payment), now)
        except PaymentUnknown as error:
            found = quote_of_object(connection, payment.strip().lower())
            if found is None:
                raise _refused(str(error)) from None
    if found is None:
        raise _refused(f"nobody asked for a quote of {payment}: fleet quotes ask")
    is_judged = settings().oracle_quoting_enabled
    if as_json:
        _write(story_json(found, is_judged=is_judged))
    else:
        print_story(Console(), found, now, is_judged=is_judged)
    if is_judged and found.verdict is not None and found.verdict.outcome not in OK:
        raise typer.Exit(EXIT_REFUSED)


@quotes.command()
def price(owed: Owed, currency: Currency, token: Token, chain: Chain, as_json: AsJson = False) -> None:
    """What would be quoted now, and from what. Nothing is written.

        fleet quotes price 100 EUR USDC --chain 8453

    Every source is asked. Exit code 1 with the bound that refuses: sources (too few usable ones), deviation (they
    disagree), jump (too far from the last accepted price: approvers look first), depeg (the token is too far from one
    dollar), rounding, amount.
    """
    configured = settings()
    now = datetime.now(UTC)
    with _engine() as engine:
        from custody.quotes.quoting import open_sources, price_now

        with engine.connect() as connection:
            wanted = _wanted(connection, owed, currency, token, chain)
        with open_sources(configured, engine, accepts=False) as sources:
            found, answers = price_now(engine, sources, Bounds.of(configured), wanted, now)
    if as_json:
        said = quote_json(found) if isinstance(found, Quote) else {"refused": found.bound, "because": found.sentence}
        _write({**said, "answers": [_answer_json(each, now) for each in answers]})
    else:
        console = Console()
        console.print(_answers_table(answers, now))
        _print_found(console, found)
    if isinstance(found, QuoteRefused):
        raise typer.Exit(EXIT_REFUSED)


@quotes.command()
def sources(as_json: AsJson = False) -> None:
    """Every source of every pair: its price in dollars, how old it is, and whether it can be used or why not.

    Chainlink feeds come from QUOTES_FILE, signed prices from QUOTE_PRICES_FILE. Exit code 1 if any is not usable.
    """
    configured = settings()
    now = datetime.now(UTC)
    with _engine() as engine:
        from custody.quotes.quoting import open_sources

        with open_sources(configured, engine, accepts=False) as opened:
            answers = opened.ask(PAIRS, now)
    if as_json:
        _write([_answer_json(each, now) for each in answers])
    else:
        console = Console()
        console.print(_answers_table(answers, now))
        if without := sorted(set(PAIRS) - {each.pair for each in answers}):
            console.print(f"no source is configured for {', '.join(without)}")
        if not configured.oracle_quoting_enabled:
            console.print("ORACLE_QUOTING_ENABLED is off: no quote is made of them")
    if any(isinstance(each, Unusable) for each in answers):
        raise typer.Exit(EXIT_REFUSED)


@quotes.command()
def ask(
    payment: Annotated[str, typer.Argument(help="as for show; or the Mongo id of a payment that Postgres has not yet")],
    owed: Owed,
    currency: Currency,
    token: Token,
    chain: Chain,
) -> None:
    """Ask for a payment's quote: the housekeeping worker makes it within seconds. Asking again changes nothing.

    Payments with an offer's price and no route are asked for by themselves; this is for templates, and for a payment
    that is only in MongoDB: its quote goes there, a dual-write gap says so, and payment_quotes follows when it comes.
    """
    if not settings().oracle_quoting_enabled:
        raise _refused("ORACLE_QUOTING_ENABLED is off: nobody would make the quote")
    with as_operator("fleet-quotes") as connection:
        wanted = _wanted(connection, owed, currency, token, chain)
        payment_id: UUID | None = None
        try:
            payment_id = find_payment(connection, payment)
        except PaymentUnknown:
            if not _OBJECT_ID.fullmatch(payment.strip().lower()):
                raise
        object_id = None if payment_id is not None else payment.strip().lower()
        is_new = ask_for(connection, wanted, payment_id=payment_id, object_id=object_id, by="fleet quotes ask")
    typer.echo(f"{'asked' if is_new else 'asked for already'}; see: fleet quotes show {payment}")


def _wanted(connection: Connection, owed: str, currency: str, token: str, chain: int) -> Wanted:
    try:
        amount = Decimal(owed)
    except InvalidOperation:
        raise _refused(f"{owed!r} is no number") from None
    if not amount.is_finite() or amount <= 0:
        raise _refused("the price must be above zero")
    if currency not in _CURRENCIES:
        raise _refused(f"no seller prices in {currency!r}; expected {', '.join(_CURRENCIES)}")
    row = connection.execute(
        text("SELECT token, decimals FROM fleet.tokens WHERE chain_id = :chain AND symbol = :symbol"),
        {"chain": chain, "symbol": token},
    ).one_or_none()
    if row is None or token not in {"USDC", "USDT"}:
        raise _refused(f"{token} on chain {chain} settles no payment: expected USDC or USDT of a configured chain")
    return Wanted(amount, currency, chain, row.token, token, row.decimals)


@contextmanager
def _engine() -> Generator[Engine]:
    engine = open_engine(settings().secret("database_url"), application="fleet-quotes", pool_size=1)
    try:
        with transaction(engine):
            pass  # a database that is away is said before any node is asked
        yield engine
    finally:
        engine.dispose()


def _refused(sentence: str) -> typer.Exit:
    typer.secho(sentence, fg="red", err=True)
    return typer.Exit(EXIT_REFUSED)


def _write(said: Any) -> None:
    sys.stdout.write(json.dumps(said, indent=2) + "\n")


def _answers_table(answers: Sequence[Answer], now: datetime) -> Table:
    table = Table(
        "pair", Column("source", overflow="fold"), "dollars", "age", Column("usable", overflow="fold"), box=None
    )
    for each in answers:
        is_usable = not isinstance(each, Unusable)
        table.add_row(
            each.pair,
            shown(each.source),
            "" if each.value is None else plain(each.value),
            "" if each.as_of is None else ago(each.as_of, now),
            "ok" if is_usable else shown(each.why),
            style=None if is_usable else "red",
        )
    return table


def _answer_json(answer: Answer, now: datetime) -> dict[str, Any]:
    as_of = answer.as_of
    return {
        "pair": answer.pair,
        "source": answer.source,
        "price": None if answer.value is None else plain(answer.value),
        "as_of": None if as_of is None else as_of.isoformat(),
        "age_seconds": None if as_of is None else int((now - as_of).total_seconds()),
        "usable": not isinstance(answer, Unusable),
        "why_not": answer.why if isinstance(answer, Unusable) else None,
    }


def _print_found(console: Console, found: Quote | QuoteRefused) -> None:
    if isinstance(found, QuoteRefused):
        console.print(shown(f"refused by {found.bound}: {found.sentence}"), style="red", soft_wrap=True)
        return
    wanted = found.wanted
    console.print(
        f"{plain(wanted.owed)} {wanted.currency} is [bold]{plain(found.settlement.amount)} {wanted.symbol}[/bold] on chain "
        f"{wanted.chain_id}: {_rates(found.fx_rate, found.token_price_usd, found.settlement.depeg_adjustment_bps)}; good "
        f"until {found.expires_at:%H:%M:%S} UTC",
        soft_wrap=True,
    )


def _rates(fx_rate: Decimal, token_price: Decimal, depeg: int) -> str:
    added = f", {depeg} bps added for the depeg" if depeg else ""
    return f"rate {plain(fx_rate)}, token at {plain(token_price)}{added}"


def print_story(console: Console, story: QuoteStory, now: datetime, *, is_judged: bool) -> None:
    """A payment's quote as people read it; ``is_judged``: whether quoting is on, so that what was paid is compared."""
    quote = story.quote
    if quote is None:
        console.print(
            shown(f"quote: {story.state.replace('_', ' ')}: {story.reason or 'not tried yet'}"), soft_wrap=True
        )
        return
    owed = "" if quote.owed is None else f"{plain(quote.owed)} {quote.currency} is "
    console.print(
        f"quote: {owed}[bold]{plain(quote.settle_amount)} {quote.symbol}[/bold] on chain {quote.chain_id}, "
        f"{_rates(quote.fx_rate, quote.token_price_usd, quote.depeg_adjustment_bps)}; made {ago(quote.quoted_at, now)} ago, "
        f"good until {quote.expires_at:%Y-%m-%d %H:%M:%S} UTC",
        soft_wrap=True,
    )
    for each in quote.sources:
        age = int((quote.quoted_at - datetime.fromisoformat(each["as_of"])).total_seconds())
        console.print(shown(f"  {each['pair']} {each['value']} by {each['source']}, {age} s old then"), soft_wrap=True)
    if not is_judged:
        console.print("not judged: ORACLE_QUOTING_ENABLED is off", style="dim")
    elif story.verdict is not None:
        style = "green" if story.verdict.outcome in OK else "red"
        said = f"{story.verdict.outcome.replace('_', ' ')}: {story.verdict.sentence}"
        console.print(shown(said), style=style, soft_wrap=True)
    elif story.reason is not None:
        console.print(shown(story.reason), style="yellow", soft_wrap=True)


def story_json(story: QuoteStory, *, is_judged: bool) -> dict[str, Any]:
    """The same as JSON values; amounts and rates are text."""
    quote, verdict = story.quote, story.verdict if is_judged else None
    return {
        "state": story.state,
        "reason": story.reason,
        "asked_at": None if story.asked_at is None else story.asked_at.isoformat(),
        "verdict": None if verdict is None else {"outcome": verdict.outcome, "sentence": verdict.sentence},
        "quote": None
        if quote is None
        else {
            "owed": None if quote.owed is None else plain(quote.owed),
            "currency": quote.currency,
            "settle_amount": plain(quote.settle_amount),
            "symbol": quote.symbol,
            "chain_id": quote.chain_id,
            "token": quote.token,
            "fx_rate": plain(quote.fx_rate),
            "token_price_usd": plain(quote.token_price_usd),
            "depeg_adjustment_bps": quote.depeg_adjustment_bps,
            "quoted_at": quote.quoted_at.isoformat(),
            "expires_at": quote.expires_at.isoformat(),
            "sources": list(quote.sources),
        },
    }


def register(app: typer.Typer) -> None:
    app.add_typer(quotes, name="quotes")

"""Situations of one payment, made by rows, for the tests of `fleet explain`."""

import secrets
from collections.abc import Callable
from typing import Any
from uuid import UUID

from custody.payments.story import Story, tell
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

TREASURY = "0x" + "99" * 20
Run = Callable[..., Any]


def story(market: Marketplace, payment: UUID) -> Story:
    with market.database.engine("fleet_operator").connect() as connection:
        return tell(connection, payment)


def waits(market: Marketplace, payment: UUID) -> list[tuple[str, str]]:
    return [(wait.what, wait.unblocks) for wait in story(market, payment).waits]


def put(market: Marketplace, payment: UUID, status: str, escrow: str | None) -> None:
    market.put(payment, status, escrow)


def judge(market: Marketplace, payment: UUID) -> None:
    market.execute("UPDATE fleet.chain_facts SET judged_at = now() WHERE payment_id = :id", id=payment)


def held(market: Marketplace, escrow: str = "funded") -> UUID:
    """A payment whose money was seen and judged, with nothing booked."""
    payment = market.payment()
    market.fact(payment)
    judge(market, payment)
    put(market, payment, "processing" if escrow == "partial" else "confirmed", escrow)
    return payment


def request_is(market: Marketplace, payment: UUID, status: str) -> None:
    market.execute(
        "UPDATE public.purchase_requests SET status = CAST(:s AS public.purchase_request_status) "
        "WHERE id = (SELECT purchase_request_id FROM public.payments WHERE id = :id)",
        s=status, id=payment,
    )  # fmt: skip


def destination(market: Marketplace, payment: UUID) -> Any:
    return market.execute(
        "SELECT d.* FROM public.derived_destinations d JOIN fleet.payment_routes r ON r.destination_id = d.id "
        "WHERE r.payment_id = :id",
        id=payment,
    )[0]


def instruction(market: Marketplace, payment: UUID, state: str, **more: Any) -> UUID:
    fields: dict[str, Any] = {"nonce": 7, "unsigned_bytes": b"\x02", **more}
    names = ", ".join(fields)
    return market.execute(
        f"INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
        f"amount_units, release_epoch, state, {names}) VALUES (:p, 'release', :c, :a, :t, :a, 100, 100000000, 0, :s, "
        f"{', '.join(f':{name}' for name in fields)}) RETURNING id",
        p=payment, c=CHAIN_ID, a="0x" + secrets.token_hex(20), t=TOKEN, s=state, **fields,
    )[0].id  # fmt: skip


def cursor(
    market: Marketplace, head: int, *, chain: int = CHAIN_ID, paused: str | None = None, agreed: int | None = None
) -> None:
    """The watcher saw ``head`` just now, and a quorum agrees on it, or on ``agreed``; a negative one: on nothing."""
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, agreed_number, head_hash, head_timestamp, "
        "paused_reason, paused_at) VALUES (:c, :n, CASE WHEN :a >= 0 THEN :a END, '0x', now(), CAST(:r AS text), "
        "CASE WHEN CAST(:r AS text) IS NOT NULL THEN now() END) "
        "ON CONFLICT (chain_id) DO UPDATE SET head_number = excluded.head_number, seen_at = now(), "
        "agreed_number = excluded.agreed_number, paused_reason = excluded.paused_reason, paused_at = excluded.paused_at",
        c=chain, n=head, a=head if agreed is None else agreed, r=paused,
    )  # fmt: skip


def nothing_seen(market: Marketplace) -> None:
    """Take away what the watcher wrote and what was set, for tests that share a database."""
    for table in (
        "fleet.chain_facts", "fleet.chain_cursors", "fleet.chain_blocks", "fleet.chain_nodes", "fleet.dead_work",
        "public.config_setting_history", "public.config_settings",
    ):  # fmt: skip
        market.execute(f"DELETE FROM {table}")


def scanned(market: Marketplace, newest: int, blocks: int, seconds: str, *, chain: int = CHAIN_ID) -> None:
    """The window of a chain: ``blocks`` + 1 blocks up to ``newest``, ``seconds`` apart."""
    market.execute("DELETE FROM fleet.chain_blocks WHERE chain_id = :c", c=chain)
    market.execute(
        "INSERT INTO fleet.chain_blocks (chain_id, number, hash, parent_hash, mined_at, agreed) "
        "SELECT :c, n, '0x' || n, '0x' || n - 1, now() - (:newest - n) * CAST(:s AS interval), true "
        "FROM generate_series(CAST(:newest - :blocks AS bigint), CAST(:newest AS bigint)) n",
        c=chain, newest=newest, blocks=blocks, s=f"{seconds} seconds",
    )  # fmt: skip


def nodes(market: Marketplace, *states: str, chain: int = CHAIN_ID) -> None:
    """The chain's configured nodes, each in one of these states."""
    market.execute("DELETE FROM fleet.chain_nodes WHERE chain_id = :c", c=chain)
    for place, state in enumerate(states):
        market.execute(
            "INSERT INTO fleet.chain_nodes (chain_id, place, url, state, reason, head_number, since) "
            "VALUES (:c, :p, :u, :s, :r, 100, now() - interval '3 minutes')",
            c=chain, p=place, u=f"https://node-{place + 1}.example", s=state,
            r=None if state == "healthy" else "another hash at block 99",
        )  # fmt: skip


def transfer(
    market: Marketplace,
    block: int = 100,
    *,
    chain: int = CHAIN_ID,
    units: int = 100_000_000,
    payment: UUID | None = None,
) -> UUID:
    """A payment with one transfer that waits."""
    payment = payment or market.payment()
    fact = market.fact(payment, units, block=block)
    if chain != CHAIN_ID:
        market.execute("INSERT INTO fleet.tokens VALUES (:c, :t, 'USDC', 6) ON CONFLICT DO NOTHING", c=chain, t=TOKEN)
        market.execute("UPDATE fleet.chain_facts SET chain_id = :c WHERE id = :id", c=chain, id=fact)
    return payment


def set_threshold(market: Marketplace, blocks: int) -> None:
    key = f"confirmation_threshold:{CHAIN_ID}"
    market.execute("INSERT INTO public.config_settings (key, value) VALUES (:k, '1') ON CONFLICT DO NOTHING", k=key)
    market.execute("INSERT INTO public.config_setting_history (key, new_value) VALUES (:k, :n)", k=key, n=blocks)


def deliver(market: Marketplace, payment: UUID, key: str) -> None:
    market.execute(
        "INSERT INTO fleet.webhook_deliveries (provider, delivery_key, body_sha256, headers, body, is_test, state, event, "
        "payment_id) VALUES ('request.network', :k, :h, '{}', '', false, 'linked', 'payment.confirmed', :p)",
        k=key, h=secrets.token_bytes(32), p=payment,
    )  # fmt: skip

"""R7: while a security gap of a document of its own is open, nothing of a payment goes out; two persons let it go on (R10)."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from eth_account import Account
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from custody.payments.story import tell
from custody.releases import Step, build
from custody.releases.refunds import order_by_hand
from custody.store.attention import needs_attention
from custody.store.engine import sqlstate, transaction
from custody.store.roles import PROCESS_ROLES
from custody.store.security_pauses import pauses_of
from tests.counts import ONLY_LONG, ROUNDS_A_PART, Counts, declared, parts, sampled
from tests.dispute_scene import entries, prove_address, work_on
from tests.marketplace import Marketplace, object_id
from tests.release_scene import UNITS, Scene
from tests.security_gaps import close_gap, gap_of_payment, open_gap

RACES = declared(ROUNDS_A_PART, 3)  # of a part


def paused(market: Marketplace, payment: UUID) -> list[UUID]:
    """The gaps that pause a payment, as the releases worker's role sees them."""
    with market.database.engine("fleet_releases").connect() as connection:
        return [each.gap_id for each in pauses_of(connection, [payment])]


# Which payments a gap concerns


def test_each_document_of_a_payment_pauses_it_by_either_name(scene: Scene, counts: Counts) -> None:
    """By the row's own legacy_object_id, and by id_map; documents of others, other severities and closed gaps do not."""
    market = scene.market
    payment, other = scene.payment(completed=False), scene.payment(completed=False)
    [row] = market.execute(
        "SELECT p.*, r.destination_id, (SELECT e.id FROM public.funds_ledger_entries e WHERE e.payment_id = p.id LIMIT 1) AS entry "
        "FROM public.payments p JOIN fleet.payment_routes r ON r.payment_id = p.id WHERE p.id = :id",
        id=payment,
    )
    [account] = market.execute(
        "INSERT INTO public.trezor_accounts (user_id, xpub_fingerprint, xpub, base_path, registration_address) "
        "VALUES (:user, '0a1b2c3d', 'xpub', 'm', '0x') RETURNING id",
        user=row.seller_id,
    )
    disputes: dict[str, UUID] = {}
    for name in (str(row.purchase_request_id), scene.request_id(payment)):
        disputes[name] = market.execute(
            "INSERT INTO public.disputes (purchase_request_id, buyer_id, seller_id, reason) VALUES (:r, 'a', 'b', 'c') RETURNING id",
            r=name,
        )[0].id
    rows: dict[str, tuple[UUID, ...]] = {
        "payments": (payment,),
        "purchaserequests": (row.purchase_request_id,),
        "selleroffers": (row.seller_offer_id,),
        "disputes": tuple(disputes.values()),
        "deriveddestinations": (row.destination_id,),
        "trezoraccounts": (account.id,),
        "fundsledgerentries": (row.entry,),
    }
    names: list[tuple[str, str]] = []
    for collection, ids in rows.items():
        for row_id in ids:
            mapped = object_id()
            market.execute("INSERT INTO public.id_map VALUES (:c, :o, :id)", c=collection, o=mapped, id=row_id)
            names.append((collection, mapped))
    names += [
        ("payments", row.legacy_object_id),
        ("purchaserequests", scene.request_id(payment)),
        ("selleroffers", market.execute("SELECT legacy_object_id AS o FROM public.seller_offers WHERE id = :i",
                                        i=row.seller_offer_id)[0].o),
    ]  # fmt: skip
    for collection, name in names:
        gap = open_gap(scene.database, collection, name)
        assert paused(market, payment) == [gap], collection
        assert paused(market, other) == [], collection
        close_gap(scene.database, gap)
        assert paused(market, payment) == [], collection
        open_gap(scene.database, collection, name, severity="error")
        assert paused(market, payment) == [], collection
    # An entry that only MongoDB has, and that says it is the payment's.
    open_gap(
        scene.database,
        "fundsledgerentries",
        object_id(),
        payload=f'{{"paymentId": {{"$oid": "{row.legacy_object_id}"}}}}',
    )
    assert len(paused(market, payment)) == 1
    open_gap(scene.database, "users", object_id())
    open_gap(scene.database, "payments", None)
    assert (len(paused(market, payment)), paused(market, other)) == (1, [])
    counts("documents of a payment, each by a name of its own", len(names) + 1)


@pytest.mark.parametrize("collection", ["payments", "disputes"])
def test_a_collection_that_is_gone_pauses_every_payment_until_two_persons_have_looked(
    scene: Scene, collection: str
) -> None:
    payments = [scene.payment(), scene.payment()]
    open_gap(scene.database, "notifications", "*")
    gap = open_gap(scene.database, collection, "*")
    scene.run()
    assert [paused(scene.market, each) for each in payments] == [[gap]] * 2
    assert [scene.instruction(each) for each in payments] == [None] * 2
    close_gap(scene.database, gap)
    scene.run()
    assert {scene.instruction(each).state for each in payments} <= {"ready", "handed_out"}


def test_a_dispute_that_the_books_know_pauses_its_payment(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    scene.open_dispute(payment)
    scene.run()
    [known] = scene.market.execute("SELECT dispute_id FROM fleet.payment_disputes WHERE payment_id = :p", p=payment)
    gap = open_gap(scene.database, "disputes", known.dispute_id)
    assert paused(scene.market, payment) == [gap]


# Each step of a payout


def test_nothing_is_drafted_reserved_or_handed_out_and_two_persons_let_it_go_on(scene: Scene) -> None:
    payment = scene.payment()
    gap = gap_of_payment(scene.database, payment)
    scene.run()
    assert scene.instruction(payment) is None  # not even drafted
    close_gap(scene.database, gap)
    scene.step._find(10, None)
    assert scene.instruction(payment).state == "drafted"
    gap = gap_of_payment(scene.database, payment)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "drafted"
    assert row.held_reason.startswith(f"security_gap: gap {gap} is open: payments ")
    assert f"fleet gaps resolve {gap}" in row.held_reason
    assert entries(scene, payment) == []
    close_gap(scene.database, gap)
    scene.due_now()
    scene.step._reserve(10, None)
    assert scene.instruction(payment).state == "ready"
    gap = gap_of_payment(scene.database, payment)
    scene.run()
    row = scene.instruction(payment)
    assert (row.state, row.nonce) == ("ready", None)
    assert row.held_reason.startswith("security_gap: ")
    close_gap(scene.database, gap)
    work_on(scene)
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


@pytest.mark.parametrize("is_signed", sampled([True, False]), ids=lambda said: "signed" if said else "handed out")
def test_what_is_out_is_cancelled_and_paid_again_once_the_gap_is_closed(scene: Scene, is_signed: bool) -> None:
    first, second = scene.payment(), scene.payment()
    scene.run()
    out = scene.handed_out([first, second])
    other = second if out == first else first
    gap = gap_of_payment(scene.database, out)
    if is_signed:
        scene.submit(out, scene.sign(out))
    scene.run()
    row = scene.instruction(out)
    assert row.state == "cancelling"
    assert row.held_reason.startswith("waits_for_cancel: security gap")
    work_on(scene)  # the device signs the cancel; the other payment's turn comes
    assert scene.instruction(out).state == "cancelled"
    assert scene.instruction(other).state == "final"
    assert scene.paid_to(out) == 0
    with scene.database.engine("fleet_operator").connect() as connection:
        said = [each.what for each in needs_attention(connection)]
    assert said == [f"security gap {gap} pauses payment {out}"]  # and no cancelled release for a person to order again
    close_gap(scene.database, gap)
    work_on(scene)
    again = scene.instruction(out)
    assert (again.state, again.request_key) == ("final", "whole-2")
    assert scene.paid_to(out) == UNITS
    assert [entry[1] for entry in entries(scene, out)] == ["reserve", "void", "reserve", "final"]
    scene.require_books_equal_chain()


def test_of_a_group_only_the_paused_payment_waits(scene: Scene) -> None:
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.step._find(10, None)
    scene.step._reserve(10, None)
    gap = gap_of_payment(scene.database, second)
    work_on(scene)
    assert [scene.instruction(each).state for each in (first, second)] == ["final", "ready"]
    assert scene.instruction(second).held_reason.startswith("security_gap: ")
    close_gap(scene.database, gap)
    work_on(scene)
    assert scene.instruction(second).state == "final"
    scene.require_books_equal_chain()


@ONLY_LONG
def test_a_group_that_is_out_is_cancelled_whole_and_the_others_are_paid_at_once(scene: Scene) -> None:
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    assert scene.group(second).state == "handed_out"
    gap = gap_of_payment(scene.database, second)
    work_on(scene)
    states = {
        each.state
        for each in scene.market.execute("SELECT state FROM fleet.release_instructions WHERE payment_id IS NULL")
    }
    assert states == {"cancelled"}
    assert scene.instruction(first).state == "final"
    assert scene.instruction(second).state == "cancelled"
    close_gap(scene.database, gap)
    work_on(scene)
    assert scene.token_balance(scene.instruction(second).recipient) == 2 * UNITS
    scene.require_books_equal_chain()


def test_a_refund_waits_and_one_that_was_out_is_made_again(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    with transaction(scene.database.engine("fleet_operator")) as connection:
        order_by_hand(connection, payment, amount=None, source="held", reason="late", by="ada")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    gap = gap_of_payment(scene.database, payment)
    work_on(scene)
    assert scene.instruction(payment).state == "cancelled"
    assert scene.token_balance(buyer.address) == 0
    close_gap(scene.database, gap)
    work_on(scene)
    assert scene.instruction(payment).state == "final"
    assert scene.token_balance(buyer.address) == UNITS
    scene.require_books_equal_chain()


@ONLY_LONG
def test_higher_fees_are_no_way_past_a_gap(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    gap_of_payment(scene.database, payment)
    scene.market.execute(
        "INSERT INTO fleet.release_requests (instruction_id, kind, reason, requested_by) VALUES (:i, 'bump', 'slow', 'ada')",
        i=scene.instruction(payment).id,
    )
    scene.run()
    kinds = scene.market.execute("SELECT kind FROM fleet.nonce_digests ORDER BY place")
    assert [each.kind for each in kinds if each.kind != "cancel"] == ["payout"]


def test_explain_and_stuck_name_the_gap_and_what_unblocks_it(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    gap = gap_of_payment(scene.database, payment)
    with scene.database.engine("fleet_operator").connect() as connection:
        waits = tell(connection, payment).waits
        stuck = needs_attention(connection)
    assert waits[0].what.startswith(f"it is paused: security gap {gap} is open: payments ")
    assert f"fleet gaps resolve {gap}" in waits[0].unblocks
    assert [(each.what, each.unblocks.partition(":")[0]) for each in stuck] == [
        (f"security gap {gap} pauses payment {payment}", "two persons close it")
    ]
    [alarm] = scene.market.execute("SELECT payment_id FROM fleet.alarms WHERE kind = 'security_gap'")
    assert alarm.payment_id == payment


# Whoever would close it alone


def test_no_role_and_no_owner_closes_changes_or_deletes_a_security_gap(scene: Scene, counts: Counts) -> None:
    payment = scene.payment(completed=False)
    gap = gap_of_payment(scene.database, payment)
    statements = (
        "UPDATE public.pg_dualwrite_gaps SET resolved_at = now(), resolved_by = 'me', resolution = 'fine'",
        f"UPDATE public.pg_dualwrite_gaps SET resolved_at = now(), resolved_by = 'action:{gap}', resolution = 'fine'",
        "UPDATE public.pg_dualwrite_gaps SET severity = 'warning'",
        "UPDATE public.pg_dualwrite_gaps SET legacy_object_id = 'another'",
        "DELETE FROM public.pg_dualwrite_gaps",
        f"SELECT fleet.execute_gap_resolution('{gap}', '\\x00', 'x')",
    )
    codes: set[str | None] = set()
    for role in (None, *PROCESS_ROLES):
        for statement in statements:
            with scene.database.engine(role).connect() as connection, pytest.raises(DBAPIError) as refused:
                connection.execute(text(statement))
            codes.add(sqlstate(refused.value))
    assert codes == {"42501", "FL006"}
    assert paused(scene.market, payment) == [gap]
    counts("ways of one alone to close a security gap", (1 + len(PROCESS_ROLES)) * len(statements))


# Races


@pytest.mark.parametrize("part", parts(200))
def test_a_gap_races_a_payout_at_each_step_and_nothing_goes_out_after_it(
    scene: Scene, counts: Counts, part: int
) -> None:
    """Four workers and the gap at once, at each step. What was sent before the gap stood there is paid; else nothing is, ever."""
    counts("races of a security gap against a payout", RACES)
    steps = [build(scene.database.engine("fleet_releases"), scene.settings) for _ in range(4)]
    ends: dict[str, int] = {}
    chance = random.Random(part)
    for number in range(RACES):
        payment = scene.payment()
        step = (number + 1) % 4
        if step >= 1:
            scene.step._find(10, None)
        if step == 2:
            scene.step._reserve(10, None)
        if step == 3:
            scene.run()
            scene.submit(payment, scene.sign(payment))
        gate = Barrier(len(steps) + 1)
        with ThreadPoolExecutor(len(steps) + 1) as pool:
            rounds = [pool.submit(release_now, each, gate) for each in steps]
            gap = pool.submit(gap_now, scene, payment, gate, chance.randrange(chance.choice((60, 1_500)))).result()
            assert all(each.result() >= 0 for each in rounds)
        sent = state_of(scene, payment) in {"broadcast", "final"}
        work_on(scene)  # the gap stands: whatever the device signs, it is the cancel
        end = state_of(scene, payment)
        recipient_has = 0 if scene.instruction(payment) is None else scene.paid_to(payment)
        assert recipient_has == (UNITS if end == "final" else 0)
        assert end != "final" or sent, "it was sent after the gap stood there"
        ends[f"{end} (sent before)" if sent else str(end)] = (
            ends.get(f"{end} (sent before)" if sent else str(end), 0) + 1
        )
        assert scene.run() == 0
        close_gap(scene.database, gap)
        work_on(scene)
        assert scene.instruction(payment).state == "final"
        assert scene.paid_to(payment) == UNITS
        assert scene.market.balance(payment)["releasing"] == 0
        scene.require_books_equal_chain()
    for each in steps:
        each.close()
    sys.stdout.write(f"part {part}: {RACES} races: {ends}\n")


def state_of(scene: Scene, payment: UUID) -> str | None:
    row: Any = scene.instruction(payment)
    return None if row is None else row.state


def release_now(step: Step, gate: Barrier) -> int:
    gate.wait(30)
    return step.run_once(10)


def gap_now(scene: Scene, payment: UUID, gate: Barrier, looks: int) -> UUID:
    gate.wait(30)
    with scene.database.engine("fleet_mirror").connect() as connection:
        for _ in range(looks):  # a while of the database's own, so that either side is first now and then
            connection.execute(text("SELECT 1"))
    return gap_of_payment(scene.database, payment)

"""Every payment state x every move on a real PostgreSQL: the table's moves succeed, all others are refused."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from custody.payments.transitions import (
    ESCROW_STATES,
    STATUSES,
    TRANSITIONS,
    PaymentState,
    TransitionRefused,
    legal_moves,
    lock_payment,
    move_payment,
)
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import Marketplace


def put(connection: Connection, payment: UUID, state: PaymentState) -> None:
    connection.execute(
        text(
            "UPDATE public.payments SET status = CAST(:s AS public.payment_status), "
            "escrow_state = CAST(:e AS public.escrow_state) WHERE id = :id"
        ),
        {"s": state.status, "e": state.escrow, "id": payment},
    )


def mirrored(connection: Connection, payment: UUID) -> int:
    return connection.execute(
        text("SELECT count(*) FROM fleet.outbox WHERE collection = 'payments' AND document_id = :id"), {"id": payment}
    ).scalar_one()


def test_exactly_the_tables_moves_succeed(database: Database) -> None:
    payment = Marketplace(database).payment()
    states = [PaymentState(status, escrow) for status, escrow in product(STATUSES, (None, *ESCROW_STATES))]
    moved = repeated = refused = 0
    with transaction(database.engine()) as connection:
        # Python's own refusals; the database's are tested in test_payment_state_machine.py.
        connection.execute(text("ALTER TABLE public.payments DISABLE TRIGGER payments_moves"))
        for state in states:
            put(connection, payment, state)
            for name, item in TRANSITIONS.items():
                before = mirrored(connection, payment)
                savepoint = connection.begin_nested()
                if state in item.sources:
                    assert move_payment(connection, payment, name) == item.target
                    assert lock_payment(connection, payment) == item.target
                    assert mirrored(connection, payment) == before + 1
                    # Done once more it is no error, and nothing more is mirrored.
                    assert move_payment(connection, payment, name) == item.target
                    assert mirrored(connection, payment) == before + 1
                    moved += 1
                elif state == item.target:
                    assert move_payment(connection, payment, name) == state
                    assert mirrored(connection, payment) == before
                    repeated += 1
                else:
                    with pytest.raises(TransitionRefused) as caught:
                        move_payment(connection, payment, name)
                    message = str(caught.value)
                    assert f"is {state.status}/{state.escrow or 'no escrow'}: '{name}' is not legal" in message
                    assert message.endswith(f"legal: {', '.join(legal_moves(state)) or 'none'}")
                    assert lock_payment(connection, payment) == state
                    assert mirrored(connection, payment) == before
                    refused += 1
                savepoint.rollback()
    sys.stdout.write(
        f"{len(states)} states x {len(TRANSITIONS)} moves: {moved} moved, {repeated} repeated, {refused} refused\n"
    )
    assert moved == sum(len(item.sources) for item in TRANSITIONS.values())
    assert repeated == len(TRANSITIONS)
    assert moved + repeated + refused == len(states) * len(TRANSITIONS) == 1008


def test_a_payment_or_move_that_does_not_exist_is_named(database: Database) -> None:
    payment = Marketplace(database).payment()
    with transaction(database.engine()) as connection:
        nobody = uuid4()
        with pytest.raises(LookupError, match=str(nobody)):
            move_payment(connection, nobody, "detected")
        with pytest.raises(KeyError, match="vanished"):
            move_payment(connection, payment, "vanished")


@pytest.mark.parametrize(
    ("role", "moves"),
    [
        ("fleet_watcher", ["detected", "undetected"]),
        ("fleet_confirmations", ["detected", "part_held", "held"]),
        ("fleet_releases", ["detected", "held", "became_releasable"]),
    ],
)
def test_the_roles_of_the_steps_can_move_a_payment(database: Database, role: str, moves: list[str]) -> None:
    payment = Marketplace(database).payment()
    with transaction(database.engine(role)) as connection:
        for move in moves:
            assert move_payment(connection, payment, move) == TRANSITIONS[move].target


def race(database: Database, payment: UUID, moves: list[str]) -> list[str]:
    """Make each move from a thread of its own, all at once; return those that were not refused."""
    gate = threading.Barrier(len(moves))

    def run(move: str) -> bool:
        gate.wait(20)
        try:
            with transaction(database.engine()) as connection:
                move_payment(connection, payment, move)
        except TransitionRefused:
            return False
        return True

    with ThreadPoolExecutor(len(moves)) as pool:
        return [move for move, done in zip(moves, pool.map(run, moves), strict=True) if done]


def test_eight_movers_at_once_move_it_once(database: Database) -> None:
    payment = Marketplace(database).payment()
    assert len(race(database, payment, ["detected"] * 8)) == 8
    with database.engine().connect() as connection:
        assert mirrored(connection, payment) == 1


def test_of_two_moves_that_exclude_each_other_one_wins(database: Database) -> None:
    market = Marketplace(database)
    for _ in range(5):
        payment = market.payment()
        done = race(database, payment, ["detected", "cancelled"] * 4)
        assert len(set(done)) == 1
        assert len(done) == 4
        target = TRANSITIONS[done[0]].target
        assert market.state(payment) == (target.status, target.escrow)
        with database.engine().connect() as connection:
            assert mirrored(connection, payment) == 1

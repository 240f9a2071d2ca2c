"""The table of a payment's moves: states of the seed's enums, one target a move, nothing leaves a finished state."""

from itertools import product

from custody.payments.transitions import ESCROW_STATES, STATUSES, TRANSITIONS, PaymentState, legal_moves

FINISHED = {PaymentState("completed", "released"), PaymentState("refunded", "refunded")}
ALL_STATES = [PaymentState(status, escrow) for status, escrow in product(STATUSES, (None, *ESCROW_STATES))]


def test_every_state_of_the_table_is_one_of_the_seeds() -> None:
    for name, item in TRANSITIONS.items():
        assert item.name == name
        assert item.sources
        assert {*item.sources, item.target} <= set(ALL_STATES)
        assert item.target not in item.sources


def test_legal_moves_are_the_tables() -> None:
    legal = {(state, move) for state in ALL_STATES for move in legal_moves(state)}
    assert legal == {(source, name) for name, item in TRANSITIONS.items() for source in item.sources}


def test_nothing_leaves_a_finished_payment() -> None:
    for state in (*FINISHED, PaymentState("cancelled", "cancelled")):
        assert legal_moves(state) == ()


def test_money_leaves_only_from_what_is_held() -> None:
    assert TRANSITIONS["released"].sources == (PaymentState("confirmed", "releasing"),)
    assert all(source.escrow is not None for source in TRANSITIONS["refunded"].sources)


def test_a_payment_can_reach_its_end_from_the_start() -> None:
    reached = {PaymentState("pending", None)}
    while more := {item.target for item in TRANSITIONS.values() if reached & set(item.sources)} - reached:
        reached |= more
    assert reached >= FINISHED
    assert reached == {item.target for item in TRANSITIONS.values()}

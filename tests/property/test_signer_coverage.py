"""What a signer's machine lets out is never more than what came in (R4), whatever a database calls it."""

from hypothesis import given
from hypothesis import strategies as st

from workers.signer.coverage import Promise, coverage

PLACES = ["d1", "d2", "d3", "d4"]
PAYMENTS = ["p1", "p2", "p3", "p4"]
TOKEN = "0xtoken"

deposits = st.dictionaries(st.sampled_from(PLACES), st.integers(1, 1_000), min_size=1)
requests = st.lists(
    st.tuples(
        st.sampled_from(PAYMENTS),
        st.sets(st.sampled_from(PLACES), min_size=1),
        st.integers(1, 1_000),
    ),
    max_size=12,
)


@given(swept=deposits, asked=requests)
def test_no_sequence_of_requests_is_paid_more_than_was_swept(
    swept: dict[str, int], asked: list[tuple[str, set[str], int]]
) -> None:
    journal: list[Promise] = []
    for payment, places, units in asked:
        logs = {(f"tx-{place}", 0): swept[place] for place in places if place in swept}
        promise = Promise(TOKEN, {payment: units}, frozenset(places), logs)
        if coverage(promise, journal).is_enough:
            journal.append(promise)
    assert sum(each.units for each in journal) <= sum(swept.values())


@given(swept=st.integers(1, 1_000), units=st.integers(1, 1_000), unknown=st.integers(0, 1_000))
def test_what_the_api_names_besides_counts_as_promised(swept: int, units: int, unknown: int) -> None:
    promise = Promise(TOKEN, {"p1": units}, frozenset({"d1"}), {("tx", 0): swept})
    assert coverage(promise, [], unknown_units=unknown).is_enough == (units + unknown <= swept)


def test_another_token_and_unconnected_payments_do_not_count() -> None:
    promise = Promise(TOKEN, {"p1": 100}, frozenset({"d1"}), {("tx", 0): 100})
    other = Promise("0xother", {"p1": 100}, frozenset({"d1"}), {("tx2", 0): 100})
    apart = Promise(TOKEN, {"p2": 100}, frozenset({"d2"}), {("tx3", 0): 100})
    found = coverage(promise, [other, apart])
    assert (found.promised, found.swept) == (100, 100)


def test_coins_are_counted_once_however_often_they_are_shown() -> None:
    first = Promise(TOKEN, {"p1": 60}, frozenset({"d1"}), {("tx", 0): 100})
    second = Promise(TOKEN, {"p2": 60}, frozenset({"d1"}), {("tx", 0): 100})
    found = coverage(second, [first])
    assert (found.promised, found.swept, found.is_enough) == (120, 100, False)


def test_promises_join_through_a_third() -> None:
    first = Promise(TOKEN, {"p1": 100}, frozenset({"d1"}), {("a", 0): 100})
    bridge = Promise(TOKEN, {"p1": 50}, frozenset({"d2"}), {("b", 0): 50})
    last = Promise(TOKEN, {"p3": 1}, frozenset({"d2"}), {("b", 0): 50})
    found = coverage(last, [first, bridge])
    assert (found.promised, found.swept, found.is_enough) == (151, 150, False)

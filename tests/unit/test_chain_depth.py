import pytest

from custody.chain import UnknownChain, confirmations, effective_threshold, floor


def test_the_newest_block_is_one_confirmation():
    assert confirmations(100, 100) == 1
    assert confirmations(149, 100) == 50


def test_a_node_behind_the_block_gives_none():
    assert confirmations(99, 100) == 0
    assert confirmations(90, 100) == 0


@pytest.mark.parametrize(
    ("chain_id", "blocks"),
    [(1, 50), (56, 200), (137, 300), (42161, 2400), (8453, 300), (1337, 1), (31337, 1)],
)
def test_floors(chain_id: int, blocks: int):
    assert floor(chain_id) == blocks
    assert effective_threshold(chain_id, None) == blocks
    assert effective_threshold(chain_id, blocks + 7) == blocks + 7
    assert effective_threshold(chain_id, 1) == blocks


def test_an_unknown_chain_is_refused():
    for ask in (lambda: floor(10), lambda: effective_threshold(10, 10_000)):
        with pytest.raises(UnknownChain, match="chain 10 has no confirmation floor"):
            ask()


@pytest.mark.parametrize("value", [0, -1, True])
def test_a_history_value_that_is_no_depth_is_refused(value: int):
    with pytest.raises(ValueError, match="confirmation_threshold:31337: expected a whole number"):
        effective_threshold(31337, value)

"""Merkle trees against the recursive definition of RFC 6962 (2.1), which this file follows to the letter."""

from hashlib import sha256
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from custody.ledger.merkle import inclusion_path, leaf_hash, node_hash, root, root_from_path

leaves_lists: Final = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70)


def largest_power_below(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def naive_root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = largest_power_below(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_path(leaves: list[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = largest_power_below(len(leaves))
    if index < split:
        return [*naive_path(leaves[:split], index), naive_root(leaves[split:])]
    return [*naive_path(leaves[split:], index - split), naive_root(leaves[:split])]


def test_the_hashes_are_those_of_rfc_6962() -> None:
    # RFC 6962, 2.1.1: the empty tree; and 2.1: one byte before a leaf, another before a node.
    assert root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert node_hash(b"a", b"b") == sha256(b"\x01ab").digest()


@given(leaves_lists)
def test_root_and_paths_are_the_definition_s(leaves: list[bytes]) -> None:
    assert root(leaves) == naive_root(leaves)
    for index, leaf in enumerate(leaves):
        path = inclusion_path(leaves, index)
        assert path == naive_path(leaves, index)
        assert root_from_path(leaf, index, len(leaves), path) == root(leaves)


@given(leaves_lists, st.data())
def test_another_leaf_order_or_size_is_another_root(leaves: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.binary(min_size=32, max_size=32).filter(lambda value: value != leaves[at]))
    changed = [*leaves[:at], other, *leaves[at + 1 :]]
    assert root(changed) != root(leaves)
    assert root([*leaves, other]) != root(leaves)
    assert root([*leaves, leaves[-1]]) != root(leaves)  # a tree that doubled its last leaf would say the same
    assert root(leaves[:-1]) != root(leaves)
    shuffled = data.draw(st.permutations(leaves))
    assert (root(shuffled) == root(leaves)) == (shuffled == leaves)


@given(leaves_lists, st.data())
def test_a_path_proves_its_own_leaf_at_its_own_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = inclusion_path(leaves, index)
    expected = root(leaves)
    wrong_place = data.draw(st.integers(-1, len(leaves)))
    assume(wrong_place != index)
    assert root_from_path(leaves[index], wrong_place, len(leaves), path) != expected or (
        0 <= wrong_place < len(leaves) and leaves[wrong_place] == leaves[index]
    )
    assert root_from_path(bytes(32), index, len(leaves), path) != expected or leaves[index] == bytes(32)
    assert root_from_path(leaves[index], index, len(leaves), [*path, bytes(32)]) is None
    if path:
        assert root_from_path(leaves[index], index, len(leaves), path[:-1]) is None
        step = data.draw(st.integers(0, len(path) - 1))
        bent = [*path[:step], sha256(path[step]).digest(), *path[step + 1 :]]
        assert root_from_path(leaves[index], index, len(leaves), bent) != expected


def test_what_is_in_no_tree_has_no_path() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            inclusion_path([bytes(32)] * 3, index)
    assert root_from_path(bytes(32), 0, 2**70, [bytes(32)] * 65) is None
    assert root_from_path(bytes(32), 0, 0, []) is None

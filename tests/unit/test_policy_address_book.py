"""Every reason why an address book is refused: it is only appended to, and each entry is signed by k."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from custody.policy import PolicyRefused, verify_address_book
from custody.policy.documents import NO_HASH, document_hash
from tests.policy_files import NOW, SELLER, STRANGER, Fleet, approver, book_said, entry_said, genesis_said, key


def refusal(what: Callable[[], object]) -> str:
    with pytest.raises(PolicyRefused) as caught:
        what()
    return str(caught.value)


def book_refusal(said: dict[str, Any], **changed: Any) -> str:
    genesis = Fleet(genesis_said(**changed)).genesis()
    return refusal(lambda: verify_address_book(said, genesis, now=NOW))


ENTRIES = list(Fleet().entries)


@pytest.mark.parametrize(
    ("place", "edit", "expected"),
    [
        (0, None, "address-book.toml: entries.1: expected number 1"),
        (1, None, "address-book.toml: entries.2: expected number 2"),
        (0, {"owner": "mallory"}, "entries.1: signatures.1: expected the signature of"),
        (0, {"address": STRANGER}, "entries.1: signatures.1: expected the signature of"),
        (1, {"signatures": []}, "entries.2: signatures: expected 2 approvers"),
        (1, {"address": key("eve").address.lower()}, "entries.2: address: address: "),
        (1, {"label": "two\nrows"}, "entries.2: label: String should match"),
        (2, {"owner": "seller-1"}, "entries.3: document: owner: expected 'house' for a gas payer"),
    ],
)
def test_an_address_book_that_somebody_edited(place: int, edit: dict[str, Any] | None, expected: str) -> None:
    said = book_said(ENTRIES)
    if edit is None:
        del said["entries"][place]
    else:
        said["entries"][place] |= edit
    message = book_refusal(said)
    assert message.startswith("address-book.toml: ")
    assert expected in message


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"chain_id": 137}, "entries.1.chain_id: expected a chain of the genesis, got 137"),
        ({"environment": "test"}, "entries.1.environment: expected 'amn1', got 'test'"),
        ({"added_at": NOW + timedelta(days=1)}, "entries.1.added_at: expected a time that has come"),
    ],
)
def test_an_entry_that_says_something_wrong(changed: dict[str, Any], expected: str) -> None:
    assert expected in book_refusal(book_said([entry_said(1, NO_HASH, SELLER, "seller-1", **changed)]))


def test_time_never_runs_back_in_the_address_book() -> None:
    first = entry_said(1, NO_HASH, SELLER, "seller-1", added_at=NOW - timedelta(days=1))
    assert "entries.2.added_at: expected no earlier time" in book_refusal(
        book_said([first, first | {"added_at": NOW - timedelta(days=2)}])
    )


def test_a_checkpoint_vouches_for_old_entries_and_for_nothing_else() -> None:
    old = book_said(ENTRIES[:2], people=("ada", "cyd"))
    head = document_hash(
        "address book entry", {key: value for key, value in old["entries"][1].items() if key != "signatures"}
    )
    changed: dict[str, Any] = {
        "address_book": {"entries": 2, "head": head},
        "approvers": [approver("ada"), approver("bob"), approver("cyd", revoked_at=NOW)],
    }
    genesis = Fleet(genesis_said(**changed)).genesis()
    book = verify_address_book(old, genesis, now=NOW)
    assert book.head == head
    assert "cyd" in book_refusal(old, approvers=changed["approvers"])
    assert "cyd" in book_refusal(book_said(ENTRIES[:3], people=("ada", "cyd")), **changed)
    other = book_said([ENTRIES[0], {**ENTRIES[1], "owner": "mallory"}])
    assert f"entries.2: expected the hash {head}" in book_refusal(other, **changed)
    assert "expected at least the 2 that the genesis names, got 1" in book_refusal(book_said(ENTRIES[:1]), **changed)

"""The signer's journal (R1, R4): what it refuses, damage, and that it is on the disk before anyone is asked."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from eth_account import Account

from custody.ledger.seals import NO_SEAL, Seal
from custody.trezor import Signature, UnsignedTransaction, encode_erc20_transfer
from tests.sealed_ledger import keys_of, new_key
from tests.unit.test_signer_checks import chain
from workers.signer import ApiInstruction, CheckedInstruction, InstructionRefused, Journal
from workers.signer.coverage import Promise
from workers.signer.journal import JournalRefused, open_promises
from workers.signer.nonce_rule import require_one_intent
from workers.signer.seals import SealsRefused, require_extends

CHAIN = chain(31337)
TOKEN = CHAIN.tokens[1].address
RECIPIENT = Account.create().address
BASE = UnsignedTransaction(31337, 5, 800, 8_000, 60_000, TOKEN, 0, encode_erc20_transfer(RECIPIENT, 100))
SIGNATURE = Signature(0, 7, 9)
PROMISE = Promise(TOKEN, {"payment-1": 100}, frozenset({RECIPIENT}), {("0x" + "ab" * 32, 3): 100})


def checked(transaction: UnsignedTransaction = BASE, instruction: str = "instruction-1") -> CheckedInstruction:
    claimed = ApiInstruction.model_construct(id=instruction, payment_id="payment-1", purpose="release")
    return CheckedInstruction(claimed, transaction, CHAIN, "USDT", 6)


def other(**changed: object) -> UnsignedTransaction:
    return dataclasses.replace(BASE, **changed)  # pyright: ignore[reportArgumentType]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.jsonl"


def written(path: Path) -> list[bytes]:
    """A journal of three lines, closed."""
    with Journal(path, create=True) as journal:
        journal.record_asked(checked(), PROMISE)
        journal.record_signed(BASE.signing_hash(), SIGNATURE)
        journal.record_handed_in("0x" + BASE.signing_hash().hex())
    return path.read_bytes().splitlines(keepends=True)


def test_what_was_written_is_read_again(path: Path) -> None:
    written(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with Journal(path, create=False) as journal:
        [asked] = journal.asked(31337, CHAIN.genesis_hash, CHAIN.treasury)
        assert (asked.transaction, asked.promise, asked.instruction) == (BASE, PROMISE, "instruction-1")
        assert journal.signature_of(asked.signing_hash) == SIGNATURE
        assert journal.was_handed_in(asked.signing_hash)
        assert journal.is_settled(asked)
        # Another chain of the same id has nonces of its own.
        assert journal.asked(31337, "0x" + "ff" * 32, CHAIN.treasury) == []
        assert not journal.was_made
        assert not journal.was_cut


def test_a_line_is_flushed_to_the_disk_before_the_call_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        flushed.append(path.stat().st_size)

    with Journal(path, create=True) as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        journal.record_asked(checked(), PROMISE)
    assert flushed == [path.stat().st_size]


def test_a_missing_journal_is_not_made_unasked(path: Path) -> None:
    with pytest.raises(JournalRefused, match="fleet signer journal start"):
        Journal(path, create=False)
    assert not path.exists()


def test_one_signer_at_a_time(path: Path) -> None:
    with Journal(path, create=True), pytest.raises(JournalRefused, match="Another fleet signer"):
        Journal(path, create=False)
    Journal(path, create=False).close()


def test_a_file_that_others_can_write_and_a_link_are_refused(path: Path) -> None:
    written(path)
    path.chmod(0o620)
    with pytest.raises(JournalRefused, match="chmod 600"):
        Journal(path, create=False)
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(JournalRefused, match="cannot be opened"):
        Journal(link, create=False)


def test_a_line_torn_by_a_crash_is_taken_off_and_the_rest_stands(path: Path) -> None:
    lines = written(path)
    for cut in range(1, len(lines[2])):
        path.write_bytes(b"".join(lines[:2]) + lines[2][:-cut])
        with Journal(path, create=False) as journal:
            assert journal.was_cut == (cut < len(lines[2]))
            assert len(journal.lines) == 2
        assert path.read_bytes() == b"".join(lines[:2])


def test_every_changed_byte_missing_line_and_swapped_line_is_damage(path: Path) -> None:
    lines = written(path)
    whole = b"".join(lines)
    damaged = [b"".join(lines[1:]), lines[0] + lines[2], lines[1] + lines[0] + lines[2], lines[0] + whole]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole) - 1)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(JournalRefused, match=r"damaged at line \d+: .* bring the journal back from a copy"):
            Journal(path, create=False)


# One nonce, one intent


def refuse(transaction: UnsignedTransaction, path: Path, words: str, instruction: str = "instruction-1") -> None:
    with Journal(path, create=False) as journal:
        earlier = journal.asked(31337, CHAIN.genesis_hash, CHAIN.treasury)
        with pytest.raises(JournalRefused, match=words):
            require_one_intent(transaction, instruction, CHAIN.treasury, earlier)


def allow(transaction: UnsignedTransaction, path: Path, instruction: str = "instruction-1") -> None:
    with Journal(path, create=False) as journal:
        earlier = journal.asked(31337, CHAIN.genesis_hash, CHAIN.treasury)
        require_one_intent(transaction, instruction, CHAIN.treasury, earlier)


@pytest.mark.parametrize(
    "changed",
    [
        {"data": encode_erc20_transfer(RECIPIENT, 101)},
        {"data": encode_erc20_transfer(CHAIN.treasury, 100)},
        {"to": RECIPIENT},
        {"value": 1},
        {"data": b""},
        {"to": RECIPIENT, "value": 0, "data": b""},
    ],
)
def test_another_intent_for_a_seen_nonce_is_refused(path: Path, changed: dict[str, object]) -> None:
    written(path)
    refuse(other(**changed, max_fee_per_gas=80_000, max_priority_fee_per_gas=8_000), path, "One nonce has one intent")


@pytest.mark.parametrize(("fee", "tip"), [(8_999, 900), (9_000, 899), (8_000, 900), (9_000, 800), (7_000, 700)])
def test_a_replacement_that_raises_too_little_is_refused(path: Path, fee: int, tip: int) -> None:
    written(path)
    refuse(other(max_fee_per_gas=fee, max_priority_fee_per_gas=tip), path, "1.125 times")


def test_the_same_bytes_a_fee_replacement_and_the_cancel_are_legal(path: Path) -> None:
    written(path)
    allow(BASE, path)
    allow(other(max_fee_per_gas=9_000, max_priority_fee_per_gas=900), path)
    allow(UnsignedTransaction(31337, 5, 1, 1, 21_000, CHAIN.treasury, 0), path, "another")
    allow(other(nonce=6), path, "instruction-2")


def test_a_replacement_is_measured_by_the_highest_fees_that_were_signed(path: Path) -> None:
    written(path)
    with Journal(path, create=False) as journal:
        journal.record_asked(checked(other(max_fee_per_gas=9_000, max_priority_fee_per_gas=900)), PROMISE)
    refuse(other(max_fee_per_gas=9_001, max_priority_fee_per_gas=901), path, "1.125 times 9000 and 900")
    allow(other(max_fee_per_gas=10_125, max_priority_fee_per_gas=1_013), path)
    allow(BASE, path)


def test_an_instruction_is_never_signed_with_two_nonces(path: Path) -> None:
    written(path)
    refuse(other(nonce=6), path, "both could be mined")


def test_a_rejected_payout_promises_nothing_and_an_unanswered_one_does(path: Path) -> None:
    with Journal(path, create=True) as journal:
        journal.record_asked(checked(), PROMISE)
        asked = journal.asked(31337, CHAIN.genesis_hash, CHAIN.treasury)
        assert [(each, hashes) for each, hashes in open_promises(journal, asked, nonce=6)] == [(asked[0], [])]
        assert open_promises(journal, asked, nonce=5) == []
        journal.record_rejected(BASE.signing_hash())
        assert open_promises(journal, asked, nonce=6) == []
        journal.record_asked(checked(), PROMISE)
        again = journal.asked(31337, CHAIN.genesis_hash, CHAIN.treasury)
        assert not journal.is_settled(again[-1])
        journal.record_signed(BASE.signing_hash(), SIGNATURE)
        [(_, hashes)] = open_promises(journal, again, nonce=6)
        assert hashes == [BASE.transaction_hash(SIGNATURE)]


# Seals


def seals(count: int) -> tuple[list[Seal], dict[str, object]]:
    key = new_key()
    made: list[Seal] = []
    for number in range(1, count + 1):
        before = made[-1] if made else None
        bare = Seal(
            number, before.to_tx if before else 0, number * 10, 3, bytes([number]) * 32,
            before.seal_hash if before else NO_SEAL, number, key.id, b"", b"",
        )  # fmt: skip
        digest = bare.computed_hash()
        made.append(dataclasses.replace(bare, seal_hash=digest, signature=key.sign(digest)))
    return made, dict(keys_of(key))


def test_seals_that_go_on_from_the_last_one_are_taken_and_remembered(path: Path) -> None:
    made, keys = seals(4)
    assert require_extends(None, made[2:3], keys) == made[2]  # pyright: ignore[reportArgumentType]
    assert require_extends(made[1], made[1:], keys) == made[3]  # pyright: ignore[reportArgumentType]
    with Journal(path, create=True) as journal:
        assert journal.last_seal("amn1") is None
        journal.record_seal("amn1", made[1])
        journal.record_seal("amn1", made[1])
        assert len(journal.lines) == 1
    with Journal(path, create=False) as journal:
        assert (journal.last_seal("amn1"), journal.last_seal("amn2")) == (made[1], None)


def test_seals_that_do_not_go_on_are_refused() -> None:
    made, keys = seals(4)
    foreign, _ = seals(4)
    for last, following, words in (
        (made[1], [], "is gone"),
        (made[1], made[2:], "had the hash"),
        (made[1], foreign[1:], "history was rewritten"),
        (made[1], [made[1], made[3]], "seal 3 should stand here"),
        (made[1], [made[1], foreign[2]], "does not follow"),
        (made[1], [made[1], dataclasses.replace(made[2], entries=9)], "its hash is not that of its content"),
        (None, [], "no seal yet"),
        (None, foreign[:1], "none of yours"),
    ):
        with pytest.raises(SealsRefused, match=words):
            require_extends(last, following, keys)  # pyright: ignore[reportArgumentType]
    assert issubclass(SealsRefused, InstructionRefused)


def test_a_journal_line_names_what_was_promised_for_what(path: Path) -> None:
    line = json.loads(written(path)[0])
    assert line["kind"] == "asked"
    assert (line["units"], line["payment"], line["destinations"]) == ("100", "payment-1", [RECIPIENT])

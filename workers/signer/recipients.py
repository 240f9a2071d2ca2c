"""The recipient must stand in an address book entry that k of the pinned approvers signed (R4, R8).

The entry comes with the instruction, or from this machine's own copy of ``address-book.toml``. Whoever can write the
fleet's database cannot make one.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from custody.policy.address_book import AddressBookEntry
from custody.policy.documents import document_hash, read_toml, validated
from custody.policy.refusals import PolicyRefused
from custody.policy.signatures import SignatureFile, signer_of
from custody.policy.texts import entry_text
from custody.trezor.transaction import SignatureError
from workers.signer.checks import CheckedInstruction
from workers.signer.evidence import Evidence
from workers.signer.trust import Trust

_BOOK: Final = "address book"


def require_signed_recipient(checked: CheckedInstruction, evidence: Evidence, trust: Trust) -> AddressBookEntry:
    """The entry that stands for the recipient. Raises InstructionRefused when there is none, or too few signed it.

    Of several entries the one with the highest number stands, whichever side it came from: a removal that either side
    knows of counts.
    """
    chain_id, recipient = checked.chain.id, checked.claimed.recipient
    try:
        lines = [*evidence.address_book, *_own_copy(trust)]
        found = [each for each in map(_line, lines) if _is_of(each[0], chain_id, recipient)]
        if not found:
            raise checked.refusal(f"recipient {recipient} is in no address book entry that was shown")
        entry, bare, line = max(found, key=lambda each: each[0].number)
        if entry.action == "remove":
            raise checked.refusal(f"recipient {recipient} was taken out of the address book by entry {entry.number}")
        if entry.environment != trust.environment:
            raise checked.refusal(
                f"its address book entry is of environment {entry.environment}, not {trust.environment}"
            )
        persons = _signed_by(entry, bare, line, trust)
    except PolicyRefused as error:
        raise checked.refusal(f"its address book entry is no good: {error}") from None
    if len(persons) < trust.k:
        raise checked.refusal(
            f"address book entry {entry.number} of recipient {recipient} is signed by {', '.join(sorted(persons)) or 'nobody'} "
            f"of the pinned approvers, {trust.k} must have signed it",
        )
    return entry


def _own_copy(trust: Trust) -> Iterable[dict[str, Any]]:
    if trust.address_book is None:
        return []
    said = read_toml(trust.address_book).get("entries", [])
    if not isinstance(said, list):
        raise PolicyRefused(trust.address_book.name, "entries", "expected [[entries]] tables")
    return cast("list[dict[str, Any]]", said)


def _line(line: Mapping[str, Any]) -> tuple[AddressBookEntry, dict[str, Any], Mapping[str, Any]]:
    bare = {key: value for key, value in line.items() if key != "signatures"}
    return validated(AddressBookEntry, bare, file=_BOOK), bare, line


def _is_of(entry: AddressBookEntry, chain_id: int, address: str) -> bool:
    return (entry.chain_id, entry.address, entry.role) == (chain_id, address, "payee")


def _signed_by(entry: AddressBookEntry, bare: dict[str, Any], line: Mapping[str, Any], trust: Trust) -> set[str]:
    """The pinned persons whose signatures fit. Others are passed over: k of ours is what counts."""
    # As the signer read it, not as it was written: a time in JSON is a text and in TOML a time, the entry's is one.
    said = {**bare, "added_at": entry.added_at}
    text = entry_text(entry, document_hash("address book entry", said, file=_BOOK))
    signatures = validated(SignatureFile, {"signatures": line.get("signatures", [])}, file=_BOOK).signatures
    known = {each.address: each.person for each in trust.approvers}
    persons: set[str] = set()
    for each in signatures:
        try:
            signer = signer_of(text, each.signature)
        except SignatureError as error:
            raise PolicyRefused(_BOOK, "signatures", str(error)) from None
        if signer == each.approver and signer in known:
            persons.add(known[signer])
    return persons

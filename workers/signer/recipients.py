"""The recipient must stand in an address book entry that k of the pinned approvers signed (R4, R8).

The entry comes with the instruction, or from this machine's own copy of ``address-book.toml``. Whoever can write the
fleet's database cannot make one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from custody.policy.address_book import AddressBookEntry, Role
from custody.policy.documents import read_toml, validated
from custody.policy.refusals import PolicyRefused
from custody.policy.requests import role_paid
from custody.policy.signatures import ApproverSignature, SignatureFile, signer_of
from custody.policy.signed_entries import entry_hash
from custody.policy.texts import entry_text
from custody.releases.approval_text import OUR_TREASURY
from custody.releases.refund_proof import BUYER_SIGNED
from custody.trezor.transaction import SignatureError
from workers.signer.evidence import Evidence
from workers.signer.safe_checks import Checked
from workers.signer.treasuries import DRAIN
from workers.signer.trust import Trust

_BOOK: Final = "address book"


@dataclass(frozen=True, slots=True)
class KnownRecipient:
    """What the recipient is called in approvers' texts, and how this machine knows it."""

    label: str
    said: str


def require_known_recipient(checked: Checked, evidence: Evidence, trust: Trust) -> KnownRecipient:
    """How the recipient is known: a signed entry or, for a refund that has none, the buyer's own proof (R21).

    Raises InstructionRefused.
    """
    claimed = checked.claimed
    if claimed.purpose == DRAIN:  # whose recipient the trust file pins
        return KnownRecipient(OUR_TREASURY, "the active treasury of the trust file")
    if claimed.purpose == "refund" and claimed.payment_id is not None and not _has_entry(checked, evidence, trust):
        payment_id = UUID(claimed.payment_id)
        if any(proof.is_of(payment_id, checked.chain.id, claimed.recipient) for proof in evidence.refund_proofs):
            return KnownRecipient(BUYER_SIGNED, "proved by the key of this very address, for this payment")
    entry = require_signed_recipient(checked, evidence, trust)
    return KnownRecipient(entry.label, f"address book entry {entry.number} ({entry.label}), signed by your approvers")


def _has_entry(checked: Checked, evidence: Evidence, trust: Trust) -> bool:
    try:
        lines = [_line(each) for each in (*evidence.address_book, *_own_copy(trust))]
    except PolicyRefused as error:
        raise checked.refusal(f"its address book entry is no good: {error}") from None
    return any(_is_of(entry, checked.chain.id, checked.claimed.recipient, "payee") for entry, _ in lines)


def require_signed_recipient(checked: Checked, evidence: Evidence, trust: Trust) -> AddressBookEntry:
    """The entry that stands for the recipient. Raises InstructionRefused when there is none, or too few signed it.

    Of several entries the one with the highest number stands, whichever side it came from: a removal that either side
    knows of counts.
    """
    chain_id, recipient, role = checked.chain.id, checked.claimed.recipient, role_paid(checked.claimed.purpose)
    try:
        lines = [*evidence.address_book, *_own_copy(trust)]
        found = [each for each in map(_line, lines) if _is_of(each[0], chain_id, recipient, role)]
        if not found:
            raise checked.refusal(f"recipient {recipient} is in no address book entry that was shown")
        entry, signed = max(found, key=lambda each: each[0].number)
        if entry.action == "remove":
            raise checked.refusal(f"recipient {recipient} was taken out of the address book by entry {entry.number}")
        if entry.environment != trust.environment:
            raise checked.refusal(
                f"its address book entry is of environment {entry.environment}, not {trust.environment}"
            )
        persons = persons_who_signed(entry_text(entry, entry_hash(entry)), signed.signatures, trust)
    except (PolicyRefused, SignatureError) as error:
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


def _line(line: Mapping[str, Any]) -> tuple[AddressBookEntry, SignatureFile]:
    """An entry and its signatures, from a file or as the API tells it with its own columns beside."""
    fields = {name: line[name] for name in AddressBookEntry.model_fields if name in line}
    signatures = line.get("signatures", ())
    if not isinstance(signatures, list | tuple):
        raise PolicyRefused(_BOOK, "signatures", "expected a list")
    bare = [
        {name: each.get(name) for name in ApproverSignature.model_fields} if isinstance(each, Mapping) else each
        for each in cast("Sequence[Any]", signatures)
    ]
    return validated(AddressBookEntry, fields, file=_BOOK), validated(SignatureFile, {"signatures": bare}, file=_BOOK)


def _is_of(entry: AddressBookEntry, chain_id: int, address: str, role: Role) -> bool:
    return (entry.chain_id, entry.address, entry.role) == (chain_id, address, role)


def persons_who_signed(text: str, signatures: Iterable[ApproverSignature], trust: Trust) -> set[str]:
    """The pinned persons whose signatures fit a text. Others are passed over: how many of ours is what counts.

    Raises SignatureError for a malformed one.
    """
    known = {each.address: each.person for each in trust.approvers}
    return {
        known[each.approver]
        for each in signatures
        if each.approver in known and signer_of(text, each.signature) == each.approver
    }

"""The POLICY texts that approvers sign on their devices (R6, R8, R18).

EIP-191 and not EIP-712: a Trezor One shows the first and signs the second blind. Rows of 18 columns, printable ASCII
without line breaks, at most 216 characters, the verb first; the whole document hash, so that no two documents share one.
"""

from typing import Final

from custody.policy.address_book import AddressBookEntry
from custody.policy.refusals import PolicyRefused
from custody.trezor.text_rows import COLUMNS, TextNotShowable, in_rows

VERB: Final = "POLICY"
ACTION_VERBS: Final = {
    "go_on": "PAUSE",
    "readmit": "PAUSE",
    "break_glass": VERB,
    "delist": VERB,
    "cutover": VERB,
    "resolve_gap": "PAUSE",
}


def file_text(kind: str, environment: str, version: int, document_hash: str) -> str:
    """What is signed of a ``genesis`` or a ``policy``: verb, environment, kind, version, hash; 108 characters."""
    return _rows(kind, verb=f"{VERB} {environment}", document=f"{kind} v{version}", hash=document_hash)


def entry_text(entry: AddressBookEntry, document_hash: str) -> str:
    """What is signed of an address book entry: the above, its chain, role, full address and label; 216 characters."""
    role = "gas" if entry.role == "gas_payer" else entry.role
    return _rows(
        "address-book.toml",
        verb=f"{VERB} {entry.environment}",
        entry=f"book {entry.number} {entry.action}",
        chain=f"{entry.chain_id} {role}",
        address=entry.address,
        label=entry.label.ljust(2 * COLUMNS),
        hash=document_hash,
    )


def action_text(
    environment: str, kind: str, chain_id: int, action_id: str, says: tuple[str, ...], action_hash: str
) -> str:
    """What two persons sign of an operator's action (R10): verb, chain if it has one, its number, what it does, the whole hash.

    ``says``: at most five rows in plain words; the hash covers every parameter.
    """
    verb = ACTION_VERBS.get(kind, "ADJUST")
    rows = {f"says {place}": each for place, each in enumerate(says)}
    return _rows(
        "operator action",
        verb=f"{verb} {environment}",
        kind=f"{kind} {chain_id}" if chain_id else kind,
        number=f"nr {action_id[-8:]}",
        **rows,
        hash=action_hash,
    )


def _rows(file: str, **fields: str) -> str:
    try:
        return in_rows(**fields)
    except TextNotShowable as error:
        raise PolicyRefused(file, "text", f"{error} (R18)") from None

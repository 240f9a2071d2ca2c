"""The POLICY texts that approvers sign on their devices (R6, R8, R18).

EIP-191 and not EIP-712: a Trezor One shows the first and signs the second blind. Rows of 18 columns, printable ASCII
without line breaks, at most 216 characters, the verb first; the whole document hash, so that no two documents share one.
"""

from typing import Final

from custody.policy.address_book import AddressBookEntry
from custody.policy.refusals import PolicyRefused

COLUMNS: Final = 18
TEXT_MAXIMUM: Final = 216  # 12 rows; R18
VERB: Final = "POLICY"


def file_text(kind: str, environment: str, version: int, document_hash: str) -> str:
    """What is signed of a ``genesis`` or a ``policy``: verb, environment, kind, version, hash; 108 characters."""
    return _rows(kind, f"{VERB} {environment}", f"{kind} v{version}", document_hash)


def entry_text(entry: AddressBookEntry, document_hash: str) -> str:
    """What is signed of an address book entry: the above, its chain, role, full address and label; 216 characters."""
    role = "gas" if entry.role == "gas_payer" else entry.role
    return _rows(
        "address-book.toml",
        f"{VERB} {entry.environment}",
        f"book {entry.number} {entry.action}",
        f"{entry.chain_id} {role}",
        entry.address,
        entry.label.ljust(2 * COLUMNS),
        document_hash,
    )


def as_rows(text: str) -> tuple[str, ...]:
    """A text as a device breaks it, a row an element."""
    return tuple(text[start : start + COLUMNS] for start in range(0, len(text), COLUMNS))


def _rows(file: str, *fields: str) -> str:
    text = ""
    for field in fields:
        if len(field) > COLUMNS and not field.startswith("0x") and len(field) not in (2 * COLUMNS, 64):
            raise PolicyRefused(file, "text", f"{field!r}: expected at most {COLUMNS} characters, a row of the device")
        text += field.ljust(-(-len(field) // COLUMNS) * COLUMNS)
    if len(text) > TEXT_MAXIMUM or not text.isascii() or not text.isprintable():
        raise PolicyRefused(file, "text", f"expected at most {TEXT_MAXIMUM} printable ASCII characters (R18)")
    return text

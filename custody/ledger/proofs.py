"""A proof that one entry is in the sealed ledger: a small JSON file that a stranger checks without the database.

It holds every field of the entry, its place in its seal's tree, the path to the root, and the signed seal.
docs/verify_proof.py checks the same with nothing of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from psycopg import sql
from sqlalchemy import Connection

from custody.ledger.canonical import ENTRY_FIELDS, EntryRow, entry_from_texts, read_entries
from custody.ledger.merkle import HASH_BYTES, PATH_MAXIMUM, inclusion_path, root, root_from_path
from custody.ledger.seal_keys import PublicKeys
from custody.ledger.seals import Seal, hex_bytes, read_window, seal_as_json, seal_from_json, seal_holding
from custody.ledger.strangers_json import json_from_stranger

PROOF_FORMAT: Final = "amanat-ledger-proof-v1"
PROOF_MAXIMUM_BYTES: Final = 1_048_576  # the evidence of an entry is the only part without a length of its own
_FIELDS: Final = frozenset({"format", "entry", "leaf", "index", "path", "seal"})


class NoProof(Exception):
    """The entry cannot be proven. The message says why, and what to do."""


class ProofRefused(Exception):
    """The proof proves nothing. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What a good proof says: the entry, by field, and the seal over it."""

    entry: Mapping[str, str | None]
    seal: Seal


def prove(connection: Connection, entry_id: UUID) -> dict[str, Any]:
    """The proof of an entry, for JSON. Raises NoProof."""
    found = list(read_entries(connection, sql.SQL("WHERE id = {}").format(sql.Literal(entry_id))))
    if not found:
        raise NoProof(f"there is no entry {entry_id}")
    entry = found[0]
    seal = seal_holding(connection, int(entry.text("tx_id") or 0))
    if seal is None:
        raise NoProof(f"entry {entry_id} is not sealed yet; try again in a few seconds, or see whether the sealer runs")
    window = [(row.key, row.leaf()) for row in read_window(connection, seal.from_tx, seal.to_tx)]
    leaves = [leaf for _, leaf in window]
    if len(leaves) != seal.entries or root(leaves) != seal.merkle_root:
        raise NoProof(f"the entries under seal {seal.seal_no} were changed; see: fleet ledger verify")
    index = [row_id for row_id, _ in window].index(entry_id.bytes)
    return {
        "format": PROOF_FORMAT,
        "entry": _texts(entry),
        "leaf": leaves[index].hex(),
        "index": index,
        "path": [sibling.hex() for sibling in inclusion_path(leaves, index)],
        "seal": seal_as_json(seal),
    }


def _texts(entry: EntryRow) -> dict[str, str | None]:
    return {name: entry.text(name) for name in ENTRY_FIELDS}


def check_proof(proof: object, keys: PublicKeys) -> Proven:
    """What the proof proves, by the public keys and nothing else. Raises ProofRefused."""
    try:
        return _check(proof, keys)
    except ValueError as error:
        raise ProofRefused(str(error)) from None


def _check(proof: object, keys: PublicKeys) -> Proven:
    values: dict[str, Any] = dict(proof) if isinstance(proof, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    if frozenset(values) != _FIELDS or values["format"] != PROOF_FORMAT:
        raise ValueError(f"expected a proof of format {PROOF_FORMAT} with the fields {', '.join(sorted(_FIELDS))}")
    entry: object = values["entry"]
    if not isinstance(entry, dict) or not all(value is None or isinstance(value, str) for value in entry.values()):  # pyright: ignore[reportUnknownVariableType]
        raise ValueError("entry must have a text or null in each field")
    texts: dict[str, str | None] = dict(entry)  # pyright: ignore[reportUnknownArgumentType]
    leaf = entry_from_texts(texts).leaf()
    if hex_bytes(values["leaf"], "leaf", HASH_BYTES) != leaf:
        raise ValueError("the entry's fields do not give its leaf: one of them was changed")
    index, path = values["index"], values["path"]
    if type(index) is not int or not isinstance(path, list):
        raise ValueError("index must be a whole number and path a list")
    siblings: list[object] = list(path)  # pyright: ignore[reportUnknownArgumentType]
    if len(siblings) > PATH_MAXIMUM:
        raise ValueError(f"path has more than {PATH_MAXIMUM} steps")
    hashes = [hex_bytes(sibling, f"path[{at}]", HASH_BYTES) for at, sibling in enumerate(siblings)]
    seal = seal_from_json(values["seal"])
    if root_from_path(leaf, index, seal.entries, hashes) != seal.merkle_root:
        raise ValueError("the path does not lead from the entry to the seal's root")
    if faults := seal.own_faults(keys):
        raise ValueError(f"the seal: {'; '.join(faults)}")
    return Proven(texts, seal)


def proof_from_text(text: str) -> object:
    """The JSON of a proof. Raises ProofRefused when it is none, or too long."""
    if len(text.encode("utf-8", "replace")) > PROOF_MAXIMUM_BYTES:
        raise ProofRefused(f"a proof has at most {PROOF_MAXIMUM_BYTES} bytes")
    try:
        return json_from_stranger(text)
    except ValueError as error:
        raise ProofRefused(str(error)) from None

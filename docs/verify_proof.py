"""Checks a ledger proof, and optionally an export of the ledger's seals, with nothing of the fleet's.

    python verify_proof.py PROOF.json PUBLIC_KEY.pem [SEALS.jsonl]

Needs Python 3.11 and `cryptography` (for Ed25519). What the bytes are is told in docs/ledger-proof.md. Exit code 1 and one
sentence when anything does not hold.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

FIELDS = """book_kind book_id chain_id token entry_type reason debit credit amount debit_address credit_address fact_id
instruction_id reverses_entry_id idempotency_key book_seq id metadata poster_role created_at tx_id content_hash prev_hash
entry_hash legacy_object_id payment_id purchase_request_ref_kind purchase_request_id purchase_request_external_ref
seller_offer_ref_kind seller_offer_id seller_offer_external_ref seller_ref_kind seller_id seller_external_ref
currency""".split()  # noqa: SIM905 - in this order they are hashed
SEAL = {"seal_no": int, "from_tx": int, "to_tx": int, "entries": int, "merkle_root": str, "prev_seal_hash": str}
SEAL |= {"sealed_at": int, "key_id": str}


def need(holds, otherwise):
    if not holds:
        raise ValueError(otherwise)


def length_prefixed(values):
    parts = [None if value is None else str(value).encode() for value in values]
    return b"".join((-1).to_bytes(4, signed=True) if p is None else len(p).to_bytes(4) + p for p in parts)


def check_seal(seal, keys):
    need(set(seal) == {*SEAL, "seal_hash", "signature"}, "a seal has other fields")
    need(all(type(seal[name]) is kind for name, kind in SEAL.items()), "a seal's field is of another type")
    digest = sha256(length_prefixed(["amanat-ledger-seal-v1", *(seal[name] for name in SEAL)]))
    need(seal["seal_hash"] == digest.hexdigest(), f"seal {seal['seal_no']} was changed")
    need(seal["key_id"] in keys, f"seal {seal['seal_no']} is signed by another key, {seal['key_id']}")
    need(seal["signature"] == bytes.fromhex(seal["signature"]).hex(), "a signature is not in lower-case hexadecimal")
    keys[seal["key_id"]].verify(bytes.fromhex(seal["signature"]), digest.digest())


def check_proof(proof, keys):
    need(set(proof) == {"format", "entry", "leaf", "index", "path", "seal"}, "the proof has other fields")
    need(proof["format"] == "amanat-ledger-proof-v1", "the proof is of another format")
    entry, seal, index = proof["entry"], proof["seal"], proof["index"]
    need(set(entry) == set(FIELDS), "the entry has other fields")
    need(all(value is None or type(value) is str for value in entry.values()), "a field of the entry is no text")
    check_seal(seal, keys)
    found = sha256(b"\x00" + length_prefixed([entry[name] for name in FIELDS])).digest()
    need(found.hex() == proof["leaf"], "the entry was changed")
    need(type(index) is int and 0 <= index < seal["entries"], "the entry's place is outside its seal")
    last, path = seal["entries"] - 1, [bytes.fromhex(step) for step in proof["path"]]
    need([step.hex() for step in path] == proof["path"], "the path is not in lower-case hexadecimal")
    while last:  # RFC 6962: a last node without a sibling is its own parent
        if index % 2 or index < last:
            need(path, "the path is too short")
            pair = path.pop(0) + found if index % 2 else found + path.pop(0)
            found = sha256(b"\x01" + pair).digest()
        index, last = index // 2, last // 2
    need(not path and found.hex() == seal["merkle_root"], "the path does not lead to the seal's root")


def check_export(lines, keys):
    header, seals = json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
    need(header["format"] == "amanat-ledger-seals-v1", "the export is of another format")
    need(len(seals) == header["seals"], "the export was cut short")
    need(not seals or seals[-1]["seal_hash"] == header["newest"], "the export does not end where it says")
    for before, seal in zip([None, *seals], seals, strict=False):
        check_seal(seal, keys)
        expected = (before["seal_no"] + 1, before["to_tx"], before["seal_hash"]) if before else (1, 0, "00" * 32)
        if before or seal["seal_no"] == 1:  # an export may begin in the middle
            found = seal["seal_no"], seal["from_tx"], seal["prev_seal_hash"]
            need(found == expected, f"seal {seal['seal_no']} does not follow the one before")
    return seals


def main(proof_file, key_file, seals_file=None):
    end = "-----END PUBLIC KEY-----\n"
    blocks = Path(key_file).read_text(encoding="utf-8").split(end)[:-1]
    loaded = [load_pem_public_key((block + end).encode()) for block in blocks]
    keys = {sha256(key.public_bytes_raw()).hexdigest()[:16]: key for key in loaded}
    proof = json.loads(Path(proof_file).read_text(encoding="utf-8"))
    check_proof(proof, keys)
    if seals_file:
        seals = check_export(Path(seals_file).read_text(encoding="utf-8").splitlines(), keys)
        need(proof["seal"] in seals, "the proof's seal is not in the export")
    sys.stdout.write(f"holds: entry {proof['entry']['id']} is under seal {proof['seal']['seal_no']}\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, InvalidSignature) as error:
        sys.exit(f"refused: {type(error).__name__} {error}")

"""What an approver signs of a file, and the file's ``.sig`` that grows by it."""

from pathlib import Path

from custody.policy.documents import document_hash, read_toml, validated
from custody.policy.genesis import Genesis
from custody.policy.price_file import PriceFile, prices_text
from custody.policy.refusals import PolicyRefused
from custody.policy.rules import Policy
from custody.policy.signatures import ApproverSignature, SignatureFile, signer_of
from custody.policy.texts import file_text
from custody.policy.toml_text import toml_text
from custody.trezor.transaction import SignatureError


def document_text(path: Path) -> str:
    """The POLICY text of a genesis, policy or prices file (R18). Raises PolicyRefused for a file that is none."""
    said = read_toml(path)
    if "prices" in said:
        return prices_text(validated(PriceFile, said, file=path.name), said, file_name=path.name)
    if "rules" in said:
        policy = validated(Policy, said, file=path.name)
        return file_text("policy", policy.environment, policy.version, document_hash("policy", said, file=path.name))
    genesis = validated(Genesis, said, file=path.name)
    return file_text("genesis", genesis.environment, genesis.version, document_hash("genesis", said, file=path.name))


def signatures_path(path: Path) -> Path:
    """Where the signatures of a file lie."""
    return path.with_name(f"{path.name}.sig")


def add_signature(path: Path, approver: str, signature: str) -> int:
    """Add a signature over the file as it is now; how many there are. One approver's second replaces the first.

    ``signature`` is 0x and 65 bytes. Raises PolicyRefused when it is not the approver's over this file.
    """
    target = signatures_path(path)
    try:
        signer = signer_of(document_text(path), signature)
    except SignatureError as error:
        raise PolicyRefused(target.name, "signature", str(error)) from None
    if signer != approver:
        raise PolicyRefused(target.name, "signature", f"expected one of {approver} over {path.name}, it is {signer}'s")
    before = validated(SignatureFile, read_toml(target), file=target.name).signatures if target.exists() else ()
    kept = [each for each in before if each.approver != approver]
    every = [*kept, ApproverSignature(approver=approver, signature=signature)]
    part = target.with_name(f"{target.name}.part")
    part.write_text(toml_text({"signatures": [each.model_dump() for each in every]}), encoding="utf-8")
    part.replace(target)
    return len(every)

"""Detached signatures of k approvers, and every reason why one does not count (R3, R8, R18)."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final

from pydantic import Field

from custody.policy.documents import Address, Document
from custody.policy.genesis import Genesis, Power
from custody.policy.refusals import PolicyRefused
from custody.trezor.transaction import Signature, SignatureError, message_hash, recover_signer

SIGNATURES_MAXIMUM: Final = 64  # a file of more is no detached signature of k persons
SIGNATURES_KEPT: Final = 1_024
"""The signed files are read anew at each decision, and who made a signature follows from it and its text alone."""


class ApproverSignature(Document):
    """One signature: who says to have made it, and its 65 bytes r, s, v with v 27 or 28."""

    approver: Address
    signature: Annotated[str, Field(pattern=r"^0x[0-9a-f]{130}$")]


class SignatureFile(Document):
    """``NAME.sig``: the signatures of NAME."""

    signatures: Annotated[tuple[ApproverSignature, ...], Field(max_length=SIGNATURES_MAXIMUM)] = ()


@lru_cache(SIGNATURES_KEPT)
def signer_of(text: str, signature: str) -> str:
    """The checksum address that signed ``text`` (EIP-191).

    ``signature`` is 0x and 65 bytes. Raises SignatureError for a v other than 27 or 28, or a high s.
    """
    raw = bytes.fromhex(signature[2:])
    if raw[64] not in (27, 28):
        raise SignatureError("v", "27 or 28")
    return recover_signer(
        message_hash(text),
        Signature(raw[64] - 27, int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big")),
    )


def require_signatures(
    text: str, signatures: Sequence[ApproverSignature], genesis: Genesis, *, file: str, now: datetime
) -> tuple[str, ...]:
    """The persons who signed ``text``, at least ``genesis.k`` of them, in the order of their signatures.

    Every signature must count; one that does not refuses the file, so that none stays in it unread. Raises
    PolicyRefused for an unknown, revoked, not yet valid or powerless approver, a signature twice, a signature of
    something else (changed bytes), a malformed one, and too few.
    """
    persons: list[str] = []
    for place, each in enumerate(signatures, start=1):
        field = f"signatures.{place}"
        approver = _counts_for(genesis, each.approver, "policy", file=file, field=field, now=now)
        try:
            signer = signer_of(text, each.signature)
        except SignatureError as error:
            raise PolicyRefused(file, field, f"{error}") from None
        if signer != each.approver:
            raise PolicyRefused(
                file,
                field,
                f"expected the signature of {each.approver} over these bytes, it is {signer}'s or of others",
            )
        if approver in persons:
            raise PolicyRefused(file, field, f"{approver} signed already; expected one signature a person")
        persons.append(approver)
    if len(persons) < genesis.k:
        signed = ", ".join(persons) or "nobody"
        raise PolicyRefused(
            file, "signatures", f"expected {genesis.k} approvers of genesis version {genesis.version}, {signed} signed"
        )
    return tuple(persons)


def _counts_for(genesis: Genesis, address: str, power: Power, *, file: str, field: str, now: datetime) -> str:
    """The person behind an approver's address. Raises PolicyRefused."""
    approver = genesis.approver(address)
    if approver is None:
        raise PolicyRefused(
            file, field, f"expected an approver of genesis version {genesis.version}, {address} is none"
        )
    if approver.revoked_at is not None:
        raise PolicyRefused(
            file,
            field,
            f"{approver.person} ({address}) was revoked {approver.revoked_at:%Y-%m-%d}; "
            "expected an active approver: remove this signature and have another one sign",
        )
    if approver.valid_from > now:
        raise PolicyRefused(
            file, field, f"{approver.person} approves from {approver.valid_from:%Y-%m-%d %H:%M} UTC, not yet"
        )
    if power not in approver.powers:
        raise PolicyRefused(file, field, f"expected an approver with the power {power!r}, {approver.person} has it not")
    return approver.person

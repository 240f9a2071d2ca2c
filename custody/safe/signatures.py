"""Owners' signatures of a Safe transaction: EIP-712 with v 27 or 28 only, each owner once, in the Safe's order (R16).

A Safe takes other kinds as well, each a way around a device: v 0 asks a contract (EIP-1271), v 1 an approval on the
chain, v above 30 an eth_sign text, which a login could be turned into (R6). None of them is taken here.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from custody.trezor.transaction import Signature, SignatureError, recover_signer

SIGNATURE_BYTES: Final = 65
_V_OFFSET: Final = 27
_WHY_NOT: Final = {
    0: "v 0 is a contract's signature (EIP-1271)",
    1: "v 1 is an approval on the chain (approveHash)",
    31: "v 31 is an eth_sign signature",
    32: "v 32 is an eth_sign signature",
}


class OwnerSignatureRefused(ValueError):
    """A signature that does not count. The message is ``reason: sentence``."""


@dataclass(frozen=True, slots=True)
class OwnerSignature:
    """A well-formed signature and the owner that made it (checksum address)."""

    owner: str
    signature: Signature

    def packed(self) -> bytes:
        """r, s and v as the Safe reads them: 65 bytes, v 27 or 28."""
        given = self.signature
        return given.r.to_bytes(32, "big") + given.s.to_bytes(32, "big") + bytes([_V_OFFSET + given.y_parity])


def read_owner_signature(raw: bytes) -> Signature:
    """The signature in 65 bytes r, s, v. Raises OwnerSignatureRefused for any kind but EIP-712's, or a high s."""
    if len(raw) != SIGNATURE_BYTES:
        raise OwnerSignatureRefused(f"malformed_signature: expected {SIGNATURE_BYTES} bytes, got {len(raw)}")
    v = raw[-1]
    if v not in (_V_OFFSET, _V_OFFSET + 1):
        why = _WHY_NOT.get(v, f"v is {v}")
        raise OwnerSignatureRefused(f"kind_of_signature: {why}; only EIP-712 with v 27 or 28 counts (R16)")
    try:
        return Signature(v - _V_OFFSET, int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"))
    except SignatureError as error:
        raise OwnerSignatureRefused(f"malformed_signature: {error}") from None


def owner_of(digest: bytes, signature: Signature, owners: Collection[str]) -> OwnerSignature:
    """The signature with its owner, who is one of ``owners`` (pinned). Raises OwnerSignatureRefused."""
    try:
        signer = recover_signer(digest, signature)
    except SignatureError as error:
        raise OwnerSignatureRefused(f"malformed_signature: {error}") from None
    if signer not in owners:
        raise OwnerSignatureRefused(
            f"not_an_owner: over this Safe transaction it recovers to {signer}, no pinned owner; was it made for another "
            "Safe, nonce, chain or text?"
        )
    return OwnerSignature(signer, signature)


def pack_signatures(
    digest: bytes, signatures: Iterable[OwnerSignature], owners: Collection[str], threshold: int
) -> bytes:
    """Exactly ``threshold`` signatures over ``digest`` in ascending order of owners, as ``execTransaction`` takes them.

    Each is recovered again. Raises OwnerSignatureRefused for a stranger, an owner twice, or too few.
    """
    found: dict[str, OwnerSignature] = {}
    for each in signatures:
        again = owner_of(digest, each.signature, owners)
        if again.owner in found:
            raise OwnerSignatureRefused(f"signed_twice: owner {again.owner} signs once")
        found[again.owner] = again
    if len(found) < threshold:
        raise OwnerSignatureRefused(f"too_few_signatures: {len(found)} of {threshold} owners signed")
    ordered = sorted(found.values(), key=lambda each: int(each.owner, 16))
    return b"".join(each.packed() for each in ordered[:threshold])

"""The text by which a buyer says where money may go back to, and the check of its signature (R6, R21). Pure.

Signed (EIP-191) by the key of the very address it names: an exchange's or a contract's address cannot be proved, and
tx.from or a payer's address is never taken for one. Such a buyer gets an address-book entry instead.
"""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from custody.chain.addresses import InvalidAddress, parse_address
from custody.trezor.transaction import Signature, SignatureError, message_hash, recover_signer

VERB: Final = "REFUND"
BUYER_SIGNED: Final = "buyer signed"
"""The label, in approvers' texts, of a recipient that no address book entry names."""
LIFETIME: Final = timedelta(days=30)  # between signing and handing in: a buyer who waits longer signs anew
SIGNATURE_BYTES: Final = 65
CLOCK_SLACK: Final = timedelta(minutes=5)  # a buyer's clock may be ahead of ours


class ProofRefused(ValueError):
    """The signature proves nothing. The message is a sentence for the buyer."""


def refund_text(payment_id: UUID, chain_id: int, address: str, signed_at: datetime) -> str:
    """What the buyer signs: one line of printable ASCII, of typed fields only; ``signed_at`` in whole seconds."""
    at = signed_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{VERB} payment {payment_id} on chain {chain_id} to {address} signed {at}"


def require_proof(payment_id: UUID, chain_id: int, address: str, signed_at: datetime, signature: Signature) -> None:
    """Raise ProofRefused unless the key of ``address`` signed exactly this text."""
    try:
        parse_address(address, field="refund address", require_checksum=True)
        signer = recover_signer(message_hash(refund_text(payment_id, chain_id, address, signed_at)), signature)
    except (InvalidAddress, SignatureError) as error:
        raise ProofRefused(f"{error}.") from error
    if signer != address:
        raise ProofRefused(
            f"the signature over {refund_text(payment_id, chain_id, address, signed_at)!r} is of {signer}, not of the "
            "address that it names: sign exactly this text with that address's key."
        )


def read_signature(written: str) -> Signature:
    """A wallet's 65 bytes in hex (r, s, v of 27 or 28, or 0 or 1). Raises ProofRefused."""
    try:
        raw = bytes.fromhex(written.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != SIGNATURE_BYTES:
        raise ProofRefused(f"the signature is no {SIGNATURE_BYTES} bytes in hex.")
    parity = raw[64] - 27 if raw[64] >= 27 else raw[64]
    try:
        return Signature(parity, int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"))
    except SignatureError as error:
        raise ProofRefused(f"{error}.") from error


def require_recent(signed_at: datetime, now: datetime) -> None:
    """Raise ProofRefused for a signature from the future or older than LIFETIME, when it is handed in."""
    if not now - LIFETIME <= signed_at <= now + CLOCK_SLACK:
        raise ProofRefused(
            f"it was signed at {signed_at:%Y-%m-%d %H:%M:%S%z}; expected one of the last {LIFETIME.days} days: sign it anew."
        )

"""Addresses of one account by the hundred thousand: BIP-32's public child derivation, and nothing around it.

Issuing makes one address a payment with bip-utils; an audit makes every address again, and should not believe the same
code. Source: BIP-32 "Public parent key to public child key". Equal to bip-utils (tests/unit/test_bulk_derivation.py).
"""

from collections.abc import Callable
from hmac import digest as hmac_digest

from coincurve import PublicKey
from Crypto.Hash import keccak

from custody.destinations.derivation import ACCOUNT_PATH, INDEX_LIMIT, DerivationError, account_key

AddressBytes = Callable[[int], bytes]
"""The 20 bytes of the address at an index. Raises DerivationError for an index out of range."""


def addresses_of(xpub: str, account: str = ACCOUNT_PATH) -> AddressBytes:
    """The addresses 0/index of the xpub of ``account``. Raises DerivationError for an xpub ``address_at`` refuses."""
    point, account_chain_code = account_key(xpub, account)
    digest = hmac_digest(account_chain_code, point + bytes(4), "sha512")
    parent = PublicKey(point).add(digest[:32])
    chain_code, serialized = digest[32:], parent.format(compressed=True)
    tweak_point, combine, new_keccak = PublicKey.from_valid_secret, PublicKey.combine_keys, keccak.new

    def address(index: int) -> bytes:
        if not 0 <= index < INDEX_LIMIT:
            raise DerivationError(f"derivation index: expected 0 to 2^31 - 1, got {index!r}")
        tweak = hmac_digest(chain_code, serialized + index.to_bytes(4, "big"), "sha512")[:32]
        try:
            # The tweak's point from the library's table of the generator, then one addition: PublicKey.add() is slower,
            # as it multiplies without that table.
            child = combine([parent, tweak_point(tweak)])
        except ValueError:  # one in 2^127 has no key
            raise DerivationError(f"derivation index {index} has no key (BIP-32): go on with the next") from None
        return new_keccak(digest_bits=256, data=child.format(compressed=False)[1:]).digest()[-20:]

    return address

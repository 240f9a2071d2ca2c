"""What deposit keys sign for a batch that another account sends: EIP-7702 and EIP-3009, to the binding treasury alone (R20).

Pure. One request is of one chain, one account and one method; each item names its address by index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from custody.destinations.contracts import sweep_contracts
from custody.destinations.keys.set_code import AUTHORIZATIONS_MAXIMUM, Authorization
from custody.destinations.keys.shapes import NATIVE, KnownChain, ShapeRefused
from custody.trezor import TransactionError

Method = Literal["eip7702", "eip3009"]

VALID_SECONDS_MAXIMUM: Final = 7 * 86_400  # a signature that nobody used is worth nothing after a week
DOMAIN_CHARACTERS_MAXIMUM: Final = 64
UINT256_LIMIT: Final = 1 << 256

_DOMAIN_TYPE: Final = keccak(text="EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_TRANSFER_TYPE: Final = keccak(
    text="TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)"
)


@dataclass(frozen=True, slots=True)
class Domain:
    """What the token says its EIP-712 domain is; chain and contract are known here."""

    name: str
    version: str

    def separator(self, chain_id: int, token: str) -> bytes:
        """The domain separator, 32 bytes (EIP-712)."""
        return keccak(
            encode(
                ["bytes32", "bytes32", "bytes32", "uint256", "address"],
                [_DOMAIN_TYPE, keccak(text=self.name), keccak(text=self.version), chain_id, token],
            )
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One address: ``nonce`` is the authority's (EIP-7702) or 32 random bytes as a number (EIP-3009).

    ``value`` (smallest unit) and ``valid_before`` (Unix seconds) are EIP-3009's and 0 for EIP-7702.
    """

    index: int
    nonce: int
    value: int = 0
    valid_before: int = 0


@dataclass(frozen=True, slots=True)
class AskedAuthorizations:
    """One request; ``treasury`` is the asker's, ``delegate`` for EIP-7702, ``token`` and ``domain`` for EIP-3009."""

    method: Method
    chain_id: int
    treasury: str
    account: str
    items: Sequence[Item]
    delegate: str | None = None
    token: str | None = None
    domain: Domain | None = None


def transfer_digest(
    separator: bytes, *, sender: str, treasury: str, value: int, valid_before: int, nonce: int
) -> bytes:
    """What a key signs for TransferWithAuthorization, valid from the beginning (EIP-712, EIP-3009)."""
    struct = encode(
        ["bytes32", "address", "address", "uint256", "uint256", "uint256", "bytes32"],
        [_TRANSFER_TYPE, sender, treasury, value, 0, valid_before, nonce.to_bytes(32)],
    )
    return keccak(b"\x19\x01" + separator + keccak(struct))


def digests(asked: AskedAuthorizations, *, chain: KnownChain, addresses: Sequence[str], now: int) -> list[bytes]:
    """The digest of each item, in order. ``addresses``: those of the items' indexes; ``now`` in Unix seconds.

    Raises ShapeRefused naming the field and what was expected.
    """
    if asked.chain_id != chain.id or chain.id == 0:
        raise ShapeRefused(f"chain: expected {chain.id}, got {asked.chain_id}")
    if asked.treasury != chain.treasury:
        raise ShapeRefused(f"treasury: {asked.treasury} is asked for, but {chain.treasury} binds on chain {chain.id}")
    if not 0 < len(asked.items) <= AUTHORIZATIONS_MAXIMUM:
        raise ShapeRefused(f"items: expected 1 to {AUTHORIZATIONS_MAXIMUM}, got {len(asked.items)}")
    if asked.method == "eip7702":
        return _delegations(asked, chain)
    return _transfers(asked, chain, addresses, now)


def _delegations(asked: AskedAuthorizations, chain: KnownChain) -> list[bytes]:
    # Which code that is follows from the treasury and the committed build alone: no message and no node says it.
    delegate = sweep_contracts(chain.treasury).delegate
    if asked.delegate != delegate:
        raise ShapeRefused(f"delegate: expected {delegate}, which sweeps to {chain.treasury}, got {asked.delegate}")
    if any(item.value or item.valid_before for item in asked.items):
        raise ShapeRefused("delegation: expected neither a value nor an end")
    try:
        return [Authorization(chain.id, delegate, item.nonce).digest() for item in asked.items]
    except TransactionError as error:
        raise ShapeRefused(str(error)) from None


def _transfers(asked: AskedAuthorizations, chain: KnownChain, addresses: Sequence[str], now: int) -> list[bytes]:
    if asked.token is None or asked.token == NATIVE or asked.token not in chain.tokens:
        raise ShapeRefused(f"token: {asked.token} is no token that is known on chain {chain.id}")
    if asked.domain is None:
        raise ShapeRefused("domain: expected the token's name and version")
    separator = asked.domain.separator(chain.id, asked.token)
    found: list[bytes] = []
    for item, address in zip(asked.items, addresses, strict=True):
        if not 0 < item.value < UINT256_LIMIT or not 0 <= item.nonce < UINT256_LIMIT:
            raise ShapeRefused("value and nonce: expected a value above zero, and both below 2^256")
        if not now < item.valid_before <= now + VALID_SECONDS_MAXIMUM:
            raise ShapeRefused(f"valid_before: expected a moment of the next {VALID_SECONDS_MAXIMUM} seconds")
        found.append(
            transfer_digest(
                separator,
                sender=address,
                treasury=chain.treasury,
                value=item.value,
                valid_before=item.valid_before,
                nonce=item.nonce,
            )
        )
    return found

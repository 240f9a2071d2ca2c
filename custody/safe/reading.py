"""A Safe as a quorum of the chain's nodes shows it, all of it at one block (R16, R17)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from custody.chain import CallRequest, ChainClient, ChainUnavailable, wire
from custody.chain.nodes import ChainNodes
from custody.safe import contract
from custody.safe.transaction import ZERO

_EXECUTION_ENDED: Final = ("revert", "opcode")
"""In a node's words: the contract's own code ended the call, nothing is wrong with the node."""
_ADDRESS_BYTES: Final = 20
_WORD: Final = 32


class NotASafe(Exception):
    """The address has no code of a Safe, or answers as no Safe does. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class SafeState:
    """What R16 pins, after one block. Hashes are keccak-256 of runtime code, with 0x; addresses checksummed.

    ``guard`` None: none is set. ``modules``: the first page of those enabled; expected to be empty.
    ``domain_separator`` is what the Safe puts before each SafeTx it hashes (EIP-712).
    """

    chain_id: int
    address: str
    block_number: int
    block_hash: str
    version: str
    proxy_code_hash: str
    singleton: str
    singleton_code_hash: str
    owners: tuple[str, ...]
    threshold: int
    nonce: int
    fallback_handler: str
    guard: str | None
    modules: tuple[str, ...]
    domain_separator: bytes


def read_safe(nodes: ChainNodes, address: str) -> SafeState:
    """The Safe at ``address`` after the newest block that a quorum of nodes has.

    Raises ChainUnavailable below the quorum and for heads that are too old, WrongChain for a node of another chain,
    NotASafe.
    """
    nodes.require_identity()
    block = nodes.common_height()
    answer = nodes.agreed(lambda client: safe_at(client, block, address))
    if isinstance(answer, str):
        raise NotASafe(answer)
    return answer


def safe_at(client: ChainClient, number: int, address: str) -> SafeState | str:
    """One node's word on the Safe after block ``number``; a sentence where what it shows is no Safe, so that a quorum
    can agree on that too. Raises ChainUnavailable.
    """
    block = client.header(number)
    if block is None:
        raise _unavailable(client, f"it no longer shows block {number}")
    at = {"blockHash": block.hash, "requireCanonical": True}
    calls = (
        contract.VERSION,
        contract.GET_OWNERS,
        contract.GET_THRESHOLD,
        contract.NONCE,
        contract.get_modules_call(),
        contract.DOMAIN_SEPARATOR,
    )
    slots = (contract.SINGLETON_SLOT, contract.GUARD_SLOT, contract.FALLBACK_HANDLER_SLOT)
    answers = client.ask(
        [
            ("eth_getCode", [address, at]),
            *(("eth_getStorageAt", [address, hex(slot), at]) for slot in slots),
            *(("eth_call", [CallRequest(to=address, data=call).as_json(), at]) for call in calls),
        ]
    )
    code, *stored = [_data(client, answer, "a Safe's code or storage") for answer in answers[: 1 + len(slots)]]
    if not code:
        return f"there is no contract at {address} in block {number}"
    refused = [answer.error for answer in answers[1 + len(slots) :] if answer.error is not None]
    if refused:
        if all(any(word in error.words.lower() for word in _EXECUTION_ENDED) for error in refused):
            return f"the contract at {address} does not answer as a Safe does (it reverts)"
        raise _unavailable(client, f"reading a Safe: {refused[0].words}")
    singleton, guard, handler = (_address_of(word) for word in stored)
    singleton_code = _code(client, singleton, at)
    said = [_data(client, answer, "a Safe's answer") for answer in answers[1 + len(slots) :]]
    try:
        [version] = decode(["string"], said[0])
        [owners] = decode(["address[]"], said[1])
        [threshold] = decode(["uint256"], said[2])
        [nonce] = decode(["uint256"], said[3])
        modules, _ = decode(["address[]", "address"], said[4])
        [domain] = decode(["bytes32"], said[5])
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return f"the contract at {address} does not answer as a Safe does"
    return SafeState(
        chain_id=client.chain.chain_id,
        address=address,
        block_number=number,
        block_hash=block.hash,
        version=str(version),
        proxy_code_hash="0x" + keccak(code).hex(),
        singleton=singleton,
        singleton_code_hash="0x" + keccak(singleton_code).hex(),
        owners=_addresses(owners),
        threshold=int(threshold),
        nonce=int(nonce),
        fallback_handler=handler,
        guard=None if guard == ZERO else guard,
        modules=_addresses(modules),
        domain_separator=domain,
    )


def _code(client: ChainClient, address: str, at: dict[str, Any]) -> bytes:
    [answer] = client.ask([("eth_getCode", [address, at])])
    return _data(client, answer, "the singleton's code")


def _data(client: ChainClient, answer: Any, what: str) -> bytes:
    if answer.error is not None:
        raise _unavailable(client, f"{what}: {answer.error.words}")
    try:
        return wire.data(answer.result, what)
    except wire.MalformedAnswer as error:
        reason = str(error)
    raise _unavailable(client, reason)


def _address_of(word: bytes) -> str:
    return to_checksum_address(word.rjust(_WORD, b"\0")[-_ADDRESS_BYTES:])


def _addresses(found: object) -> tuple[str, ...]:
    return tuple(to_checksum_address(each) for each in cast(Sequence[str], found))


def _unavailable(client: ChainClient, reason: str) -> ChainUnavailable:
    return ChainUnavailable(client.chain.chain_id, client.chain.masked_url, client.chain.redact(reason))

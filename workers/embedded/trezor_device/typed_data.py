"""EIP-712 typed data as a core device takes it: struct by struct, value by value, its own hash over what it was told.

Only what a SafeTx needs: flat structs of whole numbers, addresses, bytes, truth values and text. Written apart from the
host's encoding on purpose: tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from trezorlib import messages
from trezorlib.messages import EthereumDataType, FailureType
from trezorlib.protobuf import MessageType

from workers.embedded.trezor_device.requests import Refusal
from workers.embedded.trezor_device.screens import ROW, Screen

DOMAIN: Final = "EIP712Domain"
MAX_MEMBERS: Final = 32
MAX_VALUE_BYTES: Final = 1_024
_WORD: Final = 32
_ADDRESS_BYTES: Final = 20

_Reading = Generator[MessageType, "MessageType | bool", "tuple[Struct, Struct]"]


@dataclass(frozen=True, slots=True)
class Member:
    """One field: its type as EIP-712 names it, its name, and the value's bytes as the host sent them."""

    kind: str
    name: str
    value: bytes

    def word(self) -> bytes:
        """The 32 bytes that stand for it in the struct's encoding."""
        if self.kind in ("bytes", "string"):
            return keccak(self.value)
        return self.value.ljust(_WORD, b"\0") if self.kind.startswith("bytes") else self.value.rjust(_WORD, b"\0")

    def text(self) -> str:
        """What the screen says of it."""
        if self.kind == "address":
            return to_checksum_address(self.value)
        if self.kind.startswith("uint"):
            return str(int.from_bytes(self.value, "big"))
        if self.kind == "bool":
            return "true" if any(self.value) else "false"
        return self.value.decode() if self.kind == "string" else self.value.hex() or "(empty)"


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct with all its values."""

    name: str
    members: tuple[Member, ...]

    def hash(self) -> bytes:
        """``hashStruct`` of EIP-712."""
        declared = ",".join(f"{each.kind} {each.name}" for each in self.members)
        return keccak(keccak(text=f"{self.name}({declared})") + b"".join(each.word() for each in self.members))

    def screens(self) -> list[Screen]:
        """One a field, so that a person confirms each."""
        return [
            (f"{self.name}.{each.name}", each.kind, *(shown[at : at + ROW] for at in range(0, len(shown), ROW)))
            for each in self.members
            if (shown := each.text())
        ]


def read_typed_data(primary_type: str) -> _Reading:
    """Ask the host for domain and message: first every struct's members, as a device does, then each value.

    Raises Refusal for a nested type, an array, or a value of another size than its type.
    """
    names = (DOMAIN, primary_type)
    declared: list[Sequence[messages.EthereumStructMember]] = []
    for name in names:
        answer = yield messages.EthereumTypedDataStructRequest(name=name)
        if not isinstance(answer, messages.EthereumTypedDataStructAck):
            raise Refusal(FailureType.UnexpectedMessage, "Unexpected message")
        if not 0 < len(answer.members) <= MAX_MEMBERS:
            raise Refusal(FailureType.DataError, "Unsupported number of members")
        declared.append(answer.members)
    found: list[Struct] = []
    for root, (name, members) in enumerate(zip(names, declared, strict=True)):
        values: list[Member] = []
        for place, member in enumerate(members):
            answer = yield messages.EthereumTypedDataValueRequest(member_path=[root, place])
            if not isinstance(answer, messages.EthereumTypedDataValueAck):
                raise Refusal(FailureType.UnexpectedMessage, "Unexpected message")
            values.append(Member(_kind(member.type, answer.value), member.name, answer.value))
        found.append(Struct(name, tuple(values)))
    return found[0], found[1]


def typed_data_hash(domain: Struct, message: Struct) -> bytes:
    """The digest that is signed (EIP-712)."""
    return keccak(b"\x19\x01" + domain.hash() + message.hash())


def _kind(declared: messages.EthereumFieldType, value: bytes) -> str:
    size = declared.size or 0
    match declared.data_type:
        case EthereumDataType.UINT if 0 < size <= _WORD and len(value) == size:
            return f"uint{8 * size}"
        case EthereumDataType.ADDRESS if len(value) == _ADDRESS_BYTES:
            return "address"
        case EthereumDataType.BOOL if len(value) == 1 and value[0] < 2:
            return "bool"
        case EthereumDataType.BYTES if len(value) <= MAX_VALUE_BYTES and (not size or len(value) == size):
            return f"bytes{size}" if size else "bytes"
        case EthereumDataType.STRING if len(value) <= MAX_VALUE_BYTES and value.isascii():
            return "string"
        case _:
            raise Refusal(FailureType.DataError, "Invalid length or unsupported type")

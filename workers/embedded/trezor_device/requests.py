"""The checks a device makes on a request before it shows anything, and the digest it signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import rlp
from eth_utils.crypto import keccak
from trezorlib import messages
from trezorlib.messages import FailureType

from workers.embedded.trezor_device.wallet import path_allowed

MAX_DATA_BYTES: Final = 16_000_000
MAX_FEE_BYTES: Final = 30  # fee and gas limit together, so that their product stays below the curve's prime


class Refusal(Exception):
    """The device answers with a Failure of this code and message, and the flow ends."""

    def __init__(self, code: FailureType, message: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def require_path(path: Sequence[int], *, export: bool) -> None:
    """Refuse a path that strict safety checks forbid."""
    if not path_allowed(path, export=export):
        raise Refusal(FailureType.DataError, "Forbidden key path")


def require_transaction(request: messages.EthereumSignTxEIP1559) -> None:
    """Refuse what the device refuses before it shows anything: chain, data length, recipient, fee size."""
    first, total = len(request.data_initial_chunk or b""), request.data_length or 0
    to = len(request.to or "")
    gas = len(request.gas_limit)
    if (request.chain_id or 0) < 1:
        raise Refusal(FailureType.DataError, "Chain ID out of bounds")
    if total and not first:
        raise Refusal(FailureType.DataError, "Data length provided, but no initial chunk")
    if total > MAX_DATA_BYTES or first > total:
        raise Refusal(FailureType.DataError, "Data length is out of bounds")
    fees_too_long = max(len(request.max_gas_fee), len(request.max_priority_fee)) + gas > MAX_FEE_BYTES
    if to not in (40, 42) or fees_too_long:  # contract creation is left out: the fleet has none
        raise Refusal(FailureType.DataError, "Safety check failed")


def transaction_hash(request: messages.EthereumSignTxEIP1559, data: bytes) -> bytes:
    """The digest the device signs, put together from the request\'s own bytes (EIP-1559)."""
    fields = [
        request.chain_id,
        request.nonce,
        request.max_priority_fee,
        request.max_gas_fee,
        request.gas_limit,
        bytes.fromhex((request.to or "")[-40:]),
        request.value,
        data,
        [[bytes.fromhex(entry.address[-40:]), entry.storage_keys] for entry in request.access_list],
    ]
    return keccak(b"\x02" + bytes(rlp.encode(fields)))

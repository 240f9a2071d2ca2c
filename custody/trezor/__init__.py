"""Treasury devices: opening a Trezor, what it signs, what its screens show, and what went wrong in a
sentence.
"""

from custody.trezor.derivation import (
    TREASURY_PATH,
    DerivationPathError,
    format_derivation_path,
    parse_derivation_path,
)
from custody.trezor.device import open_device
from custody.trezor.preview import device_screens, human_lines
from custody.trezor.prompts import Prompt
from custody.trezor.sentences import (
    DeviceBusy,
    DeviceError,
    DeviceGarbled,
    DeviceLocked,
    DeviceNotFound,
    DeviceRejected,
    DeviceTimeout,
    WrongSigner,
    WrongWallet,
)
from custody.trezor.signing import DeviceFacts, SigningDevice
from custody.trezor.transaction import (
    Signature,
    SignatureError,
    TransactionError,
    UnsignedTransaction,
    decode_erc20_transfer,
    encode_erc20_transfer,
    recover_signer,
)

__all__ = [
    "TREASURY_PATH",
    "DerivationPathError",
    "DeviceBusy",
    "DeviceError",
    "DeviceFacts",
    "DeviceGarbled",
    "DeviceLocked",
    "DeviceNotFound",
    "DeviceRejected",
    "DeviceTimeout",
    "Prompt",
    "Signature",
    "SignatureError",
    "SigningDevice",
    "TransactionError",
    "UnsignedTransaction",
    "WrongSigner",
    "WrongWallet",
    "decode_erc20_transfer",
    "device_screens",
    "encode_erc20_transfer",
    "format_derivation_path",
    "human_lines",
    "open_device",
    "parse_derivation_path",
    "recover_signer",
]

"""An opened device: what the fleet asks of it, with the wallet checked before and the signer after."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from eth_utils.address import is_checksum_address

from custody.trezor.derivation import ACCOUNT_DEPTH, HARDENED, parse_derivation_path
from custody.trezor.sentences import DeviceClosed, DeviceGarbled, DeviceUnsupported, WrongSigner, WrongWallet
from custody.trezor.transaction import (
    Signature,
    SignatureError,
    UnsignedTransaction,
    message_hash,
    recover_signer,
)

if TYPE_CHECKING:
    from trezorlib.client import Session, TrezorClient

    from custody.trezor.definitions import Definitions
    from custody.trezor.prompts import Prompts
    from custody.trezor.transport import DeadlineTransport

log = structlog.get_logger(__name__)

CANCEL_TIMEOUT_SECONDS: Final = 1.0  # the farewell to a device that has just failed must not cost another wait
MIN_MESSAGE_BYTES: Final = 33  # a 32-byte text can be turned into a Safe owner's signature (R6)
MAX_MESSAGE_BYTES: Final = 1_024  # what a Trezor One accepts
MESSAGE_SIGNATURE_BYTES: Final = 65
BLIND_MODEL: Final = "T1B1"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device says of itself at open; a gate compares it with what the treasury pinned (R22)."""

    model: str  # internal name: T1B1, T2T1, T3T1
    firmware: str  # 1.14.2
    device_id: str | None  # changes when the device is wiped
    fingerprint: str  # of the wallet's root key, 8 hexadecimal digits; changes with seed or passphrase
    pin_on: bool
    passphrase_on: bool
    backup_done: bool
    strict_path_checks: bool


class SigningDevice:
    """One opened device and wallet. Built by `open_device`; after any error it refuses further work."""

    def __init__(
        self,
        *,
        session: Session[Any, Any],
        transport: DeadlineTransport,
        prompts: Prompts,
        facts: DeviceFacts,
        address: str,
        steps: tuple[int, ...],
    ) -> None:
        self.facts = facts
        self.address = address
        self._session = session
        self._transport = transport
        self._prompts = prompts
        self._steps = steps
        self._closed = False

    @property
    def model(self) -> str:
        """The maker's internal model name, such as T1B1 (One), T2T1 (T), T3B1 (Safe 3), T3T1 (Safe 5)."""
        return self.facts.model

    @property
    def firmware(self) -> str:
        """The firmware version, such as 1.14.2."""
        return self.facts.firmware

    @property
    def device_id(self) -> str | None:
        """The device's own id; a wipe gives it a new one."""
        return self.facts.device_id

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the wallet's root key, 8 hexadecimal digits."""
        return self.facts.fingerprint

    def sign_transaction(self, transaction: UnsignedTransaction, definitions: Definitions | None = None) -> Signature:
        """Ask the person at the device to sign exactly this transaction; one attempt, never repeated.

        `definitions` tell a device what it does not know of chain and token; it refuses what its maker did not sign.

        The wallet is asked for its address before the first screen, and the signature's signer is recovered
        after the last: both must be `address`. Raises the errors of custody.trezor.sentences.
        """
        from trezorlib import ethereum, messages

        along = None
        if definitions is not None:
            along = messages.EthereumDefinitions(encoded_network=definitions.network, encoded_token=definitions.token)
        with self._operation("sign_transaction"):
            self._require_same_wallet()
            y_parity, r, s = ethereum.sign_tx_eip1559(
                self._session,
                list(self._steps),
                nonce=transaction.nonce,
                gas_limit=transaction.gas_limit,
                to=transaction.to,
                value=transaction.value,
                data=transaction.data,
                chain_id=transaction.chain_id,
                max_gas_fee=transaction.max_fee_per_gas,
                max_priority_fee=transaction.max_priority_fee_per_gas,
                definitions=along,
            )
            try:
                signature = Signature(y_parity, int.from_bytes(r, "big"), int.from_bytes(s, "big"))
                signer = transaction.recover(signature)
            except SignatureError as error:
                raise DeviceGarbled(f"The device's signature is malformed: {error}.") from error
            self._require_signer(signer)
        return signature

    def sign_message(self, text: str) -> tuple[bytes, str]:
        """Have a text signed (EIP-191) and return (65 bytes r‖s‖v with v 27 or 28, the signer's address).

        The text is at least 33 bytes of UTF-8, because 32 bytes could be the digest of something else (R6),
        and at most 1,024. A Trezor One shows it as hexadecimal unless all of it is printable ASCII without
        line breaks. Raises ValueError for its length, else the errors of custody.trezor.sentences.
        """
        from trezorlib import ethereum

        length = len(text.encode())
        if not MIN_MESSAGE_BYTES <= length <= MAX_MESSAGE_BYTES:
            raise ValueError(
                f"message of {length} bytes: expected {MIN_MESSAGE_BYTES} to {MAX_MESSAGE_BYTES} bytes (R6)",
            )
        with self._operation("sign_message"):
            self._require_same_wallet()
            answer = ethereum.sign_message(self._session, list(self._steps), text)
            raw = answer.signature
            if len(raw) != MESSAGE_SIGNATURE_BYTES:
                raise DeviceGarbled(f"The device's signature has {len(raw)} bytes instead of 65.")
            try:
                signature = Signature(raw[64] - 27, int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"))
                signer = recover_signer(message_hash(text), signature)
            except SignatureError as error:
                raise DeviceGarbled(f"The device's signature is malformed: {error}.") from error
            self._require_signer(signer)
            self._require_signer(answer.address)
        return raw, signer

    def sign_safe_transaction(self, typed_data: Mapping[str, Any], digest: bytes) -> Signature:
        """Ask the person at the device to sign typed data (EIP-712), field by field; one attempt, never repeated.

        ``digest`` is the 32 bytes that the fields hash to as this machine computes it: the signature must recover to
        `address` over it, so a device that signed anything else is found out. A Trezor One signs only a hash that its
        person cannot read, and is refused before it is asked (R2, R16). Raises the errors of custody.trezor.sentences.
        """
        from trezorlib import ethereum

        if self.model == BLIND_MODEL:
            raise DeviceUnsupported(
                "A Trezor One cannot show a Safe's transaction: it would sign a hash blind.",
                "Use a core model (T, Safe 3, Safe 5) as a Safe's owner.",
            )
        with self._operation("sign_safe_transaction"):
            self._require_same_wallet()
            answer = ethereum.sign_typed_data(self._session, list(self._steps), dict(typed_data))
            raw = answer.signature
            if len(raw) != MESSAGE_SIGNATURE_BYTES:
                raise DeviceGarbled(f"The device's signature has {len(raw)} bytes instead of 65.")
            try:
                signature = Signature(raw[64] - 27, int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"))
                signer = recover_signer(digest, signature)
            except SignatureError as error:
                raise DeviceGarbled(f"The device's signature is malformed: {error}.") from error
            self._require_signer(signer)
            self._require_signer(answer.address)
        return signature

    def account_xpub(self, path: str) -> str:
        """The extended public key of an account such as m/44'/60'/0', without a prompt.

        Raises ValueError for a path that is not three hardened steps: an xpub of another depth derives
        other addresses than the ones people expect (R24).
        """
        from trezorlib import ethereum

        steps = parse_derivation_path(path)
        if len(steps) != ACCOUNT_DEPTH or any(step < HARDENED for step in steps):
            raise ValueError(f"account path {path!r}: expected three hardened steps such as m/44'/60'/0'")
        with self._operation("account_xpub"):
            key = ethereum.get_public_node(self._session, list(steps), show_display=False)
            if key.node.depth != ACCOUNT_DEPTH or key.node.child_num != steps[-1]:
                raise DeviceGarbled("The device answered with the key of another path.")
        return key.xpub

    def close(self) -> None:
        """Let go of the device. It can be called twice; an operation after it raises DeviceClosed."""
        if self._closed:
            return
        self._closed = True
        self._transport.allow(CANCEL_TIMEOUT_SECONDS)
        with suppress(Exception):
            self._session.close()
        with suppress(Exception):
            self._transport.close()

    @contextmanager
    def _operation(self, name: str) -> Generator[None]:
        if self._closed:
            raise DeviceClosed("This device was closed, or an error ended its session.")
        self._prompts.begin()
        try:
            # Another client may have used the device since; this brings our own wallet back, or fails.
            initialize = getattr(self._session, "initialize", None)
            if initialize is not None:
                initialize()
            yield
        except BaseException as error:
            self._drop()
            if not isinstance(error, Exception):
                raise
            ours = self._prompts.explain(error)
            log.warning(
                "device_operation_failed",
                operation=name,
                error=type(ours).__name__,
                cause=type(error).__name__,
            )
            if ours is error:
                raise
            raise ours from error

    def _drop(self) -> None:
        """Clear the prompt on the screen, so that a late press signs nothing, and let the session go."""
        self._closed = True
        clear_screen(self._session.client, self._transport)

    def _require_same_wallet(self) -> None:
        found = read_address(self._session, self._steps)
        if found != self.address:
            raise WrongWallet(f"The device's wallet has address {found}, the expected one is {self.address}.")

    def _require_signer(self, signer: str) -> None:
        if signer != self.address:
            raise WrongSigner(f"The device signed with the key of {signer} instead of {self.address}.")


def read_address(session: Session[Any, Any], steps: tuple[int, ...]) -> str:
    """The wallet's address at a path, asked of the device without a prompt."""
    from trezorlib import ethereum

    address = ethereum.get_address(session, list(steps), show_display=False)
    if not is_checksum_address(address):
        raise DeviceGarbled("The device's address is not a checksum address.")
    return address


def clear_screen(client: TrezorClient[Any] | None, transport: DeadlineTransport) -> None:
    """Cancel whatever the device still shows and close the connection; a dead device is left as it is."""
    transport.allow(CANCEL_TIMEOUT_SECONDS)
    with suppress(Exception):
        if client is not None:
            client.cancel()
    with suppress(Exception):
        transport.close()

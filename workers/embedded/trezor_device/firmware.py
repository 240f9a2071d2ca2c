"""What the software device answers: the flows of a Trezor One 1.14.2, and of a core model what it adds, each a generator that waits for the
host.

A flow yields a message and is resumed with the host's next one, or yields AWAIT_PRESS and is resumed with
what the person pressed. Cancel and Initialize end any flow, as on the device.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import Final

from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak
from trezorlib import messages
from trezorlib.mapping import DEFAULT_MAPPING
from trezorlib.messages import ButtonRequestType, FailureType
from trezorlib.protobuf import MessageType

from workers.embedded.trezor_device.faults import Fault, Press
from workers.embedded.trezor_device.identity import Model, describe
from workers.embedded.trezor_device.requests import (
    Refusal,
    require_path,
    require_transaction,
    transaction_hash,
)
from workers.embedded.trezor_device.screens import (
    Screen,
    data_screens,
    fee_screens,
    message_screens,
    send_screen,
)
from workers.embedded.trezor_device.typed_data import read_typed_data, typed_data_hash
from workers.embedded.trezor_device.wallet import PublicNode, Wallet

MAX_SESSIONS: Final = 10  # the device forgets the least recently used one
DATA_CHUNK_BYTES: Final = 1_024
MAX_MESSAGE_BYTES: Final = 1_024
OTHER_SEED: Final = "abandon " * 11 + "about"  # BIP-39's first test vector: surely not the treasury's


class _AwaitPress:
    pass


_AWAIT_PRESS: Final = _AwaitPress()
_Step = Generator[MessageType | _AwaitPress, MessageType | bool, None]
_Flow = Generator[MessageType | _AwaitPress, MessageType | bool, MessageType]


class Firmware:
    """One device's state. Not thread-safe: `receive` and `press` are called by one thread.

    `screens` holds what was shown, `traffic` the wire types in both directions, `signatures` how many were
    made.
    """

    def __init__(
        self,
        seed: str,
        *,
        pin: str | None,
        passphrase_on: bool,
        buttons: Press,
        fault: Fault | None,
        on_screen: Callable[[Screen], None],
        model: Model = Model.ONE,
    ) -> None:
        self.model = model
        self.fault = fault
        self.buttons = buttons
        self.screens: list[Screen] = []
        self.traffic: list[int] = []
        self.signatures = 0
        self.pin_layout = ""
        self._seed = seed
        self._pin = pin
        self._unlocked = pin is None
        self._passphrase_on = passphrase_on
        self._on_screen = on_screen
        self._wallets = {(seed, ""): Wallet(seed)}
        self._sessions: OrderedDict[bytes, str | None] = OrderedDict()
        self._session = b""
        self._flow: _Flow | None = None
        self.awaits_press = False
        self._prompt_shown = False
        self._early_press: bool | None = None
        self._device_id = secrets.token_hex(12).upper()

    def receive(self, kind: int, body: bytes) -> list[MessageType]:
        """Handle one message of the host and return the device's answers."""
        self.traffic.append(kind)
        try:
            request = DEFAULT_MAPPING.decode(kind, body)
        except KeyError:
            return self._answer(_failure(FailureType.UnexpectedMessage, "Unknown message"))
        except Exception:
            return self._answer(_failure(FailureType.DataError, "Message could not be decoded"))
        if isinstance(request, messages.Cancel):
            self._end_flow()
            return self._answer(_failure(FailureType.ActionCancelled))
        if isinstance(request, messages.Initialize):
            self._end_flow()
        if self._flow is None:
            self._flow = self._start(request)
            return self._advance(None)
        if self.awaits_press:
            self._end_flow()
            return self._answer(_failure(FailureType.UnexpectedMessage, "Unexpected message"))
        return self._advance(request)

    def press(self, *, confirm: bool) -> list[MessageType]:
        """A person presses a button; ignored when no screen asks for one."""
        if not self.awaits_press:
            # The screen is drawn a packet before the host's ButtonAck: a quick finger counts.
            self._early_press = confirm if self._prompt_shown else None
            return []
        self.awaits_press = False
        return self._advance(confirm)

    def _advance(self, value: MessageType | bool | None) -> list[MessageType]:
        assert self._flow is not None
        while True:
            try:
                step = self._flow.send(value)  # pyright: ignore[reportArgumentType]  (None starts a generator)
            except StopIteration as done:
                self._end_flow()
                return self._answer(done.value)
            except Refusal as refusal:
                self._end_flow()
                return self._answer(_failure(refusal.code, refusal.message))
            if not isinstance(step, _AwaitPress):
                return self._answer(step)
            if self.fault is Fault.REJECT or (self.buttons is Press.NO and self.fault is not Fault.NEVER_ANSWER):
                value = False
            elif self.fault is Fault.NEVER_ANSWER or (self.buttons is Press.ASK and self._early_press is None):
                self.awaits_press = True
                return []
            elif self.buttons is Press.ASK:
                value, self._early_press = self._early_press, None
            else:
                value = True

    def _answer(self, message: MessageType) -> list[MessageType]:
        self.traffic.append(int(message.MESSAGE_WIRE_TYPE or 0))
        return [message]

    def _end_flow(self) -> None:
        if self._flow is not None:
            self._flow.close()
        self._flow = None
        self.awaits_press = self._prompt_shown = False
        self._early_press = None

    def _start(self, request: MessageType) -> _Flow:  # noqa: PLR0911, PLR0912  (one line a request)
        match request:
            case messages.Initialize():
                return self._initialize(request)
            case messages.GetFeatures():
                return _at_once(self._features(None))
            case messages.Ping():
                return self._ping(request)
            case messages.EndSession():
                return self._end_session()
            case messages.LockDevice():
                return self._lock()
            case messages.ApplyFlags():
                return self._apply_flags()
            case messages.GetPublicKey():
                return self._get_public_key(request)
            case messages.EthereumGetAddress():
                return self._get_address(request)
            case messages.EthereumGetPublicKey():
                return self._get_ethereum_public_key(request)
            case messages.EthereumSignTxEIP1559():
                return self._sign_transaction(request)
            case messages.EthereumSignMessage():
                return self._sign_message(request)
            case messages.EthereumSignTypedData() if self.model is not Model.ONE:
                return self._sign_typed_data(request)
            case _:
                return _at_once(_failure(FailureType.UnexpectedMessage, "Unknown message"))

    # Sessions, lock, features

    def _initialize(self, request: messages.Initialize) -> _Flow:
        wanted = request.session_id
        if wanted is not None and wanted in self._sessions:
            self._sessions.move_to_end(wanted)
            self._session = wanted
        else:
            self._open_session()
        yield from ()
        return self._features(self._session)

    def _open_session(self) -> None:
        self._session = secrets.token_bytes(32)
        self._sessions[self._session] = None
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _end_session(self) -> _Flow:
        self._sessions.pop(self._session, None)
        self._session = b""
        yield from ()
        return messages.Success(message="Session ended")

    def _ping(self, request: messages.Ping) -> _Flow:
        if request.button_protection:
            yield from self._confirm(ButtonRequestType.ProtectCall, ("Do you really want to", "answer to ping?"))
        return messages.Success(message=request.message)

    def _lock(self) -> _Flow:
        self._unlocked = self._pin is None
        yield from ()
        return messages.Success(message="Session cleared")

    def _apply_flags(self) -> _Flow:
        yield from self._unlock()
        return messages.Success(message="Flags applied")

    def _features(self, session: bytes | None) -> messages.Features:
        return describe(
            self.model,
            device_id=self._device_id,
            pin_on=self._pin is not None or self.fault is Fault.PIN_LOCKED,
            unlocked=not self._is_locked,
            passphrase_on=self._asks_passphrase,
            session=session,
            initialized=self.fault is not Fault.WIPED,
            bootloader=self.fault is Fault.BOOTLOADER,
        )

    @property
    def _is_locked(self) -> bool:
        return self.fault is Fault.PIN_LOCKED or not self._unlocked

    @property
    def _asks_passphrase(self) -> bool:
        return self._passphrase_on or self.fault is Fault.PASSPHRASE

    def _unlock(self) -> _Step:
        if not self._is_locked:
            return
        shuffled = list("123456789")
        secrets.SystemRandom().shuffle(shuffled)
        self.pin_layout = "".join(shuffled)
        # Position 1 is at the bottom left, as on a number pad.
        rows = [" ".join(shuffled[start : start + 3]) for start in (6, 3, 0)]
        self._show(("Please enter current PIN", *rows))
        answer = yield messages.PinMatrixRequest(type=messages.PinMatrixRequestType.Current)
        if not isinstance(answer, messages.PinMatrixAck):
            raise Refusal(FailureType.UnexpectedMessage, "Unexpected message")
        entered = "".join(shuffled[int(position) - 1] for position in answer.pin if position in "123456789")
        right = self._pin is not None and hmac.compare_digest(entered, self._pin)
        if self.fault is Fault.PIN_LOCKED or not right:
            raise Refusal(FailureType.PinInvalid, "PIN invalid")
        self._unlocked = True

    def _open_wallet(self) -> Generator[MessageType | _AwaitPress, MessageType | bool, Wallet]:
        yield from self._unlock()
        if self._session not in self._sessions:
            self._open_session()
        passphrase = ""
        if self._asks_passphrase:
            known = self._sessions[self._session]
            if known is None:
                answer = yield messages.PassphraseRequest()
                if not isinstance(answer, messages.PassphraseAck) or answer.passphrase is None:
                    raise Refusal(FailureType.DataError, "No passphrase provided")
                known = self._sessions[self._session] = answer.passphrase
            passphrase = known
        key = (OTHER_SEED if self.fault is Fault.OTHER_WALLET else self._seed, passphrase)
        if key not in self._wallets:
            self._wallets[key] = Wallet(*key)
        return self._wallets[key]

    # Screens and buttons

    def _show(self, screen: Screen) -> None:
        self.screens.append(screen)
        self._on_screen(screen)

    def _confirm(self, code: ButtonRequestType, screen: Screen) -> _Step:
        self._show(screen)
        self._prompt_shown = True
        answer = yield messages.ButtonRequest(code=code)
        if not isinstance(answer, messages.ButtonAck):
            raise Refusal(FailureType.UnexpectedMessage, "Unexpected message")
        confirmed = yield _AWAIT_PRESS
        self._prompt_shown = False
        if confirmed is not True:
            raise Refusal(FailureType.ActionCancelled)

    # Keys

    def _get_public_key(self, request: messages.GetPublicKey) -> _Flow:
        wallet = yield from self._open_wallet()
        node = wallet.public_node(request.address_n)
        if request.show_display:
            yield from self._confirm(ButtonRequestType.PublicKey, ("Public key", node.public_key.hex()))
        return messages.PublicKey(node=_node(node), xpub=node.xpub)

    def _get_ethereum_public_key(self, request: messages.EthereumGetPublicKey) -> _Flow:
        wallet = yield from self._open_wallet()
        require_path(request.address_n, export=True)
        node = wallet.public_node(request.address_n)
        if request.show_display:
            yield from self._confirm(ButtonRequestType.PublicKey, ("Public key", node.public_key.hex()))
        return messages.EthereumPublicKey(node=_node(node), xpub=node.xpub)

    def _get_address(self, request: messages.EthereumGetAddress) -> _Flow:
        wallet = yield from self._open_wallet()
        require_path(request.address_n, export=False)
        address = wallet.private_key(request.address_n).public_key.to_checksum_address()
        if request.show_display:
            yield from self._confirm(ButtonRequestType.Address, ("Address:", address))
        return messages.EthereumAddress(address=address)

    # Signing

    def _sign_transaction(self, request: messages.EthereumSignTxEIP1559) -> _Flow:
        wallet = yield from self._open_wallet()
        require_path(request.address_n, export=False)
        require_transaction(request)
        yield from self._confirm(ButtonRequestType.SignTx, send_screen(request))
        for screen, is_warning in data_screens(request):
            code = ButtonRequestType.ProtectCall if is_warning else ButtonRequestType.SignTx
            yield from self._confirm(code, screen)
        for screen in fee_screens(request):
            yield from self._confirm(ButtonRequestType.SignTx, screen)
        data = request.data_initial_chunk or b""
        while len(data) < (request.data_length or 0):
            left = request.data_length - len(data)
            answer = yield messages.EthereumTxRequest(data_length=min(left, DATA_CHUNK_BYTES))
            if not isinstance(answer, messages.EthereumTxAck):
                raise Refusal(FailureType.UnexpectedMessage, "Unexpected message")
            chunk = answer.data_chunk
            if not chunk or len(chunk) > left:
                raise Refusal(FailureType.DataError, "Too much data" if chunk else "Empty data chunk received")
            data += chunk
        signature = self._signing_key(wallet, request.address_n).sign_msg_hash(transaction_hash(request, data))
        self.signatures += 1
        return messages.EthereumTxRequest(
            signature_v=signature.v,
            signature_r=signature.r.to_bytes(32, "big"),
            signature_s=signature.s.to_bytes(32, "big"),
        )

    def _sign_message(self, request: messages.EthereumSignMessage) -> _Flow:
        wallet = yield from self._open_wallet()
        require_path(request.address_n, export=False)
        if len(request.message) > MAX_MESSAGE_BYTES:
            raise Refusal(FailureType.DataError, "Message too long")
        address = wallet.private_key(request.address_n).public_key.to_checksum_address()
        for screen in message_screens(address, request.message):
            yield from self._confirm(ButtonRequestType.Other, screen)
        head = f"\x19Ethereum Signed Message:\n{len(request.message)}".encode()
        signature = self._signing_key(wallet, request.address_n).sign_msg_hash(keccak(head + request.message))
        self.signatures += 1
        raw = signature.r.to_bytes(32, "big") + signature.s.to_bytes(32, "big") + bytes([27 + signature.v])
        return messages.EthereumMessageSignature(signature=raw, address=address)

    def _sign_typed_data(self, request: messages.EthereumSignTypedData) -> _Flow:
        wallet = yield from self._open_wallet()
        require_path(request.address_n, export=False)
        domain, message = yield from read_typed_data(request.primary_type)
        for screen in (*domain.screens(), *message.screens()):
            yield from self._confirm(ButtonRequestType.Other, screen)
        signature = self._signing_key(wallet, request.address_n).sign_msg_hash(typed_data_hash(domain, message))
        self.signatures += 1
        raw = signature.r.to_bytes(32, "big") + signature.s.to_bytes(32, "big") + bytes([27 + signature.v])
        address = wallet.private_key(request.address_n).public_key.to_checksum_address()
        return messages.EthereumTypedDataSignature(signature=raw, address=address)

    def _signing_key(self, wallet: Wallet, path: Sequence[int]) -> PrivateKey:
        if self.fault is Fault.WRONG_SIGNATURE:
            path = [*path[:-1], path[-1] + 1]
        return wallet.private_key(path)


def _at_once(message: MessageType) -> _Flow:
    yield from ()
    return message


def _failure(code: FailureType, message: str | None = None) -> messages.Failure:
    return messages.Failure(code=code, message=message)


def _node(node: PublicNode) -> messages.HDNodeType:
    return messages.HDNodeType(
        depth=node.depth,
        fingerprint=node.parent_fingerprint,
        child_num=node.child_number,
        chain_code=node.chain_code,
        public_key=node.public_key,
    )

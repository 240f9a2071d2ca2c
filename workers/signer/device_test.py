"""A device tried out: it signs each kind of thing that the fleet asks of it, with a key that holds nothing.

The account is no role's (R6), so nothing that is signed here is worth anything. What a model must refuse counts only
when it is refused; nothing is skipped.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from custody.policy.signatures import signer_of
from custody.safe import SafeTransaction
from custody.trezor import DeviceError, Prompt, SigningDevice, UnsignedTransaction, encode_erc20_transfer, open_device
from custody.trezor.sentences import DeviceUnsupported
from custody.trezor.text_rows import in_rows

TEST_PATH: Final = "m/44'/60'/9'/0/0"
"""Of no role: registration, approval, owners and treasury have accounts 1 to 4."""
BLIND: Final = frozenset({"T1B1"})
_USDT: Final = "0xdAC17F958D2ee523a2206206994597C13D831ec7"
_GWEI: Final = 10**9


@dataclass(frozen=True, slots=True)
class Check:
    """One thing asked of the device: ``outcome`` is ``signed``, or ``refused`` where that is what must happen."""

    name: str
    outcome: str
    presses: int


@dataclass
class DeviceReport:
    """What was tried on which device. ``skipped`` is 0 in every report: a check that cannot run is an error."""

    model: str
    firmware: str
    address: str
    checks: list[Check] = field(default_factory=list[Check])
    skipped: int = 0

    @property
    def signatures(self) -> int:
        """How many signatures it made, each of which recovered to its address."""
        return sum(each.outcome == "signed" for each in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "model": self.model,
            "firmware": self.firmware,
            "address": self.address,
            "signatures": self.signatures,
            "refused": sum(each.outcome == "refused" for each in self.checks),
            "presses": sum(each.presses for each in self.checks),
            "skipped": self.skipped,
            "checks": [asdict(each) for each in self.checks],
        }


class DebugPresses:
    """Presses Yes through an emulator's debug link, a UDP port of its own (``udp:127.0.0.1:21325``)."""

    def __init__(self, path: str) -> None:
        from trezorlib.transport.udp import UdpTransport

        self._transport = UdpTransport(path.removeprefix("udp:"))
        self._transport.open()

    def __call__(self, _prompt: Prompt) -> None:
        """Confirm the screen that waits."""
        from trezorlib import protocol_v1
        from trezorlib.mapping import DEFAULT_MAPPING
        from trezorlib.messages import DebugButton, DebugLinkDecision

        protocol_v1.write(self._transport, *DEFAULT_MAPPING.encode(DebugLinkDecision(button=DebugButton.YES)))

    def close(self) -> None:
        """Close the port."""
        self._transport.close()


def try_device(
    path: str,
    *,
    press: Callable[[Prompt], None],
    tell: Callable[[str], None] = lambda _: None,
    approval_timeout_seconds: float = 120.0,
    pin_callback: Callable[[], str] | None = None,
    lock_folder: Path | None = None,
) -> DeviceReport:
    """Have the device at ``path`` sign one of each kind; raises DeviceError at the first that goes wrong.

    ``press`` is called when a screen waits: it presses, or tells a person to.
    """
    presses = 0

    def counted(prompt: Prompt) -> None:
        nonlocal presses
        presses += 1
        press(prompt)

    with open_device(
        path,
        expected_address=None,
        derivation_path=TEST_PATH,
        pin_callback=pin_callback,
        passphrase="",
        button_callback=counted,
        approval_timeout_seconds=approval_timeout_seconds,
        lock_folder=lock_folder,
    ) as device:
        report = DeviceReport(device.model, device.firmware, device.address)
        for name, ask in _asked(device):
            tell(name)
            before = presses
            outcome = ask()
            report.checks.append(Check(name, outcome, presses - before))
    return report


def _asked(device: SigningDevice) -> list[tuple[str, Callable[[], str]]]:
    own = device.address
    coins = UnsignedTransaction(1, 7, _GWEI, 2 * _GWEI, 21_000, own, 10**15)
    token = UnsignedTransaction(1, 8, _GWEI, 2 * _GWEI, 65_000, _USDT, 0, encode_erc20_transfer(own, 1_234_500_000))
    text = in_rows(verb="TEST amanat", says="worth nothing", address=own)
    safe = SafeTransaction(1, _USDT, own, 10**15, b"", 0)

    def sign_coins() -> str:
        return _signed(coins.recover(device.sign_transaction(coins)), own)

    def sign_token() -> str:
        return _signed(token.recover(device.sign_transaction(token)), own)

    def sign_text() -> str:
        signature, _ = device.sign_message(text)
        return _signed(signer_of(text, "0x" + signature.hex()), own)

    def sign_safe() -> str:
        try:
            device.sign_safe_transaction(safe.typed_data(), safe.hash())
        except DeviceUnsupported:
            if device.model not in BLIND:
                raise
            return "refused"
        return "signed"

    return [
        ("a transfer of coins", sign_coins),
        ("a transfer of a token", sign_token),
        ("a text", sign_text),
        ("a Safe's transaction", sign_safe),
    ]


def _signed(signer: str, expected: str) -> str:
    if signer != expected:
        raise DeviceError(f"The device signed as {signer}; expected {expected}.")
    return "signed"

"""Opening a Trezor, and the few things the fleet asks of it.

Every rule here answers a hazard measured on the library (0.20.2): reads that never end, sessions that stay
stuck after a timeout, two clients that get each other's wallet, secrets in debug logs. trezorlib is imported
inside functions: only a process that opens a device pays for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from eth_utils.address import is_checksum_address

from custody.trezor.derivation import parse_derivation_path
from custody.trezor.prompts import Prompt, Prompts
from custody.trezor.sentences import (
    DeviceNotReady,
    DevicePassphrase,
    DeviceUnsupported,
    WrongWallet,
    explain,
)
from custody.trezor.signing import DeviceFacts, SigningDevice, clear_screen, read_address

if TYPE_CHECKING:
    from trezorlib.client import Session, TrezorClient

    from custody.trezor.transport import DeadlineTransport

log = structlog.get_logger(__name__)

APPROVAL_TIMEOUT_SECONDS: Final = 120.0  # a person reads four to ten screens; then nobody is there
APP_NAME: Final = "Amanat custody fleet"


@contextmanager
def open_device(
    path: str,
    *,
    expected_address: str | None,
    derivation_path: str,
    expected_fingerprint: str | None = None,
    pin_callback: Callable[[], str] | None = None,
    passphrase: str | Callable[[], str] | None = None,
    button_callback: Callable[[Prompt], None] | None = None,
    approval_timeout_seconds: float = APPROVAL_TIMEOUT_SECONDS,
    lock_folder: Path | None = None,
) -> Generator[SigningDevice]:
    """Open the device at `path` under its exclusive lock and give the wallet at `derivation_path`.

    `path` may name several, with commas between, or a kind that several are attached by: then
    `expected_fingerprint`, the root key's as 8 hexadecimal digits, says which one, and each other is let go of
    without a prompt (R23). One device whose fingerprint differs raises WrongWallet.
    `expected_address` is the pinned checksum address; with another wallet nothing is shown and WrongWallet is
    raised. None is for enrolment only. `pin_callback` returns matrix positions (a Trezor One); `passphrase`
    is "" for the standard wallet, a text or a callable for a hidden one, and None when none is known: a
    device with passphrases on then asks on its own screen, or is refused when it cannot. `button_callback` is
    told of each screen that waits for a person, who has `approval_timeout_seconds` for all of them. Raises
    the errors of custody.trezor.sentences, and ValueError for a malformed path or address.
    """
    steps = parse_derivation_path(derivation_path)
    if expected_address is not None and not is_checksum_address(expected_address):
        raise ValueError(f"expected_address {expected_address!r}: expected an EIP-55 checksum address or None")
    keep_library_quiet()
    from custody.trezor.transport import DeadlineTransport, ambiguous, exclusive_lock, find_transports

    try:
        candidates = find_transports(path)
        if len(candidates) > 1 and expected_fingerprint is None:
            raise ambiguous(candidates)
    except Exception as error:
        raise explain(error) from error
    found: list[str] = []
    for inner in candidates:
        with exclusive_lock(inner.get_path(), lock_folder):
            transport = DeadlineTransport(inner)
            prompts = Prompts(transport, approval_timeout_seconds, pin_callback, button_callback)
            device = _open(transport, prompts, steps, passphrase, expected_address, expected_fingerprint)
            if isinstance(device, str):
                found.append(device)
                continue
            try:
                yield device
            finally:
                device.close()
            return
    raise WrongWallet(
        f"The wallet with fingerprint {expected_fingerprint} is on no device here; found: {', '.join(found)}."
    )


def keep_library_quiet() -> None:
    """Hold the library's loggers at INFO or above: below it they write whole messages, PIN and passphrase
    too.
    """
    logger = logging.getLogger("trezorlib")
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))


def _open(
    transport: DeadlineTransport,
    prompts: Prompts,
    steps: tuple[int, ...],
    passphrase: str | Callable[[], str] | None,
    expected_address: str | None,
    expected_fingerprint: str | None,
) -> SigningDevice | str:
    """The opened device, or the fingerprint of one that is another's."""
    from trezorlib import client as library

    client: TrezorClient[Any] | None = None
    try:
        prompts.begin()
        transport.open()
        manifest = library.AppManifest(APP_NAME, button_callback=prompts.button, pin_callback=prompts.pin)
        client = library.get_client(manifest, transport)
        features = client.features
        if features.bootloader_mode:
            raise DeviceNotReady("The device is in bootloader mode.", "Restart it without holding its buttons.")
        if not features.initialized:
            raise DeviceNotReady("The device has no seed.")
        session = client.get_session(_choose_passphrase(client, passphrase))
        facts = _read_facts(client, session)
        if expected_fingerprint is not None and facts.fingerprint != expected_fingerprint:
            clear_screen(client, transport)
            return facts.fingerprint
        address = read_address(session, steps)
        if expected_address is not None and address != expected_address:
            raise WrongWallet(f"The device's wallet has address {address}, the expected one is {expected_address}.")
    except BaseException as error:
        clear_screen(client, transport)
        if not isinstance(error, Exception):
            raise
        ours = prompts.explain(error)
        log.warning(
            "device_not_opened",
            path=transport.get_path(),
            error=type(ours).__name__,
            cause=type(error).__name__,
        )
        if ours is error:
            raise
        raise ours from error
    log.info(
        "device_opened",
        path=transport.get_path(),
        model=facts.model,
        firmware=facts.firmware,
        address=address,
    )
    return SigningDevice(
        session=session, transport=transport, prompts=prompts, facts=facts, address=address, steps=steps
    )


def _choose_passphrase(client: TrezorClient[Any], passphrase: str | Callable[[], str] | None) -> Any:
    from trezorlib.client import PassphraseSetting
    from trezorlib.messages import Capability

    if callable(passphrase):
        return passphrase() if client.features.passphrase_protection else ""
    if passphrase is not None or not client.features.passphrase_protection:
        return passphrase or ""
    if Capability.PassphraseEntry in client.features.capabilities:
        return PassphraseSetting.ON_DEVICE
    raise DevicePassphrase("The device asks for a passphrase and none was given.")


def _read_facts(client: TrezorClient[Any], session: Session[Any, Any]) -> DeviceFacts:
    from trezorlib.messages import BackupAvailability, Capability, SafetyCheckLevel

    features = client.features
    if features.capabilities and Capability.Ethereum not in features.capabilities:
        raise DeviceUnsupported("This firmware has no Ethereum in it.")
    return DeviceFacts(
        model=client.model.internal_name,
        firmware=".".join(str(part) for part in client.version),
        device_id=features.device_id,
        fingerprint=session.get_root_fingerprint().hex(),
        pin_on=bool(features.pin_protection),
        passphrase_on=bool(features.passphrase_protection),
        backup_done=features.backup_availability in (None, BackupAvailability.NotAvailable)
        and not features.unfinished_backup
        and not features.no_backup,
        strict_path_checks=features.safety_checks in (None, SafetyCheckLevel.Strict),
    )

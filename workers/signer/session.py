"""Signing open instructions one after another: check here, show, ask the device, hand in three numbers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import structlog

from custody.settings.chains import Chains
from custody.trezor import DeviceError, DeviceRejected, Prompt, SigningDevice, device_screens, open_device
from custody.trezor.preview import human_lines
from workers.signer.checks import (
    CheckedInstruction,
    InstructionRefused,
    check_instruction,
    require_device_in_order,
    require_device_path,
    require_readable,
)
from workers.signer.client import ApiInstruction, SignerApiAway, SignerApiError, SignerClient

if TYPE_CHECKING:
    from workers.signer.safe_desk import CheckedSafe

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 0.25  # between looks for the next handed-out instruction; below the API's rate limit
QUEUE_SECONDS: Final = 30.0  # how long open instructions that are not handed out yet are waited for at least

EventKind = Literal["checked", "prompt", "signed", "rejected", "refused", "device_error", "waiting"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens at the desk, for whoever shows it. ``text`` is a sentence; ``screens`` what the device shows."""

    kind: EventKind
    text: str
    instruction_id: str | None = None
    lines: tuple[str, ...] = ()
    screens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SigningDeskSettings:
    """This machine's own facts: where the device is, its wallet's path, and what is allowed without asking anyone.

    ``fee_cap_wei`` bounds one transaction's whole fee; ``approval_timeout_seconds`` is the person's time.
    """

    device_path: str
    derivation_path: str
    approval_timeout_seconds: float
    fee_cap_wei: int
    pin_callback: Callable[[], str] | None = None
    passphrase: str | Callable[[], str] | None = None
    lock_folder: Path | None = None


@dataclass
class SigningOutcome:
    """What a session did, by instruction id; ``errors`` are sentences."""

    signed: list[str] = field(default_factory=list[str])
    rejected: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])


Progress = Callable[[Event], None]
Confirm = Callable[["CheckedInstruction | CheckedSafe", tuple[str, ...]], bool]


def sign_instruction(
    client: SignerClient,
    chains: Chains,
    desk: SigningDeskSettings,
    instruction_id: str,
    *,
    progress: Progress,
    confirm: Confirm,
) -> bool:
    """Sign one handed-out instruction; False when the person said no here (nothing was asked of the device).

    Raises InstructionRefused, DeviceError (a rejection on the device is handed in before it is raised), or
    SignerApiError.
    """
    claimed = client.instruction(instruction_id)
    is_rejection = claimed.state == "cancelling" and claimed.unsigned_kind == "safe_transaction"
    if claimed.state != "handed_out" and not is_rejection:
        raise InstructionRefused(f"Instruction {claimed.id} is {claimed.state}; only a handed-out one can be signed.")
    if claimed.unsigned_kind == "safe_transaction":
        from workers.signer.safe_desk import sign_as_owner  # which tells of what it does by this module's events

        return sign_as_owner(client, chains, desk, claimed, progress=progress, confirm=confirm)
    checked = check_instruction(claimed, chains, fee_cap_wei=desk.fee_cap_wei)
    require_device_path(checked.chain, desk.device_path)
    with open_device(
        desk.device_path,
        expected_address=checked.chain.treasury,
        derivation_path=desk.derivation_path,
        pin_callback=desk.pin_callback,
        passphrase=desk.passphrase,
        button_callback=lambda prompt: progress(prompted(claimed, prompt)),
        approval_timeout_seconds=desk.approval_timeout_seconds,
        lock_folder=desk.lock_folder,
    ) as device:
        return _sign_on(device, client, checked, progress, confirm)


def sign_open_instructions(
    client: SignerClient,
    chains: Chains,
    desk: SigningDeskSettings,
    *,
    wait_seconds: float = 0.0,
    count: int | None = None,
    progress: Progress = lambda _: None,
    confirm: Confirm = lambda _checked, _screens: True,
) -> SigningOutcome:
    """Sign instructions as they are handed out, until none is open for a signer.

    When nothing is open it waits up to ``wait_seconds`` for more; ``count`` ends it after that many signatures.
    A rejection on the device, a local refusal or a device error ends the session: a person looks first. An API
    that restarts is waited for. Raises SignerApiError.
    """
    outcome = SigningOutcome()
    idle_since = time.monotonic()
    refused: set[str] = set()
    while count is None or len(outcome.signed) < count:
        try:
            found = [each for each in client.instructions() if each.id not in refused]
        except SignerApiAway as error:
            if time.monotonic() - idle_since >= max(wait_seconds, QUEUE_SECONDS):
                raise
            progress(Event("waiting", str(error)))
            time.sleep(POLL_SECONDS)
            continue
        waiting = [each for each in found if each.waits_for_signer and each.id not in outcome.signed]
        if waiting:
            _sign_next(client, chains, desk, waiting[0], outcome, progress=progress, confirm=confirm)
            if outcome.rejected or outcome.errors:
                return outcome
            if waiting[0].id not in outcome.signed:
                refused.add(waiting[0].id)
            idle_since = time.monotonic()
            continue
        if (refusal := _needs_people(found, outcome)) is not None:
            outcome.errors.append(refusal)
            return outcome
        queued = any(each.state in {"drafted", "awaiting_approval", "ready", "handed_out"} for each in found)
        patience = max(wait_seconds, QUEUE_SECONDS) if queued else wait_seconds
        if time.monotonic() - idle_since >= patience:
            return outcome
        time.sleep(POLL_SECONDS)
    return outcome


def _sign_next(
    client: SignerClient,
    chains: Chains,
    desk: SigningDeskSettings,
    instruction: ApiInstruction,
    outcome: SigningOutcome,
    *,
    progress: Progress,
    confirm: Confirm,
) -> None:
    try:
        if sign_instruction(client, chains, desk, instruction.id, progress=progress, confirm=confirm):
            outcome.signed.append(instruction.id)
    except DeviceRejected as error:
        outcome.rejected.append(instruction.id)
        outcome.errors.append(str(error))
    except (InstructionRefused, DeviceError) as error:
        kind: EventKind = "refused" if isinstance(error, InstructionRefused) else "device_error"
        progress(Event(kind, str(error), instruction.id))
        outcome.errors.append(str(error))


def _sign_on(
    device: SigningDevice,
    client: SignerClient,
    checked: CheckedInstruction,
    progress: Progress,
    confirm: Confirm,
) -> bool:
    claimed = checked.claimed
    require_device_in_order(checked.chain, device.facts)
    warning = require_readable(checked, device.model, device.firmware)
    screens = tuple(device_screens(checked.transaction, device.model, device.firmware))
    progress(
        Event(
            "checked",
            warning or "The bytes are what the instruction says, for this machine's treasury and chain.",
            claimed.id,
            describe(checked),
            screens,
        )
    )
    if not confirm(checked, screens):
        return False
    try:
        signature = device.sign_transaction(checked.transaction)
    except DeviceRejected as error:
        progress(Event("rejected", str(error), claimed.id))
        client.submit_rejection(claimed.id, f"{error.reason}: {error.what}")
        raise
    client.submit_signature(claimed.id, signature)
    progress(Event("signed", f"Instruction {claimed.id} was signed and handed in.", claimed.id))
    return True


def describe(checked: CheckedInstruction) -> tuple[str, ...]:
    """The instruction in plain words, from the decoded bytes and the local chains file."""
    native = checked.chain.token("native")
    lines = human_lines(
        checked.transaction,
        chain_name=checked.chain.name,
        native_symbol=native.symbol if native else "coins",
        token_symbol=checked.symbol,
        token_decimals=checked.decimals,
    )
    label = checked.claimed.label or "no label in the address book"
    return (f"{checked.claimed.purpose} {checked.claimed.id}", *lines, f"Label      {label}")


def _needs_people(found: list[ApiInstruction], outcome: SigningOutcome) -> str | None:
    """Why signing cannot go on by itself: a refused signature, or a rejected instruction before all others (R1)."""
    for each in found:
        if each.state != "handed_out":
            continue
        last = each.last_submission
        if each.id in outcome.signed and last is not None and (last.kind, last.state) == ("signature", "refused"):
            return f"The fleet refused the signature of instruction {each.id}: {last.reason}"
        if each.rejected_reason is not None:
            return (
                f"Instruction {each.id} was rejected ({each.rejected_reason}) and is still handed out; the next one "
                f"follows once it is signed: fleet signer sign {each.id}"
            )
    return None


def prompted(claimed: ApiInstruction, prompt: Prompt) -> Event:
    """What is told when a screen waits for a person."""
    return Event("prompt", f"Screen {prompt.number} waits on the device.", claimed.id)


__all__ = [
    "Event",
    "SignerApiError",
    "SigningDeskSettings",
    "SigningOutcome",
    "describe",
    "sign_instruction",
    "sign_open_instructions",
]

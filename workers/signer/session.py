"""Signing one instruction: check here, show, ask the device, hand in three numbers.

Between the checks and the device stands the journal: what is asked is on this machine's disk before the device shows
anything, and the answer before it is handed in. A crash anywhere in between loses nothing (R4).
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from custody.settings.chains import NATIVE, Chains
from custody.trezor import DeviceRejected, Prompt, Signature, SigningDevice, device_screens, open_device
from custody.trezor.definitions import DefinitionRefused, Definitions, read_definitions
from custody.trezor.preview import human_lines
from custody.trezor.readability import Unit
from workers.signer.checks import (
    CheckedInstruction,
    InstructionRefused,
    check_instruction,
    require_device_in_order,
    require_device_path,
    require_readable,
)
from workers.signer.client import ApiInstruction, SignerApiError, SignerClient
from workers.signer.journal import Journal
from workers.signer.judgement import Judge, Judged
from workers.signer.trust import Trust

if TYPE_CHECKING:
    from workers.signer.safe_desk import CheckedSafe

EventKind = Literal["checked", "prompt", "signed", "rejected", "refused", "device_error", "waiting", "resumed"]


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
    ``verify_rpc`` are own nodes named for this run, in place of the trust file's. ``fingerprint`` is that of the
    wallet's root key where the trust file names none.
    """

    device_path: str
    derivation_path: str
    approval_timeout_seconds: float
    fee_cap_wei: int
    pin_callback: Callable[[], str] | None = None
    passphrase: str | Callable[[], str] | None = None
    lock_folder: Path | None = None
    trust: Trust | None = None
    journal: Journal | None = None
    verify_rpc: tuple[str, ...] = ()
    fingerprint: str | None = None
    definitions: Path | None = None
    """Folder of the maker's definitions of chains and tokens (R2)."""
    signer: str = "signer"

    @property
    def lease_seconds(self) -> int:
        """How long others are asked to wait: a person's time at the device, and a minute around it."""
        return int(self.approval_timeout_seconds) + 60

    @property
    def judge(self) -> Judge:
        """What an instruction is judged by on this machine."""
        return Judge(self.trust, self.journal, self.verify_rpc)


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

    One whose signature this machine still has is handed in again without asking anyone. Raises InstructionRefused,
    DeviceError (a rejection on the device is handed in before it is raised), or SignerApiError.
    """
    claimed = client.instruction(instruction_id)
    if not claimed.waits_for_signature:
        raise InstructionRefused(f"Instruction {claimed.id} is {claimed.state}; only a handed-out one can be signed.")
    if claimed.unsigned_kind == "safe_transaction":
        from workers.signer.safe_desk import sign_as_owner  # which tells of what it does by this module's events

        return sign_as_owner(client, chains, desk, claimed, progress=progress, confirm=confirm)
    checked = check_instruction(claimed, chains, fee_cap_wei=desk.fee_cap_wei)
    require_device_path(checked.chain, desk.device_path)
    judged = desk.judge.judge(checked, client.seals_after)
    kept = None if desk.journal is None else desk.journal.signature_of(claimed.signing_hash or "")
    if kept is not None:
        progress(Event("resumed", f"The device signed {claimed.id} before; that signature is handed in.", claimed.id))
        _hand_in(client, desk, checked, kept, progress)
        return True
    client.hold_session(desk.lease_seconds, address=checked.chain.treasury)
    with _leased(client, desk, claimed):
        signature = sign_on_device(
            desk, judged, progress=progress, confirm=confirm, on_rejection=_told(client, claimed)
        )
        if signature is None:
            return False
        _hand_in(client, desk, checked, signature, progress)
    return True


def sign_on_device(
    desk: SigningDeskSettings,
    judged: Judged,
    *,
    progress: Progress,
    confirm: Confirm,
    on_rejection: Callable[[DeviceRejected], None],
) -> Signature | None:
    """Have the treasury's device sign what was judged; None when the person said no here.

    The device is opened, compared with what is pinned, and asked once. Raises InstructionRefused and DeviceError;
    ``on_rejection`` is told of a person's no before it is raised.
    """
    checked, claimed = judged.checked, judged.checked.claimed
    pinned = None if desk.trust is None else desk.trust.chain(checked.chain.id)
    with open_device(
        desk.device_path,
        expected_address=checked.chain.treasury,
        expected_fingerprint=(pinned and pinned.device_fingerprint) or desk.fingerprint,
        derivation_path=desk.derivation_path,
        pin_callback=desk.pin_callback,
        passphrase=desk.passphrase,
        button_callback=lambda prompt: progress(prompted(claimed, prompt)),
        approval_timeout_seconds=desk.approval_timeout_seconds,
        lock_folder=desk.lock_folder,
    ) as device:
        definitions = _definitions(desk, checked)
        screens = _show(device, judged, definitions, progress)
        if not confirm(checked, screens):
            return None
        if desk.journal is not None:
            if judged.newest_seal is not None and desk.trust is not None:
                desk.journal.record_seal(desk.trust.environment, judged.newest_seal)
            desk.journal.record_asked(checked, judged.promise)
        try:
            signature = device.sign_transaction(checked.transaction, definitions)
        except DeviceRejected as error:
            if desk.journal is not None:
                desk.journal.record_rejected(checked.transaction)
            progress(Event("rejected", str(error), claimed.id))
            on_rejection(error)
            raise
        if desk.journal is not None:
            desk.journal.record_signed(checked.transaction, signature)
    return signature


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
    if checked.claimed.signs == "cancel":
        return (f"CANCEL of {checked.claimed.purpose} {checked.claimed.id}: nothing is paid", *lines)
    raw = (
        (
            f"RAW UNITS  the device shows {checked.claimed.amount_units}, the token's smallest units: compare every digit",
        )
        if checked.claimed.raw_units
        else ()
    )
    return (f"{checked.claimed.purpose} {checked.claimed.id}", *lines, *raw, f"Label      {label}")


def _definitions(desk: SigningDeskSettings, checked: CheckedInstruction) -> Definitions | None:
    """What this machine's folder says of chain and token, checked; None without a folder. Raises InstructionRefused."""
    if desk.definitions is None:
        return None
    token = None if checked.claimed.token == NATIVE else checked.claimed.token
    try:
        return read_definitions(
            desk.definitions, checked.chain.id, token, symbol=checked.symbol, decimals=checked.decimals
        )
    except DefinitionRefused as error:
        if checked.chain.is_development:  # no maker signs a definition of one
            return None
        raise checked.refusal(str(error).removesuffix(".")) from None


def _show(
    device: SigningDevice, judged: Judged, definitions: Definitions | None, progress: Progress
) -> tuple[str, ...]:
    """Compare the device with what is needed, say what was checked, and return the screens that it will show."""
    checked = judged.checked
    require_device_in_order(checked.chain, device.facts)
    warning = require_readable(checked, device.model, device.firmware, has_definition=definitions is not None)
    defined = (
        None
        if definitions is None or definitions.symbol is None or definitions.decimals is None
        else Unit(definitions.symbol, definitions.decimals)
    )
    screens = tuple(device_screens(checked.transaction, device.model, device.firmware, defined))
    progress(
        Event(
            "checked",
            warning or "The bytes are what the instruction says, for this machine's treasury and chain.",
            checked.claimed.id,
            (*describe(checked), *judged.lines),
            screens,
        )
    )
    return screens


def _hand_in(
    client: SignerClient,
    desk: SigningDeskSettings,
    checked: CheckedInstruction,
    signature: Signature,
    progress: Progress,
) -> None:
    claimed = checked.claimed
    client.submit_signature(claimed.id, signature)
    if desk.journal is not None and not desk.journal.was_handed_in(claimed.signing_hash or ""):
        desk.journal.record_handed_in(claimed.signing_hash or "")
    progress(Event("signed", f"Instruction {claimed.id} was signed and handed in.", claimed.id))


@contextmanager
def _leased(client: SignerClient, desk: SigningDeskSettings, claimed: ApiInstruction) -> Generator[None]:
    """Tell other signers who is at it; refused while another one is (R23)."""
    client.take_lease(claimed.id, desk.signer, desk.lease_seconds)
    try:
        yield
    finally:
        # Already signed, most of the time; an API that is away forgets it by itself.
        with suppress(SignerApiError):
            client.take_lease(claimed.id, desk.signer, 0)


def _told(client: SignerClient, claimed: ApiInstruction) -> Callable[[DeviceRejected], None]:
    def tell(error: DeviceRejected) -> None:
        client.submit_rejection(claimed.id, f"{error.reason}: {error.what}")

    return tell


def prompted(claimed: ApiInstruction, prompt: Prompt) -> Event:
    """What is told when a screen waits for a person."""
    return Event("prompt", f"Screen {prompt.number} waits on the device.", claimed.id)

"""Signing one instruction: check here, show, ask the device, hand in three numbers.

Between the checks and the device stands the journal: what is asked is on this machine's disk before the device shows
anything, and the answer before it is handed in. A crash anywhere in between loses nothing (R4).
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from custody.settings.chains import NATIVE, Chains
from custody.trezor import DeviceRejected, Signature, SigningDevice, device_screens, open_device
from custody.trezor.definitions import DefinitionRefused, Definitions, read_definitions
from custody.trezor.preview import human_lines
from custody.trezor.readability import Unit
from workers.signer.checks import (
    CheckedInstruction,
    InstructionRefused,
    payments_in_words,
    require_device_in_order,
    require_device_path,
    require_readable,
)
from workers.signer.client import ApiInstruction, SignerApiError, SignerClient
from workers.signer.desk import Confirm, Event, Progress, SigningDeskSettings, prompted
from workers.signer.judgement import Judged
from workers.signer.safe_checks import CheckedSafe, check
from workers.signer.safe_desk import sign_on_owners_device


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
    checked = check(claimed, chains, fee_cap_wei=desk.fee_cap_wei)
    require_device_path(checked.chain, desk.device_path)
    judged = desk.judge.judge(checked, client.seals_after)
    if isinstance(checked, CheckedSafe):
        given = sign_on_owners_device(
            desk,
            judged,
            progress=progress,
            confirm=confirm,
            on_rejection=_told(client, claimed),
            leased=lambda device: _owner_leased(client, desk, claimed, device),
        )
        if given is None:
            return False
        _hand_in(client, desk, claimed, given.signature, progress, owner=given.owner)
        return True
    kept = None if desk.journal is None else desk.journal.signature_of(claimed.signing_hash or "")
    if kept is not None:
        progress(Event("resumed", f"The device signed {claimed.id} before; that signature is handed in.", claimed.id))
        _hand_in(client, desk, claimed, kept, progress)
        return True
    client.hold_session(desk.lease_seconds, address=checked.chain.treasury)
    with _leased(client, desk, claimed):
        signature = sign_on_device(
            desk, judged, progress=progress, confirm=confirm, on_rejection=_told(client, claimed)
        )
        if signature is None:
            return False
        _hand_in(client, desk, claimed, signature, progress)
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
    assert isinstance(checked, CheckedInstruction)
    pinned = None if desk.trust is None else desk.trust.chain(checked.chain.id)
    pinned = pinned and pinned.at(checked.chain.treasury)
    with open_device(
        desk.device_path,
        expected_address=checked.chain.treasury,
        expected_fingerprint=(pinned and pinned.device_fingerprint) or desk.fingerprint,
        derivation_path=desk.path_of("treasury"),
        pin_callback=desk.pin_callback,
        passphrase=desk.passphrase,
        button_callback=lambda prompt: progress(prompted(claimed, prompt)),
        approval_timeout_seconds=desk.approval_timeout_seconds,
        lock_folder=desk.lock_folder,
    ) as device:
        definitions = _definitions(desk, checked)
        screens = _show(device, checked, judged, definitions, progress)
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
                desk.journal.record_rejected(checked.digest)
            progress(Event("rejected", str(error), claimed.id))
            on_rejection(error)
            raise
        if desk.journal is not None:
            desk.journal.record_signed(checked.digest, signature)
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
    return (
        f"{checked.claimed.purpose} {checked.claimed.id}",
        *lines,
        *raw,
        f"Label      {label}",
        *payments_in_words(checked.claimed),
    )


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
    device: SigningDevice,
    checked: CheckedInstruction,
    judged: Judged,
    definitions: Definitions | None,
    progress: Progress,
) -> tuple[str, ...]:
    """Compare the device with what is needed, say what was checked, and return the screens that it will show."""
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
    claimed: ApiInstruction,
    signature: Signature,
    progress: Progress,
    *,
    owner: str | None = None,
) -> None:
    client.submit_signature(claimed.id, signature)
    signing_hash = claimed.signing_hash or ""
    if desk.journal is not None and not desk.journal.was_handed_in(signing_hash, owner):
        desk.journal.record_handed_in(signing_hash, owner=owner)
    by = "" if owner is None else f" by {owner}"
    progress(Event("signed", f"Instruction {claimed.id} was signed{by} and handed in.", claimed.id))


@contextmanager
def _leased(
    client: SignerClient, desk: SigningDeskSettings, claimed: ApiInstruction, owner: str | None = None
) -> Generator[None]:
    """Tell other signers who is at it; refused while another one is (R23). Of a Safe each owner has one."""
    client.take_lease(claimed.id, desk.signer, desk.lease_seconds, owner=owner)
    try:
        yield
    finally:
        # Already signed, most of the time; an API that is away forgets it by itself.
        with suppress(SignerApiError):
            client.take_lease(claimed.id, desk.signer, 0, owner=owner)


@contextmanager
def _owner_leased(
    client: SignerClient, desk: SigningDeskSettings, claimed: ApiInstruction, device: SigningDevice
) -> Generator[None]:
    """``_leased`` for an owner whose device is open: it logs in with it first, for nobody else can open it meanwhile."""
    client.hold_session(desk.lease_seconds, address=device.address, device=device)
    with _leased(client, desk, claimed, device.address):
        yield


def _told(client: SignerClient, claimed: ApiInstruction) -> Callable[[DeviceRejected], None]:
    def tell(error: DeviceRejected) -> None:
        client.submit_rejection(claimed.id, f"{error.reason}: {error.what}")

    return tell

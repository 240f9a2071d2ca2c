"""A Safe's owner at their desk: a core model shows the judged SafeTx field by field, hashes it, and signs (R2, R16).

Which of the owners it is, the device says. The signature must be its owner's over the hash that this machine computed from
the same fields; journal and lease are this owner's, for others may sign the same at the same time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from custody.safe import OwnerSignature
from custody.trezor import DeviceRejected, SigningDevice, open_device
from workers.signer.checks import require_device_in_order
from workers.signer.desk import Confirm, Event, Progress, SigningDeskSettings, prompted
from workers.signer.judgement import Judged
from workers.signer.safe_checks import CheckedSafe, describe_safe, safe_screens

Leased = Callable[[SigningDevice], AbstractContextManager[None]]
"""Logs this device's owner in and tells other signers that they are at it, while the block runs."""


def sign_on_owners_device(
    desk: SigningDeskSettings,
    judged: Judged,
    *,
    progress: Progress,
    confirm: Confirm,
    on_rejection: Callable[[DeviceRejected], None],
    leased: Leased = lambda _device: nullcontext(),
) -> OwnerSignature | None:
    """Have one owner's device sign what was judged; None when the person said no here, or this owner has signed already.

    A signature that the journal still knows is given again without asking anyone. Raises InstructionRefused and
    DeviceError; ``on_rejection`` is told of a person's no before it is raised.
    """
    checked, claimed = judged.checked, judged.checked.claimed
    assert isinstance(checked, CheckedSafe)
    pinned = None if desk.trust is None else desk.trust.chain(checked.chain.id)
    with open_device(
        desk.device_path,
        expected_address=None if pinned is None or pinned.safe is None else pinned.safe.owner,
        expected_fingerprint=(pinned and pinned.device_fingerprint) or desk.fingerprint,
        derivation_path=desk.path_of("safe_owner"),
        pin_callback=desk.pin_callback,
        passphrase=desk.passphrase,
        button_callback=lambda prompt: progress(prompted(claimed, prompt)),
        approval_timeout_seconds=desk.approval_timeout_seconds,
        lock_folder=desk.lock_folder,
    ) as device:
        owner = device.address
        if owner not in checked.owners.owners:
            raise checked.refusal(f"the device's wallet {owner} is no owner of the Safe")
        if owner in claimed.signed_by:
            progress(Event("waiting", f"{owner} has signed {claimed.id}; another owner must.", claimed.id))
            return None
        kept = None if desk.journal is None else desk.journal.signature_of("0x" + checked.digest.hex(), owner)
        if kept is not None:
            progress(
                Event("resumed", f"{owner} signed {claimed.id} before; that signature is given again.", claimed.id)
            )
            return OwnerSignature(owner, kept)
        with leased(device):
            return _ask(device, desk, judged, checked, progress=progress, confirm=confirm, on_rejection=on_rejection)


def _ask(
    device: SigningDevice,
    desk: SigningDeskSettings,
    judged: Judged,
    checked: CheckedSafe,
    *,
    progress: Progress,
    confirm: Confirm,
    on_rejection: Callable[[DeviceRejected], None],
) -> OwnerSignature | None:
    require_device_in_order(checked.chain, device.facts)
    screens = safe_screens(checked.transaction)
    progress(
        Event(
            "checked",
            "The SafeTx is what the instruction says, for this machine's Safe and chain.",
            checked.claimed.id,
            (*describe_safe(checked), *judged.lines),
            screens,
        )
    )
    if not confirm(checked, screens):
        return None
    if desk.journal is not None:
        if judged.newest_seal is not None and desk.trust is not None:
            desk.journal.record_seal(desk.trust.environment, judged.newest_seal)
        desk.journal.record_asked(checked, judged.promise, owner=device.address, safe=judged.safe)
    try:
        signature = device.sign_safe_transaction(checked.transaction.typed_data(), checked.digest)
    except DeviceRejected as error:
        if desk.journal is not None:
            desk.journal.record_rejected(checked.digest)
        progress(Event("rejected", str(error), checked.claimed.id))
        on_rejection(error)
        raise
    if desk.journal is not None:
        desk.journal.record_signed(checked.digest, signature, owner=device.address)
    return OwnerSignature(device.address, signature)

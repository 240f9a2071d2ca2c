"""Signing what waits, one instruction after another, until nothing is open for a signer."""

import time
from dataclasses import dataclass, field
from typing import Final

from custody.settings.chains import Chains
from custody.trezor import DeviceError, DeviceRejected
from workers.signer.checks import InstructionEarly, InstructionRefused
from workers.signer.client import ApiInstruction, SignerApiAway, SignerClient
from workers.signer.desk import Confirm, Event, EventKind, Progress, SigningDeskSettings
from workers.signer.session import sign_instruction

POLL_SECONDS: Final = 0.25  # between looks for the next handed-out instruction; below the API's rate limit
QUEUE_SECONDS: Final = 30.0  # how long open instructions that are not handed out yet are waited for at least


@dataclass
class SigningOutcome:
    """What a session did, by instruction id; ``errors`` are sentences."""

    signed: list[str] = field(default_factory=list[str])
    rejected: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])


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
    that restarts is waited for, and so is the payout before one whose turn has not come. Raises SignerApiError.
    """
    outcome = SigningOutcome()
    idle_since = time.monotonic()
    refused: set[tuple[str, str | None]] = set()
    handed_in: set[tuple[str, str | None]] = set()  # by digest: a nonce may ask for its bid or its cancel as well
    while count is None or len(outcome.signed) < count:
        try:
            found = [
                each
                for each in client.instructions()
                if not each.of_another_device and (each.id, each.signing_hash) not in refused
            ]
        except SignerApiAway as error:
            if time.monotonic() - idle_since >= max(wait_seconds, QUEUE_SECONDS):
                raise
            progress(Event("waiting", str(error)))
            time.sleep(POLL_SECONDS)
            continue
        waiting = [each for each in found if each.waits_for_signer and (each.id, each.signing_hash) not in handed_in]
        if waiting:
            before = len(outcome.signed)
            try:
                _sign_next(client, chains, desk, waiting[0], outcome, progress=progress, confirm=confirm)
            except InstructionEarly as error:
                if time.monotonic() - idle_since >= max(wait_seconds, QUEUE_SECONDS):
                    outcome.errors.append(str(error))
                    return outcome
                progress(Event("waiting", str(error), waiting[0].id))
                time.sleep(POLL_SECONDS)
                continue
            if outcome.rejected or outcome.errors:
                return outcome
            if len(outcome.signed) > before:
                handed_in.add((waiting[0].id, waiting[0].signing_hash))
            else:
                refused.add((waiting[0].id, waiting[0].signing_hash))
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
    except InstructionEarly:
        raise
    except (InstructionRefused, DeviceError) as error:
        kind: EventKind = "refused" if isinstance(error, InstructionRefused) else "device_error"
        progress(Event(kind, str(error), instruction.id))
        outcome.errors.append(str(error))


def _needs_people(found: list[ApiInstruction], outcome: SigningOutcome) -> str | None:
    """Why signing cannot go on by itself: a refused signature, or a rejected instruction before all others (R1)."""
    for each in found:
        if not each.waits_for_signature:
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

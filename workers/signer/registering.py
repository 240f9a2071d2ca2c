"""Registering a marketplace Trezor from the signer's machine: ask for a challenge, sign our own text, hand in the proof.

The server gives a nonce in hex and an end; the text is built here, from what this machine knows (R6).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from custody.registration import ApiPlace, register_text
from custody.registration.texts import CHALLENGE_SECONDS
from custody.trezor import Prompt, open_device
from custody.trezor.accounts import ROLE_ACCOUNTS, role_path
from workers.signer.client import SignerApiError, SignerClient

CLOCK_SKEW_SECONDS: Final = 30  # the server's clock may be ahead by this; more, and an end in two minutes is none
JUDGED_SECONDS: Final = 90.0  # the worker is rung at once, and looks each minute besides
POLL_SECONDS: Final = 0.5


class RegistrationFailed(Exception):
    """The device is not registered. The message says why and what to do."""


class _Challenge(BaseModel):
    """The server's challenge; anything else in it, a text above all, is refused."""

    model_config = ConfigDict(extra="forbid")

    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    user_id: UUID
    account: str
    expires_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Registered:
    """What was registered: the fleet's id of it, the account's xpub and its address at index 0."""

    id: str
    xpub: str
    address: str
    device_fingerprint: str


@dataclass(frozen=True, slots=True)
class RegisteringDesk:
    """This machine's own facts. ``user_id`` is whom the person wants to be registered, never the server's word."""

    device_path: str
    place: ApiPlace
    user_id: UUID
    approval_timeout_seconds: float
    label: str | None = None
    pin_callback: Callable[[], str] | None = None
    lock_folder: Path | None = None


def register_device(
    client: SignerClient,
    desk: RegisteringDesk,
    invitation: str,
    *,
    show: Callable[[str], None],
    prompted: Callable[[Prompt], None] = lambda _: None,
) -> Registered:
    """Prove the registration account of the attached device and wait until the fleet has judged it.

    ``show`` is given the text before the device is asked. Raises RegistrationFailed, SignerApiError, DeviceError.
    """
    with open_device(
        desk.device_path,
        expected_address=None,
        derivation_path=role_path("registration"),
        pin_callback=desk.pin_callback,
        passphrase="",
        button_callback=prompted,
        approval_timeout_seconds=min(desk.approval_timeout_seconds, CHALLENGE_SECONDS),
        lock_folder=desk.lock_folder,
    ) as device:
        xpub = device.account_xpub(ROLE_ACCOUNTS["registration"])
        challenge = _challenge(client, desk, invitation)
        text = register_text(
            place=desk.place,
            nonce=challenge.nonce,
            expires_at=challenge.expires_at,
            address=device.address,
            user_id=desk.user_id,
            device_fingerprint=device.fingerprint,
        )
        show(text)
        signature, _ = device.sign_message(text)
        made = client.post(
            "/v1/registrations",
            {
                "nonce": challenge.nonce,
                "xpub": xpub,
                "address": device.address,
                "device_fingerprint": device.fingerprint,
                "device_model": device.model,
                "device_label": desk.label,
                "signature": "0x" + signature.hex(),
            },
        )
        registered = Registered(str(made.get("id")), xpub, device.address, device.fingerprint)
    _wait_until_judged(client, registered)
    return registered


def _challenge(client: SignerClient, desk: RegisteringDesk, invitation: str) -> _Challenge:
    answer = client.post("/v1/registrations/challenge", {"invitation": invitation})
    try:
        challenge = _Challenge.model_validate(answer)
    except ValidationError:
        raise SignerApiError("The API's challenge is malformed; sign nothing for it.") from None
    if challenge.user_id != desk.user_id:
        raise RegistrationFailed(
            f"The invitation is for user {challenge.user_id}, not for {desk.user_id}: ask the operator who sent it."
        )
    if challenge.account != ROLE_ACCOUNTS["registration"]:
        raise RegistrationFailed(
            f"The API asks for account {challenge.account}; a registration is proved with "
            f"{ROLE_ACCOUNTS['registration']} and no other (R6)."
        )
    latest = datetime.now(UTC) + timedelta(seconds=CHALLENGE_SECONDS + CLOCK_SKEW_SECONDS)
    if challenge.expires_at > latest:
        raise RegistrationFailed(
            f"The API's challenge ends at {challenge.expires_at:%H:%M:%S} UTC, more than {CHALLENGE_SECONDS} s from now: "
            "compare this machine's clock with the server's."
        )
    return challenge


def _wait_until_judged(client: SignerClient, registered: Registered) -> None:
    ends = time.monotonic() + JUDGED_SECONDS
    while time.monotonic() < ends:
        found: dict[str, Any] = client.get(f"/v1/registrations/{registered.id}")
        state: Literal["received", "accepted", "refused"] | Any = found.get("state")
        if state == "accepted":
            return
        if state == "refused":
            raise RegistrationFailed(f"The fleet refused the registration: {found.get('reason')}")
        time.sleep(POLL_SECONDS)
    raise RegistrationFailed(
        f"Nobody judged registration {registered.id} within {JUDGED_SECONDS:.0f} s; does the housekeeping worker run?"
    )

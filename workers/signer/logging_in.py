"""Logging in at the signer API from a signer's machine: the text is built here, from what this machine knows (R6).

Commands log in by themselves: a session that is missing, ended or about to end while a person presses is replaced by
another signature on the device, after the text was shown here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from custody.registration import ApiPlace
from custody.registration.texts import CHALLENGE_SECONDS
from custody.sessions import login_text
from custody.trezor import SigningDevice, open_device
from workers.signer.client import SignerApiError, SignerClient
from workers.signer.session_file import KeptSession, SessionFile

CLOCK_SKEW_SECONDS: Final = 30  # the server's clock may be ahead by this; more, and an end in two minutes is none
SPARE_SECONDS: Final = 30.0  # a session that ends sooner is not begun anything with


class _Challenge(BaseModel):
    """The server's challenge; anything else in it, a text above all, is refused."""

    model_config = ConfigDict(extra="forbid")

    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    expires_at: AwareDatetime


class _Opened(BaseModel):
    """The server's answer to a login."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    address: str
    role: Literal["approver", "treasury", "owner"]
    person: str | None
    expires_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class LoginWallet:
    """The device and the account on it that log in here. ``address`` is None where the device says which it is."""

    device_path: str | None
    derivation_path: str
    approval_timeout_seconds: float
    address: str | None = None
    fingerprint: str | None = None
    pin_callback: Callable[[], str] | None = None
    passphrase: str | Callable[[], str] | None = None
    lock_folder: Path | None = None

    def opened(self, session: KeptSession) -> bool:
        """Whether this wallet opened the session, as far as the device is known before it is asked."""
        if self.address is not None:
            return session.address == self.address
        return session.derivation_path == self.derivation_path and self.fingerprint in (None, session.fingerprint)


@dataclass(frozen=True, slots=True)
class OneSession:
    """A session as it is: nothing is asked of a device for it."""

    session_token: str

    def token(self, _client: SignerClient) -> str:
        """Its token."""
        return self.session_token

    def forget(self) -> None:
        """There is no other one."""

    def hold(self, _client: SignerClient, *, seconds: float, address: str | None, device: SigningDevice | None) -> None:
        """It lasts as long as it does."""


class LoggingIn:
    """This machine's sessions at one API. ``show`` is given a sentence and the text before the device is asked."""

    def __init__(
        self,
        place: Callable[[], ApiPlace],
        file: SessionFile,
        wallet: LoginWallet,
        show: Callable[[str, str], None],
        *,
        takes_any: bool = False,
    ) -> None:
        """``takes_any``: a session of another wallet of this machine does as well, because nothing is answered with it."""
        self._find_place = place
        self._place: ApiPlace | None = None
        self._file = file
        self._wallet = wallet
        self._show = show
        self._takes_any = takes_any
        self._current: KeptSession | None = None

    @property
    def place(self) -> ApiPlace:
        """The API as this machine reaches it."""
        if self._place is None:
            self._place = self._find_place()
        return self._place

    def token(self, client: SignerClient) -> str:
        """The token of a session that lasts a little longer; logs in where there is none."""
        return self.session(client).token

    def session(
        self,
        client: SignerClient,
        *,
        seconds: float = SPARE_SECONDS,
        address: str | None = None,
        device: SigningDevice | None = None,
    ) -> KeptSession:
        """A session that lasts ``seconds``, of ``address`` where one is named, kept or opened now.

        ``device`` is used where it is open already. Raises SignerApiError, DeviceError, SettingsError.
        """
        current = self._current or self._kept()
        if current is None or current.seconds_left() < seconds or address not in (None, current.address):
            current = next(
                (each for each in reversed(self._file.sessions())
                 if address == each.address and each.is_at(self.place) and each.seconds_left() >= seconds),
                None,
            ) or self.log_in(client, device=device)  # fmt: skip
        self._current = current
        return current

    def hold(self, client: SignerClient, *, seconds: float, address: str | None, device: SigningDevice | None) -> None:
        """Have such a session, for what a person does next."""
        self.session(client, seconds=seconds, address=address, device=device)

    def forget(self) -> None:
        """The API does not know the current session any more."""
        if self._current is not None:
            self._file.remove(self._current.token)
            self._current = None

    def log_in(self, client: SignerClient, *, device: SigningDevice | None = None) -> KeptSession:
        """Have the device sign this API's LOGIN text, and keep the session. Raises SignerApiError, DeviceError."""
        if device is not None:
            return self._log_in(client, device)
        wallet = self._wallet
        if wallet.device_path is None:
            raise SignerApiError(
                "There is no session at the signer API, and no device to log in with: set TREZOR_PATH, or log in with "
                "an approver's: fleet signer login --as PERSON."
            )
        with open_device(
            wallet.device_path,
            expected_address=wallet.address,
            expected_fingerprint=wallet.fingerprint,
            derivation_path=wallet.derivation_path,
            pin_callback=wallet.pin_callback,
            passphrase=wallet.passphrase,
            approval_timeout_seconds=min(wallet.approval_timeout_seconds, CHALLENGE_SECONDS),
            lock_folder=wallet.lock_folder,
        ) as opened:
            return self._log_in(client, opened)

    def _kept(self) -> KeptSession | None:
        here = [each for each in self._file.sessions() if each.is_at(self.place)]
        own = [each for each in here if self._wallet.opened(each)]
        return next(reversed(own or (here if self._takes_any else [])), None)

    def _log_in(self, client: SignerClient, device: SigningDevice) -> KeptSession:
        place = self.place
        challenge = _challenge(client)
        text = login_text(place=place, nonce=challenge.nonce, expires_at=challenge.expires_at, address=device.address)
        self._show("Your device is asked to log in at the signer API. Compare, and confirm there:", text)
        signature, _ = device.sign_message(text)
        answer = client.post_once(
            "/v1/session",
            {"nonce": challenge.nonce, "address": device.address, "signature": "0x" + signature.hex()},
        )
        try:
            opened = _Opened.model_validate(answer)
        except ValidationError:
            raise SignerApiError("The API's answer to the login is malformed; is SIGNER_API_URL right?") from None
        if opened.address != device.address:
            raise SignerApiError(f"The API opened a session for {opened.address}, not for {device.address}; not kept.")
        session = KeptSession(
            host=place.host,
            pin=place.pin,
            token=opened.token,
            address=opened.address,
            role=opened.role,
            person=opened.person,
            derivation_path=self._wallet.derivation_path,
            fingerprint=device.fingerprint,
            expires_at=opened.expires_at,
        )
        self._file.put(session)
        self._current = session
        return session


def _challenge(client: SignerClient) -> _Challenge:
    try:
        challenge = _Challenge.model_validate(client.post_once("/v1/session/challenge", None))
    except ValidationError:
        raise SignerApiError("The API's challenge is malformed; sign nothing for it.") from None
    latest = datetime.now(UTC) + timedelta(seconds=CHALLENGE_SECONDS + CLOCK_SKEW_SECONDS)
    if challenge.expires_at > latest:
        raise SignerApiError(
            f"The API's challenge ends at {challenge.expires_at:%H:%M:%S} UTC, more than {CHALLENGE_SECONDS} s from "
            "now: compare this machine's clock with the server's."
        )
    return challenge

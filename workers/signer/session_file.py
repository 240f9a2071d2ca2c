"""The sessions of this machine at the signer API, in a file that its owner alone can read.

A session lets its holder read what waits and hand answers in; it signs nothing. Written whole and put in place at once, so
a crash leaves the old file or the new one.
"""

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from custody.registration import ApiPlace
from custody.settings.environment import SettingsError

SESSIONS_MAXIMUM: Final = 32  # people at one machine times APIs; the oldest go first
FILE_MAXIMUM_BYTES: Final = 65_536


class KeptSession(BaseModel):
    """One session: where it is good, whose it is, and the wallet on the device that opened it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str
    pin: str | None
    token: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    address: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
    role: Literal["approver", "treasury", "owner"]
    person: str | None
    derivation_path: str
    fingerprint: str
    expires_at: AwareDatetime

    def is_at(self, place: ApiPlace) -> bool:
        """Whether it is a session of that API, by host and certificate."""
        return (self.host, self.pin) == (place.host, place.pin)

    def seconds_left(self) -> float:
        """Seconds until it ends, below 0 after it."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()


_KEPT: Final = TypeAdapter(tuple[KeptSession, ...])


class SessionFile:
    """The file. Reading and writing raise SettingsError naming it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sessions(self) -> tuple[KeptSession, ...]:
        """Every session that has not ended, the newest last. A file that others can read is refused."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(FILE_MAXIMUM_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise SettingsError(
                f"{self.path} can be read by others: what it holds may be known. Delete it, and log in again"
            )
        try:
            return tuple(each for each in _KEPT.validate_json(content) if each.seconds_left() > 0)
        except ValidationError:
            raise SettingsError(f"{self.path} is no file of sessions: delete it, and log in again") from None

    def put(self, session: KeptSession) -> None:
        """Add one in place of the same wallet's at the same API."""
        with self._locked():
            others = [each for each in self.sessions() if _key(each) != _key(session)]
            self._write((*others, session)[-SESSIONS_MAXIMUM:])

    def remove(self, token: str) -> None:
        """Take one out; one that is not there is no error."""
        with self._locked():
            found = self.sessions()
            left = tuple(each for each in found if each.token != token)
            if left != found:
                self._write(left)

    def _write(self, sessions: tuple[KeptSession, ...]) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_KEPT.dump_json(sessions, indent=2))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Generator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _key(session: KeptSession) -> tuple[str, str | None, str]:
    return session.host, session.pin, session.address

"""Who is signing what, so that two persons do not walk to two devices for one instruction (R23).

A courtesy among signers, kept in this process's memory: it guards nothing. One (chain, nonce) has one intent whoever
signs it, and a lease that a restart forgets is taken again.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictInt

SECONDS_MAXIMUM: Final = 3_660  # the longest a person may take at the device, and a minute
LEASES_MAXIMUM: Final = 1_024  # remembered at once; only handed-out instructions have one, one a treasury


class LeaseBody(BaseModel):
    """Who signs, as people know each other, and for how long they ask others to wait. 0 seconds give it back."""

    model_config = ConfigDict(extra="forbid")

    signer: Annotated[str, Field(strict=True, pattern=r"^[!-~]([ -~]{0,62}[!-~])?$")]
    seconds: Annotated[StrictInt, Field(ge=0, le=SECONDS_MAXIMUM)]
    owner: Annotated[str, Field(strict=True, pattern=r"^0x[0-9a-fA-F]{40}$")] | None = None
    """Of a Safe's owners the one who signs: each has a lease of its own."""


@dataclass(frozen=True, slots=True)
class Lease:
    """``signer`` has the instruction until then."""

    signer: str
    until: datetime
    owner: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {"signer": self.signer, "until": self.until.isoformat(timespec="seconds"), "owner": self.owner}


class Leases:
    """Leases by instruction, and by owner where a Safe's sign; safe between threads."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[tuple[UUID, str | None], Lease] = {}

    def take(self, instruction_id: UUID, body: LeaseBody) -> Lease | None:
        """The lease that stands now: the caller's own, or another's who has it; None when it was given back."""
        with self._lock:
            now = self._clock()
            self._held = {each: lease for each, lease in self._held.items() if lease.until > now}
            key = (instruction_id, None if body.owner is None else body.owner.lower())
            standing = self._held.get(key)
            if standing is not None and standing.signer != body.signer:
                return standing
            self._held.pop(key, None)
            if body.seconds == 0 or len(self._held) >= LEASES_MAXIMUM:
                return None
            made = self._held[key] = Lease(body.signer, now + timedelta(seconds=body.seconds), body.owner)
            return made

    def of(self, instruction_id: UUID) -> list[Lease]:
        """Who has it, the newest first; only a Safe's owners have it together."""
        with self._lock:
            now = self._clock()
            found = [lease for (each, _), lease in self._held.items() if each == instruction_id and lease.until > now]
            return found[::-1]

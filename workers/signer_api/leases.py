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


@dataclass(frozen=True, slots=True)
class Lease:
    """``signer`` has the instruction until then."""

    signer: str
    until: datetime

    def as_json(self) -> dict[str, str]:
        return {"signer": self.signer, "until": self.until.isoformat(timespec="seconds")}


class Leases:
    """Leases by instruction; safe between threads."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[UUID, Lease] = {}

    def take(self, instruction_id: UUID, body: LeaseBody) -> Lease | None:
        """The lease that stands now: the caller's own, or another's who has it; None when it was given back."""
        with self._lock:
            now = self._clock()
            self._held = {each: lease for each, lease in self._held.items() if lease.until > now}
            standing = self._held.get(instruction_id)
            if standing is not None and standing.signer != body.signer:
                return standing
            self._held.pop(instruction_id, None)
            if body.seconds == 0 or len(self._held) >= LEASES_MAXIMUM:
                return None
            made = self._held[instruction_id] = Lease(body.signer, now + timedelta(seconds=body.seconds))
            return made

    def of(self, instruction_id: UUID) -> Lease | None:
        """Who has it, or None."""
        with self._lock:
            found = self._held.get(instruction_id)
            return found if found is not None and found.until > self._clock() else None

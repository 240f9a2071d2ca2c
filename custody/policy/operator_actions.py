"""What two persons sign of an operator's action (R10): its own bytes hashed here again, its effect in plain words."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from custody.policy.break_glass import LIFETIME_MAXIMUM
from custody.policy.engine import plain
from custody.policy.genesis import Power
from custody.policy.texts import action_text
from custody.trezor.text_rows import COLUMNS

POWERS: Final[dict[str, Power]] = {
    "adjust": "adjustment",
    "go_on": "policy",
    "break_glass": "policy",
    "readmit": "policy",
    "delist": "policy",
    "cutover": "policy",
    "resolve_gap": "policy",
}
"""Whose approval counts for each kind; one that is not here needs the power over files."""


NO_CHAIN: Final = 0
"""The chain of an action that concerns none."""

OF_NO_CHAIN: Final = frozenset({"cutover", "resolve_gap"})
"""Kinds whose actions have NO_CHAIN."""


class ActionNotShowable(ValueError):
    """The action's parameters are not what its kind has. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class BreakGlassScope:
    """What two persons sign of a break-glass: of one token at most ``maximum`` whole tokens, until ``expires_at``."""

    token: str
    maximum: Decimal
    proposed_at: datetime
    expires_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class SignableAction:
    """An operator's action as its signers see it. ``parameters_text`` is PostgreSQL's own text of the parameters."""

    id: str
    kind: str
    chain_id: int
    parameters_text: str

    @property
    def power(self) -> Power:
        """The power that an approver needs."""
        return POWERS.get(self.kind, "policy")

    def hash(self) -> bytes:
        """SHA-256 over kind and parameters, each as its length (4 bytes, big endian) and its UTF-8 text."""
        encoded = [field.encode() for field in (self.kind, self.parameters_text)]
        return hashlib.sha256(b"".join(len(each).to_bytes(4, "big") + each for each in encoded)).digest()

    def text(self, environment: str) -> str:
        """What a device shows. Raises ActionNotShowable, PolicyRefused."""
        return action_text(environment, self.kind, self.chain_id, self.id, self.says(), self.hash().hex())

    def says(self) -> tuple[str, ...]:
        """What it does, in at most five rows. Raises ActionNotShowable."""
        said = self._parameters()
        match self.kind:
            case "adjust":
                try:
                    amount = Decimal(said["amount"])
                    accounts = f"{said['debit']}>{said['credit']}"
                    book = str(said["book_id"])
                except (KeyError, TypeError, InvalidOperation):
                    raise ActionNotShowable("expected amount, debit, credit and book_id of an adjustment") from None
                return (f"{amount:f}", _two_rows(accounts), book[: 2 * COLUMNS])
            case "go_on":
                reason = said.get("paused_reason")
                if not isinstance(reason, str):
                    raise ActionNotShowable("expected paused_reason of a chain that goes on")
                return (f"resolves {len(said.get('resolves', ()))}", _two_rows(reason))
            case "readmit" | "delist":
                address, why = said.get("address"), said.get("quarantine_reason", said.get("reason"))
                if not isinstance(address, str) or not isinstance(why, str):
                    raise ActionNotShowable("expected address and reason of an address that is let go")
                return (address[: 3 * COLUMNS], _two_rows(why))
            case "cutover":
                parts = [said.get(name) for name in ("domain", "from", "to", "reason")]
                if not all(isinstance(each, str) for each in parts):
                    raise ActionNotShowable("expected domain, from, to and reason of a cutover")
                domain, before, after, why = map(str, parts)
                return (domain[:COLUMNS], f"{before} > {after}"[:COLUMNS], _two_rows(why))
            case "resolve_gap":
                parts = [said.get(name) for name in ("collection", "object_id", "gap_reason")]
                again = said.get("write_again")
                if not (all(isinstance(each, str) for each in parts) and isinstance(again, bool)):
                    raise ActionNotShowable(
                        "expected collection, object_id, gap_reason and write_again of a security gap"
                    )
                collection, object_id, why = map(str, parts)
                what = "write ours again" if again else "leave it as it is"
                return (_two_rows(collection)[:COLUMNS], _two_rows(object_id), what, _two_rows(why)[:COLUMNS])
            case "break_glass":
                scope = self.break_glass_scope()
                token = scope.token if len(scope.token) <= COLUMNS else f"{scope.token[:9]}..{scope.token[-7:]}"
                until = f"until {scope.expires_at:%m-%d %H:%M}Z"
                return (until, token, f"max {plain(scope.maximum)}", _two_rows(scope.reason))
            case _:
                raise ActionNotShowable(f"kind {self.kind!r} is not known here; expected {' or '.join(POWERS)}")

    def break_glass_scope(self) -> BreakGlassScope:
        """What a break-glass opens (R15). Raises ActionNotShowable."""
        said = self._parameters()
        try:
            scope = BreakGlassScope(
                str(said["token"]),
                Decimal(said["maximum"]),
                datetime.fromisoformat(said["proposed_at"]).astimezone(UTC),
                datetime.fromisoformat(said["expires_at"]).astimezone(UTC),
                str(said["reason"]),
            )
        except (KeyError, TypeError, ValueError, InvalidOperation):
            raise ActionNotShowable(
                "expected token, maximum, proposed_at, expires_at and reason of a break-glass"
            ) from None
        if not (scope.maximum.is_finite() and scope.maximum > 0 and _is_short(scope.proposed_at, scope.expires_at)):
            raise ActionNotShowable(
                "a break-glass has a maximum above zero and ends on a whole minute within an hour (R15)"
            )
        return scope

    def _parameters(self) -> dict[str, Any]:
        try:
            said = json.loads(self.parameters_text, parse_float=Decimal)
        except ValueError:
            raise ActionNotShowable("parameters: expected JSON") from None
        if not isinstance(said, dict) or said.get("chain_id") != self.chain_id:
            raise ActionNotShowable(f"parameters: expected those of chain {self.chain_id}")
        if (self.kind in OF_NO_CHAIN) is not (self.chain_id == NO_CHAIN):
            raise ActionNotShowable(f"chain {self.chain_id}: not one that a {self.kind} has")
        return said


def _is_short(proposed_at: datetime, expires_at: datetime) -> bool:
    is_whole = expires_at.second == 0 and expires_at.microsecond == 0  # what a device shows is all there is
    return is_whole and timedelta(0) < expires_at - proposed_at <= LIFETIME_MAXIMUM


def _two_rows(said: str) -> str:
    """The start of a text that a device can show; the hash covers all of it."""
    ascii_only = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in said)
    return ascii_only[: 2 * COLUMNS] or "?"

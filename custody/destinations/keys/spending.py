"""What the gas payers may spend in a day, kept in a journal that outlives the agent (R20: a stolen worker burns no more).

One JSON line a signature, on disk before the signature leaves. The journal also remembers the newest genesis that was
believed, so that a restart believes no older one (R8).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from custody.policy import Accepted

WINDOW_SECONDS: Final = 86_400
JOURNAL_SLACK_LINES: Final = 1_000  # lines that say nothing any more before the file is written anew
JOURNAL_MAXIMUM_BYTES: Final = 64 * 1024 * 1024  # a day of the busiest fleet is a few megabytes


class JournalDamaged(Exception):
    """The journal is not what this process wrote. The message says what to do."""


class DaySpent(Exception):
    """The day's limit is used up; the same request is signed later. The message has the numbers, wei."""


PayerNonce = tuple[str, int]
"""A gas payer's address and one nonce of its lane."""


@dataclass(frozen=True, slots=True)
class _Spent:
    at: int
    wei: int


class DaySpending:
    """The gas payers' spending of the last 24 hours, by chain, payer and nonce: of one nonce only the dearest can be mined.

    ``maximum_wei`` a chain (smallest unit of its coin), all payers together. Not safe between threads: the vault has a lock.
    """

    def __init__(self, path: Path, maximum_wei: int) -> None:
        self._path = path
        self._maximum = maximum_wei
        self._spent: dict[tuple[int, PayerNonce], _Spent] = {}
        self._newest = 0
        self._lines = 0
        self.accepted: Accepted | None = None
        self._load()
        self._rewrite()

    def spent_wei(self, chain_id: int, now: int) -> int:
        """What was signed for on that chain in the 24 hours before ``now`` (seconds)."""
        self._forget(now)
        return sum(each.wei for (chain, _), each in self._spent.items() if chain == chain_id)

    def require(self, chain_id: int, nonce: PayerNonce | None, wei: int, now: int) -> int:
        """The wei that this would add to the day (0 for a nonce that counts already). Raises DaySpent."""
        spent = self.spent_wei(chain_id, now)
        standing = None if nonce is None else self._spent.get((chain_id, nonce))
        more = max(0, wei - (0 if standing is None else standing.wei))
        if spent + more > self._maximum:
            raise DaySpent(
                f"the gas payers may spend {self._maximum} wei a day on chain {chain_id}; {spent} wei are spent "
                f"and {more} wei more are asked for; the day's oldest spending makes room again"
            )
        return more

    def take(self, chain_id: int, nonce: PayerNonce, wei: int, now: int) -> None:
        """Count it and write it to the disk. Raises DaySpent, or OSError: then nothing may be signed."""
        if self.require(chain_id, nonce, wei, now) == 0 and (chain_id, nonce) in self._spent:
            return
        spent = _Spent(max(now, self._newest), wei)
        self._append({"at": spent.at, "chain": chain_id, "payer": nonce[0], "nonce": nonce[1], "wei": str(wei)})
        self._spent[chain_id, nonce] = spent
        self._newest = spent.at
        if self._lines > 2 * len(self._spent) + JOURNAL_SLACK_LINES:
            self._rewrite()

    def accept(self, accepted: Accepted) -> None:
        """Remember the newest genesis that was believed."""
        if accepted != self.accepted:
            self._append({"genesis": accepted.version, "hash": accepted.hash})
            self.accepted = accepted

    def _forget(self, now: int) -> None:
        # A clock set back must not give the day's money again: the newest line's time is the least that is believed.
        now = max(now, self._newest)
        for key in [key for key, each in self._spent.items() if each.at <= now - WINDOW_SECONDS]:
            del self._spent[key]

    def _append(self, line: Mapping[str, Any]) -> None:
        with _open(self._path, os.O_APPEND) as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines += 1

    def _load(self) -> None:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return
        if self._path.stat().st_size > JOURNAL_MAXIMUM_BYTES:
            raise JournalDamaged(f"{self._path} is over {JOURNAL_MAXIMUM_BYTES} bytes: it is no journal of the agent")
        *whole, _torn = self._path.read_bytes().split(b"\n")  # a kill can leave half of the last line: not signed then
        for number, raw in enumerate(whole, start=1):
            try:
                line: Any = json.loads(raw)
                self._read(line)
            except (ValueError, KeyError, TypeError):
                raise JournalDamaged(
                    f"{self._path} line {number} is damaged: see who else writes there; without the file the day "
                    "begins anew"
                ) from None

    def _read(self, line: Any) -> None:
        if "genesis" in line:
            self.accepted = Accepted(int(line["genesis"]), str(line["hash"]))
            return
        key = (int(line["chain"]), (str(line["payer"]), int(line["nonce"])))
        self._spent[key] = _Spent(int(line["at"]), int(line["wei"]))
        self._newest = max(self._newest, int(line["at"]))

    def _rewrite(self) -> None:
        """The journal with what still says something, in one step."""
        self._forget(0)
        lines: list[dict[str, Any]] = [
            {"at": each.at, "chain": chain, "payer": payer, "nonce": nonce, "wei": str(each.wei)}
            for (chain, (payer, nonce)), each in self._spent.items()
        ]
        if self.accepted is not None:
            lines.append({"genesis": self.accepted.version, "hash": self.accepted.hash})
        fresh = self._path.with_name(f"{self._path.name}.new")
        with _open(fresh, os.O_TRUNC) as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self._lines = len(lines)


def _open(path: Path, how: int) -> TextIO:
    """The file for writing, mode 0600 from its first moment."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "a", encoding="utf-8")

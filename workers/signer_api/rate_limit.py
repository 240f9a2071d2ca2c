"""A token bucket a caller: enough for a signer at work, too little to wear the database out."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

REQUESTS_PER_SECOND: Final = 20.0  # a signer that polls every 0.2 s and submits uses a third of it
BURST: Final = 60.0
LOGINS_PER_SECOND: Final = 0.5  # a person presses a device for each; this is for callers without a session
LOGIN_BURST: Final = 30.0  # a team that begins its day behind one proxy: two requests a login
CALLERS_LIMIT: Final = 1_024  # remembered callers; the longest unseen is forgotten first


class RateLimit:
    """Buckets by caller; safe between threads."""

    def __init__(
        self,
        per_second: float = REQUESTS_PER_SECOND,
        burst: float = BURST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, caller: str) -> bool:
        """Take one token of ``caller``; False when it has none left."""
        with self._lock:
            now = self._clock()
            tokens, seen = self._buckets.pop(caller, (self._burst, now))
            tokens = min(self._burst, tokens + (now - seen) * self._per_second)
            allowed = tokens >= 1
            self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > CALLERS_LIMIT:
                self._buckets.popitem(last=False)
            return allowed

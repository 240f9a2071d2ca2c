"""What keeps the agent's memory its own: no core dump, no debugger, no new privileges (R20). Linux."""

import ctypes
import os
import resource
import sys
from typing import Final

from custody.settings.environment import SettingsError

# <linux/prctl.h>
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


def harden() -> None:
    """Make this process refuse to be dumped or traced, also by its own user. Call it before a key is read.

    Raises SettingsError where that is not possible.
    """
    if not sys.platform.startswith("linux"):
        raise SettingsError(
            "the keys agent runs on Linux alone: elsewhere its memory cannot be kept from other programs"
        )
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise SettingsError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise SettingsError("the keys agent can be dumped although it said not to; it does not start")

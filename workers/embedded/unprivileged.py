"""Run a program that refuses to be root: `python unprivileged.py [--by METHOD] -- PROGRAM ARGS…`.

PostgreSQL refuses root, and its initdb refuses a user that the machine does not know by name (a container that was
given a bare uid). An ordinary user just becomes the program. Others first enter a user namespace in which they are a
user that has a name (files stay their own, nobody is created, no mode is changed), or, where namespaces are forbidden,
root becomes uid 65534, which then must be able to reach the program and its data. The pid stays, so a supervisor can
signal it. Standard library only: it may run without site packages.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Literal, NoReturn, cast, get_args

Method = Literal["same-user", "namespace", "setuid"]

SETTING = "DATABASE_ADMIN_URL"
"""What to set when no method works here: the only program run this way is PostgreSQL."""

NOBODY = 65534
"""uid and gid that own nothing on Linux."""

PROBE_SECONDS = 10
"""Longest time the test for a method may take."""

_CLONE_NEWUSER = 0x10000000


def command(argv: list[str], method: Method) -> list[str]:
    """The arguments that run ARGV by METHOD; ARGV itself when nothing has to change."""
    if method == "same-user":
        return argv
    return [sys.executable, "-S", "-P", "-B", str(Path(__file__).resolve()), "--by", method, "--", *argv]


def choose() -> Method:
    """The first method that works on this machine for this user; RuntimeError naming the setting when none does."""
    root = os.geteuid() == 0
    if not root and _has_name(os.geteuid()):
        return "same-user"
    reasons: list[str] = []
    methods: tuple[Method, ...] = ("namespace", "setuid") if root else ("namespace",)
    for method in methods:
        tried = subprocess.run(
            command(["/bin/true"], method), capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
        if tried.returncode == 0:
            return method
        reasons.append(tried.stderr.strip())
    msg = (
        f"PostgreSQL refuses to run as {'root' if root else 'a user without a name'}, and this machine allows no other "
        f"way ({'; '.join(reasons)}). Run the fleet as an ordinary user, or set {SETTING} to a server that runs already."
    )
    raise RuntimeError(msg)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _inside_id() -> int:
    """Who one is inside the namespace: `nobody` where it exists, else any user with a name but root."""
    others = (user.pw_uid for user in pwd.getpwall() if user.pw_uid)
    return NOBODY if _has_name(NOBODY) else next(others, NOBODY)


def _enter_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if not hasattr(libc, "unshare") or libc.unshare(_CLONE_NEWUSER) != 0:
        msg = f"user namespace refused: {os.strerror(ctypes.get_errno())}"
        raise OSError(msg)
    inside = _inside_id()
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{inside} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{inside} {gid} 1", encoding="ascii")


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def main(arguments: list[str]) -> NoReturn:
    """Change what must change, then become the program."""
    if "--" not in arguments:
        sys.exit("usage: unprivileged.py [--by same-user|namespace|setuid] -- PROGRAM ARGS…")
    cut = arguments.index("--")
    options, argv = arguments[:cut], arguments[cut + 1 :]
    named = options[1] if options[:1] == ["--by"] and len(options) > 1 else ""
    method = cast("Method", named) if named in get_args(Method) else choose()
    try:
        if method == "namespace":
            _enter_namespace()
        elif method == "setuid":
            _become_nobody()
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as error:
        sys.exit(f"{argv[0]} cannot run by {method}: {error}. Set {SETTING} to a server that runs already.")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Seeds and PINs of the software device come from files that only their owner can read, never from
arguments.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

MAX_SECRET_BYTES: Final = 1_024
MNEMONIC_WORDS: Final = 24


class SecretFileRefused(Exception):
    """A seed or PIN file is not private, not a file, or empty."""


def read_secret_file(path: Path) -> str:
    """The stripped text of a file with mode 0600 (or 0400) that this user owns.

    Raises SecretFileRefused, naming the file and the mode to set, for any other; the content is never
    repeated.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SecretFileRefused(f"{path}: {error.strerror}; expected a file with mode 0600.") from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid():
            raise SecretFileRefused(f"{path}: expected a regular file of this user.")
        if facts.st_mode & 0o077:
            raise SecretFileRefused(
                f"{path}: mode {stat.S_IMODE(facts.st_mode):04o} lets others read it; run chmod 600 on it.",
            )
        text = file.read(MAX_SECRET_BYTES + 1)
    if not text.strip() or len(text) > MAX_SECRET_BYTES:
        raise SecretFileRefused(f"{path}: expected 1 to {MAX_SECRET_BYTES} bytes of text.")
    return text.decode().strip()


def create_seed_file(path: Path) -> None:
    """Write a new random mnemonic of 24 words to a new file with mode 0600. Raises FileExistsError if it
    exists.
    """
    from bip_utils import Bip39MnemonicGenerator, Bip39WordsNum

    words = Bip39MnemonicGenerator().FromWordsNumber(Bip39WordsNum(MNEMONIC_WORDS)).ToStr()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(words + "\n")

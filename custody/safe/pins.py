"""A Safe against what the signed genesis pins of it: each difference a sentence, and any one stops everything (R16)."""

import re
from typing import Any, Final

from custody.policy.genesis import Treasury
from custody.safe.reading import SafeState
from custody.safe.transaction import domain_separator

VERSION_MINIMUM: Final = (1, 3, 0)
"""Before it the domain had no chain id, so a signature was worth something on every chain."""
_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[+-][0-9A-Za-z.+-]{1,32})?")


def safe_differences(found: SafeState, pinned: Treasury) -> tuple[str, ...]:
    """What differs, empty when the Safe is the pinned one. ``pinned`` is a genesis' treasury of kind ``safe``. Pure."""
    sentences = [*_version(found), *_code(found, pinned), *_owners(found, pinned)]
    if found.threshold != pinned.threshold:
        sentences.append(f"its threshold is {found.threshold}, pinned is {pinned.threshold}")
    if found.modules:
        shown = ", ".join(found.modules)
        sentences.append(f"it has modules, which move coins without its owners: {shown}; none may be enabled")
    if found.guard != pinned.guard:
        sentences.append(f"its guard is {found.guard or 'not set'}, pinned is {pinned.guard or 'none'}")
    if found.fallback_handler != pinned.fallback_handler:
        sentences.append(f"its fallback handler is {found.fallback_handler}, pinned is {pinned.fallback_handler}")
    if found.address != pinned.address:
        sentences.append(f"it is {found.address}, pinned is {pinned.address}")
    if found.domain_separator != domain_separator(found.chain_id, found.address):
        sentences.append("it hashes its transactions for another chain or address")
    return tuple(sentences)


def pins_of(found: SafeState) -> dict[str, Any]:
    """What a genesis says of a Safe as it is now: its table ``treasury``, to be read by people before they sign it."""
    return {
        "kind": "safe",
        "address": found.address,
        "singleton_code_hash": found.singleton_code_hash,
        "proxy_code_hash": found.proxy_code_hash,
        "owners": list(found.owners),
        "threshold": found.threshold,
        "fallback_handler": found.fallback_handler,
        **({} if found.guard is None else {"guard": found.guard}),
    }


def version_of(text: str) -> tuple[int, int, int] | None:
    """The three numbers of a Safe's version, None for a text that is none."""
    match = _VERSION.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def _version(found: SafeState) -> list[str]:
    version = version_of(found.version)
    if version is None or version < VERSION_MINIMUM:
        return [f"its version is {found.version[:32]!r}; expected 1.3.0 or newer"]
    return []


def _code(found: SafeState, pinned: Treasury) -> list[str]:
    sentences: list[str] = []
    if found.singleton_code_hash != pinned.singleton_code_hash:
        sentences.append(
            f"its singleton {found.singleton} has code {found.singleton_code_hash}, pinned is {pinned.singleton_code_hash}"
        )
    if pinned.proxy_code_hash is not None and found.proxy_code_hash != pinned.proxy_code_hash:
        sentences.append(f"its own code is {found.proxy_code_hash}, pinned is {pinned.proxy_code_hash}")
    return sentences


def _owners(found: SafeState, pinned: Treasury) -> list[str]:
    added = sorted(set(found.owners) - set(pinned.owners))
    missing = sorted(set(pinned.owners) - set(found.owners))
    sentences: list[str] = []
    if added:
        sentences.append(f"{', '.join(added)} can sign for it and is no pinned owner")
    if missing:
        sentences.append(f"the pinned owner {', '.join(missing)} is an owner no more")
    return sentences

"""What never leaves a process: keys and passwords from logs and alarms, and money too from what is sent to Sentry."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

MASK: Final = "[redacted]"
DEPTH_MAXIMUM: Final = 8  # deeper values are cut off: nothing of ours nests that far
ITEMS_MAXIMUM: Final = 200  # of one list or mapping

_KEY_WORDS: Final = frozenset(
    {
        "authorization", "cookie", "credential", "credentials", "dsn", "key", "keys", "mnemonic", "passphrase",
        "passwd", "password", "passwords", "phrase", "pin", "pwd", "secret", "secrets", "seed", "xprv",
    }
)  # fmt: skip
_HARMLESS_NAMES: Final = frozenset(
    {
        "body_key", "config_key", "delivery_key", "entry_key", "idempotency_key", "key_fingerprint", "public_key",
        "request_key", "setting_key",
    }
)  # fmt: skip
_SECRET_TOKENS: Final = re.compile(r"(^|_)(access|api|auth|bearer|session|signer|webhook)(_[a-z]+)*_tokens?$")
_MONEY_WORDS: Final = frozenset(
    {
        "amount", "amounts", "balance", "balances", "budget", "detected", "disputed", "expected", "fee", "fees", "funds",
        "held", "price", "refunding", "releasing", "suspense", "total", "units", "value", "wei",
    }
)  # fmt: skip

_URL_PASSWORD: Final = re.compile(r"(?P<start>\b[a-z][a-z0-9+.-]*://[^\s/@:]*:)[^\s@/]+(?=@)", re.IGNORECASE)
_URL_PATH_KEY: Final = re.compile(r"(?P<start>\bhttps?://[^\s/]+/)[^\s\"']{16,}", re.IGNORECASE)
_PRIVATE_KEY: Final = re.compile(r"\b(?:0x)?[0-9a-fA-F]{64}\b")
_PHRASE: Final = re.compile(r"\b(?:[a-z]{3,8} +){11,23}[a-z]{3,8}\b")
_EXTENDED_KEY: Final = re.compile(r"\b[xyztuv]prv[1-9A-HJ-NP-Za-km-z]{50,}\b")
_ROW: Final = re.compile(r"^(DETAIL|CONTEXT|\[parameters):? .*$", re.MULTILINE)
_NUMBER: Final = re.compile(r"\b\d+\.\d+\b|\b\d{7,}\b")


def _words(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(".", "_").split("_")


def is_key_name(name: str) -> bool:
    """Whether a field of this name may hold a key, a password or a seed. ``token`` alone is a coin's address."""
    words = _words(name)
    joined = "_".join(words)
    if joined in _HARMLESS_NAMES:
        return False
    return not _KEY_WORDS.isdisjoint(words) or _SECRET_TOKENS.search(joined) is not None


def is_money_name(name: str) -> bool:
    """Whether a field of this name may hold an amount."""
    return not _MONEY_WORDS.isdisjoint(_words(name))


def without_passwords(text: str) -> str:
    """The text with the password of every URL in it, and every extended private key, masked."""
    return _EXTENDED_KEY.sub(MASK, _URL_PASSWORD.sub(rf"\g<start>{MASK}", text))


def without_keys(text: str) -> str:
    """The text for the fleet's own people outside: no passwords, URL paths, 32-byte hex, seed phrases or row contents."""
    text = _URL_PATH_KEY.sub(rf"\g<start>{MASK}", without_passwords(text))
    text = _ROW.sub(rf"\1 {MASK}", text)
    return _PHRASE.sub("[words]", _PRIVATE_KEY.sub("[32 bytes]", text))


def without_keys_and_money(text: str) -> str:
    """The text for a third party: the same without amounts.

    Harsher than logs: a number is masked when it has a point or seven digits, whatever it meant.
    """
    return _NUMBER.sub("[number]", without_keys(text))


def walk(value: Any, *, hide: Callable[[str], bool], text: Callable[[str], str], depth: int = 0) -> Any:
    """``value`` with every field whose name ``hide``s masked, and every string passed through ``text``."""
    if depth > DEPTH_MAXIMUM:
        return MASK
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping):
        items = list(cast("Mapping[Any, Any]", value).items())[:ITEMS_MAXIMUM]
        return {
            name: MASK
            if hide(str(name)) and item not in (None, "")
            else walk(item, hide=hide, text=text, depth=depth + 1)
            for name, item in items
        }
    if isinstance(value, list | tuple | set | frozenset):
        sequence = list(cast("list[Any]", value))[:ITEMS_MAXIMUM]
        return [walk(item, hide=hide, text=text, depth=depth + 1) for item in sequence]
    return value

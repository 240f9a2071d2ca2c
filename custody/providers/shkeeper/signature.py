"""What proves a SHKeeper callback: the API key in a header, and in newer versions a signature made with that key.

Source: SHKeeper's README, "Receiving callback". Older versions send X-Shkeeper-Api-Key alone; newer ones add
X-Shkeeper-Signature, the hex HMAC-SHA256 of ``{X-Shkeeper-Timestamp}.`` and the raw body. The time is not judged: a
callback that is sent again is the row that is there already, and asks for nothing new.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from custody.providers.delivery import RawHeaders, has_header, header
from custody.providers.hmac_signature import is_signed
from custody.providers.secret_lines import SECRET_MAXIMUM, read_secret_lines

KEY_HEADER: Final = b"x-shkeeper-api-key"
SIGNATURE_HEADER: Final = b"x-shkeeper-signature"
TIMESTAMP_HEADER: Final = b"x-shkeeper-timestamp"

KEY_LEAST: Final = 16  # characters, as SHKeeper makes them

_TIMESTAMP: Final = re.compile(rb"[0-9]{1,20}")


def is_authentic(headers: RawHeaders, body: bytes, keys: Sequence[str]) -> bool:
    """Whether the header carries one of ``keys``, and the signature, where there is one, was made with it.

    Never raises on what a stranger sent; every key is tried in constant time.
    """
    pairs = list(headers)
    given = header(pairs, KEY_HEADER)
    if given is None or not 0 < len(given) <= SECRET_MAXIMUM:
        return False
    signed = has_header(pairs, SIGNATURE_HEADER) or has_header(pairs, TIMESTAMP_HEADER)
    timestamp = header(pairs, TIMESTAMP_HEADER) or b""
    well_formed = _TIMESTAMP.fullmatch(timestamp) is not None
    # Digests, so that not even the key's length is told.
    digest = hashlib.sha256(given).digest()
    authentic = False
    for key in keys:
        right = hmac.compare_digest(hashlib.sha256(key.encode("ascii")).digest(), digest)
        if signed:
            right &= well_formed & is_signed(timestamp + b"." + body, header(pairs, SIGNATURE_HEADER), [key])
        authentic |= right
    return authentic


def read_api_keys(path: Path) -> tuple[str, ...]:
    """SHKeeper's API keys in ``path``: one a line, newest first. Raises SettingsError, never showing a key."""
    return read_secret_lines(path, what="SHKEEPER_API_KEYS_FILE", least=KEY_LEAST)

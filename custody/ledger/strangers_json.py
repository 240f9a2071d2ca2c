"""JSON from a file that anybody may have written."""

import json
import re
from typing import Any, Final

DEPTH_MAXIMUM: Final = 8
"""Proofs and seals nest three deep. Python's decoder recurses, and far enough down it ends the process."""

_TEXTS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def json_from_stranger(text: str) -> Any:
    """What the text says. Raises ValueError when it is no JSON or nests deeper than DEPTH_MAXIMUM."""
    depth = 0
    for character in _TEXTS.sub("", text):
        depth += (character in "[{") - (character in "]}")
        if depth > DEPTH_MAXIMUM:
            raise ValueError("it nests too deeply")
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None

"""Writing TOML: the standard library only reads it. Just the values that our documents hold."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def toml_text(said: Mapping[str, Any]) -> str:
    """A document as TOML text that reads back to the same values.

    Raises TypeError for a value that is no text, whole number, truth value, time, table or list of them.
    """
    return "\n".join(_table(said, ())).strip() + "\n"


def _table(said: Mapping[str, Any], above: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    below: list[str] = []
    for name, value in said.items():
        path = (*above, name)
        if isinstance(value, Mapping):
            below += ["", f"[{'.'.join(path)}]", *_table(value, path)]
        elif _is_tables(value):
            for each in value:
                below += ["", f"[[{'.'.join(path)}]]", *_table(each, path)]
        else:
            lines.append(f"{name} = {_value(value)}")
    return lines + below


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        # JSON escapes what a basic string of TOML must escape, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Sequence):
        return f"[{', '.join(_value(each) for each in value)}]"
    raise TypeError(f"expected text, a whole number, a truth value or a time, got {type(value).__name__}")

"""Texts that every device shows in full (R18): rows of 18 columns, printable ASCII, no line break, at most 12 rows."""

from typing import Final

COLUMNS: Final = 18  # of a Trezor One's screen; wider ones break the same rows elsewhere and show as much
ROWS_MAXIMUM: Final = 12
CHARACTERS_MAXIMUM: Final = COLUMNS * ROWS_MAXIMUM  # 216; R18


class TextNotShowable(ValueError):
    """A device would not show this text as it is. The message names the field and what was expected."""


def in_rows(**fields: str) -> str:
    """The fields one after another, each padded to whole rows.

    Raises TextNotShowable for a field that is not printable ASCII (one line break makes a One show hexadecimal), or
    when all of them need more than 12 rows.
    """
    text = ""
    for name, value in fields.items():
        if not value or not value.isascii() or not value.isprintable():
            raise TextNotShowable(f"{name}: {value!r} has other characters than printable ASCII, or none")
        text += value.ljust(-(-len(value) // COLUMNS) * COLUMNS)
    if len(text) > CHARACTERS_MAXIMUM:
        raise TextNotShowable(
            f"text: expected at most {ROWS_MAXIMUM} rows of {COLUMNS}, it has {len(text) // COLUMNS}: "
            + ", ".join(f"{name} {-(-len(value) // COLUMNS)}" for name, value in fields.items())
        )
    return text


def rows_of(text: str) -> tuple[str, ...]:
    """A text as a One breaks it, a row an element."""
    return tuple(text[start : start + COLUMNS] for start in range(0, len(text), COLUMNS))

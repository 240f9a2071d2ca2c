"""Texts on an operator's terminal: those of others are shown as they are, never obeyed; times as people say them."""

from datetime import datetime

from rich.text import Text


def shown(value: str) -> Text:
    """``value`` without markup and without characters that steer a terminal (webhooks and signers wrote some of it)."""
    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value))


def ago(at: datetime, now: datetime) -> str:
    """How long ago: ``40 s``, ``12 min``, ``3 h 5 min``, ``2 days``."""
    seconds = max(0, int((now - at).total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3_600:
        return f"{seconds // 60} min"
    if seconds < 172_800:
        return f"{seconds // 3_600} h {seconds % 3_600 // 60} min"
    return f"{seconds // 86_400} days"

"""Texts of others on an operator's terminal: shown as they are, never obeyed."""

from rich.text import Text


def shown(value: str) -> Text:
    """``value`` without markup and without characters that steer a terminal (webhooks and signers wrote some of it)."""
    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value))

"""One function of all of a document's encoders: a call a field costs more than most fields' work, a million times over.

The source is made of the mapping alone, as dataclasses make theirs: no value of a document ever comes into it.
"""

from collections.abc import Iterable
from typing import Any, cast

from custody.mirror.agreement.canonical import SEPARATOR, Encode, Encoder

Piece = tuple[str, Encoder, str | None]
"""A field's name in MongoDB, its encoder, and the text of its default (None: it is required)."""


def compiled(pieces: Iterable[Piece], refused: frozenset[str]) -> Encode:
    """The canonical text of a document or of a part of one; ``refused``: names that it may not have.

    The function raises ValueError, TypeError, AttributeError or ArithmeticError for what must be looked at whole.
    """
    names: dict[str, Any] = {"refused": refused, "separator": SEPARATOR}
    expressions: list[str] = []
    for number, (name, encoder, default) in enumerate(pieces):
        names |= {f"encode{number}": encoder.encode, f"default{number}": default, f"name{number}": name}
        names |= {f"{each}{number}": value for each, value in encoder.names.items()}
        # A required field that is missing is None here, which join() refuses.
        expressions.append(
            f"default{number} if (v := get(name{number})) is None else ({encoder.shortcut(number)}),\n        "
        )
    source = (
        "def encode(value):\n"
        "    if not refused.isdisjoint(value):\n"
        "        raise ValueError('it has a field under two names')\n"
        "    get = value.get\n"
        f"    return separator.join((\n        {''.join(expressions)}))\n"
    )
    exec(source, names)  # noqa: S102 - see above
    return cast(Encode, names["encode"])

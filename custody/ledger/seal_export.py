"""Seals as a file that is kept outside the database: JSON lines, a header first, then every seal in order (L22).

The header counts the seals and names the newest one, so that a file cut short is seen; it also has the public keys, for
convenience: who checks a file against the keys in it has checked nothing but its form.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Connection, text

from custody.ledger.seal_keys import PublicKeys, public_pem
from custody.ledger.seals import Seal, newest_seal, seal_as_json, seal_from_json, seals_after
from custody.ledger.strangers_json import json_from_stranger

EXPORT_FORMAT: Final = "amanat-ledger-seals-v1"
LINE_MAXIMUM: Final = 65_536  # characters; a seal has about 700

_COUNT: Final = text("SELECT count(*) FROM fleet.ledger_seals WHERE seal_no > :after")


class ExportRefused(Exception):
    """The file is no whole export of seals, or its seals do not hold. The message says which and why."""


def export_seals(connection: Connection, keys: PublicKeys, *, after: int = 0) -> Iterator[str]:
    """The lines of an export: the seals of a number above ``after``, as this transaction sees them."""
    newest = newest_seal(connection)
    header: dict[str, Any] = {
        "format": EXPORT_FORMAT,
        "seals": connection.execute(_COUNT, {"after": after}).scalar_one(),
        "newest": None if newest is None else newest.seal_hash.hex(),
        "public_keys": {name: public_pem(key) for name, key in keys.items()},
    }
    yield json.dumps(header) + "\n"
    for seal in seals_after(connection, after):
        yield json.dumps(seal_as_json(seal)) + "\n"


def read_export(lines: Iterable[str], keys: PublicKeys) -> list[Seal]:
    """The seals of an export, each checked by itself and with the one before it. Raises ExportRefused."""
    found: list[Seal] = []
    header: dict[str, Any] | None = None
    for number, line in enumerate(lines, start=1):
        try:
            if len(line) > LINE_MAXIMUM:
                raise ValueError("it is too long")
            value: Any = json_from_stranger(line)
            if header is None:
                header = _header(value)
                continue
            seal = seal_from_json(value)
        except ValueError as error:
            raise ExportRefused(f"line {number}: {error}") from None
        # An export may begin in the middle; whatever comes first must hold by itself.
        begins_later = not found and seal.seal_no > 1
        faults = seal.own_faults(keys) if begins_later else seal.faults(found[-1] if found else None, keys)
        if faults:
            raise ExportRefused(f"seal {seal.seal_no}: {'; '.join(faults)}")
        found.append(seal)
    if header is None:
        raise ExportRefused("the file is empty")
    if len(found) != header["seals"] or (found[-1].seal_hash.hex() if found else header["newest"]) != header["newest"]:
        raise ExportRefused(
            f"the header announces {header['seals']} seals, the file has {len(found)}: it was cut short"
        )
    return found


def _header(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != {"format", "seals", "newest", "public_keys"}:  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError("expected the header of an export of seals")
    header: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
    if header["format"] != EXPORT_FORMAT:
        raise ValueError(f"expected the format {EXPORT_FORMAT}")
    return header

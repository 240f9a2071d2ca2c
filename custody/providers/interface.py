"""What each payment provider gives: where its webhooks arrive, what proves their sender, how a delivery is known,
what it says, and which payment that means.

A source of hints without webhooks (an API that is asked) is the same without the door.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, Protocol

from sqlalchemy import Connection

from custody.providers.delivery import Delivery, RawHeaders
from custody.providers.verdict import Verdict


class Named(Protocol):
    """The least that a typed event has."""

    @property
    def event(self) -> str: ...


@dataclass(frozen=True, slots=True)
class SecretsInFile:
    """The secrets of every delivery stand in the file that ``setting`` names, the newest first.

    ``read`` raises SettingsError. ``required``: without the setting the ingress does not start; else it has no such door.
    """

    setting: str
    read: Callable[[Path], tuple[str, ...]]
    required: bool


@dataclass(frozen=True, slots=True)
class SecretsIssued:
    """Each subject (a payment's intent) has a secret of its own, in the database.

    ``subject`` names it from what was sent, or None without a lookup; it raises nothing. ``lookup``: SQL with one
    positional parameter, the subject, and one row with the secret, or none.
    """

    subject: Callable[[RawHeaders, bytes], str | None]
    lookup: LiteralString


@dataclass(frozen=True, slots=True)
class Door:
    """Where a provider's webhooks arrive. ``accepted``: the HTTP status that its sender takes as the end of it.

    ``is_authentic`` never raises on what a stranger sent and tells by its time neither which secret matched nor how
    much of it did; without secrets it is False. ``read_delivery`` never raises either.
    """

    path: str
    accepted: int
    secrets: SecretsInFile | SecretsIssued
    is_authentic: Callable[[RawHeaders, bytes, Sequence[str]], bool]
    read_delivery: Callable[[RawHeaders, bytes], Delivery]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. ``name`` stands in ``fleet.webhook_deliveries``.

    ``parse`` reads a raw body and raises MalformedEvent alone. ``link`` gives one verdict an event, in their order.
    """

    name: str
    parse: Callable[[bytes], Named]
    link: Callable[[Connection, Sequence[Any]], Sequence[Verdict]]
    door: Door | None = None

"""What the embedded services refuse to do, each with what to do about it."""

from __future__ import annotations


class EmbeddedServiceError(RuntimeError):
    """A server or a process of the fleet could not be prepared, started, reached or stopped."""


class IntegrityError(EmbeddedServiceError):
    """A downloaded package is not the one that is pinned."""


class StateFolderBusyError(EmbeddedServiceError):
    """Another `fleet` command holds the state folder's lock for longer than its limit."""

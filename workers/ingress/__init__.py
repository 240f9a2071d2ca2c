"""The webhook ingress: checks a signature, journals the delivery durably, and only then answers 200."""

from workers.ingress.server import serve

__all__ = ["serve"]

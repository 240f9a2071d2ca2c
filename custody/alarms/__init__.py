"""Alarms: what came to need people, told to Sentry and to a webhook until somebody knows of it."""

from custody.alarms.rows import Alarm

__all__ = ["Alarm"]

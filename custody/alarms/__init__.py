"""Alarms: what came to need people, told to Sentry and to a webhook until somebody knows of it."""

from typing import Final

from custody.alarms.rows import Alarm

ALARMS_SCHEDULE: Final = "alarms-due"

__all__ = ["ALARMS_SCHEDULE", "Alarm"]

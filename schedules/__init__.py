"""When the fleet does what it does periodically."""

from schedules.table import SCHEDULES, Schedule, beat_schedule

__all__ = ["SCHEDULES", "Schedule", "beat_schedule"]

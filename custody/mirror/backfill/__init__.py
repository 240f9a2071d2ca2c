"""Every document of MongoDB into Postgres, through the mapping of ``custody.mirror.collections``."""

from custody.mirror.backfill.checking import Checked, check
from custody.mirror.backfill.guarding import require_allowed_host
from custody.mirror.backfill.progress import Progress
from custody.mirror.backfill.replaying import heal, replay
from custody.mirror.backfill.running import BATCH, BackfillRefused, Summary, backfill, chosen_of

__all__ = [
    "BATCH",
    "BackfillRefused",
    "Checked",
    "Progress",
    "Summary",
    "backfill",
    "check",
    "chosen_of",
    "heal",
    "replay",
    "require_allowed_host",
]

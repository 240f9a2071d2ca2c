"""Following: what the backend writes to MongoDB is brought to Postgres as it happens, and money is never taken (R7)."""

from custody.mirror.following.follower import Follower
from custody.mirror.following.positions import EVERYTHING, Position, everywhere, lag_seconds, revisits
from custody.mirror.following.replaying import replay

__all__ = ["EVERYTHING", "Follower", "Position", "everywhere", "lag_seconds", "replay", "revisits"]

"""The mirror: what the fleet wrote to Postgres is brought to MongoDB, where the backend still reads (design §3)."""

from custody.mirror.applying import run_once

__all__ = ["run_once"]

"""Adoption: a living database is compared with the marketplace's state 0017, and stamped when nothing stands against it."""

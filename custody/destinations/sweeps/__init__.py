"""Sweeps: from a destination to the treasury (design §6)."""

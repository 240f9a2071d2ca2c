"""Destinations: deposit addresses, how they are issued, and how their coins reach the treasury."""

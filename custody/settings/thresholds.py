"""Confirmation thresholds: the newest row of config_setting_history, never below the chain's floor (design §5).

Units: blocks. A change binds on the next judgement, since every judgement reads the row anew (well within 30 s).
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

KEY_PREFIX: Final = "confirmation_threshold:"
THRESHOLD_MAXIMUM_BLOCKS: Final = 100_000  # above it a typing error is likelier than a wish


class SettingRefused(Exception):
    """The setting's key or value is not one the fleet knows. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """The newest history row: its id and value in blocks."""

    history_id: UUID
    value_blocks: int


def threshold_key(chain_id: int) -> str:
    return f"{KEY_PREFIX}{chain_id}"


def newest_threshold(connection: Connection, chain_id: int) -> ThresholdRow | None:
    """The newest row by max(changed_at <= now, id), or None if the chain has none (L13)."""
    row = connection.execute(
        text(
            """
            SELECT id, new_value FROM public.config_setting_history
            WHERE key = :key AND changed_at <= now() ORDER BY changed_at DESC, id DESC LIMIT 1
            """
        ),
        {"key": threshold_key(chain_id)},
    ).one_or_none()
    return None if row is None else ThresholdRow(row.id, int(row.new_value))


def set_threshold(
    connection: Connection, chain_id: int, blocks: int, *, floor_blocks: int, by: str, reason: str
) -> ThresholdRow:
    """Write the setting and its history row in one transaction.

    Raises SettingRefused for a value below ``floor_blocks`` or above THRESHOLD_MAXIMUM_BLOCKS, or an empty reason.
    """
    if not floor_blocks <= blocks <= THRESHOLD_MAXIMUM_BLOCKS:
        raise SettingRefused(
            f"{threshold_key(chain_id)}: {blocks} blocks refused; expected {floor_blocks} (the chain's floor) "
            f"to {THRESHOLD_MAXIMUM_BLOCKS}"
        )
    if not by.strip() or not reason.strip():
        raise SettingRefused("say who changes it (--by) and why (--reason)")
    key = threshold_key(chain_id)
    old = newest_threshold(connection, chain_id)
    connection.execute(
        text(
            """
            INSERT INTO public.config_settings (key, value) VALUES (:key, to_jsonb(CAST(:blocks AS integer)))
            ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = clock_timestamp()
            """
        ),
        {"key": key, "blocks": blocks},
    )
    row = connection.execute(
        text(
            """
            INSERT INTO public.config_setting_history (key, old_value, new_value, reason, changed_by_label, changed_at)
            VALUES (:key, :old, :new, :reason, :by, clock_timestamp()) RETURNING id
            """
        ),
        {
            "key": key,
            "old": None if old is None else old.value_blocks,
            "new": blocks,
            "reason": reason,
            "by": by,
        },
    ).one()
    return ThresholdRow(row.id, blocks)

"""Confirmation thresholds: the newest row of config_setting_history, never below the chain's floor (design §5).

Units: blocks. A change binds on the next judgement, since every judgement reads the row anew (well within 30 s).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

KEY_PREFIX: Final = "confirmation_threshold:"
THRESHOLD_MAXIMUM_BLOCKS: Final = 100_000  # above it a typing error is likelier than a wish
LABEL_MAXIMUM_CHARACTERS: Final = 500  # who and why are sentences that a table shows


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
    """The newest row by max(changed_at <= now, id), or None if the chain has none (L13).

    A history value between two blocks binds as the higher one. Raises SettingRefused for one that is no number.
    """
    return newest_thresholds(connection, [chain_id]).get(chain_id)


def newest_thresholds(connection: Connection, chain_ids: Sequence[int]) -> dict[int, ThresholdRow]:
    """The same of several chains in one query, by chain id; a chain without a row is not in it."""
    keys = {threshold_key(chain_id): chain_id for chain_id in chain_ids}
    rows = connection.execute(
        text(
            """
            SELECT DISTINCT ON (key) key, id, new_value FROM public.config_setting_history
            WHERE key = ANY(:keys) AND changed_at <= statement_timestamp() ORDER BY key, changed_at DESC, id DESC
            """
        ),
        {"keys": list(keys)},
    )
    found: dict[int, ThresholdRow] = {}
    for row in rows:
        if not row.new_value.is_finite():
            raise SettingRefused(f"{row.key}: history row {row.id} is {row.new_value}; expected blocks: set it anew")
        found[keys[row.key]] = ThresholdRow(row.id, math.ceil(row.new_value))
    return found


def lock_threshold(connection: Connection, chain_id: int) -> None:
    """Let one transaction at a time change the chain's threshold, until this one ends.

    Who compares with the value that stands takes it first: without it two changes judge the same old value.
    """
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": threshold_key(chain_id)}
    )


def set_threshold(
    connection: Connection, chain_id: int, blocks: int, *, floor_blocks: int, by: str, reason: str
) -> ThresholdRow:
    """Write the setting and its history row in one transaction.

    Raises SettingRefused for a value below ``floor_blocks`` or above THRESHOLD_MAXIMUM_BLOCKS, or an empty or overlong ``by`` or ``reason``.
    """
    if not floor_blocks <= blocks <= THRESHOLD_MAXIMUM_BLOCKS:
        raise SettingRefused(
            f"{threshold_key(chain_id)}: {blocks} blocks refused; expected {floor_blocks} (the chain's floor) "
            f"to {THRESHOLD_MAXIMUM_BLOCKS}"
        )
    if not by.strip() or not reason.strip():
        raise SettingRefused("say who changes it (--by) and why (--reason)")
    if max(len(by), len(reason)) > LABEL_MAXIMUM_CHARACTERS:
        raise SettingRefused(f"--by and --reason may have {LABEL_MAXIMUM_CHARACTERS} characters each")
    lock_threshold(connection, chain_id)
    key = threshold_key(chain_id)
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
            VALUES (:key, (
                SELECT h.new_value FROM public.config_setting_history h
                WHERE h.key = :key AND h.changed_at <= statement_timestamp()
                ORDER BY h.changed_at DESC, h.id DESC LIMIT 1), :new, :reason, :by, clock_timestamp()) RETURNING id
            """
        ),
        {
            "key": key,
            "new": blocks,
            "reason": reason,
            "by": by,
        },
    ).one()
    return ThresholdRow(row.id, blocks)

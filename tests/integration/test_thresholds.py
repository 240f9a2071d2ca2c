"""Confirmation thresholds on a real PostgreSQL: their history, which row binds, and who may write them (L13, R9)."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.settings.thresholds import (
    LABEL_MAXIMUM_CHARACTERS,
    THRESHOLD_MAXIMUM_BLOCKS,
    SettingRefused,
    ThresholdRow,
    lock_threshold,
    newest_threshold,
    set_threshold,
    threshold_key,
)
from custody.store.engine import sqlstate, transaction
from custody.store.roles import PROCESS_ROLES
from tests.conftest import Database

CHAIN = 56
KEY = threshold_key(CHAIN)


def change(connection: Connection, blocks: int, **more: Any) -> ThresholdRow:
    words: dict[str, Any] = {"floor_blocks": 200, "by": "mina", "reason": "a deep reorganisation", **more}
    return set_threshold(connection, CHAIN, blocks, **words)


def history(connection: Connection) -> list[Any]:
    return list(
        connection.execute(
            text("SELECT * FROM public.config_setting_history WHERE key = :key ORDER BY changed_at, id"), {"key": KEY}
        )
    )


def add_row(connection: Connection, value: object, changed_at: datetime, row_id: UUID | None = None) -> UUID:
    return connection.execute(
        text(
            "INSERT INTO public.config_setting_history (id, key, new_value, changed_at) "
            "VALUES (coalesce(CAST(:id AS uuid), gen_random_uuid()), :key, CAST(:value AS numeric), :at) RETURNING id"
        ),
        {"id": row_id, "key": KEY, "value": str(value), "at": changed_at},
    ).scalar_one()


def test_each_change_writes_its_history_and_binds_at_once(database: Database) -> None:
    engine = database.engine("fleet_operator")
    with transaction(engine) as connection:
        assert newest_threshold(connection, CHAIN) is None
        first = change(connection, 250)
        assert newest_threshold(connection, CHAIN) == first  # in the very transaction that wrote it
    with transaction(engine) as connection:
        second = change(connection, 200, by="omid", reason="quiet again")
    with engine.connect() as connection:
        assert newest_threshold(connection, CHAIN) == second == ThresholdRow(second.history_id, 200)
        assert newest_threshold(connection, 1) is None
        rows = history(connection)
        assert [
            (row.id, row.old_value, row.new_value, row.changed_by_label, row.reason, row.changed_by) for row in rows
        ] == [
            (first.history_id, None, 250, "mina", "a deep reorganisation", None),
            (second.history_id, 250, 200, "omid", "quiet again", None),
        ]
        value = connection.execute(
            text("SELECT value FROM public.config_settings WHERE key = :key"), {"key": KEY}
        ).scalar_one()
    assert value == 200


def test_nothing_stands_of_a_change_that_is_rolled_back(database: Database) -> None:
    with database.engine("fleet_operator").connect() as connection:
        change(connection, 250)
        connection.rollback()
    with database.engine().connect() as connection:
        assert history(connection) == []


def test_a_wrong_change_is_refused_and_writes_nothing(database: Database) -> None:
    cases: list[tuple[int, dict[str, str], str]] = [
        (199, {}, r"199 blocks refused; expected 200 \(the chain's floor\) to 100000"),
        (0, {}, "0 blocks refused"),
        (-1, {}, "-1 blocks refused"),
        (THRESHOLD_MAXIMUM_BLOCKS + 1, {}, "100001 blocks refused"),
        (300, {"by": ""}, "--by"),
        (300, {"by": " \t"}, "--by"),
        (300, {"reason": ""}, "--reason"),
        (300, {"reason": "\n"}, "--reason"),
        (300, {"reason": "x" * (LABEL_MAXIMUM_CHARACTERS + 1)}, "characters each"),
    ]
    with transaction(database.engine("fleet_operator")) as connection:
        for blocks, more, expected in cases:
            with pytest.raises(SettingRefused, match=expected):
                change(connection, blocks, **more)
        assert history(connection) == []


def test_the_floor_and_the_maximum_themselves_are_taken(database: Database) -> None:
    with transaction(database.engine("fleet_operator")) as connection:
        assert change(connection, 200).value_blocks == 200
        assert change(connection, THRESHOLD_MAXIMUM_BLOCKS).value_blocks == THRESHOLD_MAXIMUM_BLOCKS


def test_the_newest_row_binds_and_a_future_one_does_not(database: Database) -> None:
    now = datetime.now(UTC)
    low, high = UUID(int=1), UUID(int=2)
    with transaction(database.engine()) as connection:
        connection.execute(
            text("INSERT INTO public.config_settings (key, value) VALUES (:key, '1'), (:other, '1')"),
            {"key": KEY, "other": threshold_key(137)},
        )
        add_row(connection, 900, now - timedelta(days=2))
        add_row(connection, 700, now + timedelta(hours=1))
        add_row(connection, 500, now - timedelta(days=1), low)
        assert newest_threshold(connection, CHAIN) == ThresholdRow(low, 500)
        add_row(connection, 400, now - timedelta(days=1), high)  # the same moment: the higher id
        assert newest_threshold(connection, CHAIN) == ThresholdRow(high, 400)
        assert newest_threshold(connection, 137) is None


def test_a_value_between_two_blocks_binds_as_the_higher(database: Database) -> None:
    with transaction(database.engine()) as connection:
        change(connection, 250)
        add_row(connection, "300.2", datetime.now(UTC))
        newest = newest_threshold(connection, CHAIN)
        assert newest is not None
        assert newest.value_blocks == 301


def test_a_value_that_is_no_number_is_refused_and_a_new_row_repairs_it(database: Database) -> None:
    with transaction(database.engine()) as connection:
        change(connection, 250)
        row = add_row(connection, "NaN", datetime.now(UTC))
        with pytest.raises(SettingRefused, match=str(row)):
            newest_threshold(connection, CHAIN)
        change(connection, 260)
        newest = newest_threshold(connection, CHAIN)
        assert newest is not None
        assert newest.value_blocks == 260


def test_no_other_role_changes_a_threshold(database: Database) -> None:
    for role in PROCESS_ROLES:
        if role == "fleet_operator":
            continue
        with pytest.raises(DBAPIError) as caught, transaction(database.engine(role)) as connection:
            change(connection, 300)
        assert sqlstate(caught.value) == "42501", role
    with database.engine().connect() as connection:
        assert history(connection) == []


def test_two_changes_at_once_name_each_other_as_the_old_value(database: Database) -> None:
    engine = database.engine("fleet_operator")
    is_locked = threading.Event()

    def second() -> None:
        with transaction(engine) as connection:
            connection.execute(text("SELECT 1"))  # its snapshot's clock starts before the first change
            is_locked.set()
            change(connection, 400)

    other = threading.Thread(target=second)
    with transaction(engine) as connection:
        lock_threshold(connection, CHAIN)
        other.start()
        assert is_locked.wait(10)
        change(connection, 300)
    other.join(20)
    with engine.connect() as connection:
        assert [(row.old_value, row.new_value) for row in history(connection)] == [(None, 300), (300, 400)]

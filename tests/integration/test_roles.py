"""One database role a process (R9): what none of them may do, who may post what, and roles that stand already."""

import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger import Entry, LedgerRefusal, MovementNotAllowed, post
from custody.ledger.positions import ASSET_ACCOUNTS
from custody.mirror.backfill.targets import target_of
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.marks import Owner
from custody.mirror.following.rights import UNREAD, is_made_by_fleet
from custody.store.engine import sqlstate, transaction
from custody.store.roles import (
    OWNER_ROLE,
    PROCESS_ROLES,
    RolePasswordMissing,
    RoleTooStrong,
    ensure_roles,
    read_role_password,
)
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

LEDGER_TABLES = ("public.funds_ledger_entries", "fleet.ledger_balances", "fleet.posting_rules")
FORBIDDEN = (
    *(f"INSERT INTO {table} SELECT * FROM {table}" for table in LEDGER_TABLES),
    *(f"INSERT INTO {table} DEFAULT VALUES" for table in LEDGER_TABLES),
    *(f"DELETE FROM {table}" for table in LEDGER_TABLES),
    *(f"TRUNCATE {table} CASCADE" for table in LEDGER_TABLES),
    *(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in LEDGER_TABLES),
    *(f"ALTER TABLE {table} OWNER TO CURRENT_USER" for table in LEDGER_TABLES),
    "UPDATE public.funds_ledger_entries SET amount = 1",
    "UPDATE fleet.ledger_balances SET held = 1",
    "UPDATE fleet.ledger_balances SET dispute_open = 0, release_epoch = 0",
    "UPDATE fleet.posting_rules SET poster_role = current_user",
    "DROP TRIGGER funds_ledger_entries_no_update ON public.funds_ledger_entries",
    "DROP FUNCTION public.refuse_ledger_change() CASCADE",
    "CREATE OR REPLACE FUNCTION public.refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "ALTER FUNCTION fleet.post_entry SECURITY INVOKER",
    "SELECT password FROM public.users",
    "SELECT email FROM public.users",
    "SELECT * FROM public.users",
    "UPDATE public.users SET role = 'admin'",
    "UPDATE public.payments SET amount = 1",
    "UPDATE fleet.payment_routes SET expected = 1 WHERE false RETURNING (SELECT email FROM public.users LIMIT 1)",
    f"SET ROLE {OWNER_ROLE}",
    f"SET SESSION AUTHORIZATION {OWNER_ROLE}",
    "SET session_replication_role = replica",
    "CREATE TABLE public.mine ()",
    "CREATE TABLE fleet.mine ()",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT rolpassword FROM pg_authid",
)


ITS_OWN = {("fleet_follower", "UPDATE public.users SET role = 'admin'")}
"""Users are MongoDB's whole, so the follower writes them; a role of the marketplace approves nothing by itself (R3)."""


def test_no_role_of_a_process_reaches_past_its_step(database: Database) -> None:
    marketplace = Marketplace(database)
    marketplace.payment()
    refused: Counter[str] = Counter()
    slipped: list[str] = []
    for role in PROCESS_ROLES:
        with database.engine(role).connect() as connection:
            assert connection.execute(text("SELECT session_user")).scalar_one() == role
            for statement in FORBIDDEN:
                if (role, statement) in ITS_OWN:
                    continue
                savepoint = connection.begin_nested()
                try:
                    connection.exec_driver_sql(statement)
                    slipped.append(f"{role}: {statement}")
                except DBAPIError as error:
                    if sqlstate(error) == "42501":
                        refused[role] += 1
                    else:
                        slipped.append(f"{role}: {statement}: {error.orig}")
                savepoint.rollback()
    sys.stdout.write(
        f"{len(PROCESS_ROLES)} roles x {len(FORBIDDEN)} actions, {len(ITS_OWN)} of them a role's own: "
        f"{refused.total()} refused, {len(slipped)} not\n"
    )
    assert slipped == []
    assert refused.total() == len(PROCESS_ROLES) * len(FORBIDDEN) - len(ITS_OWN)


def test_no_role_holds_a_privilege_to_write_the_ledger_or_read_credentials(database: Database) -> None:
    with database.engine().connect() as connection:
        for role in PROCESS_ROLES:
            for table in LEDGER_TABLES:
                held = connection.execute(
                    text("SELECT has_table_privilege(:r, :t, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')"),
                    {"r": role, "t": table},
                ).scalar_one()
                some_column = connection.execute(
                    text("SELECT has_any_column_privilege(:r, :t, 'INSERT, UPDATE, REFERENCES')"),
                    {"r": role, "t": table},
                ).scalar_one()
                assert (held, some_column) == (False, False), (role, table)
            for column in ("password", "email"):
                # The follower brings credentials over and cannot read one.
                privileges = "SELECT" if role == "fleet_follower" else "SELECT, UPDATE"
                assert not connection.execute(
                    text("SELECT has_column_privilege(:r, 'public.users', :c, :p)"),
                    {"r": role, "c": column, "p": privileges},
                ).scalar_one(), (role, column)
            assert not connection.execute(
                text(
                    "SELECT has_schema_privilege(:r, 'public', 'CREATE') OR has_schema_privilege(:r, 'fleet', 'CREATE')"
                ),
                {"r": role},
            ).scalar_one()


PAST_ITS_STEP = (
    ("fleet_webhooks", "UPDATE fleet.webhook_deliveries SET body = 'another'"),
    ("fleet_webhooks", "UPDATE fleet.webhook_deliveries SET is_test = false"),
    ("fleet_webhooks", "UPDATE fleet.chain_looks SET transaction_hash = 'another'"),
    ("fleet_operator", "UPDATE fleet.payment_routes SET expected = 1"),
    ("fleet_operator", "UPDATE public.derived_destinations SET address = 'mine'"),
    ("fleet_operator", "UPDATE public.derived_destinations SET status = 'active'"),
    ("fleet_operator", "INSERT INTO fleet.sanctioned_addresses (address, since_version) VALUES ('0x', 1)"),
    ("fleet_confirmations", "DELETE FROM fleet.sanctioned_addresses"),
    ("fleet_sweeps", "UPDATE public.derived_destinations SET total_swept = 1"),
    ("fleet_operator", "UPDATE fleet.tokens SET decimals = 0"),
    ("fleet_operator", "UPDATE fleet.deposit_accounts SET xpub = 'mine'"),
    ("fleet_operator", "UPDATE fleet.release_instructions SET recipient = 'mine'"),
    ("fleet_operator", "UPDATE fleet.release_instructions SET state = 'ready'"),
    ("fleet_operator", "INSERT INTO fleet.release_instructions (state) VALUES ('ready')"),
    ("fleet_operator", "UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL"),
    ("fleet_releases", "UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL"),
    ("fleet_releases", "SELECT * FROM public.pg_dualwrite_gaps"),
    ("fleet_sweeps", "SELECT * FROM public.pg_dualwrite_gaps"),
    ("fleet_sweeps", "SELECT * FROM fleet.security_gap_rows"),
    ("fleet_releases", "SELECT * FROM fleet.security_pauses"),
    ("fleet_releases", "INSERT INTO fleet.cutovers (domain) VALUES ('dispute')"),
    ("fleet_operator", "INSERT INTO fleet.domain_beginnings (domain, store) VALUES ('dispute', 'dual')"),
    ("fleet_mirror", "INSERT INTO fleet.mirror_restorations (collection) VALUES ('payments')"),
    ("fleet_follower", "INSERT INTO public.payments (status) VALUES ('completed')"),
    ("fleet_follower", "UPDATE public.payments SET escrow_state = 'released'"),
    ("fleet_follower", "UPDATE public.payments SET chain_id = 1"),
    ("fleet_follower", "DELETE FROM public.payments"),
    ("fleet_follower", "INSERT INTO public.derived_destinations (address) VALUES ('mine')"),
    ("fleet_follower", "UPDATE public.derived_destinations SET status = 'active'"),
    ("fleet_follower", "INSERT INTO public.derived_destination_sweeps (amount) VALUES (1)"),
    ("fleet_follower", "INSERT INTO public.trezor_accounts (xpub) VALUES ('mine')"),
    ("fleet_follower", "INSERT INTO public.config_settings (key) VALUES ('mine')"),
    ("fleet_follower", "UPDATE public.config_settings SET value = '1'"),
    ("fleet_follower", "UPDATE public.seller_offers SET price_amount = 1"),
    ("fleet_follower", "DELETE FROM public.users"),
    ("fleet_follower", "INSERT INTO fleet.outbox (queue) VALUES ('mirror')"),
    ("fleet_follower", "DELETE FROM fleet.outbox"),
    ("fleet_follower", "SELECT credential_id FROM public.user_passkeys"),
    ("fleet_follower", "SELECT token_hash FROM public.telegram_sessions"),
    ("fleet_follower", "SELECT token FROM public.user_refresh_tokens"),
    ("fleet_follower", "UPDATE public.pg_dualwrite_gaps SET severity = 'warning'"),
    ("fleet_follower", "DELETE FROM public.pg_dualwrite_gaps"),
)


@pytest.mark.parametrize(("role", "statement"), PAST_ITS_STEP)
def test_what_was_said_once_is_not_changed_by_who_may_say_more(
    module_database: Database, role: str, statement: str
) -> None:
    with module_database.engine(role).connect() as connection, pytest.raises(DBAPIError) as refused:
        connection.exec_driver_sql(statement)
    assert sqlstate(refused.value) == "42501"


PAUSING = {
    "fleet.pause_chain(bigint, text)": {"fleet_watcher", "fleet_releases", "fleet_operator"},
    "fleet.propose_go_on(bigint, text, text)": {"fleet_operator"},
    "fleet.execute_go_on(uuid, bytea, text)": {"fleet_operator"},
    "fleet.execute_adjustment(uuid, bytea, text)": {"fleet_operator"},
    "fleet.propose_break_glass(bigint, text, integer, text, text)": {"fleet_operator"},
    "fleet.veto_break_glass(uuid, text)": {"fleet_operator"},
    "fleet.raise_alarm(text, text, text, text, uuid)": set[str](),
    "fleet.acknowledge_alarm(uuid, text)": {"fleet_operator"},
    "fleet.lock_agreed_action(uuid, text[], bytea, text)": set[str](),
    "fleet.post_of_action(fleet.operator_actions, jsonb, text, text)": set[str](),
    "fleet.work_behind_pause(bigint)": set[str](),
    "fleet.pause_as_parameters(bigint)": set[str](),
    "fleet.quarantine_destination(uuid, text)": {"fleet_operator"},
    "fleet.propose_readmission(uuid, text, text)": {"fleet_operator"},
    "fleet.execute_readmission(uuid, bytea, text)": {"fleet_operator"},
    "fleet.load_sanctions(integer, text[], bytea, text, text)": {"fleet_operator"},
    "fleet.propose_delisting(bigint, text, text, text)": {"fleet_operator"},
    "fleet.execute_delisting(uuid, bytea, text)": {"fleet_operator"},
    "fleet.sanctioned_among(bigint, text[])": {"fleet_confirmations", "fleet_operator"},
    "fleet.sanctioned_of(uuid, bigint, text)": {"fleet_confirmations", "fleet_releases", "fleet_operator"},
    "fleet.total_sweeps()": set[str](),
    "fleet.propose_cutover(text, text, text, text)": {"fleet_operator"},
    "fleet.execute_cutover(uuid, bytea, text)": {"fleet_operator"},
    "fleet.is_cut_over(text)": {"fleet_mirror", "fleet_follower"},
    "fleet.require_clean_cutover(text, text)": set[str](),
    "fleet.propose_gap_resolution(uuid, boolean, text, text)": {"fleet_operator"},
    "fleet.execute_gap_resolution(uuid, bytea, text)": {"fleet_operator"},
    "fleet.document_to_restore(uuid)": set[str](),
    "fleet.security_pauses_of(uuid[])": {"fleet_releases", "fleet_sweeps", "fleet_operator"},
}


def test_who_may_pause_a_chain_and_let_it_go_on(module_database: Database) -> None:
    """R9, R10: whoever meets what it must not judge alone pauses; only the two persons' actions lift a pause."""
    with module_database.engine().connect() as connection:
        found = {
            action: {
                role
                for role in PROCESS_ROLES
                if connection.execute(
                    text("SELECT has_function_privilege(:r, :f, 'EXECUTE')"), {"r": role, "f": action}
                ).scalar_one()
            }
            for action in PAUSING
        }
    allowed = sum(map(len, found.values()))
    sys.stdout.write(f"{len(PROCESS_ROLES)} roles x {len(PAUSING)} pausing actions: {allowed} allowed\n")
    assert found == PAUSING


def test_no_process_lifts_a_pause_of_a_row_that_it_writes(database: Database) -> None:
    """The watcher moves the cursor of a paused chain; the pause itself stays (R10)."""
    market = Marketplace(database)
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp, paused_reason, paused_at) "
        "VALUES (31337, 1, '0x', now(), 'a theft', now())"
    )
    watcher = database.engine("fleet_watcher")
    with transaction(watcher) as connection:
        connection.execute(text("UPDATE fleet.chain_cursors SET head_number = 2"))
    for change in ("paused_reason = NULL, paused_at = NULL", "paused_reason = 'nothing'", "paused_at = now()"):
        with pytest.raises(DBAPIError) as refused, transaction(watcher) as connection:
            connection.execute(text(f"UPDATE fleet.chain_cursors SET {change}"))
        assert sqlstate(refused.value) == "FL006"


def test_the_owner_cannot_log_in(database: Database) -> None:
    with database.engine().connect() as connection:
        row = connection.execute(
            text("SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = :r"), {"r": OWNER_ROLE}
        ).one()
        owners: set[str] = set(
            connection.execute(
                text(
                    "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'fleet' "
                    "OR tablename IN ('funds_ledger_entries', 'payments')"
                )
            ).scalars()
        )
    assert tuple(row) == (False, False)
    assert owners == {OWNER_ROLE}
    parts = urlsplit(database.url())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(
            host=parts.hostname, port=parts.port, user=OWNER_ROLE, password="x", dbname=database.name, connect_timeout=5
        )


def entry_of(rule: Any, book: Any) -> Entry:
    address = "0x" + "11" * 20
    return Entry(
        book_kind=rule.book_kind,
        book_id=book,
        chain_id=CHAIN_ID,
        token=TOKEN,
        entry_type=rule.entry_type,
        reason=rule.reason,
        debit=rule.debit,
        credit=rule.credit,
        amount=Decimal(1),
        key=f"matrix:{uuid4()}",
        debit_address=address if rule.debit in ASSET_ACCOUNTS else None,
        credit_address=address if rule.credit in ASSET_ACCOUNTS else None,
    )


def attempt(connection: Connection, entry: Entry) -> str:
    """ "posted", "its own" (a later refusal), "not its own" or "no door" (may not call post_entry)."""
    savepoint = connection.begin_nested()
    try:
        post(connection, entry)
        return "posted"
    except MovementNotAllowed as error:
        return "not its own" if "may not post" in str(error) else "its own"
    except LedgerRefusal:
        return "its own"
    except DBAPIError as error:
        if sqlstate(error) != "42501":
            raise
        return "no door"
    finally:
        savepoint.rollback()


def test_each_movement_has_exactly_its_posters(database: Database) -> None:
    marketplace = Marketplace(database)
    payment = marketplace.payment()
    house = marketplace.execute(
        "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:c, :a, 'gas_payer') RETURNING id",
        c=CHAIN_ID,
        a="0x" + "77" * 20,
    )[0].id
    rules = marketplace.execute(
        "SELECT book_kind, entry_type::text AS entry_type, reason, debit, credit, "
        "array_agg(poster_role) AS posters FROM fleet.posting_rules GROUP BY 1, 2, 3, 4, 5"
    )
    assert len(rules) >= 36
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for role in PROCESS_ROLES:
        with database.engine(role).connect() as connection:
            for rule in rules:
                entry = entry_of(rule, payment if rule.book_kind == "payment" else house)
                outcome = attempt(connection, entry)
                counts[outcome] += 1
                # An operator's movements are posted by an action of two persons (R10), never by the operator.
                if (outcome in {"posted", "its own"}) != (role in rule.posters and role != "fleet_operator"):
                    wrong.append(f"{role}: {rule.entry_type}:{rule.reason} {rule.debit}/{rule.credit} {outcome}")
    sys.stdout.write(f"{len(PROCESS_ROLES)} roles x {len(rules)} movements: {dict(counts)}\n")
    assert wrong == []
    assert counts["posted"] > 0
    assert counts["its own"] + counts["posted"] == sum(len(set(rule.posters) - {"fleet_operator"}) for rule in rules)


# Roles that stand already --------------------------------------------------------------------------------------------


def test_a_role_made_too_strong_is_refused(database: Database, role_passwords: Path) -> None:
    for strengthen in (
        "ALTER ROLE fleet_relay SUPERUSER",
        "ALTER ROLE fleet_relay CREATEROLE",
        "ALTER ROLE fleet_relay CREATEDB",
        "ALTER ROLE fleet_relay BYPASSRLS",
        "ALTER ROLE fleet_relay REPLICATION",
        "GRANT fleet_owner TO fleet_relay",
    ):
        with database.engine().connect() as connection:  # rolled back: roles are the whole cluster's
            connection.exec_driver_sql(strengthen)
            with pytest.raises(RoleTooStrong, match="fleet_relay"):
                ensure_roles(connection, role_passwords)
            connection.rollback()


def test_an_owner_that_could_log_in_no_longer_can_and_passwords_are_kept_as_verifiers(
    database: Database, role_passwords: Path
) -> None:
    with database.engine().connect() as connection:
        connection.exec_driver_sql("ALTER ROLE fleet_owner LOGIN PASSWORD 'open'")
        ensure_roles(connection, role_passwords)
        found = {
            row.rolname: row
            for row in connection.execute(
                text("SELECT rolname, rolcanlogin, rolinherit, rolpassword FROM pg_authid WHERE rolname LIKE 'fleet%'")
            )
        }
        connection.rollback()
    assert (found[OWNER_ROLE].rolcanlogin, found[OWNER_ROLE].rolpassword) == (False, None)
    for role in PROCESS_ROLES:
        assert found[role].rolcanlogin
        assert not found[role].rolinherit
        assert found[role].rolpassword.startswith("SCRAM-SHA-256$")


def test_each_role_logs_in_with_its_own_password_only(database: Database) -> None:
    parts = urlsplit(database.url())
    for role, other in zip(PROCESS_ROLES, (*PROCESS_ROLES[1:], PROCESS_ROLES[0]), strict=True):
        with transaction(database.engine(role)) as connection:
            assert connection.execute(text("SELECT current_user")).scalar_one() == role
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(
                host=parts.hostname,
                port=parts.port,
                user=role,
                password=read_role_password(database.passwords_dir, other),
                dbname=database.name,
                connect_timeout=5,
            )


@pytest.mark.parametrize("content", [None, b"", b" \n", b"x" * 513, b"two\nlines", b"\xff\xfe"])
def test_a_password_file_that_is_no_line_of_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "fleet_relay"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(RolePasswordMissing, match=str(path)):
        read_role_password(tmp_path, "fleet_relay")


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet_relay"
    path.write_text("hunter2\n")
    path.chmod(0o640)
    with pytest.raises(RolePasswordMissing, match=f"chmod 600 {path}") as caught:
        read_role_password(tmp_path, "fleet_relay")
    assert "hunter2" not in str(caught.value)
    path.chmod(0o600)
    assert read_role_password(tmp_path, "fleet_relay") == "hunter2"


def test_the_follower_writes_what_mongodb_owns_and_inserts_nothing_of_the_fleet_s(module_database: Database) -> None:
    """R7, by column: each of the mapping's fields against the grants."""
    granted: Counter[str] = Counter()
    with module_database.engine().connect() as connection:

        def may(what: str, table: str, column: str) -> bool:
            return connection.execute(
                text("SELECT has_column_privilege('fleet_follower', :t, :c, :w)"), {"t": table, "c": column, "w": what}
            ).scalar_one()

        for name in COLLECTIONS:
            target = target_of(name)
            for column in target.columns:
                if column.name == "legacy_object_id":
                    continue
                where = (target.table, column.name)
                inserts = column.owner is not Owner.FLEET and not is_made_by_fleet(name)
                assert may("INSERT", *where) is inserts, where
                if column.owner is not Owner.MONGO:
                    assert may("UPDATE", *where) is False, where
                elif target.updatable:
                    assert may("UPDATE", *where), where
                assert may("SELECT", *where) is (column.name not in UNREAD.get(name, ())), where
                granted["columns"] += 1
            for child in target.children:
                assert may("INSERT", child.table, child.columns[0].name) is (child.owner is Owner.MONGO), child.table
                assert may("UPDATE", child.table, child.columns[0].name) is False, child.table
    sys.stdout.write(f"{granted['columns']} columns of {len(COLLECTIONS)} collections\n")
    assert granted["columns"] > 150

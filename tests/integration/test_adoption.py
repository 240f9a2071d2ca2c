"""A living database that the backend's own migrations made is compared with state 0017, and joined only when it is safe."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
import typer
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

from custody.settings.environment import settings
from custody.store.adoption.adopting import AdoptionRefused, adopt, compare
from custody.store.adoption.catalogue import Catalogue, baseline_statements, expected_catalogue, read_catalogue
from custody.store.adoption.differences import Difference, Severity, differences
from custody.store.upgrade import upgrade_database
from tests.conftest import Database
from workers.cli.database import register

BACKEND: Final = "amanat_backend"
_RENAME: Final = """
DO $$ DECLARE r record; BEGIN
    -- Names as the backend's generator gives them; UNIQUE constraints become unique indexes.
    FOR r IN SELECT conrelid::regclass AS place, conname AS name, pg_get_constraintdef(oid) AS definition,
                    conrelid::regclass::text AS bare
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype = 'u'
                  AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conindid = pg_constraint.conindid) LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', r.place, r.name);
        EXECUTE format('CREATE UNIQUE INDEX %I ON %s %s', r.name || '_idx', r.place, substring(r.definition from '\\(.*'));
    END LOOP;
    FOR r IN SELECT conrelid::regclass AS place, conname AS name FROM pg_constraint
             WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'c') LOOP
        EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', r.place, r.name, left(r.name, 50) || '_fk_or_chk');
    END LOOP;
    FOR r IN SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%\\_pkey' LOOP
        EXECUTE format('ALTER INDEX public.%I RENAME TO %I', r.name, 'drz_' || left(r.name, 55));
    END LOOP;
END $$;
ALTER FUNCTION public.refuse_ledger_change() RENAME TO funds_ledger_immutable;
ALTER TRIGGER funds_ledger_entries_no_update ON public.funds_ledger_entries RENAME TO trg_funds_ledger_no_update;
"""


@dataclass(frozen=True)
class Living:
    """A database as the backend left it, and its administrator."""

    admin: Engine
    passwords_dir: Path

    def as_backend(self, connection: Connection, statement: str) -> None:
        connection.execute(text(f"SET LOCAL ROLE {BACKEND}"))
        connection.execute(text(statement))
        connection.execute(text("RESET ROLE"))


@pytest.fixture(scope="module")
def backend_role(module_database: Database) -> Iterator[str]:
    """Roles are the server's: one for the module."""
    with module_database.engine().begin() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {BACKEND}"))
        connection.execute(text(f"CREATE ROLE {BACKEND} NOLOGIN"))
    yield BACKEND
    with module_database.engine().begin() as connection:
        connection.execute(text(f"DROP ROLE {BACKEND}"))


@pytest.fixture
def living(module_database: Database, backend_role: str) -> Iterator[Living]:
    name = f"living_{uuid4().hex[:12]}"
    maintenance = create_engine(module_database.engine().url, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} OWNER {backend_role}"))
    admin = create_engine(module_database.engine().url.set(database=name))
    try:
        with admin.begin() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            connection.execute(text(f"SET LOCAL ROLE {backend_role}"))
            driver.execute(baseline_statements())
            driver.execute(_RENAME)
        yield Living(admin, module_database.passwords_dir)
    finally:
        admin.dispose()
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()


@pytest.fixture(scope="module")
def expected(module_database: Database) -> Catalogue:
    with module_database.engine().connect() as connection:
        found = expected_catalogue(connection)
        connection.rollback()
    assert len(found.tables) == 35
    return found


# Comparing ------------------------------------------------------------------------------------------------------


def test_the_backends_own_schema_differs_in_names_alone(living: Living) -> None:
    compared = compare(living.admin)
    assert compared.differences == ()
    assert (compared.payments, compared.ledger_rows) == (0, 0)


def test_comparing_leaves_nothing_behind(living: Living) -> None:
    compare(living.admin)
    with living.admin.connect() as connection:
        schemas = (
            connection.execute(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'fleet%'")).scalars().all()
        )
    assert schemas == []


PLANTED: Final[dict[str, tuple[str, Severity, str, str]]] = {
    "a table is missing": ("DROP TABLE public.payment_quotes", Severity.BLOCKING, "payment_quotes", "the table is missing"),
    "a column is missing": (
        "ALTER TABLE public.payments DROP COLUMN payment_reference", Severity.BLOCKING, "payments.payment_reference", "missing",
    ),
    "a required column is missing": (
        "ALTER TABLE public.trezor_accounts DROP COLUMN xpub", Severity.BLOCKING, "trezor_accounts.xpub", "missing",
    ),
    "money with fewer decimals": (
        "ALTER TABLE public.payments ALTER COLUMN amount TYPE numeric(18, 8)", Severity.BLOCKING, "payments.amount", "numeric(18,8)",
    ),
    "a time without its zone": (
        "ALTER TABLE public.payments ALTER COLUMN created_at TYPE timestamp", Severity.BLOCKING, "payments.created_at", "timestamp",
    ),
    "a float for a balance": (
        "ALTER TABLE public.derived_destinations ALTER COLUMN balance TYPE double precision",
        Severity.BLOCKING, "derived_destinations.balance", "double precision",
    ),
    "a wider text": ("ALTER TABLE public.users ALTER COLUMN email TYPE text", Severity.NOTE, "users.email", "text"),
    "a narrower text": (
        "ALTER TABLE public.purchase_requests ALTER COLUMN title TYPE varchar(80)",
        Severity.WARNING, "purchase_requests.title", "varying(80)",
    ),
    "a column that may be missing is required": (
        "ALTER TABLE public.payments ALTER COLUMN network SET NOT NULL", Severity.BLOCKING, "payments.network", "NOT NULL",
    ),
    "a required column may be missing": (
        "ALTER TABLE public.payments ALTER COLUMN status DROP NOT NULL", Severity.WARNING, "payments.status", "may be NULL",
    ),
    "no default": (
        "ALTER TABLE public.payments ALTER COLUMN disputed DROP DEFAULT", Severity.BLOCKING, "payments.disputed", "default is none",
    ),
    "another default": (
        "ALTER TABLE public.payments ALTER COLUMN currency SET DEFAULT 'USDC'", Severity.NOTE, "payments.currency", "USDC",
    ),
    "an unknown required column": (
        "ALTER TABLE public.payments ADD COLUMN risk text NOT NULL", Severity.BLOCKING, "payments.risk", "NOT NULL",
    ),
    "an unknown optional column": (
        "ALTER TABLE public.payments ADD COLUMN note text", Severity.NOTE, "payments.note", "does not know",
    ),
    "an unknown table": ("CREATE TABLE public.level_configs (id int)", Severity.NOTE, "level_configs", "leaves it alone"),
    "no CHECK on amounts": (
        "ALTER TABLE public.payments DROP CONSTRAINT payments_amount_positive_fk_or_chk",
        Severity.BLOCKING, "payments", "missing: CHECK",
    ),
    "no reference": (
        "ALTER TABLE public.payments DROP CONSTRAINT payments_buyer_id_fkey_fk_or_chk",
        Severity.BLOCKING, "payments", "FOREIGN KEY (buyer_id)",
    ),
    "a CHECK of theirs": (
        "ALTER TABLE public.payments ADD CONSTRAINT small CHECK (amount < 10)", Severity.WARNING, "payments", "small",
    ),
    "not validated": (
        "ALTER TABLE public.payments DROP CONSTRAINT payments_amount_positive_fk_or_chk; "
        "ALTER TABLE public.payments ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID",
        Severity.WARNING, "payments", "NOT VALID",
    ),
    "no unique index": (
        "DROP INDEX public.drz_payments_legacy_object_id_unique", Severity.BLOCKING, "payments", "unique index",
    ),
    "no index": ("DROP INDEX public.drz_payments_buyer_status", Severity.WARNING, "payments", "index on"),
    "a unique index of theirs": (
        "CREATE UNIQUE INDEX one_sender ON public.payments (sender)", Severity.WARNING, "payments", "one_sender",
    ),
    "the ledger may be edited": (
        "DROP TRIGGER trg_funds_ledger_no_update ON public.funds_ledger_entries",
        Severity.BLOCKING, "funds_ledger_entries", "BEFORE UPDATE",
    ),
    "the ledger's guard is off": (
        "ALTER TABLE public.funds_ledger_entries DISABLE TRIGGER funds_ledger_entries_no_delete",
        Severity.BLOCKING, "funds_ledger_entries", "disabled",
    ),
    "a trigger of theirs": (
        "CREATE TRIGGER theirs BEFORE INSERT ON public.payments FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        Severity.WARNING, "payments", "theirs",
    ),
}  # fmt: skip


def found_in(connection: Connection, expected: Catalogue) -> list[Difference]:
    return differences(expected, read_catalogue(connection), baseline_statements())


def test_every_planted_deviation_is_named_and_its_statement_closes_it(living: Living, expected: Catalogue) -> None:
    """One database for all: each is planted, named, closed and rolled back."""
    closed = 0
    for name, (plant, severity, place, words) in PLANTED.items():
        with living.admin.connect() as connection:
            for statement in plant.split("; "):
                living.as_backend(connection, statement)
            found = found_in(connection, expected)
            (named,) = [item for item in found if item.place == place and words in item.what]
            assert named.severity is severity, name
            # With a column its indexes and constraints go as well; nothing else is said.
            assert all(item.place.partition(".")[0] == place.partition(".")[0] for item in found), name
            if named.closes:
                driver = connection.connection.driver_connection
                assert driver is not None
                for item in [named, *(other for other in found if other is not named)]:
                    driver.execute(item.closes.replace(" CONCURRENTLY", ""))
                left = found_in(connection, expected)
                assert named not in left, name
                assert {item.severity for item in left} <= {Severity.NOTE}, name
                closed += 1
            connection.rollback()
    assert closed == len(PLANTED) - 2  # unknown columns and tables are nobody's to drop


def test_an_enum_that_lacks_a_value(expected: Catalogue) -> None:
    short = {
        **expected.enums,
        "user_role": ("admin", "buyer", "seller", "resolver"),
        "ref_kind": ("entity", "template", "x"),
    }
    found = differences(expected, Catalogue(expected.tables, short), baseline_statements())
    assert [(item.severity, item.place, item.closes) for item in found] == [
        (Severity.BLOCKING, "user_role", "ALTER TYPE public.user_role ADD VALUE 'guard'"),
        (Severity.WARNING, "ref_kind", ""),
    ]


# Adopting -------------------------------------------------------------------------------------------------------


def older_rows(living: Living) -> None:
    with living.admin.begin() as connection:
        connection.execute(
            text(
                """
                WITH buyer AS (INSERT INTO public.users (email) VALUES ('b@example.org') RETURNING id),
                paid AS (INSERT INTO public.payments (purchase_request_ref_kind, purchase_request_external_ref,
                        seller_offer_ref_kind, seller_offer_external_ref, buyer_id, seller_ref_kind, seller_external_ref, amount)
                    SELECT 'template', 'template-checkout-1', 'template', 'template-tc-1', id, 'template', 's', 12.5
                    FROM buyer RETURNING id)
                INSERT INTO public.funds_ledger_entries (payment_id, entry_type, amount, currency)
                SELECT id, 'payment_detected', 12.5, 'USDT' FROM paid
                """
            )
        )


def test_a_living_database_is_joined_and_its_ledger_is_nobodys_to_write(living: Living) -> None:
    older_rows(living)
    compared = adopt(living.admin, living.passwords_dir, backend_role=BACKEND)
    assert (compared.payments, compared.ledger_rows) == (1, 1)
    upgrade_database(living.admin, living.passwords_dir)
    with living.admin.connect() as connection:
        (older,) = connection.execute(text("SELECT amount, book_id, entry_hash FROM public.funds_ledger_entries")).all()
        assert (older.amount, older.book_id, older.entry_hash) == (12.5, None, None)
        owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'funds_ledger_entries'"
        assert connection.execute(text(owner)).scalar_one() == "fleet_owner"
        living.as_backend(connection, "UPDATE public.payments SET currency = 'USDC'")
        living.as_backend(connection, "SELECT * FROM public.funds_ledger_entries")
        connection.commit()
        for refused in (
            "INSERT INTO public.funds_ledger_entries (entry_type, amount, currency) VALUES ('release', 1, 'USDT')",
            "ALTER TABLE public.funds_ledger_entries DISABLE TRIGGER ALL",
            "ALTER TABLE public.funds_ledger_entries OWNER TO CURRENT_USER",
        ):
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner|no privileges"):
                living.as_backend(connection, refused)
            connection.rollback()
    with pytest.raises(AdoptionRefused, match="already: run fleet db upgrade"):
        adopt(living.admin, living.passwords_dir, backend_role=BACKEND)


def test_a_difference_that_blocks_changes_nothing(living: Living) -> None:
    with living.admin.begin() as connection:
        living.as_backend(connection, "ALTER TABLE public.payments ALTER COLUMN amount TYPE numeric(18, 8)")
    with pytest.raises(AdoptionRefused, match="1 differences stand against it") as refused:
        adopt(living.admin, living.passwords_dir, backend_role=BACKEND)
    assert [item.place for item in refused.value.found] == ["payments.amount"]
    with living.admin.connect() as connection:
        owners = connection.execute(
            text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        ).scalars()
        assert list(owners) == [BACKEND]


@pytest.mark.parametrize(("role", "words"), [("nobody_here", "no role"), ("postgres", "superuser")])
def test_a_backend_from_which_nothing_can_be_taken_is_refused(living: Living, role: str, words: str) -> None:
    with pytest.raises(AdoptionRefused, match=words):
        adopt(living.admin, living.passwords_dir, backend_role=role)


def test_an_empty_database_is_built_not_adopted(living: Living) -> None:
    with living.admin.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {BACKEND}"))
    with pytest.raises(AdoptionRefused, match="fleet db upgrade, which builds it"):
        compare(living.admin)


def test_fleet_db_adopt(living: Living, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    url = living.admin.url.render_as_string(hide_password=False).replace("+psycopg", "")
    monkeypatch.setenv("DATABASE_ADMIN_URL", url)
    monkeypatch.setenv("DATABASE_ROLE_PASSWORDS_DIR", str(living.passwords_dir))
    monkeypatch.setenv("COLUMNS", "160")
    settings.cache_clear()
    try:
        with living.admin.begin() as connection:
            living.as_backend(connection, "DROP INDEX public.drz_payments_buyer_status")
            living.as_backend(connection, "ALTER TABLE public.payments DROP COLUMN payment_reference")
        written = tmp_path / "close.sql"
        tried = CliRunner().invoke(app, ["db", "adopt", "--dry-run", "--statements", str(written)])
        assert tried.exit_code == 1, tried.output
        assert "2 blocking" not in tried.output
        assert re.search(r"1 blocking, 2 warning", tried.output), tried.output
        with living.admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SET ROLE {BACKEND}"))
            for statement in re.findall(r"^(?!--).+?;", written.read_text(), re.MULTILINE):
                connection.execute(text(statement))
        done = CliRunner().invoke(app, ["db", "adopt", "--backend-role", BACKEND])
        assert done.exit_code == 0, done.output
        assert "now run: fleet db upgrade" in done.output
    finally:
        settings.cache_clear()

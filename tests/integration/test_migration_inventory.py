"""Revision 0001 is the marketplace's state 0017: each row of its migration inventory is carried by something that is there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from tests.conftest import Database

_DOCUMENT: Final = Path(__file__).parents[2] / "docs/data-model.md"
_CORE: Final = (
    "users",
    "user_passkeys",
    "user_refresh_tokens",
    "payments",
    "funds_ledger_entries",
    "derived_destinations",
    "derived_destination_sweeps",
    "purchase_requests",
    "purchase_request_delivery_info",
    "purchase_request_delivery_address",
    "purchase_request_seller_delivery_info",
    "delivery_attempts",
    "purchase_request_service_info",
    "purchase_request_specifications",
    "purchase_request_preferred_sellers",
    "seller_offers",
    "point_transactions",
    "trezor_accounts",
    "trezor_derived_addresses",
)
_SCAFFOLDED: Final = (
    "shop_settings",
    "config_settings",
    "config_setting_history",
    "telegram_links",
    "telegram_sessions",
    "reviews",
    "blog_posts",
    "notifications",
)
_LEGACY: Final = "WHERE (legacy_object_id IS NOT NULL)"

Check = Callable[["Catalogue"], object]


class Catalogue:
    """What the database says of itself."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.tables = set(
            connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars()
        )

    def has(self, *tables: str) -> bool:
        return set(tables) <= self.tables

    def enum(self, name: str) -> list[str]:
        query = "SELECT enumlabel FROM pg_enum WHERE enumtypid = to_regtype('public.' || :name) ORDER BY enumsortorder"
        return list(self.connection.execute(text(query), {"name": name}).scalars())

    def constraints(self, table: str) -> str:
        query = (
            "SELECT string_agg(pg_get_constraintdef(oid), '; ' ORDER BY conname) FROM pg_constraint "
            "WHERE conrelid = to_regclass('public.' || :table)"
        )
        return str(self.connection.execute(text(query), {"table": table}).scalar_one())

    def indexes(self, table: str) -> str:
        query = (
            "SELECT string_agg(indexdef, '; ' ORDER BY indexname) FROM pg_indexes "
            "WHERE schemaname = 'public' AND tablename = :table"
        )
        return str(self.connection.execute(text(query), {"table": table}).scalar_one())

    def default(self, table: str, column: str) -> str:
        query = (
            "SELECT column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name = :table AND column_name = :column"
        )
        return str(self.connection.execute(text(query), {"table": table, "column": column}).scalar_one())

    def triggers(self, table: str) -> str:
        query = (
            "SELECT string_agg(pg_get_triggerdef(oid), '; ' ORDER BY tgname) FROM pg_trigger "
            "WHERE tgrelid = to_regclass('public.' || :table) AND NOT tgisinternal"
        )
        return str(self.connection.execute(text(query), {"table": table}).scalar_one())


def _every_migrated_table_has_its_bridge(found: Catalogue) -> bool:
    migrated = found.connection.execute(
        text(
            "SELECT table_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND column_name = 'legacy_object_id' AND table_name NOT IN "
            "('id_map', 'pg_dualwrite_gaps')"
        )
    ).scalars()
    return all(
        re.search(rf"UNIQUE INDEX \w+ .*\(legacy_object_id\) {re.escape(_LEGACY)}", found.indexes(t)) for t in migrated
    )


CARRIED: Final[dict[str, Check]] = {
    "0000": lambda found: found.has("id_map", "categories"),
    "0001": lambda found: found.has("trezor_accounts", "trezor_derived_addresses"),
    "0002": lambda found: "FOREIGN KEY (parent_id) REFERENCES categories(id)" in found.constraints("categories"),
    "0003": lambda found: found.has(*_CORE),
    "0004a": lambda found: "BEFORE UPDATE ON public.funds_ledger_entries" in found.triggers("funds_ledger_entries"),
    "0004b": lambda found: (
        "FOREIGN KEY (seller_id) REFERENCES users(id) ON DELETE CASCADE" in found.constraints("seller_offers")
        and "REFERENCES purchase_requests(id) ON DELETE CASCADE" in found.constraints("seller_offers")
    ),
    "0005": lambda found: (
        found.has("pg_dualwrite_gaps")
        and "uniq_pending_request_network_by_buyer_session" in found.indexes("payments")
        and _every_migrated_table_has_its_bridge(found)
    ),
    # 0006 is undone by 0007.
    "0006": lambda found: "CHECK ((budget_currency" not in found.constraints("purchase_requests"),
    "0007": lambda found: found.default("purchase_requests", "budget_currency").startswith("'USDT'"),
    "0008": lambda found: "TRY" in found.enum("offer_currency") and found.has("payment_quotes"),
    "0009": lambda found: "lower(btrim(name))) WHERE is_active" in found.indexes("categories"),
    "0010": lambda found: (
        found.has("request_templates")
        and "UNIQUE (purchase_request_id, key)" in found.constraints("purchase_request_specifications")
    ),
    "0011": lambda found: found.has("chats") and found.enum("chat_type") == ["direct", "group", "support"],
    "0012": lambda found: found.has("disputes"),
    "0013": lambda found: (
        "(amount > (0)::numeric)" in found.constraints("payments")
        and "(fx_rate > (0)::numeric)" in found.constraints("payment_quotes")
        and "(amount <> 0)" in found.constraints("point_transactions")
        and "(points_available >= 0)" in found.constraints("users")
        and "BEFORE TRUNCATE" in found.triggers("funds_ledger_entries")
        and "PRIMARY KEY (collection, legacy_object_id)" in found.constraints("id_map")
        and "UNIQUE (new_id)" in found.constraints("id_map")
    ),
    "0014": lambda found: (
        "(selected_offer_id) REFERENCES seller_offers(id)" in found.constraints("purchase_requests")
        and "(buyer_id) REFERENCES users(id)" in found.constraints("payments")
        and "(buyer_id, status)" in found.indexes("payments")
        and "(buyer_id, status)" in found.indexes("purchase_requests")
        and "(purchase_request_id, status)" in found.indexes("seller_offers")
        and found.connection.execute(
            text(
                "SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
                "AND contype = 'f' AND NOT convalidated"
            )
        ).scalar_one()
        == 0
    ),
    "0015": lambda found: "BEFORE DELETE ON public.funds_ledger_entries" in found.triggers("funds_ledger_entries"),
    "0016": lambda found: (
        found.enum("address_type") == ["Home", "Office", "Other"]
        and "(user_id) WHERE (is_primary AND (deleted_at IS NULL))" in found.indexes("addresses")
    ),
    "0017": lambda found: found.enum("user_role") == ["admin", "buyer", "seller", "resolver", "guard"],
}


@pytest.mark.parametrize("migration", CARRIED)
def test_each_migration_of_the_inventory_is_carried(module_database: Database, migration: str) -> None:
    with module_database.engine().connect() as connection:
        assert CARRIED[migration](Catalogue(connection))


def test_what_the_schema_only_scaffolds_is_there_as_well(module_database: Database) -> None:
    with module_database.engine().connect() as connection:
        assert Catalogue(connection).has(*_SCAFFOLDED)


def test_the_document_maps_every_migration() -> None:
    listed = re.findall(r"^\| (0\d{3}[ab]?) \|", _DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(CARRIED)


def test_one_active_category_a_name_however_it_is_spelled(module_database: Database) -> None:
    with module_database.engine().connect() as connection:
        insert = text("INSERT INTO public.categories (name, is_active) VALUES (:name, :active)")
        connection.execute(insert, {"name": "Books", "active": True})
        connection.execute(insert, {"name": "books", "active": False})
        with pytest.raises(IntegrityError, match="categories_active_name_unique"):
            connection.execute(insert, {"name": " BOOKS ", "active": True})


def test_one_primary_address_a_user_and_a_deleted_one_does_not_count(module_database: Database) -> None:
    with module_database.engine().connect() as connection:
        user = uuid4()
        connection.execute(text("INSERT INTO public.users (id) VALUES (:user)"), {"user": user})
        insert = text(
            "INSERT INTO public.addresses (user_id, is_primary, deleted_at) "
            "VALUES (:user, true, CASE WHEN :gone THEN now() END)"
        )
        connection.execute(insert, {"user": user, "gone": True})
        connection.execute(insert, {"user": user, "gone": False})
        with pytest.raises(IntegrityError, match="addresses_one_primary_per_user"):
            connection.execute(insert, {"user": user, "gone": False})

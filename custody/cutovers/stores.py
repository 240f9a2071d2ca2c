"""The store that each domain is read from: the newest executed cutover, else what the releases worker was set to."""

from collections.abc import Mapping
from typing import Final, Literal

from sqlalchemy import Connection, text

from custody.settings.environment import SettingsError, Store

Domain = Literal["dispute", "marketplace"]
DOMAINS: Final[tuple[Domain, ...]] = ("marketplace", "dispute")

_CUT_OVER: Final = text("SELECT DISTINCT ON (domain) domain, to_store FROM fleet.cutovers ORDER BY domain, number DESC")
_EVER_PG: Final = text("SELECT EXISTS (SELECT FROM fleet.cutovers WHERE domain = :domain AND to_store = 'pg')")
_IS_CUT_OVER: Final = text("SELECT fleet.is_cut_over(:collection)")
_SAY: Final = text(
    """
    INSERT INTO fleet.domain_beginnings AS b (domain, store) VALUES (:domain, :store)
    ON CONFLICT (domain) DO UPDATE SET store = excluded.store, said_at = clock_timestamp() WHERE b.store <> excluded.store
    """
)


def cut_over_to(connection: Connection) -> dict[Domain, Store]:
    """What each domain was cut over to last; those that nobody ever cut over are not in it."""
    return {row.domain: row.to_store for row in connection.execute(_CUT_OVER)}


def is_cut_over(connection: Connection, collection: str) -> bool:
    """Whether Postgres alone decides of a collection, so that nothing of MongoDB's is taken into it any more."""
    return connection.execute(_IS_CUT_OVER, {"collection": collection}).scalar_one()


def require_beginnings(connection: Connection, beginnings: Mapping[Domain, Store]) -> None:
    """Raises SettingsError for a setting that says ``pg`` of a domain that two persons never cut over to it (R10)."""
    for domain, store in beginnings.items():
        if store == "pg" and not connection.execute(_EVER_PG, {"domain": domain}).scalar_one():
            raise SettingsError(
                f"REPO_{domain.upper()} is pg, and {domain} was never cut over to it: set it to dual, and run "
                f'fleet cutover {domain} --to pg --by NAME --reason "..." (two persons sign it)'
            )


def say_beginnings(connection: Connection, beginnings: Mapping[Domain, Store]) -> None:
    """Keep what this process was set to, by which a domain is judged that was never cut over."""
    for domain, store in beginnings.items():
        if store != "pg":
            connection.execute(_SAY, {"domain": domain, "store": store})

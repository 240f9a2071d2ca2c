"""A database's superuser who rewrites what a signer is shown, and the same rows put back, so that one scene bears many lies."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from tests.marketplace import Marketplace

TABLES: Final = (
    "fleet.release_instructions",
    "fleet.nonce_digests",
    "fleet.approvals",
    "fleet.address_book",
    "fleet.chain_facts",
    "fleet.payment_routes",
    "fleet.ledger_seals",
    "public.derived_destinations",
    "public.derived_destination_sweeps",
)


@contextmanager
def rewritten(market: Marketplace) -> Generator[None]:
    """What happens inside to TABLES is undone at the end. Their triggers are off already (SignerScene.rule)."""
    for table in TABLES:
        market.execute(f"CREATE TABLE {_copy(table)} AS TABLE {table}")
    try:
        yield
    finally:
        for table in TABLES:
            market.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            market.execute(f"DELETE FROM {table}")
        for table in TABLES:
            columns = ", ".join(
                row.attname
                for row in market.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:t AS regclass) AND attnum > 0 "
                    "AND NOT attisdropped AND attgenerated = ''",
                    t=table,
                )
            )
            market.execute(
                f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {_copy(table)}"
            )
            market.execute(f"DROP TABLE {_copy(table)}")


def _copy(table: str) -> str:
    return f"public.copy_of_{table.replace('.', '_')}"

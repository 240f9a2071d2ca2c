"""What a scanned block reads from Postgres does not grow with what waits, nor with what was ever issued (L12)."""

import secrets

from sqlalchemy import Connection, text

from custody.chain.blocks import BlockHeader, ScannedBlock
from custody.chain.logs import TRANSFER_TOPIC, Log
from custody.chain.matching import concerned, misplaced
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

WAITING = 3_000
HEIGHT = 1_000_000
PREPARED_AFTER = 6  # psycopg's default and one


def word() -> str:
    return "0x" + secrets.token_hex(32)


def block(number: int, recipients: list[str]) -> ScannedBlock:
    header = BlockHeader(number, word(), word(), 1_700_000_000)
    logs = tuple(
        Log(
            CHAIN_ID, number, header.hash, word(), index, index, TOKEN,  # pyright: ignore[reportArgumentType]
            (TRANSFER_TOPIC, word(), "0x" + "00" * 12 + recipient[2:].lower()), (1).to_bytes(32),
        )
        for index, recipient in enumerate(recipients)
    )  # fmt: skip
    return ScannedBlock(header, (), logs, None, None)


def rows_read(connection: Connection) -> int:
    """Rows of facts and addresses that this transaction has read so far, by an index or without."""
    return connection.execute(
        text(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables "
            "WHERE relid IN ('fleet.chain_facts'::regclass, 'public.derived_destinations'::regclass)"
        )
    ).scalar_one()


def test_a_block_reads_what_is_at_its_heights_and_addresses_alone(database: Database) -> None:
    market = Marketplace(database)
    payment = market.payment()
    market.fact(payment, block=HEIGHT)
    market.execute(
        """
        INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref, chain_id,
            address, derivation_path, derivation_index)
        SELECT buyer_id, 'template', 'o' || n, chain_id, '0x' || lpad(to_hex(n), 40, '0'), 'm/' || n, 1000 + n
        FROM public.derived_destinations, generate_series(1, :n) AS n
        """,
        n=WAITING,
    )
    market.execute(
        """
        INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token,
            sender, recipient, amount_units, direction, payment_id, destination_id)
        SELECT chain_id, :height - 1, 'b' || n, 't' || n, 0, 0, token, sender, recipient, 1, 'inbound', payment_id, destination_id
        FROM fleet.chain_facts, generate_series(1, :n) AS n
        """,
        n=WAITING,
        height=HEIGHT,
    )
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.execute(text("ANALYZE"))
    [paid] = market.execute(
        "SELECT d.address FROM public.derived_destinations d JOIN fleet.payment_routes r ON r.destination_id = d.id"
    )
    strangers = ["0x" + secrets.token_hex(20) for _ in range(20)]
    with transaction(database.engine("fleet_watcher")) as connection:
        # As after the first blocks of a watcher: its statements are prepared, and planned for any block.
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        for _ in range(PREPARED_AFTER):
            misplaced(connection, CHAIN_ID, [block(1, strangers)])
            concerned(connection, [block(1, strangers)])
        for blocks, count in (([block(HEIGHT, [*strangers, paid.address])], 1), ([block(HEIGHT + 1, strangers)], 0)):
            before = rows_read(connection)
            assert len(misplaced(connection, CHAIN_ID, blocks)) == count
            assert len(concerned(connection, blocks)) == count
            assert rows_read(connection) - before <= 2 * count

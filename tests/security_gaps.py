"""Security gaps as whoever finds them writes them, and two persons who close them."""

from uuid import UUID

from sqlalchemy import text

from custody.ledger.adjustments import open_actions
from custody.mirror.security_gaps import KIND, execute_resolution, propose_resolution
from custody.store.engine import transaction
from tests.conftest import Database

_INSERT = text(
    """
    INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason)
    VALUES (:collection, 'verify', :object_id, CAST(:payload AS jsonb), :severity, 'amount: MongoDB holds another value')
    RETURNING id
    """
)


def open_gap(
    database: Database, collection: str, object_id: str | None, *, severity: str = "security", payload: str = "{}"
) -> UUID:
    """A gap as the mirror's role writes it."""
    values = {"collection": collection, "object_id": object_id, "severity": severity, "payload": payload}
    with transaction(database.engine("fleet_mirror")) as connection:
        return connection.execute(_INSERT, values).scalar_one()


def gap_of_payment(database: Database, payment: UUID) -> UUID:
    """A gap of the payment's own document."""
    with database.engine().connect() as connection:
        object_id = connection.execute(
            text("SELECT legacy_object_id FROM public.payments WHERE id = :id"), {"id": payment}
        ).scalar_one()
    return open_gap(database, "payments", object_id)


def close_gap(database: Database, gap: UUID, *, write_again: bool = False) -> None:
    """Mina proposes and Omid agrees: on a development chain two labels are enough."""
    with transaction(database.engine("fleet_operator")) as connection:
        action = propose_resolution(connection, gap, write_again=write_again, reason="looked at", by="mina")
        [agreed] = [each.hash for each in open_actions(connection, KIND) if each.id == action]
    with transaction(database.engine("fleet_operator")) as connection:
        assert execute_resolution(connection, action, agreed_hash=agreed, by="omid") == gap

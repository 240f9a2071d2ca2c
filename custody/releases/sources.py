"""What the marketplace says of a purchase request and its disputes, read where it is kept today (design §3).

``repo_dispute`` and ``repo_marketplace`` say where: ``mongo`` and ``dual`` read MongoDB (from the primary, with
majority concern, R14), ``pg`` reads Postgres. A source that does not answer in time is SourceUnreadable: the
releases that need it wait with that reason, nothing else does.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.settings.environment import Store
from custody.store.engine import forbid_inside_transaction, transaction

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection

log = structlog.get_logger(__name__)

FRESH_SECONDS: Final = 5.0  # R14: what hand-out and broadcast rely on is at most this old
MONGO_SECONDS: Final = 2.0  # finding the primary and one query; two of them are still fresh enough to be used
AWAY_SECONDS: Final = 1.0  # after a failure everybody else in the round is told at once, in place of waiting again
DISPUTES_LIMIT: Final = 10_000  # documents of one read; more means a broken query, not that many quarrels

COMPLETED: Final = "completed"
"""The buyer confirmed delivery, or the marketplace's own timer did: the release may be drafted."""

MAY_BE_PAID: Final = frozenset({"delivered", COMPLETED})
"""States in which an instruction may be reserved: ``delivered`` only where an operator asked for it."""

MUST_NOT_BE_PAID: Final = frozenset({"disputed", "refunded"})

_CLOSED_DISPUTE: Final = frozenset({"resolved", "closed"})
_FOR_THE_SELLER: Final = frozenset({"no_action", "warning_seller"})


class SourceUnreadable(Exception):
    """A store did not answer in time. The message names it; what depends on it waits as ``source_unreadable``."""


@dataclass(frozen=True, slots=True)
class RequestReference:
    """How a payment names its purchase request: the Postgres id, and MongoDB's ``_id`` as 24 hex digits."""

    payment_id: UUID
    request_id: UUID | None
    legacy_object_id: str | None
    external_ref: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """Every text by which a dispute may name this request (its ids are texts of either kind)."""
        found = (self.legacy_object_id, self.external_ref, str(self.request_id) if self.request_id else None)
        return tuple(name for name in found if name)


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as its document says. ``action`` is its resolution's, None while there is none."""

    id: str
    status: str
    action: str | None

    @property
    def why_it_stops(self) -> str | None:
        """Why it stops a release to the seller, as a sentence; None when it was settled for the seller.

        Anything not known to be settled counts as open: a new status must never release money.
        """
        if self.status not in _CLOSED_DISPUTE:
            return f"dispute_open: dispute {self.id} is {self.status}; it must be resolved first."
        if self.action not in _FOR_THE_SELLER:
            return (
                f"dispute_not_for_seller: dispute {self.id} was closed with "
                f"{self.action or 'no resolution'}; people decide who is paid."
            )
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read about one purchase request, and when (``time.monotonic`` before the first query)."""

    status: str | None
    disputes: tuple[Dispute, ...]
    read_at: float

    def is_fresh(self) -> bool:
        """Whether it is at most FRESH_SECONDS old (R14)."""
        return time.monotonic() - self.read_at <= FRESH_SECONDS

    def why_it_stops(self) -> str | None:
        """Why the seller must not be paid now, as a sentence; None when nothing here says so."""
        for dispute in self.disputes:
            if why := dispute.why_it_stops:
                return why
        if self.status is None:
            return "purchase_request_missing: the marketplace has no such request; check its id mapping."
        if self.status in MUST_NOT_BE_PAID:
            return f"dispute_open: the purchase request is {self.status}; the marketplace must settle it first."
        return None


_REFERENCE: Final = text(
    """
    SELECT p.id, p.purchase_request_id, p.purchase_request_external_ref, r.legacy_object_id
    FROM public.payments p LEFT JOIN public.purchase_requests r ON r.id = p.purchase_request_id
    WHERE p.id = ANY (:ids)
    """
)


def references(connection: Connection, payment_ids: Sequence[UUID]) -> dict[UUID, RequestReference]:
    """How each payment names its purchase request."""
    return {
        row.id: RequestReference(
            row.id, row.purchase_request_id, row.legacy_object_id, row.purchase_request_external_ref
        )
        for row in connection.execute(_REFERENCE, {"ids": list(payment_ids)})
    }


@dataclass
class Sources:
    """Reads requests and disputes of many payments at once: two queries, however many there are."""

    engine: Engine
    mongo: "MongoClient[dict[str, Any]] | None"
    mongo_database: str
    repo_dispute: Store = "mongo"
    repo_marketplace: Store = "mongo"
    _away_until: float = field(default=0.0, init=False)

    def read(self, wanted: Sequence[RequestReference]) -> dict[UUID, Reading]:
        """A reading for each reference, by payment id. Raises SourceUnreadable."""
        forbid_inside_transaction("reading the marketplace")
        if not wanted:
            return {}
        read_at = time.monotonic()
        statuses = self._statuses(wanted)
        disputes = self._disputes(wanted)
        return {
            reference.payment_id: Reading(
                next((statuses[name] for name in reference.names if name in statuses), None),
                tuple(dispute for name in reference.names for dispute in disputes.get(name, ())),
                read_at,
            )
            for reference in wanted
        }

    def close(self) -> None:
        """Close the connections to MongoDB."""
        if self.mongo is not None:
            self.mongo.close()

    def _statuses(self, wanted: Sequence[RequestReference]) -> Mapping[str, str]:
        if self.repo_marketplace == "pg":
            with self._postgres() as connection:
                rows = connection.execute(
                    text("SELECT id::text, status::text FROM public.purchase_requests WHERE id = ANY (:ids)"),
                    {"ids": [each.request_id for each in wanted if each.request_id]},
                )
                return {row.id: row.status for row in rows}
        names = [name for each in wanted for name in (each.legacy_object_id, each.external_ref) if name]
        found = self._find("purchaserequests", {"_id": {"$in": _either_type(names)}}, {"status": 1})
        return {str(document["_id"]): str(document.get("status")) for document in found}

    def _disputes(self, wanted: Sequence[RequestReference]) -> Mapping[str, list[Dispute]]:
        names = [name for each in wanted for name in each.names]
        found: dict[str, list[Dispute]] = {}
        if self.repo_dispute == "pg":
            with self._postgres() as connection:
                for row in connection.execute(
                    text(
                        "SELECT id::text, purchase_request_id, status, resolution ->> 'action' AS action "
                        "FROM public.disputes WHERE purchase_request_id = ANY (:names)"
                    ),
                    {"names": names},
                ):
                    found.setdefault(row.purchase_request_id, []).append(Dispute(row.id, row.status, row.action))
            return found
        for document in self._find(
            "disputes",
            {"purchaseRequestId": {"$in": _either_type(names)}},
            {"purchaseRequestId": 1, "status": 1, "resolution": 1},
        ):
            resolution = document.get("resolution")
            action = resolution.get("action") if isinstance(resolution, dict) else resolution
            found.setdefault(str(document["purchaseRequestId"]), []).append(
                Dispute(str(document["_id"]), str(document.get("status")), None if action is None else str(action))
            )
        return found

    def _postgres(self) -> Any:
        return _PostgresReading(self.engine)

    def _find(self, collection: str, query: Mapping[str, Any], fields: Mapping[str, int]) -> list[dict[str, Any]]:
        import pymongo
        from pymongo.errors import PyMongoError

        if self.mongo is None:
            raise SourceUnreadable(
                f"{collection} is read from MongoDB and MONGO_URL is not set: set it, or cut the domain over."
            )
        if time.monotonic() < self._away_until:
            raise SourceUnreadable(f"MongoDB's {collection} could not be read a moment ago; it is asked again.")
        try:
            with pymongo.timeout(MONGO_SECONDS):
                documents = list(self._collection(collection).find(query, fields).limit(DISPUTES_LIMIT + 1))
        except PyMongoError as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("release_source_unreadable", collection=collection, error=type(error).__name__)
            raise SourceUnreadable(
                f"MongoDB's {collection} could not be read ({type(error).__name__}); the release goes on by "
                "itself once MongoDB answers."
            ) from error
        if len(documents) > DISPUTES_LIMIT:
            raise SourceUnreadable(f"MongoDB's {collection} answered over {DISPUTES_LIMIT} documents.")
        return documents

    def _collection(self, name: str) -> "Collection[dict[str, Any]]":
        from pymongo import ReadPreference
        from pymongo.read_concern import ReadConcern

        assert self.mongo is not None
        return self.mongo[self.mongo_database].get_collection(
            name, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("majority")
        )


class _PostgresReading:
    """A read-only transaction whose failure is SourceUnreadable, like MongoDB's."""

    def __init__(self, engine: Engine) -> None:
        self._context = transaction(engine)

    def __enter__(self) -> Connection:
        try:
            return self._context.__enter__()
        except DBAPIError as error:
            raise SourceUnreadable("Postgres could not be read for requests and disputes.") from error

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _either_type(names: Sequence[str]) -> list[Any]:
    """Each id as text, and as an ObjectId where it has that form: the backend has written both."""
    from bson import ObjectId

    found: list[Any] = list(dict.fromkeys(names))
    return found + [ObjectId(name) for name in dict.fromkeys(names) if ObjectId.is_valid(name)]

"""What the marketplace says of a purchase request and its disputes, read where it is kept today (design §3).

What two persons cut a domain over to says where, else ``repo_dispute`` and ``repo_marketplace``: ``mongo`` and ``dual``
read MongoDB (from the primary, with majority concern, R14), ``pg`` reads Postgres; ``dual`` reads Postgres too, and counts
where it says otherwise. A source that does not answer in time is SourceUnreadable: the releases that need it wait with that
reason, nothing else does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.cutovers import Domain, cut_over_to, say_beginnings
from custody.releases.dispute_outcomes import CLOSED, Dispute
from custody.releases.shadow_reads import compare
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

DELIVERED: Final = "delivered"

UNSAID: Final = {"purchaserequests": "pending", "disputes": "open"}
"""The status of a document that MongoDB keeps without one, as its mapping has it: neither of them pays anybody."""

MAY_BE_PAID: Final = frozenset({DELIVERED, COMPLETED})
"""States in which an instruction may be reserved: ``delivered`` only where an operator or the timer asked for it."""

MUST_NOT_BE_PAID: Final = frozenset({"disputed", "refunded"})


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
class Reading:
    """What was read about one purchase request, and when (``time.monotonic`` before the first query)."""

    status: str | None
    disputes: tuple[Dispute, ...]
    read_at: float
    delivered_at: datetime | None = None
    """When the marketplace says it was delivered; None where it says nothing that is a time."""

    def is_fresh(self) -> bool:
        """Whether it is at most FRESH_SECONDS old (R14)."""
        return time.monotonic() - self.read_at <= FRESH_SECONDS

    def is_due(self, auto_release_hours: int | None) -> bool:
        """Whether the seller is due: the buyer completed it, or it was delivered that many hours ago (None: off)."""
        if self.status == COMPLETED:
            return True
        if auto_release_hours is None or self.status != DELIVERED or self.delivered_at is None:
            return False
        return datetime.now(UTC) - self.delivered_at >= timedelta(hours=auto_release_hours)

    def why_it_stops(self, purpose: str = "release") -> str | None:
        """Why an instruction must not be paid now, as a sentence; None when nothing here says so.

        A refund is stopped by an open dispute alone: how much the buyer gets was decided when it was ordered. So is what
        the house kept of an earlier release.
        """
        if purpose != "release":
            return next((each.why_it_stops for each in self.disputes if each.is_open), None)
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
    """Where each domain begins (REPO_<DOMAIN>): as long as nobody cut it over."""
    open_client: "Callable[[], MongoClient[dict[str, Any]]] | None" = None
    """Opens ``mongo`` when it is first read and none was given: a domain may come back to it."""
    _cut_over: dict[Domain, Store] = field(default_factory=dict[Domain, Store], init=False)
    _said: dict[Domain, Store] | None = field(default=None, init=False)
    _away_until: float = field(default=0.0, init=False)

    @property
    def beginnings(self) -> dict[Domain, Store]:
        """What each domain is read from as long as nobody cut it over."""
        return {"marketplace": self.repo_marketplace, "dispute": self.repo_dispute}

    def store_of(self, domain: Domain) -> Store:
        """Where a domain is read now."""
        return self._cut_over.get(domain) or self.beginnings[domain]

    def follow_cutovers(self) -> None:
        """Read what each domain was cut over to: once a round, so that a cutover binds without a restart."""
        with transaction(self.engine) as connection:
            found = cut_over_to(connection)
            if self._said != self.beginnings:
                say_beginnings(connection, self.beginnings)
        self._said = self.beginnings
        for domain, store in found.items():
            if self._cut_over.get(domain) != store:
                log.warning("domain_cut_over", domain=domain, store=store)
        self._cut_over = found

    def read(self, wanted: Sequence[RequestReference]) -> dict[UUID, Reading]:
        """A reading for each reference, by payment id. Raises SourceUnreadable."""
        forbid_inside_transaction("reading the marketplace")
        if not wanted:
            return {}
        read_at = time.monotonic()
        requests = self._requests(wanted, self.store_of("marketplace"))
        disputes = self._disputes(wanted, self.store_of("dispute"))
        settled = self._settled(wanted) if any(disputes.values()) else frozenset[tuple[UUID, str]]()
        readings = {
            payment: Reading(
                status,
                tuple(replace(dispute, is_settled=(payment, dispute.id) in settled) for dispute in disputes[payment]),
                read_at,
                delivered_at,
            )
            for payment, (status, delivered_at) in requests.items()
        }
        self._shadow(wanted, requests, disputes)
        return readings

    def _shadow(
        self,
        wanted: Sequence[RequestReference],
        requests: Mapping[UUID, tuple[str | None, datetime | None]],
        disputes: Mapping[UUID, Sequence[Dispute]],
    ) -> None:
        """Compare with Postgres what a domain that is written to both stores was answered by MongoDB."""
        try:
            if self.store_of("marketplace") == "dual":
                compare(self.engine, "marketplace", requests, self._requests(wanted, "pg"))
            if self.store_of("dispute") == "dual":
                shadows = self._disputes(wanted, "pg")
                said = {payment: sorted(each.said for each in found) for payment, found in disputes.items()}
                compare(
                    self.engine,
                    "dispute",
                    said,
                    {payment: sorted(each.said for each in found) for payment, found in shadows.items()},
                )
        except (SourceUnreadable, DBAPIError) as error:
            log.warning("shadow_unreadable", error=type(error).__name__)

    def names_in_dispute(self) -> list[str]:
        """The purchase requests that an open dispute names, as their texts. Raises SourceUnreadable."""
        forbid_inside_transaction("reading the marketplace")
        if self.store_of("dispute") == "pg":
            with self._postgres() as connection:
                return list(
                    connection.execute(
                        text("SELECT DISTINCT purchase_request_id FROM public.disputes WHERE status <> ALL (:closed)"),
                        {"closed": sorted(CLOSED)},
                    ).scalars()
                )
        found = self._find("disputes", {"status": {"$nin": sorted(CLOSED)}}, {"purchaseRequestId": 1})
        return [str(document["purchaseRequestId"]) for document in found if document.get("purchaseRequestId")]

    def _settled(self, wanted: Sequence[RequestReference]) -> frozenset[tuple[UUID, str]]:
        """The disputes whose last opening the books have closed."""
        with self._postgres() as connection:
            rows = connection.execute(
                text(
                    "SELECT DISTINCT ON (payment_id, dispute_id) payment_id, dispute_id, state FROM fleet.payment_disputes "
                    "WHERE payment_id = ANY (:ids) ORDER BY payment_id, dispute_id, opening DESC"
                ),
                {"ids": [each.payment_id for each in wanted]},
            )
            return frozenset((row.payment_id, row.dispute_id) for row in rows if row.state == "closed")

    def close(self) -> None:
        """Close the connections to MongoDB."""
        if self.mongo is not None:
            self.mongo.close()

    def _requests(
        self, wanted: Sequence[RequestReference], store: Store
    ) -> dict[UUID, tuple[str | None, datetime | None]]:
        """Status and time of delivery of each payment's request; None where there is no such request."""
        found: dict[str, tuple[str, datetime | None]] = {}
        if store == "pg":
            with self._postgres() as connection:
                rows = connection.execute(
                    text(
                        "SELECT id::text, status::text, delivered_at FROM public.purchase_requests WHERE id = ANY (:ids)"
                    ),
                    {"ids": [each.request_id for each in wanted if each.request_id]},
                )
                found = {row.id: (row.status, row.delivered_at) for row in rows}
        else:
            names = [name for each in wanted for name in (each.legacy_object_id, each.external_ref) if name]
            for document in self._find(
                "purchaserequests", {"_id": {"$in": _either_type(names)}}, {"status": 1, "deliveredAt": 1}
            ):
                found[str(document["_id"])] = (
                    _status("purchaserequests", document),
                    _time(document.get("deliveredAt")),
                )
        return {
            each.payment_id: next((found[name] for name in each.names if name in found), (None, None))
            for each in wanted
        }

    def _disputes(self, wanted: Sequence[RequestReference], store: Store) -> dict[UUID, list[Dispute]]:
        """The disputes of each payment's request. One keeps its name in both stores: the books know it by that."""
        names = [name for each in wanted for name in each.names]
        found: dict[str, list[Dispute]] = {}
        if store == "pg":
            with self._postgres() as connection:
                for row in connection.execute(
                    text(
                        "SELECT coalesce(legacy_object_id, id::text) AS id, purchase_request_id, status, resolution "
                        "FROM public.disputes WHERE purchase_request_id = ANY (:names)"
                    ),
                    {"names": names},
                ):
                    found.setdefault(row.purchase_request_id, []).append(Dispute(row.id, row.status, row.resolution))
        else:
            for document in self._find(
                "disputes",
                {"purchaseRequestId": {"$in": _either_type(names)}},
                {"purchaseRequestId": 1, "status": 1, "resolution": 1},
            ):
                found.setdefault(str(document["purchaseRequestId"]), []).append(
                    Dispute(str(document["_id"]), _status("disputes", document), document.get("resolution"))
                )
        return {each.payment_id: [dispute for name in each.names for dispute in found.get(name, ())] for each in wanted}

    def _postgres(self) -> Any:
        return _PostgresReading(self.engine)

    def _find(self, collection: str, query: Mapping[str, Any], fields: Mapping[str, int]) -> list[dict[str, Any]]:
        import pymongo
        from pymongo.errors import PyMongoError

        if self.mongo is None and self.open_client is None:
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

        if self.mongo is None:
            assert self.open_client is not None
            self.mongo = self.open_client()
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


def _status(collection: str, document: Mapping[str, Any]) -> str:
    said = document.get("status")
    return UNSAID[collection] if said is None else str(said)


def _time(value: object) -> datetime | None:
    """MongoDB's time, which it gives without a zone in UTC."""
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _either_type(names: Sequence[str]) -> list[Any]:
    """Each id as text, and as an ObjectId where it has that form: the backend has written both."""
    from bson import ObjectId

    found: list[Any] = list(dict.fromkeys(names))
    return found + [ObjectId(name) for name in dict.fromkeys(names) if ObjectId.is_valid(name)]

"""The client of MongoDB: every wait bounded, every write on a majority's disks before it counts."""

from typing import Any, Final

from pymongo import MongoClient, ReadPreference
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    PyMongoError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

Document = dict[str, Any]

SERVER_SELECTION_TIMEOUT_MS: Final = 3_000  # an election takes longer; the caller's rows wait for the next try
CONNECT_TIMEOUT_MS: Final = 3_000
SOCKET_TIMEOUT_MS: Final = 10_000  # a batch of 100 small writes takes well under a second
WAIT_QUEUE_TIMEOUT_MS: Final = 3_000
WRITE_CONCERN_TIMEOUT_MS: Final = 5_000
POOL_SIZE: Final = 4

_AWAY: Final = (
    AutoReconnect,
    ConnectionFailure,
    NetworkTimeout,
    ExecutionTimeout,
    WaitQueueTimeoutError,
    WTimeoutError,
    WriteConcernError,
)


def open_mongo(url: str, *, application: str) -> MongoClient[Document]:
    """A client that connects on first use. Open it after a fork, once a process; nothing is sent here.

    Reads go to the primary with majority concern (R14), writes wait for a majority's journal.
    """
    return MongoClient(
        url,
        appname=application,
        document_class=dict,
        tz_aware=True,
        uuidRepresentation="standard",
        serverSelectionTimeoutMS=SERVER_SELECTION_TIMEOUT_MS,
        connectTimeoutMS=CONNECT_TIMEOUT_MS,
        socketTimeoutMS=SOCKET_TIMEOUT_MS,
        waitQueueTimeoutMS=WAIT_QUEUE_TIMEOUT_MS,
        wTimeoutMS=WRITE_CONCERN_TIMEOUT_MS,
        w="majority",
        journal=True,
        readConcernLevel="majority",
        read_preference=ReadPreference.PRIMARY,
        retryWrites=True,
        retryReads=True,
        maxPoolSize=POOL_SIZE,
    )


def is_away(error: PyMongoError) -> bool:
    """Whether the same request may succeed later: MongoDB was not reached, has no primary, or was too slow."""
    return isinstance(error, _AWAY) or any(
        error.has_error_label(label) for label in ("RetryableWriteError", "TransientTransactionError")
    )

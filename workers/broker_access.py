"""One user of the broker a process (R24), as PostgreSQL has one role a process: its own queue, and nothing else of it.

What kombu's Redis transport does was recorded with MONITOR on each process. A queue is a list of its name; what a worker
has taken and not acknowledged lies in three keys, which each user has of its own (``unacked_keys``). One thing stays
shared: each process announces its queue in the two sets of ``_kombu.binding.housekeeping``. They may be added to and not
be read or taken from, and nothing is delivered by them: doorbells go to a list by its name.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from custody.settings.environment import FleetSettings
from workers.queues import QUEUES

HEALTH_USER: Final = "health"
"""May say PING, without a password: what docker-compose.yml's check asks."""

_BINDINGS: Final = ("_kombu.binding.housekeeping", "_kombu.binding_permanent.housekeeping")
_CONNECT: Final = (
    "+hello", "+auth", "+ping", "+client|setinfo", "+client|setname", "+select", "+multi", "+exec", "+discard", "+watch",
    "+unwatch",
)  # fmt: skip
_ANNOUNCE: Final = f"({' '.join(f'%W~{key}' for key in _BINDINGS)} +sadd)"
# A message that is taken, kept until it is acknowledged, and given back when its process died.
_KEEP: Final = ("+hset", "+hget", "+hdel", "+zadd", "+zrem", "+zrange")
# kombu's lock for looking after what was given back, which redis-py lets go of by a script.
_LOCK: Final = ("+set", "+get", "+del", "+evalsha", "+script|load", "+script|exists")
_TAKE: Final = ("+brpop", "+rpop", "+lpush", "+rpush", "+llen")
_EVENTS: Final = "/0.celeryev/*"


def unacked_keys(settings: FleetSettings | None) -> dict[str, str]:
    """kombu's options that give this process's broker user its own keys for what is not acknowledged yet."""
    url = None if settings is None or settings.broker_url is None else settings.secret("broker_url")
    user = None if url is None else urlsplit(url).username
    mine = f"unacked.{user}" if user else "unacked"
    return {"unacked_key": mine, "unacked_index_key": f"{mine}.index", "unacked_mutex_key": f"{mine}.mutex"}


def _worker(queue: str) -> tuple[str, ...]:
    own = f"unacked.worker-{queue}"
    return (
        *_CONNECT, f"~{queue}", f"~{own}", f"~{own}.index", f"~{own}.mutex", *_TAKE, *_KEEP, *_LOCK,
        f"&{_EVENTS}", "+publish", _ANNOUNCE,
    )  # fmt: skip


def _rings() -> tuple[str, ...]:
    """Relay and beat put doorbells into every queue and see how many there are; they take none out."""
    return (*_CONNECT, *(f"~{each.name}" for each in QUEUES), "+lpush", "+llen", _ANNOUNCE)


def _flower() -> tuple[str, ...]:
    """Events of the workers, and how long the queues are. Its own questions go to a channel that no worker listens to."""
    own = "unacked.flower"
    tables = [f"{table}.{exchange}" for table in ("_kombu.binding", "_kombu.binding_permanent")
              for exchange in ("celeryev", "reply.celery.pidbox")]  # fmt: skip
    return (
        *_CONNECT, "~*.reply.celery.pidbox", "~celeryev.*", f"~{own}", f"~{own}.index", f"~{own}.mutex",
        *(f"~{each}" for each in tables), "~_kombu.binding_deadlines", *_TAKE, *_KEEP, *_LOCK,
        "+sadd", "+srem", "+scard", "+smembers", "+exists", "+pexpire", "+zrangebyscore", "+zscore", "+time",
        f"&{_EVENTS}", "&/0.celery.pidbox", "+publish", "+psubscribe", "+punsubscribe", "+subscribe", "+unsubscribe",
        f"({' '.join(f'%R~{each.name}' for each in QUEUES)} +llen)", _ANNOUNCE,
    )  # fmt: skip


RULES: Final[Mapping[str, tuple[str, ...]]] = {
    **{f"worker-{each.name}": _worker(each.name) for each in QUEUES},
    "relay": _rings(),
    "beat": _rings(),
    "flower": _flower(),
}
"""What each process may do at the broker, as Valkey writes it. A process that is not here has no user, and no URL."""


def acl_lines(passwords: Mapping[str, str]) -> list[str]:
    """A line a user, with the SHA-256 of its password: for an ACL file, or Valkey's configuration."""
    lines = [f"user {HEALTH_USER} on nopass resetkeys resetchannels -@all +ping"]
    for name, rules in RULES.items():
        digest = sha256(passwords[name].encode()).hexdigest()
        lines.append(f"user {name} on #{digest} resetkeys resetchannels -@all {' '.join(rules)}")
    return lines


def user_url(url: str, user: str, password: str) -> str:
    """The same broker for one of the users."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def users() -> Iterable[str]:
    """Every process that has a user."""
    return RULES

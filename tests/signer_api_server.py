"""The signer API under uvicorn, for tests, with sessions of people who logged in before the test began."""

import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from sqlalchemy import text
from starlette.types import ASGIApp

from custody.registration import ApiPlace
from custody.sessions import Identities, Identity
from custody.trezor import TREASURY_PATH
from tests.conftest import Database
from tests.policy_files import PEOPLE, key
from workers.signer import SignerClient
from workers.signer.logging_in import LoggingIn, LoginWallet, OneSession
from workers.signer.session_file import KeptSession, SessionFile
from workers.signer_api.application import create_application
from workers.signer_api.rate_limit import RateLimit

SIGNER: Final = "signer"
"""Whose session signs for every treasury of the test's database."""
UNHURRIED: Final = RateLimit(per_second=1e6, burst=1e6)


def token_of(who: str) -> str:
    """The session of a person, or of SIGNER."""
    return sha256(f"session of {who}".encode()).hexdigest()


TOKEN: Final = token_of(SIGNER)


def known(database: Database, devices: Mapping[str, str] | None = None) -> Identities:
    """SIGNER for the treasuries in the database, and the approvers, some at the addresses of ``devices``."""

    def identities() -> dict[str, Identity]:
        with database.engine().connect() as connection:
            treasuries = frozenset(
                connection.execute(
                    text(
                        "SELECT address FROM fleet.house_accounts WHERE kind = 'treasury' "
                        "UNION SELECT treasury FROM fleet.release_instructions"
                    )
                ).scalars()
            )
        found = {each: Identity(each, "treasury", None, frozenset({each})) for each in treasuries}
        signer = key(SIGNER).address
        found[signer] = Identity(signer, "treasury", None, treasuries)
        for person, address in ({each: key(each).address for each in PEOPLE} | dict(devices or {})).items():
            found[address] = Identity(address, "approver", person, frozenset())
        return found

    return identities


@contextmanager
def serving(
    database: Database,
    limit: RateLimit | None = None,
    *,
    around: Callable[[ASGIApp], ASGIApp] = lambda inner: inner,
    devices: Mapping[str, str] | None = None,
    identities: Identities | None = None,
    login_limit: RateLimit = UNHURRIED,
) -> Generator[str]:
    """The API under uvicorn, with its own database role; ``around`` puts something before it."""
    open_sessions(database)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        application = create_application(
            database.engine("fleet_signer_api"),
            ApiPlace(host, None),
            identities or known(database, devices),
            rate_limit=limit or UNHURRIED,
            login_limit=login_limit,
        )
        server = uvicorn.Server(uvicorn.Config(around(application), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://{host}"
        finally:
            server.should_exit = True
            thread.join()


def open_sessions(database: Database) -> None:
    """Sessions of SIGNER and PEOPLE, as their logins left them."""
    with database.engine().begin() as connection:
        for who in (SIGNER, *PEOPLE):
            connection.execute(
                text(
                    "INSERT INTO fleet.signer_sessions (token_sha256, address, role, person, expires_at) "
                    "VALUES (:token, :address, :role, :person, now() + interval '1 hour') ON CONFLICT DO NOTHING"
                ),
                {
                    "token": sha256(token_of(who).encode()).digest(),
                    "address": key(who).address,
                    "role": "treasury" if who == SIGNER else "approver",
                    "person": None if who == SIGNER else who,
                },
            )


def client_at(url: str, who: str = SIGNER) -> SignerClient:
    """The client of who has logged in before."""
    return SignerClient(url, OneSession(token_of(who)))


def client_with_devices(url: str, folder: Path) -> SignerClient:
    """A client that looks with SIGNER's session, and logs in for real with each device that answers."""
    file = SessionFile(folder / "sessions.json")
    file.put(kept(url, key(SIGNER).address))
    wallet = LoginWallet(None, TREASURY_PATH, 10.0)
    return SignerClient(url, LoggingIn(lambda: place_of(url), file, wallet, lambda _said, _text: None, takes_any=True))


def kept(url: str, address: str, derivation_path: str = TREASURY_PATH) -> KeptSession:
    """SIGNER's session as a machine keeps it, for the wallet with that address."""
    place = place_of(url)
    return KeptSession(
        host=place.host,
        pin=place.pin,
        token=TOKEN,
        address=address,
        role="treasury",
        person=None,
        derivation_path=derivation_path,
        fingerprint="00000000",
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )


def place_of(url: str) -> ApiPlace:
    """The API as its callers here reach it."""
    return ApiPlace(url.removeprefix("http://"), None)


def bearer(who: str = SIGNER) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(who)}"}


def post(api: str, path: str, body: Any, *, content: bytes | None = None, who: str = SIGNER) -> httpx.Response:
    if content is not None:
        return httpx.post(f"{api}{path}", content=content, headers=bearer(who))
    return httpx.post(f"{api}{path}", json=body, headers=bearer(who))

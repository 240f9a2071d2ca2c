"""For tests: a person with a Trezor and proofs as its device makes them, and the office that registers it."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from bip_utils import Bip32Slip10Secp256k1
from eth_account import Account
from eth_account.messages import encode_defunct

from custody.destinations.derivation import seed_from_phrase
from custody.policy import Genesis
from custody.registration import (
    ApiPlace,
    invite,
    issue_address,
    judge_registrations,
    register_text,
    revoke,
)
from custody.store.engine import transaction
from custody.trezor.accounts import ROLE_ACCOUNTS, Role
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.signer_api_server import post

FINGERPRINT = "0a1b2c3d"


@dataclass(frozen=True)
class Person:
    """Whoever knows a phrase."""

    phrase: str

    def xpub(self, path: str = ROLE_ACCOUNTS["registration"]) -> str:
        return self._node(path).PublicKey().ToExtended()

    def xprv(self, path: str = ROLE_ACCOUNTS["registration"]) -> str:
        return self._node(path).PrivateKey().ToExtended()

    def account(self, role: Role = "registration", index: int = 0) -> Any:
        node = self._node(f"{ROLE_ACCOUNTS[role]}/0/{index}")
        return Account.from_key(node.PrivateKey().Raw().ToBytes())

    def proof(
        self,
        place: ApiPlace,
        nonce: str,
        user_id: UUID,
        expires_at: datetime,
        *,
        role: Role = "registration",
        address: str | None = None,
    ) -> str:
        """The signature over the text of these fields, 0x and 65 bytes."""
        text = register_text(
            place=place,
            nonce=nonce,
            expires_at=expires_at,
            address=address or self.account(role).address,
            user_id=user_id,
            device_fingerprint=FINGERPRINT,
        )
        return signed(self.account(role), text)

    def _node(self, path: str) -> Any:
        return Bip32Slip10Secp256k1.FromSeedAndPath(seed_from_phrase(self.phrase), path)


def signed(account: Any, text: str) -> str:
    """What the key of an account makes of a text."""
    return "0x" + account.sign_message(encode_defunct(text=text)).signature.hex().removeprefix("0x")


class Office:
    """A marketplace, the signer API and the worker that judges."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.market = Marketplace(database)
        self.url = url
        parts = urlsplit(url)
        self.place = ApiPlace(f"{parts.hostname}:{parts.port}", None)
        self.user = self.market.user("seller")
        self.genesis: Genesis | None = None

    def invite(self, user: UUID | None = None) -> str:
        with transaction(self.database.engine("fleet_operator")) as connection:
            return invite(connection, user or self.user, by="olga")[0]

    def challenge(self, code: str) -> dict[str, Any]:
        answer = post(self.url, "/v1/registrations/challenge", {"invitation": code})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def body(self, person: Person, challenge: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """What a right machine hands in for that challenge."""
        return {
            "nonce": challenge["nonce"],
            "xpub": person.xpub(),
            "address": person.account().address,
            "device_fingerprint": FINGERPRINT,
            "device_model": "T1B1",
            "device_label": "desk",
            "signature": person.proof(
                self.place,
                challenge["nonce"],
                UUID(challenge["user_id"]),
                datetime.fromisoformat(challenge["expires_at"]),
            ),
            **changed,
        }

    def judge(self) -> int:
        return judge_registrations(self.database.engine("fleet_housekeeping"), self.place, lambda: self.genesis)

    def register(self, person: Person, user: UUID | None = None, **changed: Any) -> tuple[str, str | None]:
        """Hand in a registration and have it judged: its state and reason."""
        answer = post(self.url, "/v1/registrations", self.body(person, self.challenge(self.invite(user)), **changed))
        assert answer.status_code == 202, answer.text
        assert self.judge() == 1
        return self.state(answer.json()["id"])

    def state(self, registration: str) -> tuple[str, str | None]:
        [row] = self.market.execute(
            "SELECT state, reason FROM fleet.trezor_registrations WHERE id = :i", i=registration
        )
        return row.state, row.reason

    def accounts(self) -> list[Any]:
        return self.market.execute("SELECT * FROM public.trezor_accounts ORDER BY created_at")

    def issue(self, payment: UUID, user: UUID | None = None, **more: Any) -> Any:
        with transaction(self.database.engine("fleet_operator")) as connection:
            return issue_address(connection, user or self.user, payment, **more)

    def revoke(self, user: UUID | None = None) -> str:
        with transaction(self.database.engine("fleet_operator")) as connection:
            return revoke(connection, user or self.user, by="olga", reason="lost")

    @contextmanager
    def judging(self) -> Generator[None]:
        """The housekeeping worker, looking again and again."""
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                self.judge()
                ended.wait(0.02)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(work)
            try:
                yield
            finally:
                ended.set()
            running.result()

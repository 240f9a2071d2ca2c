"""A person with a Trezor, for tests: the keys of its accounts, and proofs as its device makes them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from bip_utils import Bip32Slip10Secp256k1
from eth_account import Account
from eth_account.messages import encode_defunct

from custody.destinations.derivation import seed_from_phrase
from custody.registration import ApiPlace, register_text
from custody.trezor.accounts import ROLE_ACCOUNTS, Role

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

"""One account a role, so that a signature given in one role is worth nothing in another (R3, R6)."""

from typing import Final, Literal

Role = Literal["registration", "approval", "safe_owner", "treasury"]

ROLE_ACCOUNTS: Final[dict[Role, str]] = {
    "registration": "m/44'/60'/1'",
    "approval": "m/44'/60'/2'",
    "safe_owner": "m/44'/60'/3'",
    "treasury": "m/44'/60'/4'",
}
"""The BIP-44 account of each role of a device. Deposit addresses come from account 0 of a seed that no device has."""


def role_path(role: Role, index: int = 0) -> str:
    """The path of a role's key: ``m/44'/60'/1'/0/0`` is what a registration is proved with."""
    return f"{ROLE_ACCOUNTS[role]}/0/{index}"

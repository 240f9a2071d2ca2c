"""A signer's desk: this machine's own facts, and what is told to whoever sits at it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from custody.trezor import Prompt
from custody.trezor.accounts import ROLE_ACCOUNTS, Role, role_path
from custody.trezor.derivation import ACCOUNT_DEPTH, parse_derivation_path
from workers.signer.checks import InstructionRefused
from workers.signer.client import ApiInstruction
from workers.signer.journal import Journal
from workers.signer.judgement import Judge
from workers.signer.safe_checks import Checked
from workers.signer.trust import Trust

EventKind = Literal["checked", "prompt", "signed", "rejected", "refused", "device_error", "waiting", "resumed"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens at the desk, for whoever shows it. ``text`` is a sentence; ``screens`` what the device shows."""

    kind: EventKind
    text: str
    instruction_id: str | None = None
    lines: tuple[str, ...] = ()
    screens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SigningDeskSettings:
    """This machine's own facts: where the device is, its wallet's path, and what is allowed without asking anyone.

    ``fee_cap_wei`` bounds one transaction's whole fee; ``approval_timeout_seconds`` is the person's time.
    ``verify_rpc`` are own nodes named for this run, in place of the trust file's. ``fingerprint`` is that of the
    wallet's root key where the trust file names none.
    """

    device_path: str
    derivation_path: str | None
    """None: the account that is the role's own (R6)."""
    approval_timeout_seconds: float
    fee_cap_wei: int
    pin_callback: Callable[[], str] | None = None
    passphrase: str | Callable[[], str] | None = None
    lock_folder: Path | None = None
    trust: Trust | None = None
    journal: Journal | None = None
    verify_rpc: tuple[str, ...] = ()
    fingerprint: str | None = None
    definitions: Path | None = None
    """Folder of the maker's definitions of chains and tokens (R2)."""
    signer: str = "signer"

    @property
    def lease_seconds(self) -> int:
        """How long others are asked to wait: a person's time at the device, and a minute around it."""
        return int(self.approval_timeout_seconds) + 60

    def path_of(self, role: Role) -> str:
        """The path of the key that signs. Raises InstructionRefused for another role's account (R6)."""
        if self.derivation_path is None:
            return role_path(role)
        steps = parse_derivation_path(self.derivation_path)
        for other, account in ROLE_ACCOUNTS.items():
            if other != role and steps[:ACCOUNT_DEPTH] == parse_derivation_path(account):
                raise InstructionRefused(
                    f"TREZOR_DERIVATION_PATH is {self.derivation_path}, an account for {other} keys; a {role} key is of "
                    f"{ROLE_ACCOUNTS[role]}, for one signature must never be worth two things (R6)."
                )
        return self.derivation_path

    @property
    def judge(self) -> Judge:
        """What an instruction is judged by on this machine."""
        return Judge(self.trust, self.journal, self.verify_rpc)


Progress = Callable[[Event], None]
Confirm = Callable[[Checked, tuple[str, ...]], bool]


def prompted(claimed: ApiInstruction, prompt: Prompt) -> Event:
    """What is told when a screen waits for a person."""
    return Event("prompt", f"Screen {prompt.number} waits on the device.", claimed.id)

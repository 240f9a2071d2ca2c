"""What every ``fleet signer`` command shares: this machine's settings, its files, and how an error is told."""

import getpass
import platform
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.panel import Panel

from custody.registration import ApiPlace
from custody.settings.chains import Chains, load_chains
from custody.settings.environment import SettingsError, settings
from custody.trezor import DeviceError
from custody.trezor.accounts import Role, role_path
from custody.trezor.derivation import DerivationPathError
from custody.trezor.text_rows import rows_of
from workers.signer import (
    InstructionRefused,
    Journal,
    SignerApiError,
    SignerClient,
    SigningDeskSettings,
    Trust,
    load_trust,
)
from workers.signer.approving import APPROVAL_PATH
from workers.signer.certificate import place_at
from workers.signer.client import Access
from workers.signer.logging_in import LoggingIn, LoginWallet
from workers.signer.session_file import SessionFile

EXIT_REFUSED: Final = 2
EXIT_REJECTED: Final = 3
"""The person said no on the device; the instruction stays open with that reason."""
SESSIONS_FILE: Final = "signer-sessions.json"
JOURNAL_FILE: Final = "signer-journal.jsonl"
SENTENCES: Final = (SignerApiError, InstructionRefused, DeviceError, DerivationPathError, SettingsError)
"""Errors whose message says what to do."""

signer = typer.Typer(help="Sign releases on the treasury device.", no_args_is_help=True)

ChainsFile = Annotated[
    Path | None, typer.Option("--chains-file", help="this machine's own chains file; default CHAINS_FILE")
]
VerifyRpc = Annotated[
    list[str] | None,
    typer.Option("--verify-rpc", help="a node of your own, in place of trust.toml's; repeat for several"),
]


def client(*, takes_any: bool = False) -> SignerClient:
    """The API's client, as this machine's signing device. ``takes_any``: only looks, so any session here will do."""
    return client_of(LoggingIn(_place, session_file(), wallet(), show_text, takes_any=takes_any))


def approver_client(address: str | None) -> SignerClient:
    """The API's client, as the approver whose device this is."""
    return client_of(approver_login(address))


def approver_login(address: str | None = None) -> LoggingIn:
    """The session of an approver; ``address`` as the genesis has it."""
    return LoggingIn(_place, session_file(), replace(wallet(APPROVAL_PATH), address=address), show_text)


def signing_login() -> LoggingIn:
    """The session of the treasury's or the Safe owner's device."""
    return LoggingIn(_place, session_file(), wallet(), show_text)


def client_of(access: Access | None) -> SignerClient:
    """The API's client, to the server that the trust file pins; without ``access`` for what needs no session."""
    return SignerClient(settings().signer_api_url, access, certificate_sha256=_pin())


def wallet(derivation_path: str | None = None) -> LoginWallet:
    """The wallet of this machine's device that logs in; default TREZOR_DERIVATION_PATH, else the role's account (R6)."""
    configured = settings()
    return LoginWallet(
        device_path=configured.trezor_path,
        derivation_path=derivation_path or configured.trezor_derivation_path or role_path(_signing_role()),
        approval_timeout_seconds=configured.trezor_approval_timeout_seconds,
        fingerprint=configured.trezor_fingerprint if derivation_path is None else None,
        pin_callback=ask_pin,
    )


def _signing_role() -> Role:
    """What this machine's device signs as: an owner where the trust file, else the chains file, knows a Safe alone."""
    known = trust()
    configured = settings()
    if known is not None:
        safes = [chain.safe is not None for chain in known.chains]
    elif configured.chains_file is not None:
        safes = [chain.safe is not None for chain in load_chains(configured.path("chains_file")).chains]
    else:
        safes = [False]
    return "safe_owner" if all(safes) else "treasury"


def session_file() -> SessionFile:
    """Where this machine keeps its sessions."""
    return SessionFile(settings().fleet_state_dir / SESSIONS_FILE)


def show_text(sentence: str, shown: str) -> None:
    """What a device is asked to sign, row by row."""
    Console().print(sentence, soft_wrap=True)
    Console().print(Panel("\n".join(rows_of(shown)), title="the device shows", title_align="left", expand=False))


def _place() -> ApiPlace:
    return place_at(settings().signer_api_url, pinned=_pin())


def _pin() -> str | None:
    known = trust()
    return known.api.certificate_sha256 if known is not None and known.api is not None else None


def chains(given: Path | None) -> Chains:
    """This machine's chains file."""
    return load_chains(given or settings().path("chains_file"))


def trust() -> Trust | None:
    """This machine's trust file, if it has one."""
    return None if settings().signer_trust_file is None else load_trust(settings().path("signer_trust_file"))


def journal_path() -> Path:
    """Where this machine's journal is."""
    configured = settings()
    return configured.signer_journal_file or configured.fleet_state_dir / JOURNAL_FILE


@contextmanager
def open_journal(known: Chains) -> Generator[Journal]:
    """This machine's journal; one that does not exist is made where no money is real. Raises JournalRefused."""
    with Journal(journal_path(), create=all(chain.is_development for chain in known.chains)) as journal:
        if journal.was_cut:
            Console().print("The journal's last line was torn by a crash; no device had been asked. It was taken off.")
        yield journal


def desk(journal: Journal, verify_rpc: list[str] | None) -> SigningDeskSettings:
    """This machine's desk."""
    configured = settings().require("trezor_path")
    return SigningDeskSettings(
        device_path=configured.trezor_path or "",
        derivation_path=configured.trezor_derivation_path,
        approval_timeout_seconds=configured.trezor_approval_timeout_seconds,
        fee_cap_wei=configured.release_max_total_fee_wei,
        pin_callback=ask_pin,
        passphrase=None,
        trust=trust(),
        journal=journal,
        verify_rpc=tuple(verify_rpc or ()),
        fingerprint=configured.trezor_fingerprint,
        definitions=configured.trezor_definitions_dir,
        signer=who(),
    )


def fail(error: Exception, code: int = EXIT_REFUSED) -> typer.Exit:
    """Say what is wrong; the exit to raise."""
    typer.secho(str(error), fg="red", err=True)
    return typer.Exit(code)


def who() -> str:
    """Who signs here, as other signers see it: a label, never an authority (R10)."""
    if (name := settings().signer_name) is not None:
        return name
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as in some containers
        user = "signer"
    printable = f"{user}@{platform.node() or 'here'}".encode("ascii", "replace").decode()
    return printable.replace(" ", "-")[:64]


def ask_pin() -> str:
    """A Trezor One's PIN, by its grid."""
    return typer.prompt("PIN: the positions on the grid that the device shows (1 to 9)", hide_input=True)

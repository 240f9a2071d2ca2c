"""The signer's journal: an append-only file of what this machine asked its device to sign (R1, R4).

One JSON object a line, each with the hash of the line before; written and flushed to the disk before the device is
asked. It is this machine's memory, which no database can rewrite: another intent for a nonce that it has seen is
refused, and so is a ledger whose seals do not go on from the last one.
"""

import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

from custody.ledger.seals import Seal, seal_as_json, seal_from_json
from custody.safe import SafeTransaction
from custody.trezor.transaction import Signature, UnsignedTransaction
from workers.signer.checks import InstructionRefused
from workers.signer.coverage import Promise
from workers.signer.journal_records import (
    NO_LINE,
    Asked,
    HandedIn,
    Line,
    Rejected,
    SealSeen,
    Signed,
    read_line,
    write_line,
)
from workers.signer.safe_checks import Checked, CheckedSafe

FILE_MAXIMUM_BYTES: Final = 268_435_456  # about a hundred thousand signatures; it is read whole at each start
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class JournalRefused(InstructionRefused):
    """The journal cannot be used, or what is asked goes against what it remembers. The message says what to do."""


class JournalNotFree(JournalRefused):
    """There is no journal yet, or another signer on this machine has it open."""


class Journal:
    """An open journal, locked: one signer a machine at a time. A context manager.

    ``was_cut``: the last line had been torn by a crash and was taken off; no device was ever asked for it. Raises
    JournalRefused when it is damaged, missing (and ``create`` is not given), in use, or open to others.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.was_cut = False
        self.was_made = False
        self._lines: list[Line] = []
        self._fd = self._open(create)
        try:
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file and its lock go."""
        os.close(self._fd)

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every line, oldest first."""
        return tuple(self._lines)

    def asked(self, chain_id: int, genesis_hash: str, treasury: str) -> list[Asked]:
        """What the treasury's device was asked on one chain, oldest first."""
        key = (chain_id, genesis_hash, treasury)
        return [
            each
            for each in self._lines
            if isinstance(each, Asked) and (each.chain_id, each.genesis_hash, each.treasury) == key
        ]

    def signature_of(self, signing_hash: str, owner: str | None = None) -> Signature | None:
        """The signature that the device gave for these bytes, if this machine still knows it.

        ``owner``: of a Safe's owners the one whose it must be.
        """
        found = [
            each
            for each in self._lines
            if isinstance(each, Signed) and each.signing_hash == signing_hash and owner in (None, each.owner)
        ]
        return found[-1].signature if found else None

    def is_settled(self, asked: Asked) -> bool:
        """Whether the device's answer to every question for these bytes is known."""
        questions = answers = 0
        for each in self._lines:
            if getattr(each, "signing_hash", None) == asked.signing_hash:
                questions += isinstance(each, Asked)
                answers += isinstance(each, Signed | Rejected)
        return answers >= questions or self.signature_of(asked.signing_hash) is not None

    def was_handed_in(self, signing_hash: str, owner: str | None = None) -> bool:
        """Whether the API took the signature of these bytes (of a Safe's: any owner's, unless one is named)."""
        return any(
            isinstance(each, HandedIn) and each.signing_hash == signing_hash and owner in (None, each.owner)
            for each in self._lines
        )

    def last_seal(self, environment: str) -> Seal | None:
        """The newest seal that was checked for a fleet, or None."""
        for each in reversed(self._lines):
            if isinstance(each, SealSeen) and each.environment == environment:
                return seal_from_json(each.seal)
        return None

    def record_asked(
        self, checked: Checked, promise: Promise, *, owner: str | None = None, safe: tuple[int, int] | None = None
    ) -> None:
        """Write what the device is about to be asked; it is on the disk when this returns.

        Of a Safe: ``owner`` whose device it is, ``safe`` a block and the Safe's nonce after it.
        """
        of_safe: dict[str, Any] = {}
        if isinstance(checked, CheckedSafe):
            block, nonce = safe or (None, None)
            of_safe = {"unsigned_kind": "safe_transaction", "owner": owner, "safe_block": block, "safe_nonce": nonce}
        self._append(
            "asked",
            chain_id=checked.chain.id,
            genesis_hash=checked.chain.genesis_hash,
            treasury=checked.chain.treasury,
            unsigned_bytes="0x" + checked.asked_bytes.hex(),
            signing_hash="0x" + checked.digest.hex(),
            instruction=checked.claimed.id,
            payment=checked.claimed.payment_id,
            **_shares_of(checked, promise),
            purpose=checked.claimed.purpose,
            token=promise.token,
            units=str(promise.units),
            destinations=sorted(promise.destinations),
            swept=[
                {"transaction_hash": transaction_hash, "log_index": log_index, "units": str(units)}
                for (transaction_hash, log_index), units in sorted(promise.swept.items())
            ],
            **of_safe,
        )

    def record_signed(self, digest: bytes, signature: Signature, *, owner: str | None = None) -> None:
        """Write the device's answer over a digest of 32 bytes; of a Safe also whose it is."""
        self._append(
            "signed",
            signing_hash="0x" + digest.hex(),
            y_parity=signature.y_parity,
            r=str(signature.r),
            s=str(signature.s),
            **_named(owner),
        )

    def record_rejected(self, digest: bytes) -> None:
        """Write that the person said no."""
        self._append("rejected", signing_hash="0x" + digest.hex())

    def record_handed_in(self, signing_hash: str, *, owner: str | None = None) -> None:
        """Write that the API took the signature."""
        self._append("handed_in", signing_hash=signing_hash, **_named(owner))

    def record_seal(self, environment: str, seal: Seal) -> None:
        """Write the newest seal, if it is a new one."""
        if self.last_seal(environment) != seal:
            self._append("seal", environment=environment, seal=seal_as_json(seal))

    def _append(self, kind: str, **said: Any) -> None:
        raw, line = write_line(self._lines[-1].hash if self._lines else NO_LINE, kind, said)
        written = 0
        while written < len(raw):
            written += os.write(self._fd, raw[written:])
        os.fsync(self._fd)
        self._lines.append(line)

    def _open(self, create: bool) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags)
        except FileNotFoundError:
            if not create:
                raise JournalNotFree(
                    f"The signer's journal {self.path} does not exist. If this machine has signed before, bring it back "
                    "from a copy; if it is new, start one: fleet signer journal start"
                ) from None
            self.was_made = True
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, flags | os.O_CREAT, 0o600)
            _flush_folder(self.path.parent)
        except OSError as error:
            raise JournalRefused(f"The signer's journal {self.path} cannot be opened: {error.strerror}.") from None
        try:
            self._guard(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _guard(self, fd: int) -> None:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & _OTHERS_MAY_WRITE:
            raise JournalRefused(
                f"The signer's journal {self.path} must be a file of yours that nobody else can write; run: "
                f"chmod 600 {self.path}"
            )
        if found.st_size > FILE_MAXIMUM_BYTES:
            raise JournalRefused(
                f"The signer's journal {self.path} is over {FILE_MAXIMUM_BYTES} bytes; keep it and tell the custody team."
            )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalNotFree(
                f"Another fleet signer on this machine uses the journal {self.path}; wait until it has ended."
            ) from None

    def _load(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            content = file.read()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            # The write never ended, so nothing was done after it: the device is asked once a line is on the disk.
            os.ftruncate(self._fd, len(content) - len(torn))
            os.fsync(self._fd)
            self.was_cut = True
        previous = NO_LINE
        for number, raw in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                line = read_line(raw, previous)
            except (ValueError, RecursionError) as error:
                why = str(error) if type(error) is ValueError else "it is no line of a journal"
                raise JournalRefused(
                    f"The signer's journal {self.path} is damaged at line {number}: {why}. Do not sign on this machine: "
                    "bring the journal back from a copy. Without one, two persons check on the chain that every nonce "
                    "this device signed for is spent, keep the damaged file, and start anew: fleet signer journal start"
                ) from None
            self._lines.append(line)
            previous = line.hash


def _shares_of(checked: Checked, promise: Promise) -> dict[str, Any]:
    if checked.claimed.payment_id is not None:
        return {}
    return {"shares": [{"payment": payment, "units": str(units)} for payment, units in sorted(promise.shares.items())]}


def open_promises(journal: Journal, asked: Iterable[Asked], *, nonce: int | None) -> list[tuple[Asked, list[str]]]:
    """Payouts of one treasury that have paid or still can, one a nonce, each with its known transaction hashes.

    ``nonce``: whose own payouts are left out; None: nobody's.
    A payout whose device said no every time is left out, one whose answer is unknown stays in. A Safe's always stays in:
    its other owners were handed the same (R1).
    """
    found: dict[int, tuple[Asked, list[str]]] = {}
    for each in asked:
        transaction = each.transaction
        if transaction.nonce == nonce or is_cancel(transaction, each.treasury):
            continue
        signature = journal.signature_of(each.signing_hash)
        if signature is None and journal.is_settled(each) and not each.is_safe:
            continue
        hashes = found[transaction.nonce][1] if transaction.nonce in found else []
        known = (
            []
            if signature is None or isinstance(transaction, SafeTransaction)
            else [transaction.transaction_hash(signature)]
        )
        found[transaction.nonce] = (each, list(dict.fromkeys([*hashes, *known])))
    return list(found.values())


def is_cancel(transaction: UnsignedTransaction | SafeTransaction, treasury: str) -> bool:
    """A 0-value transfer of the treasury to itself: what ends a nonce without paying anyone (R1). A Safe's rejection too."""
    return (transaction.to, transaction.value, transaction.data) == (treasury, 0, b"")


def _named(owner: str | None) -> dict[str, str]:
    return {} if owner is None else {"owner": owner}


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

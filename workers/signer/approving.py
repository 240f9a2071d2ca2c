"""An approver at work: what waits for approval is checked here, shown as text, signed on the approver's device (R4, R6, R18).

The text is built from typed fields on this machine. Who may be paid, what things are called and who approves are the
signed files' to say, which lie here; the API's word is compared with them and never believed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from custody.chain.assets import NATIVE
from custody.policy import AddressBookEntry, PolicyRefused, Verified
from custody.policy.documents import validated
from custody.policy.genesis import Approver
from custody.policy.operator_actions import OF_NO_CHAIN, ActionNotShowable, SignableAction
from custody.policy.requests import role_paid
from custody.policy.signed_entries import entry_hash, who_signed
from custody.policy.texts import entry_text
from custody.releases.approval_text import OUR_TREASURY, Names, approval_text
from custody.releases.refund_proof import BUYER_SIGNED
from custody.trezor import DeviceError, SigningDevice, open_device
from custody.trezor.text_rows import TextNotShowable, rows_of
from workers.signer.agreed import claimed_intent
from workers.signer.checks import InstructionRefused, require_whole_group
from workers.signer.client import ApiAction, ApiEntry, ApiInstruction, ApprovalSubject, SignerApiAway, SignerClient
from workers.signer.evidence import read_evidence
from workers.signer.treasuries import DRAIN, why_not_from

APPROVAL_PATH: Final = "m/44'/60'/2'/0/0"
"""Approvals have an account of their own: no signature of it is worth anything elsewhere (R6)."""
POLL_SECONDS: Final = 0.25
LIFETIME_MAXIMUM: Final = timedelta(
    days=7, minutes=1
)  # the fleet's longest; a later expiry is a trick or a typing error

Confirm = Callable[[tuple[str, ...]], bool]
Progress = Callable[[str, tuple[str, ...]], None]
"""``progress(sentence, rows)``: rows are the text as a device of 18 columns breaks it."""


@dataclass(frozen=True, slots=True)
class ApproverDesk:
    """One approver's machine: the files that lie there, who sits there, and the device.

    ``fee_cap_wei``: the highest whole fee that this person agrees to.
    """

    verified: Verified
    person: str
    device_path: str
    approval_timeout_seconds: float
    fee_cap_wei: int
    pin_callback: Callable[[], str] | None = None
    passphrase: str | Callable[[], str] | None = None
    lock_folder: Path | None = None

    def approver(self) -> Approver:
        """The person's active approver in the genesis. Raises InstructionRefused."""
        for each in self.verified.genesis.genesis.approvers:
            if each.person == self.person and each.revoked_at is None:
                return each
        raise InstructionRefused(f"{self.person} is no active approver of the genesis on this machine.")


@dataclass(frozen=True, slots=True)
class Approvable:
    """One thing that waits for a person: where its approval goes, what is signed, in words for the screen here."""

    subject: ApprovalSubject
    id: str
    digest: str
    text: str
    summary: str


@dataclass
class ApprovingOutcome:
    """What a session did; ids and sentences."""

    approved: list[str] = field(default_factory=list[str])
    refused: dict[str, str] = field(default_factory=dict[str, str])


def approvable_instruction(claimed: ApiInstruction, desk: ApproverDesk, now: datetime) -> Approvable:
    """What an instruction asks this person to agree to. Raises InstructionRefused with what differs."""
    asked = claimed.approval
    if claimed.state != "awaiting_approval" or asked is None:
        raise InstructionRefused(f"Instruction {claimed.id} is {claimed.state}; it asks nobody for approval.")
    genesis = desk.verified.genesis.genesis
    chain = genesis.chain(claimed.chain_id)
    token = None if chain is None else chain.token(claimed.token)
    native = None if chain is None else chain.token(NATIVE)
    if chain is None or token is None or native is None:
        raise _refused(
            claimed.id, f"chain {claimed.chain_id} or token {claimed.token} is not in this machine's genesis"
        )
    policy = desk.verified.policy
    expires_in = asked.expires_at - now
    for field_name, found, expected in (
        ("environment", asked.environment, genesis.environment),
        ("policy", f"{asked.policy_version}:{asked.policy_hash}", f"{policy.policy.version}:{policy.hash}"),
    ):
        if found != expected:
            raise _refused(claimed.id, f"its {field_name} is {found}, this machine's signed files say {expected}")
    former = {each.address: each.state for each in chain.former_treasuries}
    if (why := why_not_from(claimed, chain.treasury.address, former)) is not None:
        raise _refused(claimed.id, why)
    if int(asked.fee_ceiling_wei) > desk.fee_cap_wei:
        raise _refused(
            claimed.id, f"its fee may reach {asked.fee_ceiling_wei} wei, this machine allows {desk.fee_cap_wei}"
        )
    if not timedelta(0) < expires_in <= LIFETIME_MAXIMUM:
        raise _refused(claimed.id, f"it expires {asked.expires_at:%Y-%m-%d %H:%M} UTC; expected within 7 days from now")
    label = OUR_TREASURY if claimed.purpose == DRAIN else _label(claimed, desk, now)
    require_whole_group(claimed)
    try:
        intent = claimed_intent(claimed, asked)
    except ValueError as error:
        raise _refused(claimed.id, str(error)) from None
    if intent.hash().hex() != asked.intent_hash:
        raise _refused(claimed.id, f"the hash of its fields is {intent.hash().hex()}, the API says {asked.intent_hash}")
    try:
        shown = approval_text(intent, Names(chain.name, token.symbol, token.decimals, native.symbol, label))
    except TextNotShowable as error:
        raise _refused(claimed.id, str(error)) from None
    summary = f"{claimed.purpose} of {claimed.amount} {token.symbol} on {chain.name} to {label} ({claimed.recipient})"
    return Approvable("instructions", claimed.id, asked.intent_hash, shown, summary + _what_for(claimed))


def _what_for(claimed: ApiInstruction) -> str:
    """What a summary says beside amount and recipient: smallest units, whose coins, the payments of a group."""
    said = f"; the treasury's device will show {claimed.amount_units} smallest units" if claimed.raw_units else ""
    if claimed.house_id is not None:
        return f"{said}, of the house's own coins"
    if not claimed.payments:
        return said
    each_one = ", ".join(f"{each.amount} of {each.payment_id}" for each in claimed.payments)
    return f"{said}, for {len(claimed.payments)} payments: {each_one}"


def approvable_entry(claimed: ApiEntry, desk: ApproverDesk) -> Approvable:
    """What an address book entry asks this person to agree to. Raises InstructionRefused."""
    entry = _entry(claimed)
    genesis = desk.verified.genesis.genesis
    if entry.environment != genesis.environment or genesis.chain(entry.chain_id) is None:
        raise _refused(claimed.id, f"environment {entry.environment}, chain {entry.chain_id}: not this fleet's")
    found = entry_hash(entry)
    if found != claimed.hash:
        raise _refused(claimed.id, f"the hash of its fields is {found}, the API says {claimed.hash}")
    try:
        shown = entry_text(entry, found)
    except PolicyRefused as error:
        raise _refused(claimed.id, str(error)) from None
    verb = "pay" if entry.action == "add" else "no longer pay"
    summary = f"address book entry {entry.number}: {verb} {entry.owner} at {entry.address} on chain {entry.chain_id} ({entry.label})"
    return Approvable("address-book", claimed.id, found, shown, summary)


def approvable_action(claimed: ApiAction, desk: ApproverDesk) -> Approvable:
    """What an operator's action asks this person to sign (R10). Raises InstructionRefused."""
    action = SignableAction(claimed.id, claimed.kind, claimed.chain_id, claimed.parameters)
    genesis = desk.verified.genesis.genesis
    if claimed.kind not in OF_NO_CHAIN and genesis.chain(claimed.chain_id) is None:
        raise _refused(claimed.id, f"chain {claimed.chain_id} is not in this machine's genesis")
    if action.hash().hex() != claimed.hash:
        raise _refused(claimed.id, f"the hash of its parameters is {action.hash().hex()}, the API says {claimed.hash}")
    if action.power not in desk.approver().powers:
        raise _refused(claimed.id, f"{desk.person} has not the power {action.power!r} in the genesis")
    try:
        shown = action.text(genesis.environment)
    except (ActionNotShowable, PolicyRefused) as error:
        raise _refused(claimed.id, str(error)) from None
    summary = f"{claimed.kind} proposed by {claimed.proposed_by} ({claimed.reason}): {claimed.parameters}"
    return Approvable("actions", claimed.id, claimed.hash, shown, summary)


def approve(
    client: SignerClient, desk: ApproverDesk, wanted: list[Approvable], *, progress: Progress, confirm: Confirm
) -> list[str]:
    """Show, sign and hand in each in turn, on one opened device; the ids of those that were.

    Raises DeviceError, SignerApiError.
    """
    approver = desk.approver()
    done: list[str] = []
    with open_device(
        desk.device_path,
        expected_address=approver.address,
        derivation_path=APPROVAL_PATH,
        pin_callback=desk.pin_callback,
        passphrase=desk.passphrase,
        approval_timeout_seconds=desk.approval_timeout_seconds,
        lock_folder=desk.lock_folder,
    ) as device:
        for each in wanted:
            rows = rows_of(each.text)
            progress(each.summary, rows)
            if not confirm(rows):
                continue
            client.hold_session(desk.approval_timeout_seconds + 60, address=approver.address, device=device)
            client.submit_approval(each.subject, each.id, _signed(device, each, approver))
            progress(f"{approver.person} approved it.", ())
            done.append(each.id)
    return done


def approve_open(
    client: SignerClient,
    desk: ApproverDesk,
    *,
    wait_seconds: float = 0.0,
    progress: Progress = lambda _sentence, _rows: None,
    confirm: Confirm = lambda _rows: True,
) -> ApprovingOutcome:
    """Approve what waits for this person until nothing does for ``wait_seconds``: entries and actions first.

    What this machine refuses is left with its sentence, and what others wait for goes on. Raises DeviceError,
    SignerApiError.
    """
    outcome = ApprovingOutcome()
    idle_since = time.monotonic()
    while True:
        try:
            wanted = _waiting(client, desk, outcome)
            done = approve(client, desk, wanted, progress=progress, confirm=confirm) if wanted else []
        except SignerApiAway:
            if time.monotonic() - idle_since >= wait_seconds:
                raise
            done, wanted = [], []
        outcome.approved += done
        outcome.refused |= {each.id: f"{each.id} was not confirmed here." for each in wanted if each.id not in done}
        if wanted:
            idle_since = time.monotonic()
            continue
        if time.monotonic() - idle_since >= wait_seconds:
            return outcome
        time.sleep(POLL_SECONDS)


def _waiting(client: SignerClient, desk: ApproverDesk, outcome: ApprovingOutcome) -> list[Approvable]:
    """What this person has not signed and could. Entries and actions while there are any: instructions need them."""
    found: list[Approvable] = []
    seen = {*outcome.approved, *outcome.refused}
    for entry in client.unsigned_entries(desk.verified.genesis.genesis.k):
        if entry.id not in seen and desk.person not in {each.person for each in entry.signatures}:
            _collect(found, outcome, entry.id, lambda each=entry: approvable_entry(each, desk))
    for action in client.actions():
        if action.id not in seen and desk.person not in action.signed_by:
            _collect(found, outcome, action.id, lambda each=action: approvable_action(each, desk))
    if found:
        return found
    now = datetime.now(UTC)
    for each in client.instructions():
        asked = each.approval
        if each.state != "awaiting_approval" or asked is None or desk.person in asked.approved_by:
            continue
        if each.id in seen:
            continue
        _collect(
            found, outcome, each.id, lambda each=each: approvable_instruction(client.instruction(each.id), desk, now)
        )
    return found


def _collect(found: list[Approvable], outcome: ApprovingOutcome, at: str, make: Callable[[], Approvable]) -> None:
    try:
        found.append(make())
    except InstructionRefused as error:
        outcome.refused[at] = str(error)


def _signed(device: SigningDevice, wanted: Approvable, approver: Approver) -> dict[str, str]:
    signature, signer = device.sign_message(wanted.text)
    if signer != approver.address:
        raise DeviceError(f"The device signed as {signer}; expected {approver.address}.")
    return {
        "person": approver.person,
        "approver": approver.address,
        "digest": wanted.digest,
        "signature": f"0x{signature.hex()}",
    }


def _label(claimed: ApiInstruction, desk: ApproverDesk, now: datetime) -> str:
    """What the signed address book calls the recipient: k signatures are counted here (R4, R8)."""
    genesis = desk.verified.genesis.genesis
    for said in (claimed.evidence or {}).get("address_book", ()):
        api_entry = ApiEntry.model_validate(said)
        entry = _entry(api_entry)
        if (entry.chain_id, entry.address, entry.role, entry.action) != (
            claimed.chain_id, claimed.recipient, role_paid(claimed.purpose), "add",
        ) or entry.environment != genesis.environment:  # fmt: skip
            continue
        signatures = [(each.approver, bytes.fromhex(each.signature[2:])) for each in api_entry.signatures]
        if len(who_signed(entry, signatures, genesis, now=now)) >= genesis.k:
            return entry.label
    if claimed.purpose == "refund" and _buyer_signed(claimed):
        return BUYER_SIGNED
    raise _refused(
        claimed.id, f"no entry with {genesis.k} approvers' signatures says that {claimed.recipient} may be paid"
    )


def _buyer_signed(claimed: ApiInstruction) -> bool:
    """R21: the key of the recipient's own address signed that this payment may go back to it."""
    return claimed.payment_id is not None and any(
        proof.is_of(UUID(claimed.payment_id), claimed.chain_id, claimed.recipient)
        for proof in read_evidence(claimed).refund_proofs
    )


def _entry(claimed: ApiEntry) -> AddressBookEntry:
    said = claimed.model_dump(exclude={"id", "hash", "signatures"})
    try:
        return validated(AddressBookEntry, said, file=f"address book entry {claimed.number}")
    except PolicyRefused as error:
        raise _refused(claimed.id, str(error)) from None


def _refused(subject_id: str, why: str) -> InstructionRefused:
    return InstructionRefused(f"{subject_id} is refused: {why}. Nothing was shown or signed; tell the custody team.")

"""A Safe's owner signs: the SafeTx is checked here, shown field by field on a core model, and signed there (R4, R16).

Whose Safe it is stands in this machine's own chains file. The device hashes what it shows; the signature must be its
owner's over the hash that this machine computed from the same fields.
"""

from dataclasses import dataclass

from custody.chain.assets import NATIVE
from custody.safe import SafeTransaction, SafeTransactionError
from custody.settings.chains import Chain, Chains
from custody.trezor import DeviceRejected, SigningDevice, decode_erc20_transfer, open_device
from custody.trezor.preview import format_units
from workers.signer.checks import check_claims, refused, require_device_in_order, require_device_path
from workers.signer.client import ApiInstruction, SignerClient
from workers.signer.pins import require_trust
from workers.signer.session import Confirm, Event, Progress, SigningDeskSettings, prompted


@dataclass(frozen=True, slots=True)
class CheckedSafe:
    """An instruction whose bytes are the SafeTx that it claims, of a Safe that this machine knows."""

    claimed: ApiInstruction
    transaction: SafeTransaction
    chain: Chain
    symbol: str
    decimals: int


def check_safe_instruction(claimed: ApiInstruction, chains: Chains, *, fee_cap_wei: int) -> CheckedSafe:
    """Compare the API's claims, the SafeTx and the local chains file. Raises InstructionRefused.

    ``fee_cap_wei``: this machine's ceiling for what the execution may cost the house.
    """
    chain, token = check_claims(claimed, chains)
    if chain.safe is None:
        raise refused(claimed, f"this machine's chains file does not say that {chain.treasury} is a Safe")
    if claimed.unsigned_bytes is None:
        raise refused(claimed, f"it is {claimed.state} and has no bytes to sign yet")
    try:
        transaction = SafeTransaction.from_stored_bytes(bytes.fromhex(claimed.unsigned_bytes[2:]))
    except SafeTransactionError as error:
        raise refused(claimed, f"its bytes are no payout of a Safe: {error}") from None
    if claimed.token == NATIVE:
        to, recipient, units = transaction.to, transaction.to, transaction.value
    else:
        to = claimed.token
        recipient, units = decode_erc20_transfer(transaction.data) if transaction.data else (transaction.to, 0)
    # While it is cancelled its owners sign the same nonce spent on nothing, which this machine makes by itself (R1).
    asked = transaction.rejection() if claimed.signs == "cancel" else transaction
    for field, found, expected in (
        ("chain id", transaction.chain_id, chain.id),
        ("Safe", transaction.safe, chain.treasury),
        ("nonce", transaction.nonce, claimed.nonce),
        ("to", transaction.to, to),
        ("recipient", recipient, claimed.recipient),
        ("amount", units, int(claimed.amount_units)),
        ("hash", "0x" + asked.hash().hex(), claimed.signing_hash),
    ):
        if found != expected:
            raise refused(claimed, f"its bytes say {field} {found}, the API says {expected}")
    fee = int(claimed.max_total_fee_wei or 0)
    if fee > fee_cap_wei:
        raise refused(claimed, f"its execution may cost {fee} wei, this machine allows {fee_cap_wei}")
    return CheckedSafe(claimed, asked, chain, token.symbol, token.decimals)


def describe_safe(checked: CheckedSafe) -> tuple[str, ...]:
    """The payout in plain words, from the decoded bytes and the local chains file."""
    claimed, transaction, owners = checked.claimed, checked.transaction, checked.chain.safe
    assert owners is not None
    return (
        f"{'REJECTION of ' if transaction.is_rejection else ''}{claimed.purpose} {claimed.id}",
        f"Amount     {format_units(int(claimed.amount_units), checked.decimals)} {checked.symbol} ({claimed.token})",
        f"Recipient  {claimed.recipient}",
        f"Label      {claimed.label or 'no label in the address book'}",
        f"Safe       {transaction.safe}, {owners.threshold} of {len(owners.owners)} owners sign",
        f"Signed by  {', '.join(claimed.signed_by) or 'nobody yet'}",
        f"Chain      {checked.chain.name} (id {transaction.chain_id})",
        f"Nonce      {transaction.nonce} of the Safe",
        f"Hash       0x{transaction.hash().hex()}",
    )


def safe_screens(transaction: SafeTransaction) -> tuple[str, ...]:
    """What to compare on the device, whose screens show each field by its name."""
    said = transaction.typed_data()
    shown = [f"{name}\n{value}" for name, value in said["domain"].items()]
    return tuple(shown + [f"{name}\n{value}" for name, value in said["message"].items()])


def sign_as_owner(
    client: SignerClient,
    chains: Chains,
    desk: SigningDeskSettings,
    claimed: ApiInstruction,
    *,
    progress: Progress,
    confirm: Confirm,
) -> bool:
    """Sign one payout of a Safe as the owner whose device this is; False when there is nothing for this owner to do.

    Raises InstructionRefused, DeviceError, SignerApiError, as sign_instruction does.
    """
    checked = check_safe_instruction(claimed, chains, fee_cap_wei=desk.fee_cap_wei)
    require_device_path(checked.chain, desk.device_path)
    require_trust(checked.chain, desk.trust)
    if desk.trust is not None:
        # Fail closed: what the trust file holds an account's payouts against is not built for a Safe's (R4).
        raise refused(claimed, "this machine's trust file does not cover a Safe's payouts yet")
    with open_device(
        desk.device_path,
        expected_address=None,  # which of the owners it is, the device says; that it is one, is checked here
        derivation_path=desk.derivation_path,
        pin_callback=desk.pin_callback,
        passphrase=desk.passphrase,
        button_callback=lambda prompt: progress(prompted(claimed, prompt)),
        approval_timeout_seconds=desk.approval_timeout_seconds,
        lock_folder=desk.lock_folder,
    ) as device:
        client.hold_session(desk.lease_seconds, address=device.address, device=device)
        return _sign_on(device, client, checked, progress, confirm)


def _sign_on(
    device: SigningDevice, client: SignerClient, checked: CheckedSafe, progress: Progress, confirm: Confirm
) -> bool:
    claimed, owners = checked.claimed, checked.chain.safe
    assert owners is not None
    if device.address not in owners.owners:
        raise refused(claimed, f"the device's wallet {device.address} is no owner of the Safe")
    if device.address in claimed.signed_by:
        progress(Event("waiting", f"{device.address} has signed {claimed.id}; another owner must.", claimed.id))
        return False
    require_device_in_order(checked.chain, device.facts)
    screens = safe_screens(checked.transaction)
    progress(
        Event(
            "checked",
            "The SafeTx is what the instruction says, for this machine's Safe and chain.",
            claimed.id,
            describe_safe(checked),
            screens,
        )
    )
    if not confirm(checked, screens):
        return False
    try:
        signature = device.sign_safe_transaction(checked.transaction.typed_data(), checked.transaction.hash())
    except DeviceRejected as error:
        progress(Event("rejected", str(error), claimed.id))
        client.submit_rejection(claimed.id, f"{error.reason}: {error.what}")
        raise
    client.submit_signature(claimed.id, signature)
    progress(Event("signed", f"Instruction {claimed.id} was signed by {device.address} and handed in.", claimed.id))
    return True

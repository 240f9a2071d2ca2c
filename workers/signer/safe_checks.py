"""A Safe's payout as its owner's machine reads it: the SafeTx is decoded and hashed here, from typed fields (R4, R16).

Whose Safe it is stands in this machine's own chains file; the hash is computed from chain, Safe and the SafeTx' fields, of
which operation and gas terms are nothing but zero.
"""

from dataclasses import dataclass

from custody.chain.assets import NATIVE
from custody.safe import SafeTransaction, SafeTransactionError
from custody.settings.chains import Chain, Chains, SafeOwners
from custody.trezor import decode_erc20_transfer
from custody.trezor.preview import format_units
from workers.signer.checks import (
    CheckedInstruction,
    InstructionRefused,
    check_claims,
    check_instruction,
    payments_in_words,
    refused,
)
from workers.signer.client import ApiInstruction


@dataclass(frozen=True, slots=True)
class CheckedSafe:
    """An instruction whose bytes are the SafeTx that it claims, of a Safe that this machine knows.

    ``transaction`` is what its owners are asked for: the payout, or its rejection while it is cancelled (R1).
    """

    claimed: ApiInstruction
    transaction: SafeTransaction
    chain: Chain
    owners: SafeOwners
    symbol: str
    decimals: int

    @property
    def asked_bytes(self) -> bytes:
        """What the device is asked to sign, for the journal."""
        return self.transaction.stored_bytes()

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        return self.transaction.hash()

    def refusal(self, why: str) -> InstructionRefused:
        """The error to raise: the instruction is refused, and why."""
        return refused(self.claimed, why)


Checked = CheckedInstruction | CheckedSafe
"""An instruction that this machine has decoded by itself, of either kind of treasury."""


def check(claimed: ApiInstruction, chains: Chains, *, fee_cap_wei: int) -> Checked:
    """Compare an instruction's claims, its bytes and the local chains file. Raises InstructionRefused.

    ``fee_cap_wei``: this machine's own ceiling for the whole fee.
    """
    if claimed.unsigned_kind == "safe_transaction":
        return check_safe_instruction(claimed, chains, fee_cap_wei=fee_cap_wei)
    return check_instruction(claimed, chains, fee_cap_wei=fee_cap_wei)


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
        to, recipient, units = transaction.to, transaction.to, 0 if transaction.data else transaction.value
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
    return CheckedSafe(claimed, asked, chain, chain.safe, token.symbol, token.decimals)


def describe_safe(checked: CheckedSafe) -> tuple[str, ...]:
    """The payout in plain words, from the decoded bytes and the local chains file."""
    claimed, transaction, owners = checked.claimed, checked.transaction, checked.owners
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
        *payments_in_words(claimed),
    )


def safe_screens(transaction: SafeTransaction) -> tuple[str, ...]:
    """What to compare on the device, whose screens show each field by its name."""
    said = transaction.typed_data()
    shown = [f"{name}\n{value}" for name, value in said["domain"].items()]
    return tuple(shown + [f"{name}\n{value}" for name, value in said["message"].items()])

"""What the signer's machine checks by itself before a device shows anything (R4, R17, R19, R24).

The API's claims, the unsigned bytes and the local chains file must say the same; nothing here asks a database.
"""

from dataclasses import dataclass
from typing import Final

from custody.chain.addresses import InvalidAddress, parse_address
from custody.chain.assets import InvalidAmount, to_amount
from custody.settings.chains import NATIVE, Chain, Chains, Token
from custody.settings.environment import SettingsError
from custody.trezor import DeviceFacts
from custody.trezor.readability import why_amount_not_readable, why_firmware_refused
from custody.trezor.transaction import TransactionError, UnsignedTransaction, decode_erc20_transfer
from workers.signer.client import ApiInstruction
from workers.signer.treasuries import DRAIN, why_not_from

UDP: Final = "udp:"
"""Software devices and emulators: for development chains only (R17)."""


class InstructionRefused(Exception):
    """The signer's machine refuses the instruction; no device was asked. The message says what differs."""


class InstructionEarly(InstructionRefused):
    """Its turn has not come: an earlier payout is on its way. Nothing is wrong with it, and it may be asked again."""


@dataclass(frozen=True, slots=True)
class CheckedInstruction:
    """An instruction whose bytes are what it claims, on a chain and treasury that are pinned here."""

    claimed: ApiInstruction
    transaction: UnsignedTransaction
    chain: Chain
    symbol: str
    decimals: int

    @property
    def asked_bytes(self) -> bytes:
        """What the device is asked to sign, for the journal."""
        return self.transaction.signing_bytes()

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        return self.transaction.signing_hash()

    def refusal(self, why: str) -> InstructionRefused:
        """The error to raise: the instruction is refused, and why."""
        return refused(self.claimed, why)


def check_instruction(claimed: ApiInstruction, chains: Chains, *, fee_cap_wei: int) -> CheckedInstruction:
    """Compare the API's claims, the bytes and the local chains file. Raises InstructionRefused.

    ``fee_cap_wei`` is this machine's own ceiling for one transaction's whole fee.
    """
    chain, token = check_claims(claimed, chains)
    if chain.safe is not None or claimed.unsigned_kind != "transaction":
        raise refused(claimed, "it is a Safe's for one of us, and an account's for the other")
    transaction = _decode(claimed)
    _check_bytes(claimed, transaction)
    if transaction.max_total_fee_wei > fee_cap_wei:
        raise refused(
            claimed,
            f"its fee may reach {transaction.max_total_fee_wei} wei, this machine allows {fee_cap_wei}",
        )
    return CheckedInstruction(claimed, transaction, chain, token.symbol, token.decimals)


def check_claims(claimed: ApiInstruction, chains: Chains) -> tuple[Chain, Token]:
    """What the API says beside the bytes, against the local chains file. Raises InstructionRefused."""
    try:
        chain = chains.chain(claimed.chain_id)
    except SettingsError as error:
        raise InstructionRefused(f"Instruction {claimed.id}: {error}.") from None
    token = chain.token(claimed.token)
    if token is None:
        raise refused(claimed, f"token {claimed.token} is not in this machine's chains file")
    if why := why_not_from(claimed, chain.treasury, {each.address: each.state for each in chain.former_treasuries}):
        raise refused(claimed, why)
    _require(claimed, "symbol", claimed.symbol, token.symbol)
    _require(claimed, "decimals", claimed.decimals, token.decimals)
    _check_recipient(claimed, chain)
    _check_amount(claimed)
    require_whole_group(claimed)
    return chain.at(claimed.treasury), token


def refused(claimed: ApiInstruction, why: str) -> InstructionRefused:
    """The error to raise: the instruction is refused, and why."""
    return InstructionRefused(
        f"Instruction {claimed.id} is refused: {why}. Nothing was shown or signed; tell the custody team."
    )


def require_device_path(chain: Chain, path: str) -> None:
    """Raise InstructionRefused for a software device on a chain with real money (R17)."""
    if any(each.strip().startswith(UDP) for each in path.split(",")) and not chain.is_development:
        raise InstructionRefused(
            f"TREZOR_PATH is {path}: a udp device signs on development chains only; plug in the treasury's device."
        )


def require_device_in_order(chain: Chain, facts: DeviceFacts) -> None:
    """R22: PIN on, backup done, firmware of the table, path checks strict. On a development chain only the last binds."""
    faults = [] if facts.strict_path_checks else ["its safety checks are loosened"]
    if not chain.is_development:
        faults += [] if facts.pin_on else ["it has no PIN"]
        faults += [] if facts.backup_done else ["its backup was not made"]
        faults += [] if (why := why_firmware_refused(facts.model, facts.firmware)) is None else [why]
    if faults:
        raise InstructionRefused(
            f"The device is not in order: {'; '.join(faults)}. Put it right in the maker's own program first."
        )


def require_readable(
    checked: CheckedInstruction, model: str, firmware: str, *, has_definition: bool = False
) -> str | None:
    """R2: refuse what the device cannot show; on a development chain it is the warning that is returned."""
    why = why_amount_not_readable(
        checked.transaction,
        model,
        firmware,
        has_definition=has_definition,
        raw_units_approved=checked.claimed.raw_units,
    )
    if why is not None and not checked.chain.is_development:
        raise InstructionRefused(f"Instruction {checked.claimed.id}: {why}")
    return why


def _check_recipient(claimed: ApiInstruction, chain: Chain) -> None:
    try:
        recipient = parse_address(claimed.recipient, field="recipient", require_checksum=True)
    except InvalidAddress as error:
        raise refused(claimed, str(error)) from None
    ours = {*chain.treasuries, chain.fee_proxy, chain.native_fee_proxy, *(token.address for token in chain.tokens)}
    if claimed.purpose == DRAIN:
        ours.discard(chain.treasury)  # where a drain goes, and nothing else
    if recipient.lower() in {address.lower() for address in ours if address is not None}:
        raise refused(claimed, f"recipient {recipient} is our treasury, the payment proxy or a token")


def _check_amount(claimed: ApiInstruction) -> None:
    try:
        amount = to_amount(int(claimed.amount_units), claimed.decimals)
    except InvalidAmount as error:
        raise refused(claimed, str(error)) from None
    if amount <= 0 or f"{amount.normalize():f}" != claimed.amount:
        raise refused(claimed, f"amount {claimed.amount} is not {claimed.amount_units} smallest units")


def require_whole_group(claimed: ApiInstruction) -> None:
    """R23: what a group pays for is named payment by payment, and adds up to what it sends. Raises InstructionRefused."""
    named = (claimed.payment_id is not None) + (claimed.house_id is not None) + bool(claimed.payments)
    if named != 1:
        raise refused(claimed, "it names one payment and several, or none")
    if claimed.house_id is not None and claimed.purpose != DRAIN:
        raise refused(
            claimed, f"it is a {claimed.purpose} of the house's own coins, which are moved and never paid out"
        )
    if len(claimed.shares) != max(1, len(claimed.payments)):
        raise refused(claimed, "it names a payment twice")
    if sum(claimed.shares.values()) != int(claimed.amount_units):
        raise refused(
            claimed,
            f"its payments' shares are {sum(claimed.shares.values())} smallest units, not {claimed.amount_units}",
        )


def payments_in_words(claimed: ApiInstruction) -> tuple[str, ...]:
    """The payments of a group, a line each, with its share (R23); nothing for one payment."""
    if claimed.house_id is not None:
        return ("Payments   none: the house's own coins",)
    if not claimed.payments:
        return ()
    lines = [f"           {each.amount} {claimed.symbol} for payment {each.payment_id}" for each in claimed.payments]
    return (f"Payments   {len(claimed.payments)}, together {claimed.amount} {claimed.symbol}", *lines)


def _decode(claimed: ApiInstruction) -> UnsignedTransaction:
    if claimed.unsigned_bytes is None:
        raise refused(claimed, f"it is {claimed.state} and has no bytes to sign yet")
    try:
        return UnsignedTransaction.from_signing_bytes(bytes.fromhex(claimed.unsigned_bytes[2:]))
    except TransactionError as error:
        raise refused(claimed, f"its bytes are no release transaction: {error}") from None


def _check_bytes(claimed: ApiInstruction, transaction: UnsignedTransaction) -> None:
    if claimed.signs == "cancel":
        _check_cancel(claimed, transaction)
        return
    if claimed.token == NATIVE:
        to, value, recipient, units = transaction.to, transaction.value, transaction.to, transaction.value
        data_ok = transaction.data == b""
    else:
        to, value, data_ok = claimed.token, 0, True
        try:
            recipient, units = decode_erc20_transfer(transaction.data)
        except TransactionError as error:
            raise refused(claimed, f"its bytes are no token transfer: {error}") from None
    if not data_ok:
        raise refused(claimed, "its bytes carry call data beside a transfer of coins")
    for field, found, expected in (
        ("chain id", transaction.chain_id, claimed.chain_id),
        ("nonce", transaction.nonce, claimed.nonce),
        ("to", transaction.to, to),
        ("value", transaction.value, value),
        ("recipient", recipient, claimed.recipient),
        ("amount", units, int(claimed.amount_units)),
        ("fee ceiling", transaction.max_total_fee_wei, int(claimed.max_total_fee_wei or 0)),
        ("signing hash", "0x" + transaction.signing_hash().hex(), claimed.signing_hash),
    ):
        if found != expected:
            raise refused(claimed, f"its bytes say {field} {found}, the API says {expected}")


def _check_cancel(claimed: ApiInstruction, transaction: UnsignedTransaction) -> None:
    """R1: a cancel moves nothing, from the pinned treasury to itself, on the nonce of what it cancels."""
    for field, found, expected in (
        ("chain id", transaction.chain_id, claimed.chain_id),
        ("nonce", transaction.nonce, claimed.nonce),
        ("to", transaction.to, claimed.treasury),
        ("value", transaction.value, 0),
        ("data", transaction.data, b""),
        ("fee ceiling", transaction.max_total_fee_wei, int(claimed.max_total_fee_wei or 0)),
        ("signing hash", "0x" + transaction.signing_hash().hex(), claimed.signing_hash),
    ):
        if found != expected:
            raise refused(claimed, f"its cancel says {field} {found!r}, expected {expected!r}")


def _require(claimed: ApiInstruction, field: str, found: object, expected: object) -> None:
    if found != expected:
        raise refused(claimed, f"the API says {field} {found}, this machine's chains file says {expected}")

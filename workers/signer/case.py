"""An instruction as it is judged: its evidence, what this machine pins, and what was confirmed of it (R4)."""

from collections.abc import Mapping
from dataclasses import dataclass

from custody.chain.native import TOP_LEVEL
from custody.destinations.contracts import sweep_contracts
from custody.destinations.derivation import DerivationError, address_at, derivation_path
from custody.destinations.forwarders import FORWARDER_ROOT, salt_of_path
from custody.settings.chains import NATIVE
from workers.signer.checks import InstructionRefused
from workers.signer.coverage import SweptLog
from workers.signer.evidence import Deposit, Destination, Evidence, Sweep
from workers.signer.safe_checks import Checked
from workers.signer.trust import Trust, TrustedChain


@dataclass(frozen=True, slots=True)
class Seen:
    """What was confirmed. Units: the token's smallest."""

    destinations: frozenset[str]
    deposited: dict[str, int]
    """By payment; each Transfer counts once, whatever several payments claim (R23)."""
    swept: dict[SweptLog, int]
    treasury_wei: int = 0
    """What the treasury holds of the chain's own coin, where that is what is paid."""
    safe: tuple[int, int] | None = None
    """Of a Safe: the block that it was read at, and its own nonce then."""


@dataclass(frozen=True, slots=True)
class Case:
    """An instruction with its evidence, and what this machine believes. Raises InstructionRefused when built with a
    deposit address that neither derives from a pinned account nor is the treasury's forwarder, or coins whose way is not shown.
    """

    checked: Checked
    evidence: Evidence
    trust: Trust
    pinned: TrustedChain

    def __post_init__(self) -> None:
        for each in self.evidence.destinations:
            _require_derived(self, each)
        for where in (*(each.recipient for each in self.deposits), *(each.from_address for each in self.sweeps)):
            if where not in self.destinations:
                raise self.refused(f"coins of it are said to have been at {where}, whose derivation is not shown")
        for sweep in self.sweeps:
            if sweep.to_address not in self.pinned.treasuries:
                raise self.refused(
                    f"sweep {sweep.transaction_hash} went to {sweep.to_address}, the pinned treasury is "
                    f"{' or '.join(sorted(self.pinned.treasuries))}"
                )
        if self.checked.claimed.recipient in self.destinations:
            raise self.refused(f"recipient {self.checked.claimed.recipient} is a deposit address")

    @property
    def token(self) -> str:
        return self.checked.claimed.token

    @property
    def is_native(self) -> bool:
        """Whether it pays the chain's own coin, which no log tells of (L8)."""
        return self.token == NATIVE

    @property
    def destinations(self) -> frozenset[str]:
        return frozenset(each.address for each in self.evidence.destinations)

    @property
    def forwarders(self) -> frozenset[str]:
        """The destinations that no key rules: the pinned treasury's own forwarders (R20)."""
        return frozenset(each.address for each in self.evidence.destinations if _is_forwarder(each))

    @property
    def deposits(self) -> list[Deposit]:
        """Those that count: judged deep enough by the fleet."""
        return [each for each in self.evidence.deposits if each.judged_at is not None and each.token == self.token]

    @property
    def sweeps(self) -> list[Sweep]:
        return [each for each in self.evidence.sweeps if each.token_address == self.token]

    def by_payment(self, units: Mapping[SweptLog, int]) -> dict[str, int]:
        """Deposits' units by the payment that they are said to be of: the first that claims a Transfer has it."""
        claimed = self.checked.claimed
        found = dict.fromkeys(claimed.shares, 0)
        seen: set[SweptLog] = set()
        for each in self.deposits:
            payment = claimed.payment_id or each.payment_id
            if payment not in found:
                raise self.refused(
                    f"deposit {each.transaction_hash} is said to be of payment {payment}, which it does not pay"
                )
            if (log := (each.transaction_hash, each.log_index)) not in seen:
                seen.add(log)
                found[payment] += units[log]
        return found

    def log_of(self, sweep: Sweep) -> int:
        """Which log of its transaction a sweep is. Raises InstructionRefused for one that has a log and names none."""
        if self.is_native and sweep.from_address not in self.forwarders:
            return TOP_LEVEL
        if sweep.log_index is None:
            raise self.refused(f"sweep {sweep.transaction_hash} log None: no log is named, so no node can confirm it")
        return sweep.log_index

    def refused(self, why: str) -> InstructionRefused:
        """The error to raise: the instruction is refused, and why."""
        return self.checked.refusal(why)


def as_claimed(case: Case) -> Seen:
    """The same without any node: for a machine that is offline and believes the one that made the bundle."""
    deposits = {(each.transaction_hash, each.log_index): each.amount_units for each in case.deposits}
    swept: dict[SweptLog, int] = {}
    for each in case.sweeps:
        if each.log_index is None:
            raise case.refused(f"sweep {each.transaction_hash} names no log")
        swept[(each.transaction_hash, each.log_index)] = each.amount_units
    return Seen(case.destinations, case.by_payment(deposits), swept)


def _is_forwarder(claimed: Destination) -> bool:
    return claimed.derivation_path.startswith(f"{FORWARDER_ROOT}/")


def _require_derived(case: Case, claimed: Destination) -> None:
    if _is_forwarder(claimed):
        _require_forwarder(case, claimed)
        return
    try:
        right_path = derivation_path(claimed.derivation_index) == claimed.derivation_path
        found = [address_at(account.xpub, claimed.derivation_index) for account in case.trust.deposit_accounts]
    except DerivationError as error:
        raise case.refused(str(error)) from None
    if not right_path or claimed.address not in found:
        raise case.refused(
            f"deposit address {claimed.address} is not the one at {claimed.derivation_path} of a pinned deposit account"
        )


def _require_forwarder(case: Case, claimed: Destination) -> None:
    """Whatever account its path names: an address that comes out so can pay the pinned treasury and nobody else."""
    path = claimed.derivation_path
    try:
        salt = salt_of_path(path)
    except DerivationError as error:
        raise case.refused(str(error)) from None
    found = [sweep_contracts(treasury).forwarder(salt) for treasury in case.pinned.treasuries]
    if claimed.address not in found or path.rpartition("/")[2] != str(claimed.derivation_index):
        raise case.refused(f"deposit address {claimed.address} is not the pinned treasury's forwarder at {path}")

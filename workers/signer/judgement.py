"""All that this machine wants to be true before its device is asked (R1, R4), in one place.

In this order: the trust file, the seals, derivation and chain, the recipient's signatures, the approvals, what was
promised before, gas, and the nonce. The first that fails is the sentence that a person reads; there is no way around any of
them. A cancel pays nobody, so it is held against the trust file, the seals and the nonce alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from custody.ledger.seals import Seal
from custody.trezor.preview import format_units
from workers.signer.agreed import require_agreed
from workers.signer.case import Case, Seen, as_claimed
from workers.signer.checks import InstructionRefused
from workers.signer.coverage import Promise, coverage
from workers.signer.evidence import read_evidence
from workers.signer.journal import Journal, is_cancel, open_promises
from workers.signer.journal_records import Asked
from workers.signer.nonce_rule import require_one_intent
from workers.signer.own_eyes import can_pay_no_more, look
from workers.signer.pins import require_pinned, require_trust
from workers.signer.recipients import require_known_recipient
from workers.signer.safe_checks import Checked
from workers.signer.seals import require_extends
from workers.signer.treasuries import DRAIN
from workers.signer.trust import Trust, TrustedChain

UNCHECKED: Final = (
    "This machine has no trust file: deposits, sweeps and recipient are the server's word. Development only."
)

SealsAfter = Callable[[Seal | None], Iterable[Seal]]
"""The last seen seal again and all after it; without one, the newest alone."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An instruction that may be signed: what it promises, for the journal, and what was checked, for a person."""

    checked: Checked
    promise: Promise
    newest_seal: Seal | None
    lines: tuple[str, ...]
    safe: tuple[int, int] | None = None
    """Of a Safe: the block that it was read at, and its own nonce then."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What this machine goes by. ``urls``: its own nodes; ``offline``: none, the machine that exported asked them."""

    trust: Trust | None
    journal: Journal | None
    urls: Sequence[str] = ()
    offline: bool = False

    def judge(self, checked: Checked, seals_after: SealsAfter) -> Judged:
        """Judge one instruction. Raises InstructionRefused with the sentence why it must not be signed."""
        require_trust(checked.chain, self.trust)
        claimed = checked.claimed
        asked = self._asked(checked, checked.chain.treasury)
        if self.trust is None:
            require_one_intent(checked.transaction, claimed.id, checked.chain.treasury, asked)
            promise = Promise(claimed.token, claimed.shares, frozenset())
            return Judged(checked, promise, None, (UNCHECKED,))
        pinned = require_pinned(checked, self.trust)
        seen_before = None if self.journal is None else self.journal.last_seal(self.trust.environment)
        newest = require_extends(seen_before, seals_after(seen_before), self.trust.ledger.keys)
        goes_on = f"Ledger     seal {newest.seal_no} goes on from what this machine has seen"
        if claimed.signs == "cancel":
            require_one_intent(checked.transaction, claimed.id, checked.chain.treasury, asked)
            nothing = Promise(claimed.token, dict.fromkeys(claimed.shares, 0), frozenset())
            return Judged(checked, nothing, newest, ("Pays       nobody: it spends the nonce on nothing", goes_on))
        evidence = read_evidence(claimed)
        case = Case(checked, evidence, self.trust, pinned)
        urls = self.urls or pinned.verify_rpc
        seen = as_claimed(case) if self.offline else look(case, urls)
        recipient = require_known_recipient(checked, evidence, self.trust)
        agreed = require_agreed(checked, evidence, self.trust, pinned, recipient.label, datetime.now(UTC))
        # A drain pays nobody: its coins lie in the house before and after it, and count as much (R22).
        promise = (
            Promise(claimed.token, dict.fromkeys(claimed.shares, 0), seen.destinations, seen.swept)
            if claimed.purpose == DRAIN
            else self._require_covered(case, seen, asked, urls)
        )
        require_one_intent(checked.transaction, claimed.id, checked.chain.treasury, asked)
        by = "the machine that exported it" if self.offline else f"{len(urls)} of your own nodes"
        return Judged(
            checked,
            promise,
            newest,
            (
                "Swept      nothing: the house's own coins"
                if claimed.house_id is not None
                else f"Swept      {_shown(checked, sum(seen.swept.values()))}, confirmed at depth by {by}",
                f"Recipient  {recipient.said}",
                f"Approved   by {agreed}",
                *_safe_lines(seen, pinned),
                goes_on,
            ),
            seen.safe,
        )

    def _asked(self, checked: Checked, treasury: str) -> list[Asked]:
        if self.journal is None:
            return []
        return self.journal.asked(checked.chain.id, checked.chain.genesis_hash, treasury)

    def _promised(self, case: Case, asked: list[Asked]) -> tuple[list[tuple[Asked, list[str]]], list[Asked]]:
        """What this machine signed before for any treasury of the chain that can still pay, and all that was asked (R22)."""
        if self.journal is None:
            return [], []
        treasury = case.checked.chain.treasury
        found = open_promises(self.journal, asked, nonce=case.checked.transaction.nonce)
        for other in sorted(case.pinned.treasuries - {treasury}):
            elsewhere = self._asked(case.checked, other)
            found += open_promises(self.journal, elsewhere, nonce=None)
            asked = [*asked, *elsewhere]
        return found, asked

    def _require_covered(self, case: Case, seen: Seen, asked: list[Asked], urls: Sequence[str]) -> Promise:
        """R4: releases and refunds of this payment so far plus this one are at most what was swept for it."""
        checked, claimed = case.checked, case.checked.claimed
        promise = Promise(case.token, claimed.shares, seen.destinations, seen.swept)
        before, asked = self._promised(case, asked)
        unknown = _unknown_units(case, asked)
        unknown_units = sum(unknown.values())
        if not coverage(promise, [each.promise for each, _ in before], unknown_units=unknown_units).is_enough:
            before = [(each, hashes) for each, hashes in before if not self._is_over(each, hashes, case.pinned, urls)]
        found = coverage(promise, [each.promise for each, _ in before], unknown_units=unknown_units)
        if not found.is_enough:
            raise case.refused(
                f"{_shown(checked, found.promised)} would be paid out of {_shown(checked, found.swept)} that were swept "
                "to the pinned treasury from its deposit addresses, earlier payouts counted"
            )
        for payment, units in promise.shares.items():
            of_payment = (
                sum(each.promise.shares.get(payment, 0) for each, _ in before) + unknown.get(payment, 0) + units
            )
            if of_payment > seen.deposited[payment]:
                raise case.refused(
                    f"{_shown(checked, of_payment)} would be paid out of {_shown(checked, seen.deposited[payment])} that "
                    f"buyers deposited for payment {payment}"
                )
        if case.is_native and not self.offline:
            _require_gas(case, seen, found.swept - (found.promised - promise.units))
        return promise

    def _is_over(self, asked: Asked, hashes: Sequence[str], pinned: TrustedChain, urls: Sequence[str]) -> bool:
        """Whether an earlier payout can never be mined any more, by each of this machine's own nodes."""
        if self.offline or self.journal is None:
            return False
        if not asked.is_safe and not self.journal.is_settled(asked):
            return False  # a signature that is not known has a transaction hash that is not known
        return can_pay_no_more(pinned, urls, asked, hashes)


def _unknown_units(case: Case, asked: list[Asked]) -> dict[str, int]:
    """Other payouts that the API names and this machine's journal does not know: smallest units by payment."""
    claimed = case.checked.claimed
    known = {each.instruction for each in asked if not is_cancel(each.transaction, each.treasury)}
    found: dict[str, int] = {}
    for each in case.evidence.payouts:
        payment = claimed.payment_id or each.payment_id or ""
        if (
            each.may_pay
            and each.purpose != DRAIN
            and each.token == case.token
            and each.id not in known
            and each.id != claimed.id
        ):
            found[payment] = found.get(payment, 0) + each.amount_units
    return found


def _require_gas(case: Case, seen: Seen, owed: int) -> None:
    """R11: beside the buyers' coins that are known here, ``owed`` wei, the treasury holds what gas may cost.

    A Safe pays no gas, whoever executes for it does.
    """
    fee = 0 if case.pinned.safe is not None else int(case.checked.claimed.max_total_fee_wei or 0)
    if seen.treasury_wei < owed + fee:
        raise case.refused(
            f"the treasury holds {_shown(case.checked, seen.treasury_wei)}, buyers' {_shown(case.checked, owed)} and up to "
            f"{_shown(case.checked, fee)} for gas are needed (R11)"
        )


def _safe_lines(seen: Seen, pinned: TrustedChain) -> list[str]:
    if pinned.safe is None:
        return []
    where = (
        "as pinned, says the machine that exported it" if seen.safe is None else f"as pinned at block {seen.safe[0]}"
    )
    return [f"Safe       {where}: {pinned.safe.threshold} of {len(pinned.safe.owners)} owners, no modules"]


def _shown(checked: Checked, units: int) -> str:
    return f"{format_units(units, checked.decimals)} {checked.symbol}"


__all__ = ["UNCHECKED", "InstructionRefused", "Judge", "Judged", "SealsAfter"]

"""What the house keeps of a release: platform and provider fee, each a line of its own (L7).

Posted with the instruction that bears them, held / platform_fees and provider_fees, and given back when it is voided. A
fee is rounded down to the token's smallest unit: the remainder is the seller's. Refunds bear none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from sqlalchemy import Connection

from custody.ledger import Entry, post
from custody.releases.rows import Instruction

BASIS_POINTS: Final = 10_000  # of the whole
FeeKind = Literal["platform_fee", "provider_fee"]
ACCOUNTS: Final[dict[FeeKind, str]] = {"platform_fee": "platform_fees", "provider_fee": "provider_fees"}


@dataclass(frozen=True, slots=True)
class Fees:
    """Whole tokens, at least 0 each."""

    platform: Decimal = Decimal(0)
    provider: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        """Both together."""
        return self.platform + self.provider


@dataclass(frozen=True, slots=True)
class FeeRates:
    """Basis points of what is released; both together below the whole, which the settings hold."""

    platform: int = 0
    provider: int = 0

    def of(self, held: Decimal, decimals: int) -> Fees:
        """The fees of a release of ``held`` whole tokens, each rounded down to the smallest unit."""
        return Fees(_part(held, self.platform, decimals), _part(held, self.provider, decimals))


def _part(held: Decimal, rate: int, decimals: int) -> Decimal:
    units = int(held.scaleb(decimals)) * rate // BASIS_POINTS
    return Decimal(units).scaleb(-decimals)


NOTHING: Final = Fees()
NO_FEES: Final = FeeRates()


def charge(connection: Connection, instruction: Instruction) -> None:
    """``platform_fee`` and ``provider_fee : charged``, in the transaction that reserves the release. Raises LedgerRefusal."""
    for kind, amount in _lines(instruction):
        _post(connection, instruction, kind, "charged", "held", ACCOUNTS[kind], amount)


def give_back(connection: Connection, instruction: Instruction, account: str) -> None:
    """``… : returned`` to ``account`` (held, or disputed while a dispute is open), in the transaction that voids it."""
    for kind, amount in _lines(instruction):
        _post(connection, instruction, kind, "returned", ACCOUNTS[kind], account, amount)


def _lines(instruction: Instruction) -> Iterator[tuple[FeeKind, Decimal]]:
    if instruction.platform_fee > 0:
        yield "platform_fee", instruction.platform_fee
    if instruction.provider_fee > 0:
        yield "provider_fee", instruction.provider_fee


def _post(
    connection: Connection,
    instruction: Instruction,
    kind: FeeKind,
    reason: str,
    debit: str,
    credit: str,
    amount: Decimal,
) -> None:
    assert instruction.payment_id is not None  # fees are lines of a payment, never of a group
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=instruction.payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type=kind,
            reason=reason,
            debit=debit,
            credit=credit,
            amount=amount,
            key=f"release:{instruction.id}:{kind}_{reason}:1",
            instruction_id=instruction.id,
            evidence={},
        ),
    )

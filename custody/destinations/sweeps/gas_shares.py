"""Which payment caused which part of the gas: shares of a house book's entry by largest remainder, exact to the wei (L6)."""

from collections.abc import Mapping
from fractions import Fraction
from uuid import UUID

from sqlalchemy import Connection, text


def shares_of(wei: int, weights: Mapping[UUID, Fraction]) -> dict[UUID, int]:
    """Split ``wei`` over payments by weight: Σ = ``wei``, none differs from its exact part by a wei or more.

    What rounding leaves goes to the largest remainders, and among equals by payment id. Without a weight above zero
    nothing is split. Raises ValueError for a negative weight or amount.
    """
    if wei < 0 or any(weight < 0 for weight in weights.values()):
        raise ValueError("gas shares: expected no negative amount or weight")
    total = sum(weights.values(), Fraction())
    if total == 0:
        return {}
    each_weighs = Fraction(wei * total.denominator, total.numerator)
    exact = {payment: weight * each_weighs for payment, weight in weights.items()}
    shares = {payment: part.numerator // part.denominator for payment, part in exact.items()}
    left = wei - sum(shares.values())
    for payment in sorted(exact, key=lambda each: (shares[each] - exact[each], each))[:left]:
        shares[payment] += 1
    return {payment: share for payment, share in shares.items() if share > 0}


def record_shares(connection: Connection, entry_id: UUID, wei: int, weights: Mapping[UUID, Fraction]) -> None:
    """Write the shares of one entry of ``wei``, in the transaction that posts it."""
    rows = [
        {"entry": entry_id, "payment": payment, "wei": share}
        for payment, share in sorted(shares_of(wei, weights).items())
    ]
    if rows:
        connection.execute(
            text("INSERT INTO fleet.gas_shares (entry_id, payment_id, wei) VALUES (:entry, :payment, :wei)"), rows
        )


def equal_weights(units: Mapping[UUID, int]) -> dict[UUID, Fraction]:
    """Weights of the payments of one destination, by what of each moved (smallest unit): together they are 1."""
    total = sum(units.values())
    return {payment: Fraction(part, total) for payment, part in units.items()} if total else {}

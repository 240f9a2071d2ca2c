"""What a drain of native coin may cost, and what it brings then. Wei, and wei per gas.

The fee is fixed beforehand: priority and maximum are the same price, so that gas x price is what the transaction takes, and
the treasury's own coins give it back (L8).
"""

from typing import Final

from sqlalchemy import Connection, text

from custody.chain.signed_bytes import read_signed
from custody.destinations.sweeps.fees import FeeQuote, FeesTooHigh, GasTerms
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.strategy import SweepRound
from custody.settings.chains import NATIVE

DRAIN_HEADROOM_PERCENT: Final = 150
"""Of the base fee: the whole price is paid, so less room than a token transfer has."""
GAS_LIMIT_MAXIMUM: Final = 100_000  # a plain transfer is 21,000, one into a Safe 27,000; more is another contract


def drain_terms(estimate: int, quote: FeeQuote) -> GasTerms:
    """One price, all of it paid. Raises FeesTooHigh."""
    if estimate > GAS_LIMIT_MAXIMUM:
        raise FeesTooHigh(f"a plain transfer that needs {estimate} gas is refused; at most {GAS_LIMIT_MAXIMUM}")
    wished = -(-quote.base_fee * DRAIN_HEADROOM_PERCENT // 100) + quote.priority_fee
    price = min(max(wished, quote.least_fee), quote.max_fee_for(estimate))
    return GasTerms(estimate, price, price)


def drained_wei(job: SweepJob, terms: GasTerms, data_fee_margin_wei: int) -> int:
    """What the treasury gets of a job's coins at these terms, wei; not above zero: they do not pay their gas."""
    return job.amount_units - terms.cost - data_fee_margin_wei


def treasury_free(connection: Connection, work: SweepRound) -> int:
    """What the treasury's own book may still give back, wei: less what drains and payouts under way may take."""
    treasury = work.chain.treasury
    row = connection.execute(
        text(
            """
            SELECT coalesce(trunc((b.treasury_house - b.overdraft) * 1000000000000000000), 0)::numeric(78, 0) AS free, (
                SELECT coalesce(sum(i.max_total_fee_wei), 0) FROM fleet.release_instructions i
                WHERE i.chain_id = :chain AND i.treasury = :treasury
                  AND i.state IN ('handed_out', 'signed', 'broadcast', 'cancelling')) AS payouts
            FROM fleet.house_accounts h LEFT JOIN fleet.ledger_balances b
                ON b.book_id = h.id AND b.chain_id = h.chain_id AND b.token = :native
            WHERE h.chain_id = :chain AND h.address = :treasury AND h.kind = 'treasury'
            """
        ),
        {"chain": work.chain.id, "treasury": treasury, "native": NATIVE},
    ).one_or_none()
    if row is None:
        return 0
    drains = connection.execute(
        text(
            "SELECT t.signed_bytes FROM fleet.chain_transactions t JOIN fleet.sweep_jobs j ON j.id = t.subject_id "
            "WHERE t.chain_id = :chain AND t.state IN ('signed', 'broadcast') AND j.token = :native "
            "AND t.purpose = 'sweep' AND j.state = 'transferring'"
        ),
        {"chain": work.chain.id, "native": NATIVE},
    ).scalars()
    return int(row.free) - int(row.payouts) - sum(read_signed(bytes(raw)).max_fee_wei for raw in drains)

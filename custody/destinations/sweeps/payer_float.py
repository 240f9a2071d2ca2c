"""The gas payer's coins are capped: whoever steals its key, or the agent's socket, burns no more than these (R20).

Too many are shown and stop nothing: anybody can send coins to the payer, and must not stop sweeps by that.
"""

from typing import Final

from sqlalchemy import Connection, text

from custody.destinations.sweeps.jobs import QUEUE
from custody.destinations.sweeps.strategy import SweepRound
from custody.store.work import bury

SUBJECT_KIND: Final = "gas_payer_float"


def watch_float(connection: Connection, work: SweepRound, balance_wei: int) -> None:
    """Show an operator that the payer has more than the cap, or that it has no more."""
    subject = f"{work.chain.id}:{work.signer.gas_payer}"
    if balance_wei > work.payer_float_maximum_wei:
        bury(
            connection,
            queue=QUEUE,
            subject_kind=SUBJECT_KIND,
            subject_id=subject,
            reason=f"the gas payer {work.signer.gas_payer} has {balance_wei} wei on chain {work.chain.id}; at most "
            f"{work.payer_float_maximum_wei} wei should lie under a key that is no Trezor's",
            unblocks="fund it with less; what is too much is used up by top-ups, or raise GAS_PAYER_FLOAT_MAXIMUM_WEI",
            attempts=1,
        )
        return
    connection.execute(
        text(
            "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue WHERE queue = :queue "
            "AND subject_kind = :kind AND subject_id = :subject AND resolved_at IS NULL"
        ),
        {"queue": QUEUE, "kind": SUBJECT_KIND, "subject": subject},
    )

"""A gas payer's coins have a cap and a floor, and an operator is told of both; neither stops a sweep (R20).

Whoever steals its key, or the agent's socket, burns no more than the cap. Anybody can send coins to the payer, and must not
stop sweeps by that. Below the floor it is time to fund it, before sweeps wait.
"""

from typing import Final

from sqlalchemy import Connection, text

from custody.destinations.sweeps.jobs import QUEUE
from custody.destinations.sweeps.strategy import SweepRound
from custody.store.work import bury

CAP_KIND: Final = "gas_payer_float"
FLOOR_KIND: Final = "gas_payer_floor"


def watch_float(connection: Connection, work: SweepRound, payer: str, balance_wei: int) -> None:
    """Show an operator that the payer has more than the cap or less than the floor, or that it has no more."""
    chain, floor = work.chain, work.chain.gas.payer_floor_wei
    _tell(
        connection,
        CAP_KIND,
        f"{chain.id}:{payer}",
        is_so=balance_wei > work.payer_float_maximum_wei,
        reason=f"the gas payer {payer} has {balance_wei} wei on chain {chain.id}; at most {work.payer_float_maximum_wei} wei "
        "should lie under a key that is no Trezor's",
        unblocks="fund it with less; what is too much is used up by sweeps, or raise GAS_PAYER_FLOAT_MAXIMUM_WEI",
    )
    _tell(
        connection,
        FLOOR_KIND,
        f"{chain.id}:{payer}",
        is_so=balance_wei < floor,
        reason=f"the gas payer {payer} has {balance_wei} wei on chain {chain.id}, its floor is {floor} wei",
        unblocks=f"send coins of chain {chain.id} to {payer}; the watcher books them. Its floor is the chain's "
        "gas.payer_floor_wei in the chains file",
    )


def _tell(connection: Connection, kind: str, subject: str, *, is_so: bool, reason: str, unblocks: str) -> None:
    if is_so:
        bury(
            connection,
            queue=QUEUE,
            subject_kind=kind,
            subject_id=subject,
            reason=reason,
            unblocks=unblocks,
            attempts=1,
        )
        return
    connection.execute(
        text(
            "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue WHERE queue = :queue "
            "AND subject_kind = :kind AND subject_id = :subject AND resolved_at IS NULL"
        ),
        {"queue": QUEUE, "kind": kind, "subject": subject},
    )

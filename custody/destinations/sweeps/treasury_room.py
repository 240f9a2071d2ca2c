"""R5: an EOA treasury is one device's honesty, so no more is swept into it than its maximum a token."""

from decimal import Decimal
from typing import Final

from sqlalchemy import Connection, text

from custody.chain.assets import to_amount
from custody.ledger.positions import treasury_position
from custody.settings.chains import Chains
from custody.store.work import bury

_COMING: Final = text(
    """
    SELECT coalesce(sum(j.amount_units), 0) FROM fleet.sweep_jobs j WHERE j.chain_id = :chain AND j.token = :token
        AND j.treasury = :treasury AND j.state IN ('planned', 'funding', 'transferring')
    """
)
_SUBJECT: Final = "treasury"
_RESOLVE: Final = text(
    "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = 'sweeps' "
    "WHERE queue = 'sweeps' AND subject_kind = :kind AND subject_id = :id AND resolved_at IS NULL"
)


class TreasuryRoom:
    """What each treasury may still take in one round of planning; whole tokens."""

    def __init__(self, connection: Connection, chains: Chains) -> None:
        self._connection = connection
        self._chains = {chain.id: chain for chain in chains.chains}
        self._there: dict[tuple[int, str], Decimal] = {}

    def why_full(self, chain_id: int, token_address: str, amount: Decimal) -> str | None:
        """Why ``amount`` more must not be swept now, as a sentence that operators find in ``fleet stuck``; None if it may.

        What may is counted from then on.
        """
        chain = self._chains[chain_id]
        if chain.safe is not None:
            return None  # several persons' honesty, and no cap (R16)
        token = chain.token(token_address)
        assert token is not None
        place = (chain_id, token_address)
        if place not in self._there:
            booked = treasury_position(
                self._connection, chain_id, token_address, chain.treasury, is_only=not chain.former_treasuries
            )
            coming = self._connection.execute(
                _COMING, {"chain": chain_id, "token": token_address, "treasury": chain.treasury}
            ).scalar_one()
            self._there[place] = booked + to_amount(int(coming), token.decimals)
        subject = f"{chain_id}:{token_address}"
        after = self._there[place] + amount
        if after <= token.treasury_maximum:
            self._there[place] = after
            self._connection.execute(_RESOLVE, {"kind": _SUBJECT, "id": subject})
            return None
        reason = (
            f"treasury_full: {chain.name}'s treasury would hold {after.normalize():f} {token.symbol}, an EOA may hold "
            f"{token.treasury_maximum.normalize():f} (R5)"
        )
        bury(
            self._connection,
            queue="sweeps",
            subject_kind=_SUBJECT,
            subject_id=subject,
            reason=reason,
            unblocks="move to a Safe, or wait for releases; two persons may raise treasury_maximum",
            attempts=1,
        )
        return reason

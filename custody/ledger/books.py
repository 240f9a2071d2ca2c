"""*Books equal chain*: what the ledger says each address holds, against what the chain says, at one block."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Engine

from custody.chain import ChainClient
from custody.chain.assets import to_amount
from custody.ledger.positions import asset_positions
from custody.settings.chains import NATIVE, Chain


@dataclass(frozen=True, slots=True)
class Compared:
    """One token at one address: booked against found, in whole tokens."""

    symbol: str
    address: str
    booked: Decimal
    found: Decimal

    @property
    def equal(self) -> bool:
        return self.booked == self.found


def compare_books(engine: Engine, client: ChainClient, chain: Chain) -> tuple[int, Sequence[Compared]]:
    """Compare every address that ever held a coin. Returns the block it was judged at, and one row a token and address.

    The books are read before and after the block: rows that moved meanwhile would compare two different moments, so
    the comparison is repeated (at most 10 times) until nothing moved.
    """
    for _ in range(10):
        with engine.connect() as connection:
            before = asset_positions(connection, chain.id)
        block = client.head().number
        rows: list[Compared] = []
        for position in before:
            token = chain.token(position.token)
            if token is None:
                raise LookupError(f"the books hold {position.token}, which the chains file does not name")
            units = (
                client.balance(position.address, block)
                if position.token == NATIVE
                else client.token_balance(position.token, position.address, block)
            )
            rows.append(Compared(token.symbol, position.address, position.amount, to_amount(units, token.decimals)))
        with engine.connect() as connection:
            if asset_positions(connection, chain.id) == before:
                return block, rows
    raise TimeoutError("the books kept moving; compare when the fleet is quiet")

"""The evidence of an instruction against the chain, read through a node that the fleet does not run (R4).

Nothing here believes a database: a destination derives from the pinned account or it does not, coins moved in a
canonical block at depth or they did not, a Safe is as it is pinned or it is not (R16). Every named node must confirm
everything. Amounts in smallest units.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from time import time
from typing import Final, TypeVar

from custody.chain import ChainClient, ChainConnection, ChainUnavailable, WrongChain
from custody.chain.nodes import why_stale
from workers.signer.case import Case, Seen
from workers.signer.checks import InstructionRefused
from workers.signer.journal_records import Asked
from workers.signer.movements import confirmed_deposits, confirmed_sweeps, read_movements
from workers.signer.safe_eyes import never_executed, require_safe
from workers.signer.treasuries import DRAIN
from workers.signer.trust import TrustedChain

_Answer = TypeVar("_Answer")
_DELEGATION: Final = b"\xef\x01\x00"  # EIP-7702: a wallet that lends its account some code is still a wallet


class EvidenceUnavailable(InstructionRefused):
    """An own node gave no usable answer, so nothing could be judged; the same may be asked again."""


def look(case: Case, urls: Sequence[str]) -> Seen:
    """Have each node confirm everything. Raises InstructionRefused naming what differs, EvidenceUnavailable."""
    if not urls:
        raise case.refused("no node of your own is named: give --verify-rpc URL, or verify_rpc in the trust file")
    seen = [_at_node(case, url) for url in urls]
    return replace(seen[-1], treasury_wei=min(each.treasury_wei for each in seen))


def can_pay_no_more(pinned: TrustedChain, urls: Sequence[str], asked: Asked, transaction_hashes: Sequence[str]) -> bool:
    """Whether each node shows that the payout's nonce was spent, at depth, by something else (R1).

    ``transaction_hashes``: those known of it, of an account's. Raises EvidenceUnavailable, InstructionRefused for a node
    of another chain.
    """

    def ask(client: ChainClient) -> bool:
        if asked.is_safe:
            return never_executed(pinned, client, asked)
        found = client.receipts_and_headers(transaction_hashes)
        if any(receipt.succeeded for receipt in found.receipts.values()):
            return False
        deep = found.head.number - pinned.depth + 1
        return deep >= 0 and client.nonce(asked.treasury, deep) > asked.transaction.nonce

    return all(_asked(pinned, url, ask) for url in urls)


def _at_node(case: Case, url: str) -> Seen:
    def ask(client: ChainClient) -> Seen:
        found = read_movements(case, client)
        if (why := why_stale(case.checked.chain, found.head, int(time()))) is not None:
            raise EvidenceUnavailable(f"Your own node {client.chain.masked_url}: {why}. Nothing was signed; try again.")
        swept = confirmed_sweeps(case, client, found)
        deposited = case.by_payment(confirmed_deposits(case, client, found))
        safe = None
        if case.pinned.safe is None:
            _require_unspent(case, client)
        else:
            state = require_safe(case, client, found.head.number)
            safe = (state.block_number, state.nonce)
        code = b"" if case.checked.claimed.purpose == DRAIN else client.code(case.checked.claimed.recipient)
        if code and not code.startswith(_DELEGATION):
            raise case.refused(f"recipient {case.checked.claimed.recipient} is a contract (R21)")
        held = client.balance(case.pinned.treasury) if case.is_native else 0
        return Seen(case.destinations, deposited, swept, held, safe)

    return _asked(case.pinned, url, ask)


def _require_unspent(case: Case, client: ChainClient) -> None:
    nonce, mine = client.nonce(case.pinned.treasury), case.checked.transaction.nonce
    if mine < nonce:
        raise case.refused(
            f"nonce {mine} of the treasury is spent already, {client.chain.masked_url} says the next one is {nonce}"
        )


def _asked(pinned: TrustedChain, url: str, ask: Callable[[ChainClient], _Answer]) -> _Answer:
    try:
        connection = ChainConnection(pinned.id, url, pinned.genesis_hash)
    except ValueError as error:
        raise InstructionRefused(f"verify_rpc: {error}.") from None
    try:
        with closing(ChainClient(connection)) as client:
            client.require_identity(pinned.id, pinned.genesis_hash)
            return ask(client)
    except WrongChain as error:
        raise InstructionRefused(
            f"Your own node {error.url} is of another chain than the trust file pins: {error.reason}. Nothing was signed."
        ) from None
    except ChainUnavailable as error:
        raise EvidenceUnavailable(
            f"Your own node {error.url} could not confirm the evidence ({error.reason}). Nothing was signed; try again."
        ) from None

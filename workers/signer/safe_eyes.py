"""A Safe as one of this machine's own nodes shows it, against what the trust file pins of it (R4, R16)."""

from custody.chain import ChainClient
from custody.chain.errors import ExecutionReverted
from custody.safe import SafeState, safe_differences
from custody.safe.history import HistoryTooLong, executions_at, nonce_at_node
from custody.safe.reading import safe_at
from workers.signer.case import Case
from workers.signer.checks import InstructionEarly
from workers.signer.journal_records import Asked
from workers.signer.trust import TrustedChain


def require_safe(case: Case, client: ChainClient, block: int) -> SafeState:
    """The Safe after ``block``, the same in everything that is pinned, and about to spend the instruction's nonce.

    Raises InstructionRefused naming each difference, InstructionEarly while an earlier nonce is not spent, ChainUnavailable.
    """
    assert case.pinned.safe is not None
    pinned = case.pinned.safe.pins(case.pinned.treasury)
    found = safe_at(client, block, pinned.address)
    where = client.chain.masked_url
    if isinstance(found, str):
        raise case.refused(f"{found}, says {where}")
    if sentences := safe_differences(found, pinned):
        raise case.refused(f"the Safe is not the pinned one: at block {block} {'; '.join(sentences)}, says {where}")
    nonce = case.checked.transaction.nonce
    spends = f"it spends nonce {nonce} of the Safe, whose next one is {found.nonce}, says {where}"
    if nonce > found.nonce:
        # The fleet hands out the next one once the one before is sent; a block has to take that first.
        raise InstructionEarly(
            f"Instruction {case.checked.claimed.id}: {spends}; an earlier payout is not executed yet. Nothing was signed; "
            "try again."
        )
    if nonce < found.nonce:
        raise case.refused(spends)
    return found


def never_executed(pinned: TrustedChain, client: ChainClient, asked: Asked) -> bool:
    """Whether a Safe's payout can never be executed any more: its nonce is spent at depth, and not by it (R1).

    False whenever the node does not show every execution since the payout was asked for. Raises ChainUnavailable.
    """
    if asked.safe_block is None or asked.safe_nonce is None:
        return False
    deep = client.head().number - pinned.depth + 1
    if deep <= asked.safe_block:
        return False
    try:
        spent = nonce_at_node(client, asked.treasury, deep)
        history = executions_at(client, asked.treasury, asked.safe_block + 1, deep)
    except (ExecutionReverted, HistoryTooLong):
        return False
    is_whole = len(history) == spent - asked.safe_nonce
    return is_whole and spent > asked.transaction.nonce and all(each.tx_hash != asked.digest for each in history)

"""One request, one reply: what the keys agent says to each message. Every refusal is a sentence, and logged."""

from typing import Final

import structlog

from custody.destinations.keys.messages import (
    IdentityReply,
    IdentityRequest,
    MessageMalformed,
    Reply,
    SignatureReply,
    SignatureRequest,
    read_request,
)
from custody.destinations.keys.shapes import Asked, ShapeRefused
from custody.destinations.keys.spending import DaySpent
from custody.destinations.keys.vault import KeyVault
from custody.settings.environment import SettingsError

log = structlog.get_logger(__name__)

SENTENCE_CHARACTERS: Final = 1_000


def answer(vault: KeyVault, raw: bytes) -> Reply:
    """The reply to a message's bytes. Never raises for what was sent."""
    try:
        request = read_request(raw)
    except MessageMalformed as error:
        return _refused(str(error))
    if isinstance(request, IdentityRequest):
        identity = IdentityReply(accounts=list(vault.accounts), gas_payers=list(vault.gas_payers), binding=vault.source)
        return Reply(identity=identity)
    asked: Asked | None = None
    try:
        asked = request.asked()
        return _signed(vault, request, asked)
    except (ShapeRefused, SettingsError) as error:
        return _refused(str(error), request, asked)
    except DaySpent as error:
        log.warning("keys_agent_day_spent", shape=request.shape, index=request.index, reason=str(error))
        return Reply(later=str(error)[:SENTENCE_CHARACTERS])
    except OSError as error:
        reason = f"the agent's journal cannot be written: {error.strerror}; see the disk"
        log.error("keys_agent_journal_unwritable", reason=reason)
        return Reply(later=reason)


def _signed(vault: KeyVault, request: SignatureRequest, asked: Asked) -> Reply:
    if request.ask == "check":
        vault.check(asked)
        return Reply(checked=True)
    signature = vault.sign(asked)
    transaction = asked.transaction
    log.info(
        "keys_agent_signed",
        shape=asked.shape,
        index=asked.index,
        chain_id=transaction.chain_id,
        nonce=transaction.nonce,
        transaction_hash=transaction.transaction_hash(signature),
    )
    return Reply(
        signature=SignatureReply(y_parity=signature.y_parity, r=f"0x{signature.r:064x}", s=f"0x{signature.s:064x}")
    )


def _refused(reason: str, request: SignatureRequest | None = None, asked: Asked | None = None) -> Reply:
    log.warning(
        "keys_agent_refused",
        reason=reason,
        shape=request.shape if request else None,
        index=request.index if request else None,
        chain_id=asked.transaction.chain_id if asked else None,
    )
    return Reply(refused=reason[:SENTENCE_CHARACTERS])

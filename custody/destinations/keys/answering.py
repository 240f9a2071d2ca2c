"""One request, one reply: what the keys agent says to each message. Every refusal is a sentence, and logged."""

from typing import Final

import structlog

from custody.destinations.keys.messages import (
    AuthorizationsRequest,
    BatchRequest,
    IdentityReply,
    IdentityRequest,
    MessageMalformed,
    Reply,
    Request,
    SignatureReply,
    SignatureRequest,
    read_request,
)
from custody.destinations.keys.set_code import call_of
from custody.destinations.keys.shapes import Asked, ShapeRefused
from custody.destinations.keys.spending import DaySpent
from custody.destinations.keys.vault import KeyVault
from custody.settings.environment import SettingsError
from custody.trezor import Signature

log = structlog.get_logger(__name__)

SENTENCE_CHARACTERS: Final = 1_000


def answer(vault: KeyVault, raw: bytes) -> Reply:
    """The reply to a message's bytes. Never raises for what was sent."""
    try:
        request = read_request(raw)
    except MessageMalformed as error:
        return _refused(str(error))
    try:
        return _served(vault, request)
    except (ShapeRefused, SettingsError) as error:
        return _refused(str(error), request)
    except DaySpent as error:
        log.warning("keys_agent_day_spent", ask=request.ask, reason=str(error))
        return Reply(later=str(error)[:SENTENCE_CHARACTERS])
    except OSError as error:
        reason = f"the agent's journal cannot be written: {error.strerror}; see the disk"
        log.error("keys_agent_journal_unwritable", reason=reason)
        return Reply(later=reason)


def _served(vault: KeyVault, request: Request) -> Reply:
    match request:
        case IdentityRequest():
            identity = IdentityReply(
                accounts=list(vault.accounts), gas_payers=list(vault.gas_payers), binding=vault.source
            )
            return Reply(identity=identity)
        case AuthorizationsRequest():
            return _authorized(vault, request)
        case BatchRequest():
            return _batch(vault, request)
        case SignatureRequest():
            return _signed(vault, request, request.asked())


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
    return Reply(signature=_reply(signature))


def _authorized(vault: KeyVault, request: AuthorizationsRequest) -> Reply:
    signatures = vault.authorize(request.asked())
    log.info(
        "keys_agent_authorized",
        method=request.method,
        chain_id=request.chain_id,
        account=request.account,
        addresses=len(request.items),
    )
    return Reply(signatures=[_reply(each) for each in signatures])


def _batch(vault: KeyVault, request: BatchRequest) -> Reply:
    transaction = request.transaction()
    if request.ask == "check_batch":
        vault.check_batch(transaction, payer=request.payer, treasury=request.treasury)
        return Reply(checked=True)
    signature = vault.sign_batch(transaction, payer=request.payer, treasury=request.treasury)
    call = call_of(transaction)
    log.info("keys_agent_signed_batch", chain_id=call.chain_id, payer=request.payer, nonce=call.nonce, to=call.to)
    return Reply(signature=_reply(signature))


def _reply(signature: Signature) -> SignatureReply:
    return SignatureReply(y_parity=signature.y_parity, r=f"0x{signature.r:064x}", s=f"0x{signature.s:064x}")


def _refused(reason: str, request: Request | None = None) -> Reply:
    log.warning(
        "keys_agent_refused",
        reason=reason,
        ask=None if request is None else request.ask,
        shape=request.shape if isinstance(request, SignatureRequest) else None,
        index=request.index if isinstance(request, SignatureRequest) else None,
    )
    return Reply(refused=reason[:SENTENCE_CHARACTERS])

"""From a stored intent to the bytes of a sweep or top-up: the keys agent signs, this process assembles (R19, R20)."""

from dataclasses import dataclass

from eth_utils.address import to_checksum_address

from custody.chain import CallRequest
from custody.chain.lanes import LaneTransaction
from custody.destinations.keys.authorizations import AskedAuthorizations
from custody.destinations.keys.client import AgentIdentity, KeysAgent, KeysAgentAway
from custody.destinations.keys.set_code import PayerTransaction, SetCodeTransaction, SignedAuthorization
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.sweeps.fees import GasTerms
from custody.destinations.sweeps.jobs import SweepJob
from custody.trezor import Signature, TransactionError, UnsignedTransaction


@dataclass(frozen=True, slots=True)
class DepositKey:
    """Which deposit address: its account's fingerprint (0x and 8 hex digits), and its index."""

    account: str
    index: int


@dataclass(frozen=True, slots=True)
class BatchCall:
    """What the gas payer calls for a batch, and the EIP-7702 tuples that go with it (none: a type-2 transaction)."""

    to: str
    data: bytes
    authorizations: tuple[SignedAuthorization, ...] = ()

    def request(self, sender: str) -> CallRequest:
        """The call as nodes simulate it."""
        return CallRequest(
            to=self.to,
            data=self.data,
            sender=sender,
            authorizations=tuple(each.as_json() for each in self.authorizations),
        )


class SweepSigner:
    """The keys agent as sweeping needs it. ``meet`` it once a round; without having met it there are no gas payers."""

    def __init__(self, agent: KeysAgent) -> None:
        self._agent = agent
        self._identity: AgentIdentity | None = None

    def meet(self) -> None:
        """Ask the agent who it is. Raises KeysAgentAway."""
        self._identity = self._agent.identity()

    @property
    def gas_payers(self) -> tuple[str, ...]:
        """The gas payers' checksum addresses."""
        return self._known.gas_payers

    @property
    def payers_met(self) -> tuple[str, ...] | None:
        """The gas payers at the last meeting, None before the first."""
        return None if self._identity is None else self._identity.gas_payers

    @property
    def accounts(self) -> tuple[str, ...]:
        """The fingerprints of the deposit accounts whose seeds the agent has, newest first."""
        return self._known.accounts

    def sign_sweep(self, intent: LaneTransaction, *, of: DepositKey, treasury: str, gas: GasTerms) -> bytes:
        """The raw transaction of a token transfer from the deposit address ``of`` to ``treasury``.

        Raises ShapeRefused with the agent's sentence, SigningPostponed, KeysAgentAway.
        """
        if intent.purpose != "sweep":
            raise ShapeRefused(f"purpose: expected a sweep, got {intent.purpose}")
        transaction = _unsigned(intent, gas)
        return transaction.signed_raw(
            self._agent.sign(
                "token_sweep",
                transaction,
                account=of.account,
                index=of.index,
                treasury=treasury,
                signer=intent.sender,
            )
        )

    def sign_drain(self, intent: LaneTransaction, *, of: DepositKey, treasury: str, gas: GasTerms) -> bytes:
        """The raw transaction of native coin from the deposit address ``of`` to ``treasury``. Raises as ``sign_sweep``."""
        transaction = _unsigned(intent, gas)
        return transaction.signed_raw(
            self._agent.sign(
                "native_sweep", transaction, account=of.account, index=of.index, treasury=treasury, signer=intent.sender
            )
        )

    def sign_top_up(self, intent: LaneTransaction, *, of: DepositKey, treasury: str, gas: GasTerms) -> bytes:
        """The raw transaction of a plain transfer from a gas payer to the deposit address ``of``.

        Raises as ``sign_sweep``.
        """
        if intent.purpose != "top_up":
            raise ShapeRefused(f"purpose: expected a top-up, got {intent.purpose}")
        transaction = _unsigned(intent, gas)
        return transaction.signed_raw(
            self._agent.sign(
                "top_up",
                transaction,
                account=of.account,
                index=of.index,
                treasury=treasury,
                payer=intent.sender,
                signer=intent.sender,
            )
        )

    def authorize(self, asked: AskedAuthorizations) -> list[Signature]:
        """What deposit keys of one account sign for a batch, in order. Raises as ``sign_sweep``."""
        return self._agent.authorize(asked)

    def check_batch(self, chain_id: int, call: BatchCall, *, payer: str, treasury: str, gas: GasTerms) -> None:
        """Raise what ``sign_batch`` would, before a nonce is taken: one that is not signed must be cancelled."""
        transaction = _built(chain_id=chain_id, nonce=0, to=call.to, value=0, data=call.data, gas=gas)
        self._agent.check_batch(_with_authorizations(transaction, call), payer=payer, treasury=treasury)

    def sign_batch(self, intent: LaneTransaction, call: BatchCall, *, treasury: str, gas: GasTerms) -> bytes:
        """The raw transaction of a batch, which is the intent's call with the tuples of ``call``. Raises as ``sign_sweep``."""
        if (intent.purpose, intent.recipient, intent.data) != ("sweep", call.to, call.data):
            raise ShapeRefused("batch: its call is not the one that its nonce was taken for")
        transaction = _with_authorizations(_unsigned(intent, gas), call)
        return transaction.signed_raw(self._agent.sign_batch(transaction, payer=intent.sender, treasury=treasury))

    def check_top_up(
        self,
        chain_id: int,
        recipient: str,
        value_wei: int,
        *,
        of: DepositKey,
        payer: str,
        treasury: str,
        gas: GasTerms,
    ) -> None:
        """Raise what ``sign_top_up`` would, before a nonce is taken: one that is not signed must be cancelled."""
        transaction = _built(chain_id=chain_id, nonce=0, to=recipient, value=value_wei, data=b"", gas=gas)
        self._agent.check("top_up", transaction, account=of.account, index=of.index, treasury=treasury, payer=payer)

    def sign_cancel(self, intent: LaneTransaction, *, treasury: str, gas: GasTerms) -> bytes:
        """The raw transaction that spends a gas payer's nonce on nothing: from itself to itself, no value, no data (R1).

        Raises as ``sign_sweep``.
        """
        transaction = _built(chain_id=intent.chain_id, nonce=intent.nonce, to=intent.sender, value=0, data=b"", gas=gas)
        return transaction.signed_raw(
            self._agent.sign("cancel", transaction, treasury=treasury, payer=intent.sender, signer=intent.sender)
        )

    @property
    def _known(self) -> AgentIdentity:
        if self._identity is None:
            raise KeysAgentAway("the keys agent was not asked who it is yet")
        return self._identity


def key_of(job: SweepJob) -> DepositKey:
    """Whose key signs for the job's destination."""
    return DepositKey(job.account_fingerprint or "", job.derivation_index)


def _with_authorizations(transaction: UnsignedTransaction, call: BatchCall) -> PayerTransaction:
    if not call.authorizations:
        return transaction
    try:
        return SetCodeTransaction(transaction, call.authorizations)
    except TransactionError as error:
        raise ShapeRefused(str(error)) from None


def _unsigned(intent: LaneTransaction, gas: GasTerms) -> UnsignedTransaction:
    return _built(
        chain_id=intent.chain_id,
        nonce=intent.nonce,
        to=intent.recipient,
        value=intent.value_wei,
        data=intent.data,
        gas=gas,
    )


def _built(*, chain_id: int, nonce: int, to: str, value: int, data: bytes, gas: GasTerms) -> UnsignedTransaction:
    try:
        return UnsignedTransaction(
            chain_id=chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=gas.max_priority_fee,
            max_fee_per_gas=gas.max_fee,
            gas_limit=gas.gas_limit,
            to=to_checksum_address(to),
            value=value,
            data=data,
        )
    except TransactionError as error:
        raise ShapeRefused(str(error)) from None

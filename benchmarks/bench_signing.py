"""Signing and building a batch of 250 destinations, the keys agent's socket and every check included."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from bip_utils import Bip39MnemonicGenerator, Bip39WordsNum
from eth_account import Account
from eth_account.signers.local import LocalAccount

from benchmarks.measure import Row, compare
from custody.chain.lanes import LaneTransaction
from custody.destinations.contracts import sweep_contracts, sweep_many_call
from custody.destinations.derivation import account_xpub_from_seed, address_at, private_keys_at, seed_from_phrase
from custody.destinations.keys.authorizations import AskedAuthorizations, Item
from custody.destinations.keys.client import KeysAgent
from custody.destinations.keys.set_code import Authorization, SignedAuthorization
from custody.destinations.keys.shapes import KnownChain
from custody.destinations.keys.spending import DaySpending
from custody.destinations.keys.vault import KeyVault
from custody.destinations.sweeps.fees import GasTerms
from custody.destinations.sweeps.signing import BatchCall, SweepSigner
from workers.keys_agent.server import KeysAgentServer

DESTINATIONS: Final = 250
CHAIN_ID: Final = 31337
_NOBODY: Final = UUID(int=0)
_TERMS: Final = GasTerms(12_000_000, 10**9, 10**9)

Progress = Callable[[str], None]


class _Bound:
    """The bindings of one chain without tokens but one."""

    @property
    def source(self) -> str:
        return "a benchmark"

    @property
    def is_development(self) -> bool:
        return True

    def __init__(self, chain: KnownChain) -> None:
        self._chain = chain

    def chain(self, chain_id: int) -> KnownChain:
        return self._chain


def rows(progress: Progress) -> Iterable[Row]:
    phrase = str(Bip39MnemonicGenerator().FromWordsNumber(Bip39WordsNum.WORDS_NUM_12))
    seed = seed_from_phrase(phrase)
    treasury, token, payer = Account.create().address, Account.create().address, Account.create()
    with tempfile.TemporaryDirectory(prefix="keys-") as folder:
        vault = KeyVault(
            seeds=[seed],
            gas_payer_keys=[bytes(payer.key)],
            bind=lambda _xpubs: _Bound(KnownChain(CHAIN_ID, treasury, frozenset({token}))),
            spending=DaySpending(Path(folder) / "journal", 10**21),
        )
        with KeysAgentServer(Path(folder) / "agent.sock", vault) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            agent = KeysAgent(Path(folder) / "agent.sock")
            addresses = [address_at(account_xpub_from_seed(seed), index) for index in range(DESTINATIONS)]
            accounts = [Account.from_key(key) for key in private_keys_at(seed, range(DESTINATIONS))]
            yield compare(
                area="sweeping",
                name=f"sign and build an EIP-7702 batch of {DESTINATIONS}, through the keys agent",
                ours=lambda: _ours(agent, vault, addresses, treasury, token, payer.address),
                peer=lambda: _theirs(accounts, payer, addresses, treasury, token),
                peer_name="eth-account in one process, unchecked",
                unit="destinations/s",
                at_least=0.2,  # the library signs 2,400 a second on an idle core (sweeping facts): 250 in half a second
                progress=progress,
            )
            server.shutdown()


def _ours(agent: KeysAgent, vault: KeyVault, addresses: Sequence[str], treasury: str, token: str, payer: str) -> float:
    started = time.perf_counter()
    contracts = sweep_contracts(treasury)
    items = [Item(index, 0) for index in range(DESTINATIONS)]
    signatures = agent.authorize(
        AskedAuthorizations("eip7702", CHAIN_ID, treasury, vault.accounts[0], items, delegate=contracts.delegate)
    )
    authorization = Authorization(CHAIN_ID, contracts.delegate, 0)
    tuples = tuple(SignedAuthorization(authorization, each) for each in signatures)
    if [each.authority for each in tuples] != list(addresses):
        raise AssertionError("another key signed")
    call = BatchCall(contracts.batcher, sweep_many_call(token, addresses, 150_000), tuples)
    intent = LaneTransaction(
        id=_NOBODY,
        chain_id=CHAIN_ID,
        sender=payer,
        nonce=0,
        purpose="sweep",
        subject_id=_NOBODY,
        recipient=call.to,
        value_wei=0,
        data=call.data,
        state="intent",
        signed_bytes=None,
        transaction_hash=None,
    )
    SweepSigner(agent).sign_batch(intent, call, treasury=treasury, gas=_TERMS)
    return DESTINATIONS / (time.perf_counter() - started)


def _theirs(
    accounts: list[LocalAccount], payer: LocalAccount, addresses: Sequence[str], treasury: str, token: str
) -> float:
    started = time.perf_counter()
    contracts = sweep_contracts(treasury)
    tuples = [
        each.sign_authorization({"chainId": CHAIN_ID, "address": contracts.delegate, "nonce": 0}) for each in accounts
    ]
    payer.sign_transaction(
        {
            "chainId": CHAIN_ID,
            "nonce": 0,
            "maxFeePerGas": 10**9,
            "maxPriorityFeePerGas": 10**9,
            "gas": 12_000_000,
            "to": contracts.batcher,
            "value": 0,
            "data": sweep_many_call(token, addresses, 150_000),
            "authorizationList": tuples,  # pyright: ignore[reportArgumentType]
        }
    )
    return DESTINATIONS / (time.perf_counter() - started)

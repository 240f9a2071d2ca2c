"""EIP-7702: destinations run our delegate, and our batcher has each send its whole balance to the treasury.

The first sweep of an address carries its authorization (type 4), later ones carry none (type 2): a stale tuple costs
25,000 gas and does nothing. Needs no native coin at the address, and works for every token. Whatever lies there when the
block is made moves, also what came after the job was planned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from custody.chain import CallRequest, ChainUnavailable, ExecutionReverted
from custody.chain.lanes import LaneTransaction
from custody.destinations.contracts import SweepContracts, sweep_contracts, sweep_many_call
from custody.destinations.keys.authorizations import AskedAuthorizations
from custody.destinations.keys.authorizations import Item as AskedItem
from custody.destinations.keys.set_code import Authorization, SignedAuthorization
from custody.destinations.sweeps.batch_method import Unfit, signed_by_accounts
from custody.destinations.sweeps.batcher_calls import (
    BATCH_LIMIT,
    GAS_EACH,
    batcher_failures,
    whole_balance_went,
    why_no_batcher,
)
from custody.destinations.sweeps.batches import Batch, Item
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.signing import BatchCall
from custody.destinations.sweeps.strategy import EIP7702_BATCH, Reach
from custody.trezor import Signature

PER_AUTHORIZATION_GAS: Final = 12_500  # PER_AUTH_BASE_COST of EIP-7702, the least that a tuple costs


def supports_7702(reach: Reach) -> bool:
    """Whether an authorization costs what EIP-7702 says, by an estimate with one of a throw-away key.

    Without the fork a node ignores the list, or refuses it. Raises ChainUnavailable only if the plain estimate fails too.
    """
    from coincurve import PrivateKey

    authorization = Authorization(reach.chain.id, sweep_contracts(reach.chain.treasury).delegate, 0)
    made = PrivateKey().sign_recoverable(authorization.digest(), hasher=None)
    signed = SignedAuthorization(
        authorization, Signature(made[64], int.from_bytes(made[:32]), int.from_bytes(made[32:64]))
    )
    plain = CallRequest(reach.chain.treasury, sender=reach.signer.gas_payers[0])
    usual = reach.client.estimate_gas(plain)
    try:
        found = reach.client.estimate_gas(replace(plain, authorizations=(signed.as_json(),)))
    except (ChainUnavailable, ExecutionReverted):
        return False
    return found - usual >= PER_AUTHORIZATION_GAS


class Eip7702Batch:
    """The method; see BatchMethod."""

    name = EIP7702_BATCH
    lifetime = "eip7702"
    limit = BATCH_LIMIT

    def __init__(self) -> None:
        self._supporting: set[str] = set()  # genesis hashes: a chain does not unlearn it

    def why_not(self, reach: Reach) -> str | None:
        """The fork is active, and the treasury's batcher is there and takes our payers' calls."""
        if reach.chain.genesis_hash not in self._supporting:
            if not supports_7702(reach):
                return "no_7702: the chain's node gives an authorization no effect"
            self._supporting.add(reach.chain.genesis_hash)
        return why_no_batcher(reach)

    def look(self, reach: Reach, members: Sequence[SweepJob]) -> list[Item | Unfit]:
        """A tuple only where the code is empty, or is the delegate of a treasury of before, whose place ours takes (R22);
        other code than ours is nobody's to sweep."""
        contracts = sweep_contracts(reach.chain.treasury)
        former = {sweep_contracts(each.address).delegation for each in reach.chain.former_treasuries}
        codes = reach.client.codes([job.address for job in members])
        accounts = reach.client.accounts([job.address for job in members])
        found: list[Item | Unfit] = []
        for job in members:
            code = codes[job.address]
            if not code or code in former:
                found.append(Item(authority_nonce=accounts[job.address].nonce))
            elif code == contracts.delegation:
                found.append(Item())
            else:
                found.append(Unfit(f"foreign_code: the address runs 0x{code[:23].hex()}", is_final=True))
        return found

    def stands(self, stored: Item, fresh: Item) -> bool:
        """The account's nonce is the stored one: another would be skipped in silence."""
        return stored == fresh

    def compose(self, reach: Reach, batch: Batch) -> BatchCall:
        """sweepMany of all destinations, with the tuples of those that are not delegated yet."""
        contracts = sweep_contracts(reach.chain.treasury)
        data = sweep_many_call(batch.token, [job.address for job in batch.jobs], GAS_EACH)
        return BatchCall(contracts.batcher, data, self._tuples(reach, batch, contracts))

    def recompose(self, reach: Reach, batch: Batch, intent: LaneTransaction) -> BatchCall:
        """The stored call, and the tuples signed again: the same nonces give the same signatures."""
        contracts = sweep_contracts(reach.chain.treasury)
        return BatchCall(intent.recipient, intent.data, self._tuples(reach, batch, contracts))

    def failures(self, reach: Reach, batch: Batch, call: BatchCall, payer: str) -> Mapping[UUID, str]:
        """What the batcher's own simulation says of each destination."""
        return batcher_failures(reach, batch, call, payer)

    def estimate(self, reach: Reach, call: BatchCall, payer: str) -> int:
        """The batcher reverts rather than leave a destination short of gas, so the node's estimate holds for all."""
        return reach.client.estimate_gas(call.request(payer))

    def accepts(self, job: SweepJob, transfers: Sequence[Outgoing]) -> bool:
        """The whole balance went to the treasury."""
        return whole_balance_went(job, transfers)

    def _tuples(self, reach: Reach, batch: Batch, contracts: SweepContracts) -> tuple[SignedAuthorization, ...]:
        members = [
            (job, AskedItem(job.derivation_index, item.authority_nonce))
            for job, item in zip(batch.jobs, batch.items, strict=True)
            if item.authority_nonce is not None
        ]
        if not members:
            return ()

        def authorization(item: AskedItem) -> Authorization:
            return Authorization(reach.chain.id, contracts.delegate, item.nonce)

        signatures = signed_by_accounts(
            reach,
            members,
            lambda account, items: AskedAuthorizations(
                "eip7702", reach.chain.id, reach.chain.treasury, account, items, delegate=contracts.delegate
            ),
            lambda _job, item: authorization(item).digest(),
        )
        return tuple(
            SignedAuthorization(authorization(item), signature)
            for (_, item), signature in zip(members, signatures, strict=True)
        )

"""Rules that no policy can loosen: they come from the genesis, before every rule of a file (R8, R10, R17, R21)."""

from collections.abc import Callable
from typing import Final

from custody.chain.assets import NATIVE
from custody.policy.address_book import AddressBook
from custody.policy.genesis import Genesis, GenesisChain
from custody.policy.requests import Request, Word

ADJUSTMENT_K: Final = 2  # an adjustment rewrites whose money it is: two persons, whatever a policy says (R10)


def fixed_words(request: Request, genesis: Genesis, book: AddressBook) -> list[Word]:
    """What each fixed rule says of a request, in their order. An unknown chain or token ends the list."""
    chain = genesis.chain(request.chain_id)
    if chain is None:
        known = ", ".join(str(each.id) for each in genesis.chains)
        return [Word("genesis:chain", "denies", f"chain {request.chain_id} is not in the genesis (it has {known})")]
    words = [Word("genesis:chain", "passes", f"chain {chain.id} is {chain.name} of the genesis")]
    token = chain.token(request.token)
    if token is None:
        return [*words, Word("genesis:token", "denies", f"token {request.token} is not in the genesis on {chain.name}")]
    words.append(Word("genesis:token", "passes", f"{token.symbol} is a token of the genesis"))
    rules: tuple[tuple[str, Callable[[Request, GenesisChain, Genesis, AddressBook], str | None]], ...] = (
        ("genesis:sweep-to-treasury", _sweep),
        ("genesis:rotation", _rotation),
        ("genesis:not-our-own", _own_address),
        ("genesis:gas-payer", _gas_funding),
        ("genesis:fee-payee", _fee_payout),
        ("genesis:recipient", _recipient_given),
        ("genesis:removed-recipient", _removed),
        ("genesis:known-recipient", _known),
    )
    for name, rule in rules:
        refusal = rule(request, chain, genesis, book)
        words.append(Word(name, "passes", "holds") if refusal is None else Word(name, "denies", refusal))
    return words


def _sweep(request: Request, chain: GenesisChain, _genesis: Genesis, _book: AddressBook) -> str | None:
    if request.purpose == "sweep" and request.recipient != chain.treasury.address:
        return f"a sweep goes to the treasury {chain.treasury.address} and nowhere else, not to {request.recipient}"
    return None


def _rotation(request: Request, chain: GenesisChain, _genesis: Genesis, _book: AddressBook) -> str | None:
    """R22: coins move from a former treasury to the active one and nowhere else, and a retired one pays nobody."""
    former = chain.former(request.treasury)
    if request.purpose == "drain":
        if former is None:
            return f"coins are moved from a former treasury of {chain.name}, {request.treasury} is none"
        if request.recipient != chain.treasury.address:
            return f"coins are moved to the active treasury {chain.treasury.address}, not to {request.recipient}"
    elif former is not None and former.state == "retired":
        return f"treasury {former.address} of {chain.name} is retired: nobody is paid from it"
    return None


def _own_address(request: Request, chain: GenesisChain, genesis: Genesis, _book: AddressBook) -> str | None:
    if request.purpose in ("sweep", "drain") or request.recipient is None:
        return None
    for each in genesis.chains:
        named = {treasury.address: "our treasury" for treasury in each.treasuries}
        if each.id == chain.id:
            named |= {token.address: f"the token {token.symbol}" for token in each.tokens}
            named |= {contract.address: f"the contract {contract.name}" for contract in each.contracts}
        if (what := named.get(request.recipient)) is not None:
            return f"recipient {request.recipient} is {what}, nobody's wallet"
    return None


def _gas_funding(request: Request, _chain: GenesisChain, _genesis: Genesis, book: AddressBook) -> str | None:
    if request.purpose != "gas_funding":
        return None
    if request.token != NATIVE:
        return "gas is paid in the chain's own coin, not in a token"
    if request.recipient is None or book.entry(request.chain_id, request.recipient, "gas_payer") is None:
        return f"recipient {request.recipient} is no gas payer of the address book"
    return None


def _fee_payout(request: Request, _chain: GenesisChain, _genesis: Genesis, book: AddressBook) -> str | None:
    if request.purpose != "fee_payout":
        return None
    if request.recipient is None or book.entry(request.chain_id, request.recipient, "fee_payee") is None:
        return f"recipient {request.recipient} is no fee payee of the address book"
    return None


def _recipient_given(request: Request, _chain: GenesisChain, _genesis: Genesis, _book: AddressBook) -> str | None:
    if (request.purpose == "adjustment") != (request.recipient is None):
        return "an adjustment has no recipient, everything else has one"
    return None


def _removed(request: Request, _chain: GenesisChain, _genesis: Genesis, book: AddressBook) -> str | None:
    # A removal binds also where another source, such as a buyer's signature, would do.
    if request.purpose not in ("release", "refund"):
        return None
    for each in reversed(book.entries):
        if (each.chain_id, each.address, each.role) == (request.chain_id, request.recipient, "payee"):
            return f"entry {each.number} of the address book took it out" if each.action == "remove" else None
    return None


def _known(request: Request, _chain: GenesisChain, _genesis: Genesis, book: AddressBook) -> str | None:
    if request.purpose not in ("release", "refund") or request.recipient is None:
        return None
    if request.purpose == "refund" and request.buyer_signed_recipient:
        return None
    entry = book.entry(request.chain_id, request.recipient, "payee")
    if entry is None:
        also = " and the buyer did not sign it" if request.purpose == "refund" else ""
        return f"recipient {request.recipient} is not in the address book of chain {request.chain_id}{also}"
    if entry.owner != request.beneficiary:
        return f"entry {entry.number} of the address book is {entry.owner}'s, the money is {request.beneficiary}'s"
    return None

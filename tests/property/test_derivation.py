"""The public and the private side of each deposit address agree, and with eth_account."""

from eth_account import Account
from eth_account.hdaccount import key_from_seed
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.destinations.derivation import (
    account_xpub_from_seed,
    address_at,
    derivation_path,
    private_key_at,
)


@settings(max_examples=50, deadline=None)
@given(seed=st.binary(min_size=64, max_size=64), index=st.integers(0, 2**31 - 1))
def test_every_address_belongs_to_its_key(seed: bytes, index: int):
    key = private_key_at(seed, index)
    assert key == key_from_seed(seed, derivation_path(index))
    assert address_at(account_xpub_from_seed(seed), index) == Account.from_key(key).address

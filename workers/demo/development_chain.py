"""What only a development chain can do: coins from nothing, blocks on demand, reorganisations (Anvil's RPC).

Refuses every other chain (R17: id 1337 or 31337 on loopback).
"""

import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount

from custody.chain import ChainClient, ChainConnection

DEVELOPMENT_CHAINS: Final = frozenset({1337, 31337})
ETHER: Final = 10**18
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_CALL_GAS: Final = 1_000_000
_POLL: Final = 0.05  # seconds between looks for a receipt
_TIMEOUT: Final = 30.0  # seconds; mining a thousand blocks takes 2 to 4


class NotDevelopmentChain(ValueError):
    """The RPC is not a development chain on this machine; nothing was done there."""


def open_client(rpc_url: str) -> ChainClient:
    """Return a client of a development chain. Raises NotDevelopmentChain, ChainUnavailable."""
    if urlsplit(rpc_url).hostname not in _LOOPBACK:
        raise NotDevelopmentChain("expected an RPC URL on 127.0.0.1, ::1 or localhost")
    # The id is not known before it was asked for; it labels errors only.
    probe = ChainClient(ChainConnection(31337, rpc_url))
    try:
        chain_id = probe.chain_id()
    finally:
        probe.close()
    if chain_id not in DEVELOPMENT_CHAINS:
        raise NotDevelopmentChain(f"chain {chain_id} is no development chain; expected 1337 or 31337")
    return ChainClient(ChainConnection(chain_id, rpc_url))


class DevelopmentChain:
    """Anvil's own methods. Each raises RuntimeError with the node's words when refused."""

    def __init__(self, rpc_url: str) -> None:
        open_client(rpc_url).close()
        self.rpc_url = rpc_url
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def set_balance(self, address: str, wei: int) -> None:
        """Make an account hold exactly `wei`."""
        self._request("anvil_setBalance", [address, hex(wei)])

    def new_account(self, wei: int = 100 * ETHER) -> LocalAccount:
        """Return an account with a fresh random key that holds `wei`."""
        account = Account.create()
        self.set_balance(account.address, wei)
        return account

    def send_as(self, sender: str, to: str, data: bytes) -> str:
        """Send a call from any account, without its key and at no cost to it; return the hash once a block holds it."""
        client = open_client(self.rpc_url)
        try:
            before = client.balance(sender)
            self._request("anvil_impersonateAccount", [sender])
            self.set_balance(sender, before + ETHER)
            transaction = {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(_CALL_GAS)}
            sent = str(self._request("eth_sendTransaction", [transaction]))
            deadline = time.monotonic() + _TIMEOUT
            while client.receipt(sent) is None:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no receipt of {sent} after {_TIMEOUT} s")
                time.sleep(_POLL)
            self.set_balance(sender, before)
            self._request("anvil_stopImpersonatingAccount", [sender])
        finally:
            client.close()
        return sent

    def mine(self, blocks: int = 1) -> None:
        """Mine `blocks` blocks now."""
        self._request("anvil_mine", [hex(blocks)])

    def set_storage(self, address: str, slot: int, word: int) -> None:
        """Make one 32-byte word of a contract's storage hold `word`, whatever its code allows."""
        self._request("anvil_setStorageAt", [address, f"0x{slot:064x}", f"0x{word:064x}"])

    def set_automine(self, *, enabled: bool) -> None:
        """Mine a block for each transaction, or only when told."""
        self._request("evm_setAutomine", [enabled])

    def reorganise(self, depth: int, kept: Sequence[tuple[bytes, int]] = ()) -> None:
        """Replace the newest `depth` blocks; of `kept`, signed transactions, each says which new block holds it (from 0)."""
        self._request("anvil_reorg", [depth, [["0x" + raw.hex(), place] for raw, place in kept]])
        self.set_clock()

    def shorten(self, depth: int) -> None:
        """Take the newest `depth` blocks away; the chain is shorter until others are mined, and so is its clock."""
        self._request("anvil_rollback", [depth])

    def set_clock(self) -> None:
        """Set Anvil's clock, which goes on from the block it went back to: later heads would look stale."""
        self._request("evm_setTime", [int(time.time())])

    def _request(self, method: str, params: Sequence[object]) -> object:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._http.post(self.rpc_url, json=body).raise_for_status().json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error'].get('message')}")
        return answer.get("result")

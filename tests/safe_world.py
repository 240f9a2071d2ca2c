"""A Safe of three owners' keys on a real chain, as the genesis pins it, and what only its owners could do to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from eth_account.signers.local import LocalAccount
from eth_typing import Hash32
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from custody.chain import ChainClient, ChainConnection
from custody.chain.nodes import ChainNodes
from custody.policy.genesis import Treasury
from custody.safe import SafeState, SafeTransaction, read_safe
from custody.settings.chains import NATIVE, Chain, SafeOwners, Token
from custody.trezor import Signature
from tests.conftest import STATE_DIR
from workers.demo.contract_packages import SAFE_PACKAGE
from workers.demo.development_chain import DevelopmentChain
from workers.demo.safe_contracts import SafeContracts, call_of, create_safe, deploy_safe_contracts, execute
from workers.demo.wallet import Wallet
from workers.embedded import npm_packages

OTHER = "0x" + "42" * 20


def sign_hash(account: LocalAccount, digest: bytes) -> Signature:
    """An owner's signature over any digest, as their device would make it over a SafeTx."""
    signed = account.unsafe_sign_hash(Hash32(digest))
    return Signature(signed.v - 27, signed.r, signed.s)


def list_slot(key: str, mapping: int) -> int:
    """Where a Safe's linked list keeps what follows ``key``: owners are mapping 2, modules 1."""
    return int.from_bytes(keccak(int(key, 16).to_bytes(32, "big") + mapping.to_bytes(32, "big")))


def deploy(wallet: Wallet) -> SafeContracts:
    return deploy_safe_contracts(wallet, npm_packages.fetch(SAFE_PACKAGE, STATE_DIR.resolve()))


@dataclass
class OwnedSafe:
    """One Safe. ``change`` is what its owners do to it behind the fleet's back."""

    wallet: Wallet
    contracts: SafeContracts
    development: DevelopmentChain
    owners: Sequence[LocalAccount]
    address: str

    @classmethod
    def make(
        cls, wallet: Wallet, contracts: SafeContracts, owners: Sequence[LocalAccount], threshold: int = 2
    ) -> "OwnedSafe":
        development = DevelopmentChain(wallet.client.chain.url)
        address = create_safe(wallet, contracts, [each.address for each in owners], threshold)
        return cls(wallet, contracts, development, owners, address)

    def close(self) -> None:
        self.development.close()

    def pinned(self, state: SafeState) -> Treasury:
        """What a genesis says of it as it is now."""
        return Treasury(
            kind="safe",
            address=self.address,
            singleton_code_hash=state.singleton_code_hash,
            proxy_code_hash=state.proxy_code_hash,
            owners=state.owners,
            threshold=state.threshold,
            fallback_handler=state.fallback_handler,
            guard=state.guard,
        )

    def change(self, function: str, *arguments: object) -> None:
        """Have the owners call a function of the Safe itself, such as swapOwner."""
        self.run(self.address, call_of(self.contracts.package, "Safe", function, *arguments))

    def run(self, to: str, data: bytes = b"", *, value: int = 0, operation: int = 0) -> str:
        """Have the owners execute any SafeTx; its transaction's hash."""
        sent = execute(self.wallet, self.address, to, data, self.owners[:2], value=value, operation=operation)
        self.wallet.wait(sent)
        return sent

    def write(self, slot: int, word: int) -> None:
        """Change a word of its storage without spending a nonce, as a fault in its code would."""
        self.development.set_storage(self.address, slot, word)

    def read(self, slot: int) -> int:
        """A word of its storage."""
        [answer] = self.wallet.client.ask([("eth_getStorageAt", [self.address, hex(slot), "latest"])])
        return int(str(answer.result), 16)

    def packed(self, transaction: SafeTransaction, owners: Sequence[LocalAccount] | None = None) -> bytes:
        """Signatures as the Safe takes them, put together without the fleet's code."""
        ordered = sorted(owners or self.owners[:2], key=lambda owner: int(owner.address, 16))
        return b"".join(bytes(each.unsafe_sign_hash(Hash32(transaction.hash())).signature) for each in ordered)


def chain_of(rpc_url: str, genesis_hash: str, treasury: str, owners: SafeOwners | None = None) -> Chain:
    return Chain(
        id=31337,
        name="test",
        genesis_hash=genesis_hash,
        rpc_urls=(rpc_url,),
        treasury=treasury,
        safe=owners,
        fee_proxy=to_checksum_address("0x" + "f0" * 20),
        tokens=(Token(symbol="ETH", address=NATIVE, decimals=18, treasury_maximum=Decimal(10_000)),),
    )


def nodes_of(safe: OwnedSafe, *urls: str) -> ChainNodes:
    """The nodes of the Safe's chain; each of ``urls`` is one more."""
    first = safe.wallet.client.chain.url
    chain = chain_of(first, safe.wallet.client.genesis_hash(), safe.address)
    return ChainNodes(chain, [ChainClient(ChainConnection(31337, url)) for url in (first, *urls)])


def state_of(safe: OwnedSafe) -> SafeState:
    nodes = nodes_of(safe)
    try:
        return read_safe(nodes, safe.address)
    finally:
        nodes.close()

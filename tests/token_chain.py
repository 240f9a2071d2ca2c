"""An Anvil of a test's own with a Tether-like token."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR
from workers.demo.contract_packages import REQUEST_NETWORK_PACKAGE
from workers.demo.contracts import SUPPLY, tether_token
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.wallet import Wallet
from workers.embedded import npm_packages


@dataclass
class TokenChain:
    """An Anvil that mines each transaction at once, and a Tether-like token on it."""

    rpc_url: str
    development: DevelopmentChain
    deployer: Wallet
    token: str


@contextmanager
def running_token_chain() -> Generator[TokenChain]:
    """A chain of the caller's own."""
    package = npm_packages.fetch(REQUEST_NETWORK_PACKAGE, STATE_DIR.resolve())
    with running_anvil() as rpc_url:
        development = DevelopmentChain(rpc_url)
        deployer = Wallet.open(rpc_url, development.new_account(1_000 * ETHER))
        token, sent = deployer.deploy(tether_token(package).initcode(SUPPLY, "Tether USD", "USDT", 6))
        deployer.wait(sent)
        yield TokenChain(rpc_url, development, deployer, token)
        deployer.client.close()
        development.close()

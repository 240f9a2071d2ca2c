"""A development fleet from nothing: keys, contracts, chains file, database, accounts. Safe to repeat.

Only for a development chain on this machine (R17). In production these files and rows come from people.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import Connection, text

from custody.chain import ChainClient
from custody.destinations.derivation import account_xpub_from_seed, seed_from_phrase
from custody.ledger.house import HouseKind, ensure_house_account
from custody.ledger.seal_keys import new_seal_key
from custody.settings.chains import NATIVE, Chain, Chains, SafeOwners, load_chains
from custody.store.engine import open_engine, transaction
from custody.store.upgrade import upgrade_database
from custody.trezor import TREASURY_PATH, open_device
from workers.demo.contract_packages import CIRCLE_PACKAGE, REQUEST_NETWORK_PACKAGE
from workers.demo.contracts import DeployedContracts, deploy_contracts
from workers.demo.development_chain import ETHER, DevelopmentChain, open_client
from workers.demo.founding import APPROVERS, approver_seed, found, genesis_hash
from workers.demo.safe_treasury import make_safe
from workers.demo.software_devices import software_device
from workers.demo.sweep_strategies import (
    STRATEGY_DEFAULT,
    DemoStrategy,
    open_deposits,
    prepare_sweeps,
    set_strategy,
    sweep_strategy_line,
)
from workers.embedded.npm_packages import fetch
from workers.embedded.role_passwords import ensure_role_passwords
from workers.embedded.services import Services
from workers.embedded.state_folder import StateFolder, write_private
from workers.embedded.trezor_device import create_seed_file

TreasuryKind = Literal["eoa", "safe"]
GAS_PAYER_WEI: Final = 10 * ETHER  # the cap of GAS_PAYER_FLOAT_MAXIMUM_WEI
TREASURY_WEI: Final = 100 * ETHER
DEVELOPMENT_THRESHOLD_BLOCKS: Final = 2  # above the floor of 1, so that waiting for depth is really seen
_CHAINS_FILE: Final = "chains.toml"
_POLICY_DIR: Final = "policy"
_TREASURY_MAXIMUM: Final = 1_000_000  # whole tokens: a thousand payments of a demo, none of them real


class StateFolderOfAnotherChain(Exception):
    """The folder's books were kept on a chain that is gone; they can never equal this one."""


class StateFolderOfAnotherTreasury(Exception):
    """The folder's treasury is of another kind than was asked for."""


@dataclass(frozen=True)
class Secrets:
    """Files of mode 0600 in the state folder. Each process is given only the ones it needs."""

    directory: Path

    @property
    def webhook(self) -> Path:
        return self.directory / "request_network_webhook"

    @property
    def deposit_seed(self) -> Path:
        return self.directory / "deposit_seed"

    @property
    def gas_payer_key(self) -> Path:
        return self.directory / "gas_payer_key"

    @property
    def release_payer_key(self) -> Path:
        return self.directory / "release_payer_key"

    @property
    def device_seed(self) -> Path:
        return self.directory / "software_device_seed"

    @property
    def deployer_key(self) -> Path:
        return self.directory / "demo_deployer_key"

    @property
    def ledger_seal_key(self) -> Path:
        return self.directory / "ledger_seal_key"

    @property
    def ledger_seal_public_key(self) -> Path:
        return self.directory / "ledger_seal_public_key"

    @property
    def flower(self) -> Path:
        return self.directory / "flower_basic_auth"


@dataclass(frozen=True)
class Provisioned:
    """Everything a development fleet needs, in place."""

    services: Services
    secrets: Secrets
    role_passwords: Path
    chains_file: Path
    chains: Chains
    contracts: DeployedContracts
    gas_payer: str
    treasury: str
    release_payer: str | None
    """Who executes what the owners of a treasury that is a Safe sign; None where it is an account (R16)."""
    policy_dir: Path
    genesis_hash: str


def provision(
    services: Services,
    progress: Callable[[str], None] = lambda _: None,
    treasury_kind: TreasuryKind | None = None,
    strategy: DemoStrategy | None = None,
) -> Provisioned:
    """Make what is missing and check what is there. A new folder gets an account as treasury unless told otherwise, and
    sweeps in batches by EIP-7702; ``strategy`` changes how it sweeps from now on (``auto``: the cheapest way). Forwarders
    are a Safe's alone, so they make a new folder's treasury one.

    Raises NotDevelopmentChain, StateFolderOfAnotherChain, StateFolderOfAnotherTreasury, StateFolderOfForwarders, or what a
    server says.
    """
    kind_asked = treasury_kind or ("safe" if strategy == "create2_forwarder" else None)
    folder = StateFolder.open(services.state_dir)
    with folder.lock("provision"):
        keys = _make_secrets(folder)
        passwords = ensure_role_passwords(services.state_dir)
        progress("upgrading the database")
        admin = open_engine(services.database_admin_url, application="fleet-provision", pool_size=1)
        upgrade_database(admin, passwords)
        client = open_client(services.chain_rpc_url)
        chain = DevelopmentChain(services.chain_rpc_url)
        try:
            gas_payer = _address_of_key(keys.gas_payer_key)
            release_payer = _address_of_key(keys.release_payer_key)
            chains_file = folder.root / _CHAINS_FILE
            contracts = _known_contracts(chains_file, client)
            if contracts is None:
                progress("deploying Request Network's proxy, USDC and a Tether-like token")
                contracts = _deploy(services, chain, keys)
                chain.set_balance(gas_payer, GAS_PAYER_WEI)
                if kind_asked == "safe":
                    treasury, owners = _make_safe(services, keys, progress)
                    chain.set_balance(release_payer, GAS_PAYER_WEI)
                else:
                    treasury, owners = _treasury_of(folder.root, keys.device_seed), None
                    chain.set_balance(treasury, TREASURY_WEI)
                _write_chains(chains_file, client, contracts, services.chain_rpc_url, treasury, owners)
            if strategy is not None:
                set_strategy(chains_file, strategy)
            chains = load_chains(chains_file)
            pinned = chains.chain(contracts.chain_id)
            treasury = pinned.treasury
            _require_kind(pinned, kind_asked, folder)
            progress("deploying the sweep contracts")
            prepare_sweeps(services, chain, keys.deployer_key, treasury, gas_payer, strategy)
            policy_dir = folder.root / _POLICY_DIR
            deposit_xpub = _account_xpub(keys.deposit_seed)
            found(
                policy_dir,
                state_dir=folder.root,
                secrets=keys.directory,
                device_seed=keys.device_seed,
                deposit_xpub=deposit_xpub,
                chains=chains,
                client=client,
                progress=progress,
            )
            with transaction(admin) as connection:
                _refuse_foreign_books(connection.execute(text(_FOREIGN_BOOKS), {"id": contracts.chain_id}).all())
                _know_tokens(connection, pinned)
                open_deposits(connection, chains, deposit_xpub, strategy)
                payer = None if pinned.safe is None else release_payer
                _open_houses(
                    connection, contracts.chain_id, gas_payer=gas_payer, treasury=treasury, release_payer=payer
                )
        finally:
            admin.dispose()
            client.close()
            chain.close()
    return Provisioned(
        services,
        keys,
        passwords,
        chains_file,
        chains,
        contracts,
        gas_payer,
        treasury,
        None if pinned.safe is None else release_payer,
        policy_dir,
        genesis_hash(policy_dir),
    )


def _know_tokens(connection: Connection, chain: Chain) -> None:
    for token in chain.tokens:
        connection.execute(
            text(
                "INSERT INTO fleet.tokens (chain_id, token, symbol, decimals) "
                "VALUES (:chain, :token, :symbol, :decimals) ON CONFLICT DO NOTHING"
            ),
            {"chain": chain.id, "token": token.address, "symbol": token.symbol, "decimals": token.decimals},
        )


def _open_houses(connection: Connection, chain_id: int, **addresses: str | None) -> None:
    kinds: tuple[HouseKind, ...] = ("gas_payer", "treasury", "release_payer")
    for kind in kinds:
        if (address := addresses[kind]) is not None:
            ensure_house_account(connection, chain_id, address, kind)


_FOREIGN_BOOKS: Final = """
SELECT DISTINCT token FROM public.funds_ledger_entries e
WHERE chain_id = :id AND NOT EXISTS (SELECT FROM fleet.tokens t WHERE t.chain_id = e.chain_id AND t.token = e.token)
"""


def _refuse_foreign_books(rows: object) -> None:
    if rows:
        raise StateFolderOfAnotherChain("the ledger knows tokens that the chains file does not: start a new folder")


def _make_secrets(folder: StateFolder) -> Secrets:
    directory = folder.root / "secrets"
    directory.mkdir(mode=0o700, exist_ok=True)
    keys = Secrets(directory)
    for path, make in (
        (keys.webhook, lambda: secrets.token_hex(32)),
        (keys.gas_payer_key, lambda: "0x" + secrets.token_hex(32)),
        (keys.release_payer_key, lambda: "0x" + secrets.token_hex(32)),
        (keys.deployer_key, lambda: "0x" + secrets.token_hex(32)),
        (keys.flower, lambda: f"operator:{secrets.token_urlsafe(18)}"),
    ):
        if not path.exists():
            write_private(path, make() + "\n")
    if not (keys.ledger_seal_key.exists() and keys.ledger_seal_public_key.exists()):
        for path, pem in zip((keys.ledger_seal_key, keys.ledger_seal_public_key), new_seal_key(), strict=True):
            write_private(path, pem)
    for path in (keys.deposit_seed, keys.device_seed, *(approver_seed(directory, each) for each in APPROVERS)):
        if not path.exists():
            create_seed_file(path)
    return keys


def _address_of_key(path: Path) -> str:
    from eth_account import Account

    return str(Account.from_key(path.read_text(encoding="utf-8").strip()).address)


def _account_xpub(seed_file: Path) -> str:
    return account_xpub_from_seed(seed_from_phrase(seed_file.read_text(encoding="utf-8")))


def _treasury_of(state_dir: Path, device_seed: Path) -> str:
    """The address that the software device gives for the account of a treasury's key (R6)."""
    with (
        software_device(state_dir, device_seed, "treasury") as path,
        open_device(path, expected_address=None, derivation_path=TREASURY_PATH, passphrase="") as device,
    ):
        return device.address


def _known_contracts(chains_file: Path, client: ChainClient) -> DeployedContracts | None:
    if not chains_file.exists():
        return None
    chain = load_chains(chains_file).chains[0]
    if client.genesis_hash() != chain.genesis_hash or not client.code(chain.fee_proxy):
        raise StateFolderOfAnotherChain(
            f"{chains_file} describes another chain than the one that runs (its genesis or contracts are gone): "
            f"run `fleet down`, remove {chains_file.parent}, and start again"
        )
    usdc, usdt = chain.token_by_symbol("USDC"), chain.token_by_symbol("USDT")
    assert usdc is not None
    assert usdt is not None
    from eth_utils.address import to_checksum_address

    return DeployedContracts(
        chain_id=chain.id,
        deployer=to_checksum_address(_address_of_key(chains_file.parent / "secrets" / "demo_deployer_key")),
        fee_proxy=to_checksum_address(chain.fee_proxy),
        usdc=to_checksum_address(usdc.address),
        usdt=to_checksum_address(usdt.address),
        block_number=0,
        native_fee_proxy=None if chain.native_fee_proxy is None else to_checksum_address(chain.native_fee_proxy),
    )


def _deploy(services: Services, chain: DevelopmentChain, keys: Secrets) -> DeployedContracts:
    from eth_account import Account

    packages = {name: fetch(name, services.state_dir) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)}
    deployer = Account.from_key(keys.deployer_key.read_text(encoding="utf-8").strip())
    chain.set_balance(deployer.address, 1_000 * ETHER)
    return deploy_contracts(services.chain_rpc_url, packages, deployer)


def _make_safe(services: Services, keys: Secrets, progress: Callable[[str], None]) -> tuple[str, SafeOwners]:
    from eth_account import Account

    deployer = Account.from_key(keys.deployer_key.read_text(encoding="utf-8").strip())
    return make_safe(services.state_dir, keys.directory, services.chain_rpc_url, deployer, progress)


def _require_kind(chain: Chain, wanted: TreasuryKind | None, folder: StateFolder) -> None:
    found: TreasuryKind = "eoa" if chain.safe is None else "safe"
    if wanted not in (None, found):
        raise StateFolderOfAnotherTreasury(
            f"{folder.root} was founded with {found} as treasury, and a genesis is for ever: set FLEET_STATE_DIR to a new "
            f"folder for {wanted}"
        )


def _write_chains(
    path: Path,
    client: ChainClient,
    contracts: DeployedContracts,
    rpc_url: str,
    treasury: str,
    owners: SafeOwners | None,
) -> None:
    lines = [
        "# The development chain of this state folder. docs/configure.md explains each line.",
        "",
        "[[chains]]",
        f"id = {contracts.chain_id}",
        'name = "anvil"',
        f'genesis_hash = "{client.genesis_hash()}"',
        f'rpc_urls = ["{rpc_url}"]',
        f'treasury = "{treasury}"',
        *([] if owners is None else [f"safe = {{ owners = {list(owners.owners)}, threshold = {owners.threshold} }}"]),
        sweep_strategy_line(STRATEGY_DEFAULT),
        f'fee_proxy = "{contracts.fee_proxy}"',
        f'native_fee_proxy = "{contracts.native_fee_proxy}"',
    ]
    tokens = [(NATIVE, "ETH", 18)] + [
        (address, traits.symbol, traits.decimals) for address, traits in contracts.tokens.items()
    ]
    for address, symbol, decimals in tokens:
        lines += [
            "",
            "[[chains.tokens]]",
            f'symbol = "{symbol}"',
            f'address = "{address}"',
            f"decimals = {decimals}",
            f'treasury_maximum = "{_TREASURY_MAXIMUM}"',
        ]
    write_private(path, "\n".join(lines) + "\n")

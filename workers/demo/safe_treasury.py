"""A demo's Safe: three owners on software devices of a core model, of whom two sign (R16)."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from eth_account.signers.local import LocalAccount

from custody.settings.chains import SafeOwners
from custody.trezor import open_device
from custody.trezor.derivation import SAFE_OWNER_PATH
from workers.demo.contract_packages import SAFE_PACKAGE
from workers.demo.safe_contracts import create_safe, deploy_safe_contracts
from workers.demo.software_devices import software_device
from workers.demo.wallet import Wallet
from workers.embedded.npm_packages import fetch
from workers.embedded.trezor_device import Model, create_seed_file

OWNERS: Final = ("dora", "eli", "finn")
THRESHOLD: Final = 2


def owner_seed(secrets: Path, person: str) -> Path:
    """Where the seed of an owner's software device lies."""
    return secrets / f"safe_owner_{person}_seed"


def make_safe(
    state_dir: Path, secrets: Path, rpc_url: str, deployer: LocalAccount, progress: Callable[[str], None]
) -> tuple[str, SafeOwners]:
    """Ask three devices for their owners' addresses and make a Safe of them; its address and who owns it."""
    progress("making a Safe of three owners' devices")
    owners = SafeOwners(owners=_addresses(state_dir, secrets), threshold=THRESHOLD)
    wallet = Wallet.open(rpc_url, deployer)
    try:
        contracts = deploy_safe_contracts(wallet, fetch(SAFE_PACKAGE, state_dir))
        return create_safe(wallet, contracts, owners.owners, owners.threshold), owners
    finally:
        wallet.client.close()


def _addresses(state_dir: Path, secrets: Path) -> tuple[str, ...]:
    found: list[str] = []
    with ExitStack() as devices:
        for person in OWNERS:
            seed = owner_seed(secrets, person)
            if not seed.exists():
                create_seed_file(seed)
            path = devices.enter_context(software_device(state_dir, seed, person, Model.SAFE_5))
            with open_device(path, expected_address=None, derivation_path=SAFE_OWNER_PATH, passphrase="") as device:
                found.append(device.address)
    return tuple(found)

"""Whether this process needs the signed files, and where they lie (R17): ``TREZOR_SAFEKEEPING_REQUIRED``."""

from custody.policy.in_force import SignedFolder
from custody.settings.chains import Chains
from custody.settings.environment import FleetSettings, SettingsError


def signed_folder(settings: FleetSettings, chains: Chains) -> SignedFolder | None:
    """Where genesis and policy lie; None when safekeeping is off, which only development chains allow.

    Raises SettingsError. Off removes approvals, never the device: no key of a treasury is in any process (R17).
    """
    if not settings.trezor_safekeeping_required:
        if real := [chain.name for chain in chains.chains if not chain.is_development]:
            raise SettingsError(
                f"TREZOR_SAFEKEEPING_REQUIRED is false and {', '.join(real)} holds real money: remove the setting, or the "
                "chain; without approvals only development chains are served (R17)"
            )
        return None
    settings.require("policy_dir", "genesis_hash")
    assert settings.genesis_hash is not None
    return SignedFolder(settings.path("policy_dir"), settings.genesis_hash)

"""The trust file against everything else: the chains file and the instruction may say nothing that differs (R4)."""

from custody.settings.chains import Chain
from workers.signer.checks import InstructionRefused
from workers.signer.safe_checks import Checked, CheckedSafe
from workers.signer.treasuries import why_not_from
from workers.signer.trust import Trust, TrustedChain


def require_trust(chain: Chain, trust: Trust | None) -> None:
    """Raise InstructionRefused when real money would be signed without a trust file."""
    if trust is None and not chain.is_development:
        raise InstructionRefused(
            f"Chain {chain.name} holds real money and this machine has no trust file: write trust.toml (docs/sign.md) "
            "and name it by SIGNER_TRUST_FILE."
        )


def require_pinned(checked: Checked, trust: Trust) -> TrustedChain:
    """The pinned chain of an instruction. Raises InstructionRefused naming the field that differs."""
    pinned = trust.chain(checked.chain.id)
    if pinned is None:
        raise checked.refusal(f"chain {checked.chain.id} is not in the trust file")
    _require(checked, "genesis_hash", checked.chain.genesis_hash, pinned.genesis_hash)
    if (why := why_not_from(checked.claimed, pinned.treasury, pinned.former)) is not None:
        raise checked.refusal(f"{why} (trust file)")
    pinned = pinned.at(checked.claimed.treasury)
    _require(checked, "treasury", checked.chain.treasury, pinned.treasury)
    if isinstance(checked, CheckedSafe) != (pinned.safe is not None):
        said = "is an account" if pinned.safe is None else "is a Safe"
        raise checked.refusal(f"the trust file says that {pinned.treasury} {said}, its bytes are for the other kind")
    if isinstance(checked, CheckedSafe) and pinned.safe is not None:
        _require(checked, "safe.owners", sorted(checked.owners.owners), sorted(pinned.safe.owners))
        _require(checked, "safe.threshold", checked.owners.threshold, pinned.safe.threshold)
    token = pinned.token(checked.claimed.token)
    if token is None:
        raise checked.refusal(f"token {checked.claimed.token} is not in the trust file")
    _require(checked, "symbol", checked.symbol, token.symbol)
    _require(checked, "decimals", checked.decimals, token.decimals)
    return pinned


def _require(checked: Checked, field: str, found: object, expected: object) -> None:
    if found != expected:
        raise checked.refusal(f"the chains file says {field} {found}, the trust file says {expected}")

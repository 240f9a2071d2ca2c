"""How a genesis may go on from the one before it as to treasuries (R8, R22): active -> draining -> retired | compromised.

Nobody who signs a file can forget a treasury that may still hold coins, clear one that somebody else can sign for, or take
an old one back: its nonces, its old signatures and its dust would come back with it.
"""

from typing import Final

from custody.policy.genesis import Genesis, GenesisChain
from custody.policy.refusals import PolicyRefused
from custody.settings.chains import FormerState

NEXT_STATES: Final[dict[FormerState, frozenset[FormerState]]] = {
    "draining": frozenset({"draining", "compromised", "retired"}),
    "compromised": frozenset({"compromised", "retired"}),
    "retired": frozenset({"retired", "compromised"}),
}
"""What each state may become. A retired one may turn out to be compromised: late coins are then moved first."""
ENDED_BY_ROTATION: Final[frozenset[FormerState]] = frozenset({"draining", "compromised"})
"""What the active treasury may become: it is never retired before it was emptied."""


def require_rotation(file: str, before: Genesis, after: Genesis) -> None:
    """Raise PolicyRefused unless every treasury of ``before`` stands in ``after``, in a state that its own may become."""
    for old in before.chains:
        new = after.chain(old.id)
        if new is None:
            _require_emptied(file, old)
        else:
            _require_chain(file, old, new)


def _require_chain(file: str, old: GenesisChain, new: GenesisChain) -> None:
    field = f"chains.{old.name}.former_treasuries"
    for was in old.former_treasuries:
        now = new.former(was.address)
        if now is None:
            raise PolicyRefused(file, field, f"expected {was.address}, which was {was.state}: none is left out (R22)")
        if now.state not in NEXT_STATES[was.state]:
            legal = " or ".join(sorted(NEXT_STATES[was.state]))
            raise PolicyRefused(file, field, f"{was.address} was {was.state}: expected {legal}, got {now.state} (R22)")
    known = {each.address for each in old.former_treasuries}
    for now in new.former_treasuries:
        if now.address in known:
            continue
        if now.address != old.treasury.address:
            raise PolicyRefused(file, field, f"{now.address} never was the treasury of {old.name} (R22)")
        if now.state not in ENDED_BY_ROTATION:
            raise PolicyRefused(file, field, f"{now.address} was active: expected draining or compromised first (R22)")
    if new.treasury.address != old.treasury.address and new.former(old.treasury.address) is None:
        raise PolicyRefused(file, field, f"expected the treasury before, {old.treasury.address}, as draining (R22)")


def _require_emptied(file: str, old: GenesisChain) -> None:
    left = next((each.address for each in old.former_treasuries if each.state != "retired"), None)
    if left is not None:
        raise PolicyRefused(file, f"chains.{old.name}", f"expected the chain: its treasury {left} is not retired (R22)")

"""Which treasury an instruction may pay from, as a person's own machine knows its states (R4, R22)."""

from collections.abc import Mapping
from typing import Final

from workers.signer.client import ApiInstruction

DRAIN: Final = "drain"


def why_not_from(claimed: ApiInstruction, active: str, former: Mapping[str, str]) -> str | None:
    """Why nothing of an instruction is signed as its treasury stands, as a clause; None if it may be.

    ``former``: treasuries of before a rotation with their state. A cancel pays nobody: it is signed for every one of them.
    """
    state = former.get(claimed.treasury)
    if claimed.treasury != active and state is None:
        return f"its treasury is {claimed.treasury}, this machine's signed files say {active}"
    if claimed.signs == "cancel":
        return None
    if claimed.purpose == DRAIN:
        return _why_not_moved(claimed, active, is_former=state is not None)
    return (
        None if state in {None, "draining"} else f"its treasury {claimed.treasury} is {state}: nobody is paid from it"
    )


def _why_not_moved(claimed: ApiInstruction, active: str, *, is_former: bool) -> str | None:
    if not is_former:
        return f"it moves coins away from the active treasury {active}"
    return (
        None
        if claimed.recipient == active
        else f"it moves coins to {claimed.recipient}, the active treasury is {active}"
    )

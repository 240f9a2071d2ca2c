"""The ledger's seals, followed from the last one that this machine has seen (R4): history only ever grows.

A database that was rewritten, or replaced by an older copy, cannot show seals of the pinned key that go on from there.
"""

from collections.abc import Iterable

from custody.ledger.seal_keys import PublicKeys
from custody.ledger.seals import Seal
from workers.signer.checks import InstructionRefused


class SealsRefused(InstructionRefused):
    """The ledger's seals do not go on from the last seen one. Nothing may be signed until people know why."""


def require_extends(last_seen: Seal | None, following: Iterable[Seal], keys: PublicKeys) -> Seal:
    """The newest seal. ``following``: the last seen one again and all after it; without one, the newest alone.

    Raises SealsRefused for a changed, missing or foreign seal, and when there is none at all.
    """
    seals = iter(following)
    first = next(seals, None)
    if first is None:
        raise _refused(
            "the ledger shows no seal yet; try again in a minute"
            if last_seen is None
            else f"seal {last_seen.seal_no}, which this machine has seen, is gone: the database was replaced or cut"
        )
    if last_seen is not None and first != last_seen:
        raise _refused(
            f"seal {last_seen.seal_no} had the hash {last_seen.seal_hash.hex()[:16]} when it was last seen and is another "
            "one now: history was rewritten"
        )
    if faults := first.own_faults(keys):
        raise _refused(f"seal {first.seal_no}: {faults[0]}")
    newest = first
    for seal in seals:
        if faults := seal.faults(newest, keys):
            raise _refused(f"seal {seal.seal_no}: {faults[0]}")
        newest = seal
    return newest


def _refused(why: str) -> SealsRefused:
    return SealsRefused(f"The ledger's seals are refused: {why}. Nothing was shown or signed; tell the custody team.")

"""Queue confirmations: what the chain has confirmed deeply enough is held."""

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Raises SettingsError when the chains file is missing or wrong."""
    from custody.chain import ChainClient, connections
    from custody.chain.nodes import ChainNodes
    from custody.payments.holding import run_once
    from custody.settings.chains import load_chains

    chains = load_chains(settings.path("chains_file"))
    nodes = {chain.id: ChainNodes(chain, [ChainClient(each) for each in connections(chain)]) for chain in chains.chains}
    return lambda: run_once(engine, chains, nodes, settings.claim_limit)


_door = Door("confirmations", build)


@shared_task(name="confirmations.advance")
def advance(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _door.answer(schedule, period)

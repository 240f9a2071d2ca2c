"""Queue sweeps: coins go from derived destinations to the treasury."""

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Reads the deposit seed and the gas payer's key: this worker alone does. Raises SettingsError naming what lacks."""
    from custody.chain import ChainClient, connections
    from custody.destinations.sweeps.advancing import run_once
    from custody.destinations.sweeps.keys import SweepSigner
    from custody.settings.chains import load_chains

    chains = load_chains(settings.path("chains_file"))
    signer = SweepSigner.from_settings(settings, chains)
    clients = {chain.id: ChainClient(connections(chain)[0]) for chain in chains.chains}
    return lambda: run_once(
        engine,
        clients,
        chains,
        signer,
        limit=settings.claim_limit,
        in_flight_limit=settings.sweep_in_flight_limit,
    )


_door = Door("sweeps", build)


@shared_task(name="sweeps.advance")
def advance(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _door.answer(schedule, period)

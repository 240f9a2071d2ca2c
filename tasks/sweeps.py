"""Queue sweeps: coins go from derived destinations to the treasury."""

from datetime import UTC, datetime, timedelta

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Has no key: the keys agent signs (R20). Raises SettingsError naming what lacks."""
    from custody.chain import ChainClient, connections
    from custody.destinations.keys.client import KeysAgent
    from custody.destinations.sweeps.advancing import run_once
    from custody.destinations.sweeps.choosing import Choosing, Economics
    from custody.destinations.sweeps.late_deposits import settle_late_deposits
    from custody.destinations.sweeps.signing import SweepSigner
    from custody.policy import read_genesis, require_genesis_treasuries
    from custody.policy.safekeeping import signed_folder
    from custody.settings.chains import load_chains
    from custody.store.engine import transaction

    settings.require("keys_agent_socket")
    assert settings.keys_agent_socket is not None
    chains = load_chains(settings.path("chains_file"))
    signer = SweepSigner(KeysAgent(settings.keys_agent_socket))
    choosing = Choosing(
        Economics(
            settings.sweep_value_multiple,
            timedelta(seconds=settings.sweep_max_age_seconds),
            timedelta(seconds=settings.sweep_gather_seconds),
        )
    )
    clients = {chain.id: ChainClient(connections(chain)[0]) for chain in chains.chains}
    signed = signed_folder(settings, chains)

    def step() -> int:
        # R8: coins go where the signed genesis says, and to a treasury of nobody's else.
        if signed is not None:
            with transaction(engine) as connection:
                require_genesis_treasuries(read_genesis(connection, signed, datetime.now(UTC)).genesis, chains)
        return settle_late_deposits(engine, clients) + run_once(
            engine,
            clients,
            chains,
            signer,
            limit=settings.claim_limit,
            in_flight_limit=settings.sweep_in_flight_limit,
            payer_float_maximum_wei=settings.gas_payer_float_maximum_wei,
            choosing=choosing,
        )

    return step


_door = Door("sweeps", build)


@shared_task(name="sweeps.advance")
def advance(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _door.answer(schedule, period)

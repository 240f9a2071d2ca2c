"""``python -m workers.signer_api``: serve the signer API until it is stopped."""

import sys

import uvicorn
from sqlalchemy import Engine

from custody.policy import SignedFolder
from custody.registration.texts import place_of
from custody.sessions import Identities, SignedIdentities, of_chains
from custody.settings.chains import load_chains
from custody.settings.environment import FleetSettings, SettingsError, settings
from custody.store.engine import open_engine
from workers.signer_api.application import create_application
from workers.telemetry.process import begin

CONNECTIONS_LIMIT = 64  # signers are few; beyond it callers are told to come back
KEEP_ALIVE_SECONDS = 15
STOP_SECONDS = 10  # a request takes one short transaction


def identities_of(configured: FleetSettings, engine: Engine) -> Identities:
    """Who may log in: the signed genesis says so, and the chains file alone without safekeeping. Raises SettingsError."""
    if configured.policy_dir is None and not configured.trezor_safekeeping_required:
        chains = load_chains(configured.path("chains_file"))
        if not all(chain.is_development for chain in chains.chains):
            raise SettingsError("TREZOR_SAFEKEEPING_REQUIRED is false: expected true where money is real (R17)")
        found = of_chains(chains)
        return lambda: found
    configured.require("policy_dir", "genesis_hash")
    return SignedIdentities(engine, SignedFolder(configured.path("policy_dir"), configured.genesis_hash or ""))


def serve(configured: FleetSettings) -> None:
    """Serve with the settings of this process. Raises SettingsError."""
    configured.require("database_url")
    place = place_of(configured)
    engine = open_engine(configured.secret("database_url"), application="fleet-signer-api")
    try:
        uvicorn.run(
            create_application(
                engine,
                place,
                identities_of(configured, engine),
                session_seconds=configured.signer_session_seconds,
            ),
            host=configured.signer_api_host,
            port=configured.signer_api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_LIMIT,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    finally:
        engine.dispose()


def main() -> None:
    try:
        configured = settings()
        begin(configured, "signer-api")
        serve(configured)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()

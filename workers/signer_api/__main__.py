"""``python -m workers.signer_api``: serve the signer API until it is stopped."""

import sys

import uvicorn

from custody.settings.environment import FleetSettings, SettingsError, read_secret_file, settings
from custody.store.engine import open_engine
from workers.signer_api.application import WeakToken, create_application
from workers.telemetry.process import begin

CONNECTIONS_LIMIT = 64  # signers are few; beyond it callers are told to come back
KEEP_ALIVE_SECONDS = 15
STOP_SECONDS = 10  # a request takes one short transaction


def serve(configured: FleetSettings) -> None:
    """Serve with the settings of this process. Raises SettingsError, WeakToken."""
    configured.require("database_url", "signer_api_token_file")
    token = read_secret_file(configured.path("signer_api_token_file"), what="SIGNER_API_TOKEN_FILE")
    engine = open_engine(configured.secret("database_url"), application="fleet-signer-api")
    try:
        uvicorn.run(
            create_application(engine, token),
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
    except (SettingsError, WeakToken) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Every setting of the fleet, typed, from the environment or a file (``.env.example`` names each).

A value comes from, in this order: an environment variable of the field's name in capitals; a file of that name in
``FLEET_SECRETS_DIR`` (how production passes secrets); the file that ``FLEET_ENV_FILE`` names; the default here.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Store = Literal["mongo", "dual", "pg"]


class SettingsError(Exception):
    """A setting is missing or wrong. The message names it, says what was expected, and never shows a secret."""


class FleetSettings(BaseSettings):
    """The settings of one process. Units are in the names: ``_seconds``, ``_bytes``, ``_blocks``, ``_wei``."""

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)

    # Where things are
    fleet_state_dir: Path = Field(Path(".fleet"), description="folder of the embedded servers' data, logs, secrets")
    database_url: SecretStr | None = Field(None, description="postgresql://ROLE:PASSWORD@HOST:PORT/DB of this process")
    database_admin_url: SecretStr | None = Field(None, description="the same for an administrator; fleet db upgrade")
    database_role_passwords_dir: Path | None = Field(None, description="folder with one password file a database role")
    broker_url: SecretStr | None = Field(None, description="redis://:PASSWORD@HOST:PORT/0 of Valkey or Redis")
    mongo_url: SecretStr | None = Field(None, description="mongodb://HOST:PORT/?replicaSet=rs0")
    mongo_database: str = Field("amanat", min_length=1, max_length=63)
    chains_file: Path | None = Field(None, description="TOML file of chains, tokens, treasuries (docs/configure.md)")

    # Ingress
    ingress_host: str = "127.0.0.1"
    ingress_port: Annotated[int, Field(ge=1, le=65535)] = 8480
    ingress_body_limit_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 65_536
    ingress_queue_limit: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    ingress_batch_limit: Annotated[int, Field(ge=1, le=500)] = 500
    request_network_webhook_secrets_file: Path | None = Field(
        None, description="one webhook secret a line, newest first; two lines while rotating"
    )

    # Keys: read by the sweeps worker alone
    deposit_seed_file: Path | None = Field(None, description="BIP-39 phrase of the deposit account, mode 0600")
    gas_payer_key_file: Path | None = Field(None, description="hex private key of the gas payer, mode 0600")

    # Signers
    signer_api_host: str = "127.0.0.1"
    signer_api_port: Annotated[int, Field(ge=1, le=65535)] = 8481
    signer_api_url: str = Field("http://127.0.0.1:8481", description="where `fleet signer` finds the signer API")
    signer_api_token_file: Path | None = Field(None, description="bearer token shared by API and signer, mode 0600")
    trezor_path: str | None = Field(None, description="trezorlib path of the device, e.g. webusb:... or udp:HOST:PORT")
    trezor_derivation_path: str = "m/44'/60'/0'/0/0"
    trezor_approval_timeout_seconds: Annotated[int, Field(ge=5, le=3600)] = 300
    trezor_safekeeping_required: bool = True

    # Flower
    flower_host: str = "127.0.0.1"
    flower_port: Annotated[int, Field(ge=1, le=65535)] = 8482
    flower_basic_auth_file: Path | None = Field(None, description="USER:PASSWORD, mode 0600; Flower refuses without")

    # Who is read from where until an operator cuts over (design §3)
    repo_marketplace: Store = "mongo"
    repo_dispute: Store = "mongo"

    # Pace and bounds
    poll_interval_seconds: Annotated[float, Field(ge=0.05, le=60)] = 0.2
    claim_limit: Annotated[int, Field(ge=1, le=500)] = 100
    work_attempts_limit: Annotated[int, Field(ge=1, le=1000)] = 20
    sweep_in_flight_limit: Annotated[int, Field(ge=1, le=64)] = 16
    release_in_flight_limit: Annotated[int, Field(ge=1, le=16)] = 16
    release_max_total_fee_wei: Annotated[int, Field(ge=21_000)] = 10**16
    broker_visibility_timeout_seconds: Annotated[int, Field(ge=10, le=3600)] = 300

    # What is told to people
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    sentry_dsn: SecretStr | None = None
    sentry_environment: str = "development"

    @field_validator("database_url", "database_admin_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        return _require_scheme(value, {"postgresql", "postgres"}, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE")

    @field_validator("broker_url")
    @classmethod
    def _redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        return _require_scheme(value, {"redis", "rediss"}, "redis://:PASSWORD@HOST:PORT/0")

    @field_validator("mongo_url")
    @classmethod
    def _mongodb_url(cls, value: SecretStr | None) -> SecretStr | None:
        return _require_scheme(value, {"mongodb", "mongodb+srv"}, "mongodb://HOST:PORT/?replicaSet=rs0")

    def require(self, *names: str) -> Self:
        """Refuse to go on unless each named setting has a value. Raises SettingsError naming all that lack one."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            lines = [
                f"{name.upper()} is not set: expected {type(self).model_fields[name].description or 'a value'}"
                for name in missing
            ]
            raise SettingsError("\n".join(lines))
        return self

    def secret(self, name: str) -> str:
        """The plain text of a secret setting. Raises SettingsError if it is not set."""
        self.require(name)
        value = getattr(self, name)
        assert isinstance(value, SecretStr)
        return value.get_secret_value()

    def path(self, name: str) -> Path:
        """A file setting that must be set and exist. Raises SettingsError naming it."""
        self.require(name)
        value: Path = getattr(self, name)
        if not value.exists():
            raise SettingsError(f"{name.upper()} names {value}, which does not exist")
        return value


def _require_scheme(value: SecretStr | None, schemes: set[str], expected: str) -> SecretStr | None:
    if value is not None and urlsplit(value.get_secret_value()).scheme not in schemes:
        raise ValueError(f"expected {expected}")
    return value


def read_secret_file(path: Path, *, what: str, maximum_bytes: int = 4096) -> str:
    """The text of a secret file. Refuses one that others can read, an empty one, or one over ``maximum_bytes``.

    Raises SettingsError, which names the file and never its content.
    """
    if not path.is_file():
        raise SettingsError(f"{what}: {path} does not exist")
    status = path.stat()
    if status.st_mode & 0o077:
        raise SettingsError(f"{what}: {path} can be read by others; run: chmod 600 {path}")
    if not 0 < status.st_size <= maximum_bytes:
        raise SettingsError(f"{what}: {path} must hold 1 to {maximum_bytes} bytes")
    return path.read_text(encoding="utf-8").strip()


def load_settings(**overrides: Any) -> FleetSettings:
    """The settings of this process. Raises SettingsError that names each wrong setting and what was expected."""
    try:
        return FleetSettings(
            _env_file=os.environ.get("FLEET_ENV_FILE"),  # pyright: ignore[reportCallIssue]
            _secrets_dir=os.environ.get("FLEET_SECRETS_DIR"),  # pyright: ignore[reportCallIssue]
            **overrides,
        )
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']).upper()} is wrong: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None


@lru_cache(maxsize=1)
def settings() -> FleetSettings:
    """The settings, read once a process."""
    return load_settings()

"""Every setting of the fleet, typed, from the environment or a file (``.env.example`` names each).

A value comes from, in this order: an environment variable of the field's name in capitals; a file of that name in
``FLEET_SECRETS_DIR`` (how production passes secrets); the file that ``FLEET_ENV_FILE`` names; the default here.
An empty variable counts as not set: compose files pass those on.
"""

import os
import stat
import warnings
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

Store = Literal["mongo", "dual", "pg"]


class SettingsError(Exception):
    """A setting is missing or wrong. The message names it, says what was expected, and never shows a secret."""


class FleetSettings(BaseSettings):
    """The settings of one process. Units are in the names: ``_seconds``, ``_bytes``, ``_blocks``, ``_wei``."""

    model_config = SettingsConfigDict(
        extra="ignore", hide_input_in_errors=True, frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    # Where things are
    fleet_state_dir: Path = Field(Path(".fleet"), description="folder of the embedded servers' data, logs, secrets")
    database_url: SecretStr | None = Field(None, description="postgresql://ROLE:PASSWORD@HOST:PORT/DB of this process")
    database_admin_url: SecretStr | None = Field(None, description="the same for an administrator; fleet db upgrade")
    database_role_passwords_dir: Path | None = Field(None, description="folder with one password file a database role")
    broker_url: SecretStr | None = Field(None, description="redis://:PASSWORD@HOST:PORT/0 of Valkey or Redis")
    mongo_url: SecretStr | None = Field(None, description="mongodb://HOST:PORT/?replicaSet=rs0")
    mongo_database: str = Field("amanat", min_length=1, max_length=63)
    chains_file: Path | None = Field(None, description="TOML file of chains, tokens, treasuries (docs/configure.md)")
    chain_rpc_url: SecretStr | None = Field(None, description="http://HOST:PORT of a development node; fleet up")
    anvil_binary: Path | None = Field(None, description="path of an anvil on this machine; fleet up")

    # Ingress
    ingress_host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    ingress_port: Annotated[int, Field(ge=1, le=65535)] = 8480
    ingress_body_limit_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 65_536
    ingress_queue_limit: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    ingress_batch_limit: Annotated[int, Field(ge=1, le=500)] = 500
    request_network_webhook_secrets_file: Path | None = Field(
        None, description="one webhook secret a line, newest first; two lines while rotating"
    )
    shkeeper_api_keys_file: Path | None = Field(None, description="one SHKeeper API key a line, newest first")

    # Request Network's API, asked for payments whose webhook was lost; off without the key
    request_network_api_key_file: Path | None = Field(None, description="Request Network's API key, mode 0600")
    request_network_api_url: str | None = Field(
        None,
        pattern=r"^(https://[^/\s?#@]+|http://(127\.0\.0\.1|localhost)(:[0-9]+)?)/?$",  # the key is sent there
        description="https://HOST of Request Network's API",
    )
    request_network_api_interval_seconds: Annotated[float, Field(ge=0.2, le=60)] = 1.0

    # What buyers pay to: children of an xpub, or forwarders of a Safe treasury that no key rules (R20)
    destination_kind: Literal["hd_account", "create2_forwarder"] = "hd_account"

    # Keys: read by the keys agent alone
    deposit_seed_file: Path | None = Field(None, description="BIP-39 phrases of the deposit accounts, newest first")
    gas_payer_key_file: Path | None = Field(
        None, description="hex private keys of the gas payers, one a line, mode 0600"
    )
    keys_passphrase_file: Path | None = Field(None, description="passphrase of the encrypted key files, mode 0600")
    keys_agent_socket: Path | None = Field(None, description="Unix socket of the keys agent, at most 107 bytes of path")
    keys_agent_journal: Path | None = Field(None, description="file of what the gas payer spent in the last day")
    gas_payer_day_maximum_wei: Annotated[int, Field(ge=21_000)] = 10**18
    gas_payer_float_maximum_wei: Annotated[int, Field(ge=21_000)] = 10**19

    # The gas key that executes what a Safe's owners signed: read by the releases worker alone (R16)
    release_payer_key_file: Path | None = Field(None, description="hex private key of the release payer, mode 0600")

    # Seals of the ledger
    ledger_seal_key_file: Path | None = Field(
        None, description="Ed25519 private key, PEM, mode 0600; the sealer's alone"
    )
    ledger_seal_public_key_file: Path | None = Field(None, description="its public key, PEM; older ones may follow it")
    ledger_seal_interval_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1.0

    # Signers
    signer_api_host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    signer_api_port: Annotated[int, Field(ge=1, le=65535)] = 8481
    signer_api_url: str = Field(
        "http://127.0.0.1:8481",
        pattern=r"^https?://[^/\s]+/?$",
        description="where `fleet signer` finds the signer API, http(s)://HOST:PORT",
    )
    signer_api_public_host: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.-]*:[0-9]{1,5}$",
        max_length=36,
        description="HOST:PORT of SIGNER_API_URL as signers' machines have it, lower case",
    )
    signer_api_certificate_pin: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="the pin of the certificate that signers see there"
    )
    signer_session_seconds: Annotated[int, Field(ge=900, le=28_800)] = 3_600
    trezor_path: str | None = Field(None, description="trezorlib path of the device, e.g. webusb:... or udp:HOST:PORT")
    trezor_derivation_path: str | None = Field(
        None,
        pattern=r"^m(/[0-9]{1,10}['h]?){1,10}$",
        description="of the key that signs; default m/44'/60'/4'/0/0, a treasury's, or m/44'/60'/3'/0/0, a Safe's owner's",
    )
    trezor_approval_timeout_seconds: Annotated[int, Field(ge=5, le=3600)] = 300
    trezor_safekeeping_required: bool = True
    trezor_fingerprint: str | None = Field(
        None, pattern=r"^[0-9a-f]{8}$", description="fingerprint of the wallet's root key; its device is the one used"
    )
    trezor_definitions_dir: Path | None = Field(
        None, description="folder of the maker's definitions: fleet signer definitions fetch"
    )
    signer_name: str | None = Field(
        None, pattern=r"^[!-~]([ -~]{0,62}[!-~])?$", description="who signs, as other signers see it; else user@host"
    )
    signer_trust_file: Path | None = Field(None, description="trust.toml of a signer's own machine (docs/sign.md)")
    signer_journal_file: Path | None = Field(
        None, description="the signer's journal; signer-journal.jsonl in FLEET_STATE_DIR when not set"
    )

    # What may be done with money: signed files (docs/custody/policy.md)
    policy_dir: Path | None = Field(None, description="folder of genesis.toml and policy.toml with their signatures")
    genesis_hash: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="the first genesis' hash, 64 hex digits (fleet genesis init prints it)",
    )
    approval_lifetime_seconds: Annotated[int, Field(ge=600, le=604_800)] = 86_400

    # Quotes: what a buyer pays in tokens for a price in another currency (docs/quotes.md)
    oracle_quoting_enabled: bool = False
    quotes_file: Path | None = Field(None, description="TOML file of the Chainlink feeds that quotes are made from")
    quote_prices_file: Path | None = Field(None, description="prices.toml, signed by approvers, its .sig beside it")
    quote_lifetime_seconds: Annotated[int, Field(ge=60, le=86_400)] = 900
    quote_feed_margin_seconds: Annotated[int, Field(ge=0, le=3_600)] = 300
    quote_sources_minimum: Annotated[int, Field(ge=1, le=8)] = 1
    quote_deviation_basis_points: Annotated[int, Field(ge=1, le=1_000)] = 100
    quote_jump_basis_points: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    quote_depeg_basis_points: Annotated[int, Field(ge=0, le=2_000)] = 500

    # Flower
    flower_host: str = "127.0.0.1"
    flower_port: Annotated[int, Field(ge=1, le=65535)] = 8482
    flower_basic_auth_file: Path | None = Field(None, description="USER:PASSWORD, mode 0600; Flower refuses without")

    # Who is read from where until two persons cut over (design §3); pg only where they did
    repo_marketplace: Store = "mongo"
    repo_dispute: Store = "mongo"
    backfill_database_hosts: str = Field(
        "127.0.0.1,localhost,::1",
        pattern=r"^[A-Za-z0-9_.:\-]+(,[A-Za-z0-9_.:\-]+)*$",
        max_length=1_000,
        description="database hosts that a backfill may write to; sockets of this machine are always among them",
    )

    # Pace and bounds
    poll_interval_seconds: Annotated[float, Field(ge=0.05, le=60)] = 0.2
    claim_limit: Annotated[int, Field(ge=1, le=500)] = 100
    work_attempts_limit: Annotated[int, Field(ge=1, le=1000)] = 20
    sweep_in_flight_limit: Annotated[int, Field(ge=1, le=64)] = 16
    sweep_value_multiple: Annotated[int, Field(ge=0, le=10_000)] = 20
    sweep_gather_seconds: Annotated[int, Field(ge=0, le=86_400)] = 30
    sweep_max_age_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = 604_800
    release_in_flight_limit: Annotated[int, Field(ge=1, le=16)] = 16
    release_max_total_fee_wei: Annotated[int, Field(ge=21_000)] = 10**16
    release_group_maximum: Annotated[int, Field(ge=1, le=50)] = Field(
        20, description="payments of one seller that one transfer pays at most (R23); 1 pays each by itself"
    )
    release_group_seconds: Annotated[int, Field(ge=0, le=604_800)] = Field(
        3_600, description="how long a payout that nobody approved yet takes further payments of its seller"
    )
    platform_fee_basis_points: Annotated[int, Field(ge=0, le=4_999)] = 0
    provider_fee_basis_points: Annotated[int, Field(ge=0, le=4_999)] = 0
    auto_release_hours: Annotated[int, Field(ge=1, le=8_760)] | None = Field(
        None,
        description="hours after its delivery that an undisputed request is paid without the buyer's word; off without",
    )
    surplus_refund_minimum: Annotated[Decimal, Field(gt=0)] | None = Field(
        None, description="whole tokens from which on a surplus is ordered back to its buyer by itself; off without"
    )
    broker_visibility_timeout_seconds: Annotated[int, Field(ge=10, le=3600)] = 300

    # What is told to people
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    sentry_dsn: SecretStr | None = None
    sentry_environment: str = "development"
    alarm_webhook_url: SecretStr | None = Field(None, description="https://HOST/PATH that takes signed alarms")
    alarm_webhook_secret_file: Path | None = Field(
        None, description="the secret that signs alarms, one line of 32 to 256 characters, mode 0600"
    )

    @field_validator("database_url", "database_admin_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        expected = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, each part percent-encoded"
        return _require_url(value, {"postgresql", "postgres"}, expected)

    @field_validator("broker_url")
    @classmethod
    def _redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        expected = "redis://:PASSWORD@HOST:PORT/0, the password percent-encoded"
        return _require_url(value, {"redis", "rediss"}, expected)

    @field_validator("mongo_url")
    @classmethod
    def _mongodb_url(cls, value: SecretStr | None) -> SecretStr | None:
        # A replica set's URL names several hosts, so it has no one port to check.
        expected = "mongodb://HOST:PORT/?replicaSet=rs0"
        return _require_url(value, {"mongodb", "mongodb+srv"}, expected, one_host=False)

    @field_validator("chain_rpc_url")
    @classmethod
    def _node_url(cls, value: SecretStr | None) -> SecretStr | None:
        return _require_url(value, {"http", "https"}, "http://HOST:PORT")

    @field_validator("sentry_dsn")
    @classmethod
    def _sentry_url(cls, value: SecretStr | None) -> SecretStr | None:
        return _require_url(value, {"http", "https"}, "https://KEY@HOST/PROJECT")

    @field_validator("alarm_webhook_url")
    @classmethod
    def _alarm_url(cls, value: SecretStr | None) -> SecretStr | None:
        expected = "https://HOST/PATH, or http:// on 127.0.0.1 or localhost, without a user name and without #"
        _require_url(value, {"http", "https"}, expected)
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            is_near = parts.hostname in {"127.0.0.1", "localhost"}
            if not parts.hostname or "@" in parts.netloc or parts.fragment or not (parts.scheme == "https" or is_near):
                raise ValueError(f"expected {expected}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A secrets folder before the env file, which the library has the other way round."""
        return init_settings, env_settings, file_secret_settings, dotenv_settings

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


def _require_url(
    value: SecretStr | None, schemes: set[str], expected: str, *, one_host: bool = True
) -> SecretStr | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value.get_secret_value())
        has_place = bool(parts.netloc or parts.query)  # a Unix socket's folder is in the query
        if one_host:
            _ = parts.port
    except ValueError:
        # The parser's own sentence may quote the part with the password in it.
        raise ValueError(f"expected {expected}") from None
    if parts.scheme not in schemes or not has_place:
        raise ValueError(f"expected {expected}")
    return value


def read_secret_file(path: Path, *, what: str, maximum_bytes: int = 4096) -> str:
    """The text of a secret file. Refuses one that others can read, an empty one, or one over ``maximum_bytes``.

    Raises SettingsError, which names the file and never its content.
    """
    try:
        # One handle for every check: a file put in its place meanwhile is not the one that was checked.
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(maximum_bytes + 1) if stat.S_ISREG(mode) else b""
    except FileNotFoundError:
        raise SettingsError(f"{what}: {path} does not exist") from None
    except OSError as error:
        raise SettingsError(f"{what}: {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise SettingsError(f"{what}: {path} is no regular file")
    if mode & 0o077:
        raise SettingsError(f"{what}: {path} can be read by others; run: chmod 600 {path}")
    if not content.strip() or len(content) > maximum_bytes:
        raise SettingsError(f"{what}: {path} must hold 1 to {maximum_bytes} bytes besides blanks")
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise SettingsError(f"{what}: {path} is not UTF-8 text") from None


def _named_place(variable: str, *, folder: bool) -> Path | None:
    """Where ``variable`` points. A place that is named but missing is refused: defaults would be used unseen."""
    value = os.environ.get(variable)
    if not value:
        return None
    path = Path(value)
    if not (path.is_dir() if folder else path.is_file()):
        raise SettingsError(f"{variable} names {path}, which is no {'folder' if folder else 'file'} that can be read")
    return path


def load_settings(**overrides: Any) -> FleetSettings:
    """The settings of this process. Raises SettingsError that names each wrong setting and what was expected."""
    env_file = _named_place("FLEET_ENV_FILE", folder=False)
    secrets_dir = _named_place("FLEET_SECRETS_DIR", folder=True)
    try:
        with warnings.catch_warnings():
            # The library warns of a secret it skips and goes on with the default; here that stops the process.
            warnings.simplefilter("error", UserWarning)
            return FleetSettings(
                _env_file=env_file,  # pyright: ignore[reportCallIssue]
                _secrets_dir=secrets_dir,  # pyright: ignore[reportCallIssue]
                **overrides,
            )
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']).upper()} is wrong: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    except UnicodeDecodeError:
        raise SettingsError("FLEET_ENV_FILE or a file in FLEET_SECRETS_DIR is not UTF-8 text") from None
    except (SourceError, UserWarning, OSError) as error:
        raise SettingsError(f"FLEET_ENV_FILE or FLEET_SECRETS_DIR: {error}") from None


@lru_cache(maxsize=1)
def settings() -> FleetSettings:
    """The settings, read once a process."""
    return load_settings()

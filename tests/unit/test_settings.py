"""Settings: each wrong one is refused by name, with what was expected, and no secret is ever in the message."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from custody.settings.environment import FleetSettings, SettingsError, load_settings, read_secret_file

SECRET = "hunter2-Tr0ub4dor"  # must be in no message
URLS = {
    "DATABASE_URL": f"postgresql://fleet_watcher:{SECRET}@127.0.0.1:5432/fleet",
    "DATABASE_ADMIN_URL": f"postgres://admin:{SECRET}@127.0.0.1:5432/fleet",
    "BROKER_URL": f"redis://:{SECRET}@127.0.0.1:6379/0",
    "MONGO_URL": f"mongodb://fleet:{SECRET}@a:27017,b:27017/?replicaSet=rs0",
    "SENTRY_DSN": f"https://{SECRET}@sentry.example/1",
}
OPTIONAL = sorted(name for name, field in FleetSettings.model_fields.items() if field.default is None)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower() in FleetSettings.model_fields or name in {"FLEET_ENV_FILE", "FLEET_SECRETS_DIR"}:
            monkeypatch.delenv(name)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        action()
    message = str(caught.value)
    assert SECRET not in message
    assert SECRET not in repr(caught.value.__context__ if not caught.value.__suppress_context__ else "")
    return message


def test_every_setting_has_a_default_so_that_each_process_needs_only_its_own() -> None:
    assert load_settings().mongo_database == "amanat"
    assert load_settings().repo_dispute == "mongo"


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_setting_is_named_with_what_was_expected(name: str) -> None:
    message = refusal(lambda: load_settings().require(name))
    expected = FleetSettings.model_fields[name].description or "a value"
    assert message == f"{name.upper()} is not set: expected {expected}"


def test_all_missing_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", URLS["BROKER_URL"])
    message = refusal(lambda: load_settings().require("database_url", "broker_url", "chains_file"))
    assert [line.split()[0] for line in message.splitlines()] == ["DATABASE_URL", "CHAINS_FILE"]


@pytest.mark.parametrize(("name", "url"), URLS.items())
def test_a_good_url_is_taken_as_it_is_and_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(name, url)
    found = load_settings()
    assert found.require(name.lower()).secret(name.lower()) == url
    assert SECRET not in repr(found)
    assert SECRET not in str(found.model_dump())


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f"ftp://user:{SECRET}@host:1/x",
        f"//user:{SECRET}@host/x",
        f"postgresql:{SECRET}",
        f"{{scheme}}:{SECRET}",
        f"{{scheme}}://[{SECRET}/x",
        f"{{scheme}}://user:{SECRET}\u2100@host/x",  # U+2100 becomes a/c: the standard parser quotes the host part
    ],
)
def test_a_wrong_url_is_refused_without_its_text(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    scheme = URLS[name].partition("://")[0]
    monkeypatch.setenv(name, value.format(scheme=scheme))
    message = refusal(load_settings)
    assert message.startswith(f"{name} is wrong: ")
    assert "expected " in message


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL"])
def test_a_password_that_cuts_the_url_is_refused_without_its_text(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scheme = URLS[name].partition("://")[0]
    monkeypatch.setenv(name, f"{scheme}://user:{SECRET}/not-encoded@host:5432/x")
    message = refusal(load_settings)
    assert message.startswith(f"{name} is wrong: ")
    assert "percent-encoded" in message


def test_a_unix_socket_is_a_place_for_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql:///fleet?host=/run/postgresql&user=fleet_watcher")
    assert load_settings().secret("database_url").endswith("user=fleet_watcher")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MONGO_DATABASE", "m" * 64, "at most 63"),
        ("INGRESS_PORT", "0", "greater than or equal to 1"),
        ("INGRESS_PORT", "65536", "less than or equal to 65535"),
        ("INGRESS_PORT", "8480.5", "integer"),
        ("INGRESS_HOST", "h" * 254, "at most 253"),
        ("INGRESS_BODY_LIMIT_BYTES", "1023", "greater than or equal to 1024"),
        ("INGRESS_BODY_LIMIT_BYTES", "1048577", "less than or equal to 1048576"),
        ("INGRESS_QUEUE_LIMIT", "0", "greater than or equal to 1"),
        ("INGRESS_BATCH_LIMIT", "501", "less than or equal to 500"),
        ("SIGNER_API_PORT", "many", "integer"),
        ("SIGNER_SESSION_SECONDS", "60", "greater than or equal to 900"),
        ("PLATFORM_FEE_BASIS_POINTS", "5000", "less than or equal to 4999"),
        ("SIGNER_API_HOST", "h" * 254, "at most 253"),
        ("SIGNER_API_URL", "signers.example", "match pattern"),
        ("SIGNER_API_URL", "file:///etc/passwd", "match pattern"),
        ("TREZOR_DERIVATION_PATH", "44/60/0", "match pattern"),
        ("TREZOR_DERIVATION_PATH", "m/44'/60'/0'/0/-1", "match pattern"),
        ("TREZOR_APPROVAL_TIMEOUT_SECONDS", "4", "greater than or equal to 5"),
        ("TREZOR_SAFEKEEPING_REQUIRED", "perhaps", "boolean"),
        ("FLOWER_PORT", "-1", "greater than or equal to 1"),
        ("REPO_MARKETPLACE", "postgres", "'mongo', 'dual' or 'pg'"),
        ("REPO_DISPUTE", "PG", "'mongo', 'dual' or 'pg'"),
        ("POLL_INTERVAL_SECONDS", "0.01", "greater than or equal to 0.05"),
        ("POLL_INTERVAL_SECONDS", "nan", "finite number"),
        ("CLAIM_LIMIT", "0", "greater than or equal to 1"),
        ("WORK_ATTEMPTS_LIMIT", "1001", "less than or equal to 1000"),
        ("SWEEP_IN_FLIGHT_LIMIT", "65", "less than or equal to 64"),
        ("RELEASE_IN_FLIGHT_LIMIT", "17", "less than or equal to 16"),
        ("RELEASE_MAX_TOTAL_FEE_WEI", "20999", "greater than or equal to 21000"),
        ("RELEASE_MAX_TOTAL_FEE_WEI", "1e16.5", "integer"),
        ("BROKER_VISIBILITY_TIMEOUT_SECONDS", "9", "greater than or equal to 10"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    message = refusal(load_settings)
    assert message.startswith(f"{name} is wrong: ")
    assert expected in message


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAIM_LIMIT", "0")
    monkeypatch.setenv("DATABASE_URL", SECRET)
    assert {line.split()[0] for line in refusal(load_settings).splitlines()} == {"CLAIM_LIMIT", "DATABASE_URL"}


@pytest.mark.parametrize("name", ["CHAINS_FILE", "DATABASE_URL", "FLEET_STATE_DIR", "CLAIM_LIMIT", "REPO_DISPUTE"])
def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = getattr(load_settings(), name.lower())
    monkeypatch.setenv(name, "")
    assert getattr(load_settings(), name.lower()) == default


def test_settings_cannot_be_changed_afterwards() -> None:
    found = load_settings()
    with pytest.raises(Exception, match="frozen") as caught:
        found.database_url = SecretStr(SECRET)
    assert SECRET not in str(caught.value)


# Sources ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def secrets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("FLEET_SECRETS_DIR", str(folder))
    return folder


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "fleet.env"
    path.touch()
    monkeypatch.setenv("FLEET_ENV_FILE", str(path))
    return path


def test_an_environment_variable_beats_a_secrets_file_beats_the_env_file(
    secrets_dir: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("MONGO_DATABASE=from_file\nCLAIM_LIMIT=7\n")
    assert load_settings().mongo_database == "from_file"
    (secrets_dir / "MONGO_DATABASE").write_text("from_secrets\n")
    assert load_settings().mongo_database == "from_secrets"
    monkeypatch.setenv("MONGO_DATABASE", "from_environment")
    assert load_settings().mongo_database == "from_environment"
    assert load_settings().claim_limit == 7


def test_a_secret_may_come_from_a_file(secrets_dir: Path) -> None:
    (secrets_dir / "database_url").write_text(URLS["DATABASE_URL"] + "\n")
    assert load_settings().secret("database_url") == URLS["DATABASE_URL"]


def test_a_wrong_secret_in_a_file_is_named_and_not_shown(secrets_dir: Path) -> None:
    (secrets_dir / "broker_url").write_text(f"amqp://guest:{SECRET}@host")
    assert refusal(load_settings).startswith("BROKER_URL is wrong: expected redis://")


def test_a_wrong_value_in_the_env_file_is_named(env_file: Path) -> None:
    env_file.write_text(f"DATABASE_URL={SECRET}\n")
    assert refusal(load_settings).startswith("DATABASE_URL is wrong: ")


@pytest.mark.parametrize("variable", ["FLEET_ENV_FILE", "FLEET_SECRETS_DIR"])
def test_a_place_that_is_named_but_missing_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    assert refusal(load_settings).startswith(f"{variable} names {tmp_path / 'nowhere'}")


def test_a_file_is_no_secrets_folder_and_a_folder_no_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEET_ENV_FILE", str(tmp_path))
    assert "FLEET_ENV_FILE" in refusal(load_settings)
    monkeypatch.delenv("FLEET_ENV_FILE")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLEET_SECRETS_DIR", str(tmp_path / "file"))
    assert "FLEET_SECRETS_DIR" in refusal(load_settings)


def test_a_secret_that_leads_out_of_its_folder_is_refused_not_skipped(secrets_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(URLS["DATABASE_URL"])
    (secrets_dir / "database_url").symlink_to(tmp_path / "elsewhere")
    assert "FLEET_SECRETS_DIR" in refusal(load_settings)


def test_bytes_that_are_no_text_are_refused(secrets_dir: Path) -> None:
    (secrets_dir / "database_url").write_bytes(b"\xff" + SECRET.encode())
    assert '"database_url"' in refusal(load_settings)


@pytest.mark.parametrize(
    "url",
    [
        f"http://example.org/{SECRET}",
        f"https://user:{SECRET}@example.org/",
        f"https://example.org/#{SECRET}",
        f"https:///{SECRET}",
        f"http://127.0.0.1.example.org/{SECRET}",
        f"ftp://127.0.0.1/{SECRET}",
    ],
)
def test_alarms_go_nowhere_unencrypted_or_unknown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALARM_WEBHOOK_URL", url)
    assert refusal(load_settings).startswith("ALARM_WEBHOOK_URL is wrong: expected https://HOST/PATH")


@pytest.mark.parametrize(
    "url", [f"https://hooks.example.org/services/{SECRET}", f"http://127.0.0.1:8080/?key={SECRET}", "http://localhost/"]
)
def test_the_alarms_url_may_hold_a_secret_and_is_never_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALARM_WEBHOOK_URL", url)
    found = load_settings()
    assert found.secret("alarm_webhook_url") == url
    assert SECRET not in repr(found)


# Files -----------------------------------------------------------------------------------------------------------


def test_a_path_must_be_set_and_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert refusal(lambda: load_settings().path("chains_file")).startswith("CHAINS_FILE is not set")
    monkeypatch.setenv("CHAINS_FILE", str(tmp_path / "chains.toml"))
    assert refusal(lambda: load_settings().path("chains_file")) == (
        f"CHAINS_FILE names {tmp_path / 'chains.toml'}, which does not exist"
    )
    (tmp_path / "chains.toml").touch()
    assert load_settings().path("chains_file") == tmp_path / "chains.toml"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "seed"
    path.write_text(f"  {SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_secret_file_is_read_without_its_line_end(secret_file: Path) -> None:
    assert read_secret_file(secret_file, what="DEPOSIT_SEED_FILE") == SECRET
    secret_file.chmod(0o400)
    assert read_secret_file(secret_file, what="DEPOSIT_SEED_FILE") == SECRET


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620, 0o601, 0o644])
def test_a_secret_file_that_others_can_reach_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    message = refusal(lambda: read_secret_file(secret_file, what="DEPOSIT_SEED_FILE"))
    assert message == f"DEPOSIT_SEED_FILE: {secret_file} can be read by others; run: chmod 600 {secret_file}"


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"x" * 65])
def test_a_secret_file_without_a_secret_or_too_big_is_refused(secret_file: Path, content: bytes) -> None:
    secret_file.write_bytes(content)
    message = refusal(lambda: read_secret_file(secret_file, what="TOKEN", maximum_bytes=64))
    assert message.startswith(f"TOKEN: {secret_file} must hold 1 to 64 bytes")


def test_a_secret_file_at_its_limit_is_read(secret_file: Path) -> None:
    secret_file.write_bytes(b"x" * 64)
    assert read_secret_file(secret_file, what="TOKEN", maximum_bytes=64) == "x" * 64


def test_a_secret_file_that_is_no_text_no_file_or_missing_is_refused(secret_file: Path, tmp_path: Path) -> None:
    secret_file.write_bytes(SECRET.encode() + b"\xff")
    assert refusal(lambda: read_secret_file(secret_file, what="TOKEN")) == f"TOKEN: {secret_file} is not UTF-8 text"
    assert "TOKEN" in refusal(lambda: read_secret_file(tmp_path, what="TOKEN"))
    gone = tmp_path / "gone"
    assert refusal(lambda: read_secret_file(gone, what="TOKEN")) == f"TOKEN: {gone} does not exist"

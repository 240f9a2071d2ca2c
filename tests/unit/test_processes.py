"""Each process is told what it needs and no other process's secrets."""

from pathlib import Path

import pytest

from custody.settings.environment import FleetSettings, SettingsError
from custody.store.roles import PROCESS_ROLES
from workers.processes import GUARDED_SETTINGS, PORTS, PROCESSES, ProcessContext, process, process_environment, programs

SECRETS = {name.upper(): f"secret-of-{name}" for name in GUARDED_SETTINGS - {"database_url"}}
CONTEXT = ProcessContext(Path("/state"), SECRETS | {"LOG_FORMAT": "json"}, lambda role: f"postgresql://{role}:pw@h/db")


def test_each_process_gets_its_own_role_and_its_own_secrets() -> None:
    for each in PROCESSES:
        environment = process_environment(each, CONTEXT, {"CLAIM_LIMIT": "7", "HOME": "/root", "MONGO_URL": "x"})
        given = {name.lower() for name in environment}
        assert given & GUARDED_SETTINGS == set(each.settings())
        assert given <= set(FleetSettings.model_fields)
        assert environment["CLAIM_LIMIT"] == "7"
        assert environment["LOG_FORMAT"] == "json"
        if each.role is not None:
            assert environment["DATABASE_URL"] == f"postgresql://{each.role}:pw@h/db"


def test_keys_of_the_money_go_to_the_keys_agent_alone_and_it_reaches_no_server() -> None:
    for setting in ("deposit_seed_file", "gas_payer_key_file", "keys_passphrase_file"):
        assert [each.name for each in PROCESSES if setting in each.settings()] == ["keys-agent"]
    agent = process("keys-agent")
    assert agent.role is None
    assert not {"database_url", "broker_url", "mongo_url"} & set(agent.settings())
    assert [each.name for each in PROCESSES if "ledger_seal_key_file" in each.settings()] == ["sealer"]
    roles = [each.role for each in PROCESSES if each.role]
    assert len(set(roles)) == len(roles)
    assert set(roles) == set(PROCESS_ROLES) - {"fleet_operator"}


def test_no_secret_is_in_an_argument_and_workers_may_finish_their_task() -> None:
    for program in programs(CONTEXT, {}):
        assert not any("secret-of" in word or "pw@" in word for word in program.argv)
        if program.name.startswith("worker-"):
            assert program.stop_wait_seconds > 60
    assert PORTS == ("ingress", "signer-api", "flower")


def test_what_is_missing_is_named() -> None:
    lacking = ProcessContext(Path("/state"), {"BROKER_URL": "redis://h/0"}, lambda role: role)
    with pytest.raises(SettingsError, match="keys-agent needs DEPOSIT_SEED_FILE, GAS_PAYER_KEY_FILE"):
        process_environment(process("keys-agent"), lacking, {})
    with pytest.raises(LookupError, match="there are: ingress"):
        process("mailer")

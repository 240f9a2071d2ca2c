"""``.env.example`` names every setting, with its default, and nothing else."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from custody.settings.environment import FleetSettings, load_settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$")


def lines() -> dict[str, tuple[bool, str]]:
    found = [match for line in EXAMPLE.read_text().splitlines() if (match := LINE.match(line))]
    names = [match[2] for match in found]
    assert len(set(names)) == len(names), "a setting is named twice"
    return {match[2]: (match[1] == "", match[3]) for match in found}


def test_every_setting_is_named_and_nothing_else_is() -> None:
    assert set(lines()) == {name.upper() for name in FleetSettings.model_fields}


def test_the_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FleetSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("FLEET_SECRETS_DIR", raising=False)
    monkeypatch.delenv("FLEET_ENV_FILE", raising=False)
    defaults = load_settings()
    monkeypatch.setenv("FLEET_ENV_FILE", str(EXAMPLE))
    assert load_settings() == defaults
    # A setting without a default is a comment, so that copying the file sets no empty one.
    for name, (is_set, _) in lines().items():
        default = getattr(defaults, name.lower())
        assert is_set == (default is not None), name
        assert not isinstance(default, SecretStr)

"""The first ceremony on software devices: what it writes is signed on them, and holds."""

import tomllib
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from custody.policy.documents import document_hash
from custody.policy.toml_text import toml_text
from tests.policy_files import PROXY, TREASURY_BSC, USDT_BSC, policy_said
from workers.cli import genesis, policy
from workers.embedded.trezor_device import Press, SoftwareDevice

SEEDS = {
    "ada": "all all all all all all all all all all all all",
    "bob": "legal winner thank year wave sausage worth useful legal winner thank yellow",
}
CHAINS = f"""
[[chains]]
id = 31337
name = "dev"
genesis_hash = "0x{"31" * 32}"
rpc_urls = ["http://127.0.0.1:8545"]
treasury = "{TREASURY_BSC}"
fee_proxy = "{PROXY}"

[[chains.tokens]]
symbol = "USDT"
address = "{USDT_BSC}"
decimals = 6

[[chains.tokens]]
symbol = "ETH"
address = "native"
decimals = 18
"""

app = typer.Typer()
policy.register(app)
genesis.register(app)


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments), input=given)


def test_a_genesis_is_made_and_signed_on_devices(tmp_path: Path) -> None:
    chains, folder = tmp_path / "chains.toml", tmp_path / "policy"
    chains.write_text(CHAINS)
    path = folder / "genesis.toml"
    with SoftwareDevice(SEEDS["ada"]) as ada, SoftwareDevice(SEEDS["bob"]) as bob:
        devices = {"ada": ada, "bob": bob}
        answers = ["demo", "2", "0a1b2c3d", "0x" + "cc" * 32, "", "xpub-of-deposits", "2"]
        answers += [answer for person in devices for answer in (person, devices[person].path)]
        made = run("genesis", "init", str(folder), "--chains-file", str(chains), given="\n".join(answers) + "\n")
        assert made.exit_code == 0, made.output
        said = tomllib.loads(path.read_text())
        root = document_hash("genesis", said)
        assert root in made.output
        assert {each["device_model"] for each in said["approvers"]} == {"T1B1"}
        rules = [{"name": "sweeps", "kind": "allow", "purposes": ["sweep"]}]
        policy_path = folder / "policy.toml"
        policy_path.write_text(toml_text(policy_said(root, rules, environment="demo")))
        for person, device in devices.items():
            for each in (path, policy_path):
                signed = run(
                    "policy", "sign", str(each), "--genesis", str(path), "--as", person, "--device", device.path
                )
                assert signed.exit_code == 0, signed.output
                assert "POLICY demo" in signed.output
        checked = run("policy", "check", str(folder), "--genesis-hash", root)
        assert (checked.exit_code, checked.output.count("ada, bob")) == (0, 2), checked.output

        other = run("policy", "sign", str(path), "--genesis", str(path), "--as", "ada", "--device", bob.path)
        assert (other.exit_code, "The device's wallet has address" in other.output) == (2, True)
        again = run("genesis", "init", str(folder), "--chains-file", str(chains))
        assert (again.exit_code, "expected none yet" in again.output) == (2, True)


def test_a_person_who_refuses_on_the_device_signs_nothing(tmp_path: Path) -> None:
    chains, folder = tmp_path / "chains.toml", tmp_path / "policy"
    chains.write_text(CHAINS)
    with SoftwareDevice(SEEDS["ada"], buttons=Press.NO) as ada:
        answers = ["demo", "1", "0a1b2c3d", "0x" + "cc" * 32, "", "xpub-of-deposits", "1", "ada", ada.path]
        made = run("genesis", "init", str(folder), "--chains-file", str(chains), given="\n".join(answers) + "\n")
        assert made.exit_code == 0, made.output
        path = folder / "genesis.toml"
        refused = run("policy", "sign", str(path), "--genesis", str(path), "--as", "ada", "--device", ada.path)
        assert refused.exit_code == 2
        assert not path.with_name("genesis.toml.sig").exists()

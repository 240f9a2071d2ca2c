"""R20: addresses that no key rules are forwarders of a Safe treasury's own contracts, issued and audited like the others."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from typer.testing import CliRunner

from custody.destinations.audit import audit_destinations
from custody.destinations.bulk_audit import audit_everything
from custody.destinations.contracts import deploy_and_sweep_many_call, sweep_contracts
from custody.destinations.derivation import DerivationError, account_xpub_from_seed, address_at
from custody.destinations.forwarders import forwarder_at, forwarder_path, forwarder_salt, salt_of_path
from custody.destinations.issuing import (
    Destination,
    IssuingRefused,
    OfferRef,
    issue_destination,
    register_deposit_account,
    register_forwarder_account,
)
from custody.destinations.rotation import rotate_deposit_account, rotate_to_forwarders
from custody.policy.toml_text import toml_text
from custody.settings.chains import Chains
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.sweep_contracts_scene import GAS_EACH, BatchWorld, batch_world
from workers.cli import deposits

SAFES = {1: to_checksum_address("0x" + "51" * 20), 56: to_checksum_address("0x" + "52" * 20)}
OWNERS = [to_checksum_address("0x" + f"{number:02x}" * 20) for number in (0xA1, 0xA2, 0xA3)]
XPUB = account_xpub_from_seed(b"\x05" * 64)


def said(*, safe: bool = True) -> dict[str, Any]:
    """A chains file of two chains."""
    chains: list[dict[str, Any]] = []
    for place, (chain_id, treasury) in enumerate(SAFES.items()):
        chain: dict[str, Any] = {
            "id": chain_id,
            "name": f"chain-{chain_id}",
            "genesis_hash": "0x" + f"{place:064x}",
            "rpc_urls": ["https://one.example/rpc", "https://two.invalid/rpc"],
            "treasury": treasury,
            "fee_proxy": to_checksum_address("0x" + "f0" * 20),
            "tokens": [{"symbol": "ETH", "address": "native", "decimals": 18}],
        }
        if safe or chain_id == 1:
            chain["safe"] = {"owners": OWNERS, "threshold": 2}
        chains.append(chain)
    return {"chains": chains}


CHAINS = Chains.model_validate(said())


class Forwarders:
    """A fleet that issues forwarders."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.market = Marketplace(database)
        self.operator = database.engine("fleet_operator")
        self.buyer = self.market.user()

    def register(self, chains: Chains = CHAINS) -> UUID:
        with transaction(self.operator) as connection:
            return register_forwarder_account(connection, chains)

    def issue(self, name: str, chain_id: int = 56) -> Destination:
        with transaction(self.operator) as connection:
            offer = OfferRef("template", external=name)
            return issue_destination(connection, buyer_id=self.buyer, offer=offer, chain_id=chain_id)


@pytest.fixture
def forwarders(database: Database) -> Forwarders:
    return Forwarders(database)


def by_hand(treasury: str, account: UUID, index: int) -> str:
    """EIP-1014 over ERC-1167's creation code, written out."""
    contracts = sweep_contracts(treasury)
    creation = bytes.fromhex("3d602d80600a3d3981f3363d3d373d3d3d363d73") + to_canonical_address(contracts.delegate)
    creation += bytes.fromhex("5af43d82803e903d91602b57fd5bf3")
    salt = keccak(account.bytes + index.to_bytes(8, "big"))
    place = b"\xff" + to_canonical_address(contracts.batcher) + salt + keccak(creation)
    return to_checksum_address(keccak(place)[12:])


def test_each_is_its_treasurys_own_forwarder(forwarders: Forwarders) -> None:
    account = forwarders.register()
    assert forwarders.register() == account
    made = [forwarders.issue("a"), forwarders.issue("b", 1), forwarders.issue("c")]
    assert [each.derivation_index for each in made] == [0, 1, 2]
    for each in made:
        assert each.address == by_hand(SAFES[each.chain_id], account, each.derivation_index)
        assert each.derivation_path == f"create2/{account}/{each.derivation_index}"
        assert salt_of_path(each.derivation_path) == forwarder_salt(account, each.derivation_index)
    assert forwarders.issue("a") == made[0]
    assert forwarder_at(SAFES[1], account, 0) != forwarder_at(SAFES[56], account, 0)


def test_a_treasury_of_one_device_has_none(forwarders: Forwarders) -> None:
    with pytest.raises(IssuingRefused, match=r"chain-56: its treasury .* is an account of one device"):
        forwarders.register(Chains.model_validate(said(safe=False)))
    assert forwarders.market.execute("SELECT count(*) AS n FROM fleet.deposit_accounts")[0].n == 0


def test_a_chain_that_was_opened_later_needs_another_account(forwarders: Forwarders) -> None:
    forwarders.register()
    with pytest.raises(IssuingRefused, match="has no treasury on chain 137"):
        forwarders.issue("a", 137)
    assert forwarders.issue("b").derivation_index == 0  # nothing was used up


def test_one_kind_follows_the_other_and_the_indices_go_on(forwarders: Forwarders) -> None:
    with transaction(forwarders.operator) as connection:
        register_deposit_account(connection, XPUB)
    assert forwarders.issue("a").address == address_at(XPUB, 0)
    with pytest.raises(IssuingRefused, match="is active"):
        forwarders.register()
    with transaction(forwarders.operator) as connection:
        account = rotate_to_forwarders(connection, CHAINS)
    second = forwarders.issue("b")
    assert (second.derivation_index, second.address) == (1, forwarder_at(SAFES[56], account, 1))
    with transaction(forwarders.operator) as connection, pytest.raises(IssuingRefused, match="is active already"):
        rotate_to_forwarders(connection, CHAINS)
    with transaction(forwarders.operator) as connection:
        rotate_deposit_account(connection, account_xpub_from_seed(b"\x06" * 64))
    assert forwarders.issue("c").derivation_index == 2
    audited = audit_destinations(forwarders.database.engine("fleet_housekeeping"))
    assert audited == 3
    with forwarders.operator.connect() as connection:
        report = audit_everything(connection)
    assert (report.ok, report.audited, len(report.accounts)) == (True, 3, 3)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("address = :theirs", "its account's address at index 1 is "),
        ("chain_id = 1", "its account's address at index 1 is "),
        ("derivation_path = replace(derivation_path, '/1', '/7')", "its path is "),
        ("derivation_index = 9", "its account's address at index 9 is "),
    ],
)
def test_a_row_that_somebody_changed_is_found_by_both_audits(
    forwarders: Forwarders, assignment: str, expected: str
) -> None:
    forwarders.register()
    good, bad = forwarders.issue("a"), forwarders.issue("b")
    values = {"theirs": forwarder_at(OWNERS[0], good.deposit_account_id, 1)} if ":theirs" in assignment else {}
    forwarders.market.execute(f"UPDATE public.derived_destinations SET {assignment} WHERE id = :d", d=bad.id, **values)
    with forwarders.operator.connect() as connection:
        report = audit_everything(connection)
    assert {each.destination for each in report.differences if each.destination} == {str(bad.id)}
    audit_destinations(forwarders.database.engine("fleet_housekeeping"))
    rows = forwarders.market.execute("SELECT id, status::text, quarantine_reason FROM public.derived_destinations")
    standing = {row.id: (row.status, row.quarantine_reason) for row in rows}
    assert standing[good.id] == ("active", None)
    assert standing[bad.id][0] == "quarantined"
    assert expected in (standing[bad.id][1] or "")


@pytest.fixture(scope="module")
def world() -> Iterator[BatchWorld]:
    with batch_world() as made:
        yield made


def test_an_issued_address_is_made_and_flushed_on_a_chain(forwarders: Forwarders, world: BatchWorld) -> None:
    """What the path stands for is what the treasury's own batcher makes: coins that came before it go to the treasury."""
    chains = said()
    for chain in chains["chains"]:
        chain["treasury"] = world.contracts.treasury
    forwarders.register(Chains.model_validate(chains))
    issued = [forwarders.issue("a"), forwarders.issue("b")]
    addresses = [each.address for each in issued]
    world.give(world.plain, addresses, 7)
    call = deploy_and_sweep_many_call(world.plain, [salt_of_path(each.derivation_path) for each in issued], GAS_EACH)
    receipt = world.send(world.operator, world.contracts.batcher, call)
    assert world.swept(receipt, world.plain) == dict.fromkeys(addresses, 7)
    assert world.balances(world.plain, addresses) == [0, 0]


@pytest.mark.parametrize("path", ["m/44'/60'/0'/0/1", "create2/1", "create2/x/1", f"create2/{UUID(int=1)}/01"])
def test_the_path_of_a_key_is_no_forwarders(path: str) -> None:
    with pytest.raises(DerivationError, match="path"):
        salt_of_path(path)


@pytest.mark.parametrize("index", [-1, 2**31, True])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    for make in (forwarder_salt, forwarder_path):
        with pytest.raises(DerivationError, match="index"):
            make(UUID(int=1), index)


@pytest.fixture
def command(forwarders: Forwarders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    app = typer.Typer()
    deposits.register(app)
    (tmp_path / "chains.toml").write_text(toml_text(said()))
    monkeypatch.setenv("DATABASE_URL", forwarders.database.url("fleet_operator"))
    monkeypatch.setenv("CHAINS_FILE", str(tmp_path / "chains.toml"))

    def run(kind: str, *arguments: str) -> Any:
        monkeypatch.setenv("DESTINATION_KIND", kind)
        settings.cache_clear()
        return CliRunner().invoke(app, ["deposits", *arguments])

    yield run
    settings.cache_clear()


def test_the_setting_says_which_kind_is_opened(forwarders: Forwarders, command: Callable[..., Any]) -> None:
    refused = command("hd_account", "register")
    assert (refused.exit_code, "expected the account's xpub" in refused.output) == (1, True)
    refused = command("create2_forwarder", "register", XPUB)
    assert (refused.exit_code, "no key rules its addresses" in refused.output) == (1, True)
    assert command("hd_account", "register", XPUB).exit_code == 0
    rotated = command("create2_forwarder", "rotate")
    assert rotated.exit_code == 0, rotated.output
    listed = command("create2_forwarder", "list").output
    assert "create2_forwarder active" in listed
    assert "hd_account        draining" in listed
    assert json.dumps(str(forwarders.issue("a").derivation_path)).startswith('"create2/')

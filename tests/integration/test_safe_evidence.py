"""R4, R16: a Safe's owners believe their trust files, their own nodes and journals; real Safe, real coins, core devices."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from custody.destinations.derivation import address_at
from custody.safe.contract import FALLBACK_HANDLER_SLOT, GUARD_SLOT, SENTINEL
from tests.conftest import Database
from tests.counts import Counts, sampled
from tests.policy_files import key
from tests.safe_signer_scene import SafeSignerScene, safe_signer_scenes
from tests.safe_world import OTHER, list_slot
from tests.signer_desk import Cli, at_desk, said
from tests.signer_scene import random_hash, thief
from tests.superuser import rewritten
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.embedded.trezor_device import Model, SoftwareDevice

Desk = Callable[[int], AbstractContextManager[Cli]]
"""``desk(place)``: the machine of one of the Safe's owners, with a journal of its own."""


@pytest.fixture(name="scene", params=sampled([False, True]), ids=sampled(["token", "native"]))
def _scene(
    request: pytest.FixtureRequest,
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[SafeSignerScene]:
    yield from safe_signer_scenes(
        token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts, native=request.param
    )


def test_two_owners_sign_on_their_own_machines_and_the_seller_is_paid(
    scene: SafeSignerScene, api: str, cli: Cli, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    shown = cli("show", str(scene.instruction(payment).id))
    assert shown.exit_code == 0, shown.output
    assert "confirmed at depth by 1 of your own nodes" in said(shown)
    assert "2 of 3 owners, no modules" in said(shown)
    first = cli("next", "--yes")
    assert first.exit_code == 0, first.output
    assert "address book entry 1 (wallet of seller-1), signed by your approvers" in said(first)
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    monkeypatch.setenv("SIGNER_JOURNAL_FILE", str(scene.folder / "other-journal.jsonl"))
    with (
        SoftwareDevice(scene.owner_seeds[2], model=Model.SAFE_5) as second,
        at_desk(scene, second.path, api, monkeypatch) as other,
    ):
        monkeypatch.setenv("SIGNER_JOURNAL_FILE", str(scene.folder / "other-journal.jsonl"))
        done = other("next", "--yes")
        assert done.exit_code == 0, done.output
        assert f"Signed by {scene.owners[0].address}" in said(done)
        assert (device.signatures, second.signatures) == (1, 1)
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == scene.units


# What a superuser rewrites, each time so that every table agrees with every other


def _recipient(scene: SafeSignerScene) -> None:
    crook = thief()
    scene.rewrite_bytes(scene.payments[0], crook, scene.units)
    scene.market.execute("UPDATE fleet.address_book SET address = :crook", crook=crook)


def _amount(scene: SafeSignerScene) -> None:
    scene.rewrite_bytes(scene.payments[0], scene.instruction(scene.payments[0]).recipient, 5 * scene.units)
    scene.market.execute("UPDATE fleet.chain_facts SET amount_units = amount_units * 5")
    scene.market.execute("UPDATE public.derived_destination_sweeps SET amount = amount * 5")


def _amount_alone(scene: SafeSignerScene) -> None:
    scene.rewrite_bytes(scene.payments[0], scene.instruction(scene.payments[0]).recipient, scene.units + 1)


def _invented_deposit(scene: SafeSignerScene) -> None:
    scene.market.execute(
        "UPDATE fleet.chain_facts SET transaction_hash = :hash WHERE direction = 'inbound'", hash=random_hash()
    )


def _invented_sweep(scene: SafeSignerScene) -> None:
    scene.market.execute("UPDATE public.derived_destination_sweeps SET transaction_hash = :hash", hash=random_hash())


def _sweep_is_a_deposit(scene: SafeSignerScene) -> None:
    """The buyer's own transfer is shown as the one that came to the treasury."""
    scene.market.execute(
        "UPDATE public.derived_destination_sweeps SET (transaction_hash, log_index) = "
        "(SELECT transaction_hash, log_index FROM fleet.chain_facts WHERE direction = 'inbound')"
    )


def _no_evidence(scene: SafeSignerScene) -> None:
    scene.market.execute("DELETE FROM public.derived_destination_sweeps")


def _no_deposits(scene: SafeSignerScene) -> None:
    scene.market.execute("DELETE FROM fleet.chain_facts WHERE direction = 'inbound'")


def _foreign_address(scene: SafeSignerScene) -> None:
    crook = thief()
    for statement in (
        "UPDATE public.derived_destinations SET address = :crook",
        "UPDATE fleet.chain_facts SET recipient = :crook WHERE direction = 'inbound'",
        "UPDATE public.derived_destination_sweeps SET from_address = :crook",
    ):
        scene.market.execute(statement, crook=crook)


def _swept_elsewhere(scene: SafeSignerScene) -> None:
    scene.market.execute("UPDATE public.derived_destination_sweeps SET to_address = :crook", crook=thief())


def _pay_a_deposit_address(scene: SafeSignerScene) -> None:
    scene.rewrite_bytes(scene.payments[0], address_at(scene.xpub, 1), scene.units)


def _pay_a_contract(scene: SafeSignerScene) -> None:
    contract, sent = scene.chain.deployer.deploy(bytes.fromhex("600a600c600039600a6000f3602a60005260206000f3"))
    scene.chain.deployer.wait(sent)
    scene.rewrite_bytes(scene.payments[0], contract, scene.units)


def _pay_an_owner(scene: SafeSignerScene) -> None:
    scene.rewrite_bytes(scene.payments[0], scene.owners[0].address, scene.units)


def _seal(scene: SafeSignerScene) -> None:
    scene.market.execute("UPDATE fleet.ledger_seals SET entries = entries + 1")


def _an_accounts_bytes(scene: SafeSignerScene) -> None:
    scene.market.execute(
        "UPDATE fleet.release_instructions SET unsigned_kind = 'transaction', rejection_hash = NULL, safe_block = NULL, "
        "safe_block_nonce = NULL"
    )
    scene.market.execute(
        "INSERT INTO fleet.nonce_digests (instruction_id, place, kind, unsigned_bytes, signing_hash, max_total_fee_wei) "
        "SELECT id, 0, 'payout', unsigned_bytes, signing_hash, max_total_fee_wei FROM fleet.release_instructions "
        "RETURNING id"
    )


LIES: dict[Callable[[SafeSignerScene], None], str] = {
    _recipient: "is in no address book entry",
    _amount: "the API says amount",
    _amount_alone: "would be paid out of",
    _invented_deposit: "is in no canonical block",
    _invented_sweep: "is in no canonical block",
    _sweep_is_a_deposit: "the API says sender",
    _no_evidence: "would be paid out of 0",
    _no_deposits: "that buyers deposited for payment",
    _foreign_address: "is not the one at m/44'/60'/0'/0/1 of a pinned deposit account",
    _swept_elsewhere: "the pinned treasury is",
    _pay_a_deposit_address: "is a deposit address",
    _pay_a_contract: "is a contract (R21)",
    _pay_an_owner: "is in no address book entry",
    _seal: "its hash is not that of its content",
    _an_accounts_bytes: "it is a Safe's for one of us",
}


def test_a_superuser_rewrites_everything_and_every_owners_machine_refuses(
    scene: SafeSignerScene, cli: Cli, device: SoftwareDevice, counts: Counts
) -> None:
    payment = scene.handed_out_payment()
    scene.rule()
    for lie, words in LIES.items():
        with rewritten(scene.market):
            lie(scene)
            refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED, (lie, refused.output)
        assert words in said(refused), (lie, said(refused))
        assert "Nothing was shown or signed" in said(refused)
        assert (device.signatures, device.screens) == (0, []), lie
    assert scene.submissions(payment) == []
    done = cli("sign", "--yes")  # the honest rows are signed
    assert done.exit_code == 0, done.output
    assert device.signatures == 1
    counts("rewritten databases, each refused", len(LIES))


# The Safe itself


def test_a_safe_that_is_not_the_pinned_one_is_refused_at_every_look(
    scene: SafeSignerScene, cli: Cli, device: SoftwareDevice, counts: Counts
) -> None:
    scene.handed_out_payment()
    safe = scene.safe
    slots = (
        (4, 1, "its threshold is 1, pinned is 2"),
        (5, 1, "it spends nonce 0 of the Safe, whose next one is 1"),
        (GUARD_SLOT, int(OTHER, 16), "its guard is"),
        (FALLBACK_HANDLER_SLOT, int(OTHER, 16), "its fallback handler is"),
        (list_slot(SENTINEL, 1), int(OTHER, 16), "it has modules"),
        (list_slot(SENTINEL, 2), int(scene.owners[1].address, 16), "is an owner no more"),
        (0, int(scene.chain.token, 16), "does not answer as a Safe does"),
    )
    for slot, word, words in slots:
        before = safe.read(slot)
        safe.write(slot, word)
        refused = cli("sign", "--yes")
        safe.write(slot, before)
        assert refused.exit_code == EXIT_REFUSED, (words, refused.output)
        assert words in said(refused)
    assert (device.signatures, device.screens) == (0, [])
    assert cli("sign", "--yes").exit_code == 0
    counts("changes of a Safe, each refused", len(slots))


def test_the_trust_file_is_the_last_word_on_the_safe(scene: SafeSignerScene, cli: Cli, device: SoftwareDevice) -> None:
    scene.handed_out_payment()
    [chain] = scene.trust_said()["chains"]
    pins = chain["safe"]
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        (
            {"safe": {**pins, "owners": [*pins["owners"][:2], Account.create().address]}},
            "the chains file says safe.owners",
        ),
        ({"safe": {**pins, "threshold": 3}}, "the chains file says safe.threshold 2, the trust file says 3"),
        ({"safe": {**pins, "singleton_code_hash": random_hash()}}, "has code"),
        ({"safe": {**pins, "proxy_code_hash": random_hash()}}, "its own code is"),
        ({"safe": {**pins, "guard": OTHER}}, "its guard is not set, pinned is"),
        ({"safe": {**pins, "fallback_handler": OTHER}}, "its fallback handler is"),
        ({"safe": {**pins, "owner": scene.owners[1].address}}, "the expected one is"),
        ({"treasury": key("eve").address}, f"say {key('eve').address} (trust file)"),
    )
    for changed, words in changes:
        scene.write_trust(chains=[{**chain, **changed}])
        refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED, (words, refused.output)
        assert words in said(refused)
    scene.write_trust(chains=[{name: value for name, value in chain.items() if name != "safe"}])
    assert "is an account, its bytes are for the other kind" in said(cli("sign", "--yes"))
    assert (device.signatures, device.screens) == (0, [])
    scene.write_trust(chains=[{**chain, "safe": {**pins, "owner": scene.owners[0].address}}])
    assert cli("sign", "--yes").exit_code == 0

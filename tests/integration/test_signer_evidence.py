"""R4: the signer's machine against a database whose superuser rewrites everything; a real chain, real bytes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from custody.destinations.derivation import address_at
from custody.trezor import UnsignedTransaction
from tests.anvil_node import running_anvil
from tests.conftest import Database
from tests.counts import sampled
from tests.policy_files import key
from tests.release_scene import UNITS
from tests.signer_desk import Cli, said
from tests.signer_scene import SignerScene, random_hash, signer_scenes, thief
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice


@pytest.fixture(name="scene")
def _scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[SignerScene]:
    yield from signer_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path)


def test_honest_evidence_is_confirmed_by_the_signers_own_node_and_signed(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    payment = scene.handed_out_payment()
    shown = cli("show", str(scene.instruction(payment).id))
    assert shown.exit_code == 0, shown.output
    assert "100 USDT, confirmed at depth by 1 of your own nodes" in said(shown)
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    assert "address book entry 1 (wallet of seller-1), signed by your approvers" in said(done)
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert (device.signatures, scene.paid_to(payment)) == (1, UNITS)


def test_each_payment_of_a_group_is_confirmed_and_shown_with_their_sum(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    scene.seal()
    group = scene.group(first)
    assert group.state == "handed_out"
    assert "200 USDT of 2 payments" in said(cli("inbox"))
    shown = cli("show", str(group.id))
    assert shown.exit_code == 0, shown.output
    assert "Payments 2, together 200 USDT" in said(shown)
    assert f"100 USDT for payment {second}" in said(shown)
    assert "200 USDT, confirmed at depth by 1 of your own nodes" in said(shown)
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    scene.run()
    assert scene.instruction_row(group.id).state == "final"
    assert (device.signatures, scene.paid_to(first)) == (1, 2 * UNITS)


@pytest.mark.parametrize(
    ("rewrite", "words"),
    [
        # Every coin of the group was swept, but one payment is to give what the other's buyer paid.
        (
            "UPDATE fleet.chain_facts SET payment_id = :first WHERE direction = 'inbound'",
            "100 USDT would be paid out of 0 USDT that buyers deposited",
        ),
        (
            "DELETE FROM public.derived_destination_sweeps WHERE from_address = :place",
            "200 USDT would be paid out of 100 USDT",
        ),
        (
            "UPDATE fleet.release_instructions SET amount_units = amount_units - 1 WHERE payment_id = :first",
            "shares are 199999999",
        ),
    ],
)
def test_a_group_is_refused_for_one_payment_that_nothing_stands_behind(
    scene: SignerScene, cli: Cli, device: SoftwareDevice, rewrite: str, words: str
) -> None:
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    scene.seal()
    place = scene.market.execute(
        "SELECT d.address FROM fleet.payment_routes r JOIN public.derived_destinations d ON d.id = r.destination_id "
        "WHERE r.payment_id = :id",
        id=second,
    )[0].address
    given = {"first": first, "place": place}
    with scene.database.engine().begin() as connection:
        # A superuser asks no trigger.
        for table in ("fleet.release_instructions", "fleet.chain_facts", "public.derived_destination_sweeps"):
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        connection.execute(text(rewrite), {name: value for name, value in given.items() if f":{name}" in rewrite})
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED
    assert words in said(refused)
    assert device.signatures == 0


# What a superuser rewrites, each time so that every table agrees with every other


def _recipient(scene: SignerScene) -> None:
    payment, crook = scene.payments[0], thief()
    scene.rewrite_bytes(payment, crook, UNITS)
    scene.market.execute("UPDATE fleet.address_book SET address = :crook", crook=crook)


def _amount(scene: SignerScene) -> None:
    payment = scene.payments[0]
    scene.rewrite_bytes(payment, scene.instruction(payment).recipient, 5 * UNITS)
    for statement in (
        "UPDATE fleet.chain_facts SET amount_units = amount_units * 5",
        "UPDATE public.derived_destination_sweeps SET amount = amount * 5",
        "UPDATE public.funds_ledger_entries SET amount = amount * 5 WHERE payment_id IS NOT NULL",
        "UPDATE public.payments SET amount = amount * 5",
    ):
        scene.market.execute(statement)


def _amount_alone(scene: SignerScene) -> None:
    scene.rewrite_bytes(scene.payments[0], scene.instruction(scene.payments[0]).recipient, UNITS + 1)


def _invented_deposit(scene: SignerScene) -> None:
    scene.market.execute(
        "UPDATE fleet.chain_facts SET transaction_hash = :hash WHERE direction = 'inbound'", hash=random_hash()
    )


def _invented_sweep(scene: SignerScene) -> None:
    scene.market.execute("UPDATE public.derived_destination_sweeps SET transaction_hash = :hash", hash=random_hash())


def _sweep_twice(scene: SignerScene) -> None:
    _amount_alone(scene)
    scene.market.execute(
        """
        INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address, transaction_hash,
            log_index, block_number, from_address, to_address, amount)
        SELECT derived_destination_id, chain_id, token_address, transaction_hash, log_index + 1, block_number,
            from_address, to_address, amount FROM public.derived_destination_sweeps
        """
    )


def _foreign_address(scene: SignerScene) -> None:
    crook = thief()
    for statement in (
        "UPDATE public.derived_destinations SET address = :crook",
        "UPDATE fleet.chain_facts SET recipient = :crook WHERE direction = 'inbound'",
        "UPDATE public.derived_destination_sweeps SET from_address = :crook",
    ):
        scene.market.execute(statement, crook=crook)


def _other_index(scene: SignerScene) -> None:
    scene.market.execute(
        "UPDATE public.derived_destinations SET derivation_index = 77, derivation_path = 'm/44''/60''/0''/0/77'"
    )


def _swept_elsewhere(scene: SignerScene) -> None:
    scene.market.execute("UPDATE public.derived_destination_sweeps SET to_address = :crook", crook=thief())


def _no_evidence(scene: SignerScene) -> None:
    scene.market.execute("DELETE FROM public.derived_destination_sweeps")


def _pay_a_deposit_address(scene: SignerScene) -> None:
    scene.rewrite_bytes(scene.payments[0], address_at(scene.xpub, 1), UNITS)


def _pay_a_contract(scene: SignerScene) -> None:
    package = scene.chain.deployer.deploy(bytes.fromhex("600a600c600039600a6000f3602a60005260206000f3"))
    scene.chain.deployer.wait(package[1])
    scene.rewrite_bytes(scene.payments[0], package[0], UNITS)


def _seal(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.ledger_seals SET entries = entries + 1")


def _no_seals(scene: SignerScene) -> None:
    scene.market.execute("DELETE FROM fleet.ledger_seals")


@pytest.mark.parametrize(
    ("rewrite", "words"),
    sampled(
        [
            (_recipient, "is in no address book entry"),
            (_amount, "the API says amount 500000000, http://127.0.0.1"),
            (_amount_alone, "100.000001 USDT would be paid out of 100 USDT that were swept"),
            (_invented_deposit, "is in no canonical block"),
            (_invented_sweep, "is in no canonical block"),
            (_sweep_twice, "is no Transfer"),
            (_foreign_address, "is not the one at m/44'/60'/0'/0/1 of a pinned deposit account"),
            (_other_index, "is not the one at m/44'/60'/0'/0/77 of a pinned deposit account"),
            (_swept_elsewhere, "the pinned treasury is"),
            (_no_evidence, "100 USDT would be paid out of 0 USDT"),
            (_pay_a_deposit_address, "is a deposit address"),
            (_pay_a_contract, "is a contract (R21)"),
            (_seal, "its hash is not that of its content"),
            (_no_seals, "shows no seal yet"),
        ]
    ),
)
def test_a_superuser_rewrites_everything_and_the_signer_refuses(
    scene: SignerScene, cli: Cli, device: SoftwareDevice, rewrite: Callable[[SignerScene], None], words: str
) -> None:
    payment = scene.handed_out_payment()
    scene.rule()
    rewrite(scene)
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert words in said(refused)
    assert "Nothing was shown or signed" in said(refused)
    assert (device.signatures, device.screens) == (0, [])
    assert scene.submissions(payment) == []
    assert scene.instruction(payment).state == "handed_out"


def test_what_was_swept_once_is_not_paid_out_twice_whatever_the_database_says(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    first = scene.handed_out_payment()
    assert cli("sign", "--yes").exit_code == 0
    scene.run()
    second = scene.handed_out_payment(swept=False)
    assert scene.instruction(second) is None or scene.instruction(second).state == "drafted"
    scene.rule()
    # The paid instruction becomes one of another payment that points at the same coins, with the next nonce.
    row = scene.instruction(first)
    raw = UnsignedTransaction.from_signing_bytes(bytes(row.unsigned_bytes))
    forged = UnsignedTransaction(
        raw.chain_id,
        raw.nonce + 1,
        raw.max_priority_fee_per_gas,
        raw.max_fee_per_gas,
        raw.gas_limit,
        raw.to,
        0,
        raw.data,
    )
    scene.market.execute("DELETE FROM fleet.release_instructions WHERE payment_id = :second", second=second)
    scene.market.execute(
        """
        INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount,
            amount_units, release_epoch, state, nonce, unsigned_bytes, signing_hash, max_total_fee_wei, handed_out_at)
        SELECT :second, purpose, chain_id, treasury, token, recipient, amount, amount_units, release_epoch, 'handed_out',
            nonce + 1, :raw, :hash, max_total_fee_wei, now()
        FROM fleet.release_instructions WHERE id = :id
        """,
        second=second,
        raw=forged.signing_bytes(),
        hash=forged.signing_hash(),
        id=row.id,
    )
    scene.market.execute(
        """
        INSERT INTO fleet.nonce_digests (instruction_id, place, kind, unsigned_bytes, signing_hash, max_total_fee_wei)
        SELECT id, 0, 'payout', unsigned_bytes, signing_hash, max_total_fee_wei
        FROM fleet.release_instructions WHERE payment_id = :second RETURNING id
        """,
        second=second,
    )
    scene.market.execute(
        "UPDATE fleet.payment_routes SET destination_id = (SELECT destination_id FROM fleet.payment_routes "
        "WHERE payment_id = :first) WHERE payment_id = :second",
        first=first,
        second=second,
    )
    scene.market.execute("DELETE FROM fleet.chain_facts WHERE payment_id = :second", second=second)
    scene.market.execute("UPDATE fleet.chain_facts SET payment_id = :second", second=second)
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "200 USDT would be paid out of 100 USDT" in said(refused)
    assert device.signatures == 1


def test_history_that_is_rewritten_between_two_signatures_is_refused(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    scene.handed_out_payment()
    assert cli("sign", "--yes").exit_code == 0
    scene.run()
    scene.handed_out_payment()
    scene.rule()
    # Whoever had the key could make other seals; this machine remembers the ones that it saw.
    scene.market.execute("DELETE FROM fleet.ledger_seals")
    scene.seal()
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "history was rewritten" in said(refused)
    assert device.signatures == 1


def test_an_own_node_of_another_chain_is_refused(scene: SignerScene, cli: Cli, device: SoftwareDevice) -> None:
    scene.handed_out_payment()
    with running_anvil("--timestamp", "1000000000") as other:
        refused = cli("sign", "--yes", "--verify-rpc", other)
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "is of another chain than the trust file pins" in said(refused)
    assert device.signatures == 0


def test_an_own_node_that_is_away_signs_nothing_and_says_try_again(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    scene.handed_out_payment()
    refused = cli("sign", "--yes", "--verify-rpc", "http://127.0.0.1:9")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "could not confirm the evidence" in said(refused)
    assert device.signatures == 0
    assert cli("sign", "--yes").exit_code == 0


def test_what_is_not_deep_enough_for_this_machine_waits(scene: SignerScene, cli: Cli, device: SoftwareDevice) -> None:
    scene.handed_out_payment()
    [chain] = scene.trust_said()["chains"]
    depth = scene.chain.deployer.client.head().number + 50
    scene.write_trust(chains=[{**chain, "confirmations": depth}])
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert f"confirmations, {depth} are needed" in said(refused)
    assert device.signatures == 0


@pytest.mark.parametrize(
    ("people", "words"),
    [
        (("ada",), "is signed by ada of the pinned approvers, 2 must"),
        (("ada", "eve"), "is signed by ada of the pinned"),
    ],
)
def test_a_recipient_that_too_few_approvers_signed_is_refused(
    scene: SignerScene, cli: Cli, device: SoftwareDevice, people: tuple[str, ...], words: str
) -> None:
    scene.handed_out_payment()
    scene.write_book(*people)
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert words in said(refused)
    assert device.signatures == 0


def test_the_trust_file_is_the_last_word_over_the_chains_file(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    scene.handed_out_payment()
    [chain] = scene.trust_said()["chains"]
    for changed, words in (
        ({"treasury": key("eve").address}, f"say {key('eve').address} (trust file)"),
        ({"genesis_hash": random_hash()}, "the chains file says genesis_hash"),
        ({"id": 1}, "chain 31337 is not in the trust file"),
        ({"tokens": [chain["tokens"][0]]}, "is not in the trust file"),
    ):
        scene.write_trust(chains=[{**chain, **changed}], policy={})
        refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED, refused.output
        assert words in said(refused)
    assert device.signatures == 0

"""R4, R18: the treasury's signer counts the approvers' signatures itself, over exactly what the device is about to sign."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from eth_account import Account
from sqlalchemy import text

from custody.policy.texts import VERB
from custody.releases import rows
from custody.releases.approvals import agreement_of, intent_of
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import sampled
from tests.integration.conftest import APPROVED_RULES
from tests.policy_files import signed
from tests.release_scene import UNITS
from tests.signer_desk import Cli, said
from tests.signer_scene import SignerScene, signer_scenes
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice


@pytest.fixture(name="scene")
def _scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[SignerScene]:
    yield from signer_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, APPROVED_RULES)


@pytest.fixture(name="payment")
def _payment(scene: SignerScene) -> UUID:
    """A payment whose release ada and bob approved, now with the signer."""
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    scene.run()
    scene.seal()
    assert scene.instruction(payment).state == "handed_out"
    return payment


def test_what_two_pinned_approvers_approved_is_signed_and_the_file_is_not_needed(
    scene: SignerScene, payment: UUID, cli: Cli, device: SoftwareDevice
) -> None:
    shown = cli("show", str(scene.instruction(payment).id))
    assert shown.exit_code == 0, shown.output
    assert "Approved by ada, bob, policy version 1" in said(shown)
    assert "address book entry 1 (wallet of the seller), signed by your approvers" in said(shown)
    assert not scene.book.exists()
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert (device.signatures, scene.paid_to(payment)) == (1, UNITS)


def _intent_again(scene: SignerScene) -> None:
    """The intent hash of the row as it is now, in the row and under every approval."""
    row_id = scene.instruction(scene.payments[0]).id
    with transaction(scene.database.engine()) as connection:
        [row] = rows.select(connection, "i.id = :id", {"id": row_id})
        digest = intent_of(row, agreement_of(row)).hash()
        connection.execute(
            text("UPDATE fleet.release_instructions SET intent_hash = :d WHERE id = :id"), {"d": digest, "id": row_id}
        )
        connection.execute(
            text("UPDATE fleet.approvals SET digest = :d WHERE subject_kind = 'release_instruction'"), {"d": digest}
        )


def _another_signed_seller(scene: SignerScene) -> None:
    """The money goes to another seller's wallet, which k approvers signed as well."""
    other = scene.market.user("seller")
    address = Account.create().address
    scene.address_book(other, address)
    scene.rewrite_bytes(scene.payments[0], address, UNITS)
    _intent_again(scene)


def _no_approvals(scene: SignerScene) -> None:
    scene.market.execute("DELETE FROM fleet.approvals WHERE subject_kind = 'release_instruction'")


def _one_approval(scene: SignerScene) -> None:
    scene.market.execute("DELETE FROM fleet.approvals WHERE subject_kind = 'release_instruction' AND person = 'bob'")


def _one_person_twice(scene: SignerScene) -> None:
    scene.market.execute(
        "UPDATE fleet.approvals SET approver = a.approver, signature = a.signature FROM fleet.approvals a "
        "WHERE a.subject_kind = 'release_instruction' AND a.person = 'ada' "
        "AND fleet.approvals.subject_kind = 'release_instruction' AND fleet.approvals.person = 'bob'"
    )


def _strangers(scene: SignerScene) -> None:
    shown = scene.approval_shown(scene.payments[0])
    for person, stranger in (("ada", "eve"), ("bob", "mallory")):
        [made] = signed(shown, stranger)
        scene.market.execute(
            "UPDATE fleet.approvals SET approver = :a, signature = :s "
            "WHERE subject_kind = 'release_instruction' AND person = :p",
            a=made.approver,
            s=bytes.fromhex(made.signature[2:]),
            p=person,
        )


def _signatures_of_something_else(scene: SignerScene) -> None:
    for person in ("ada", "bob"):
        [made] = signed(f"{VERB} amn1 something else that they signed once", person)
        scene.market.execute(
            "UPDATE fleet.approvals SET signature = :s WHERE subject_kind = 'release_instruction' AND person = :p",
            s=bytes.fromhex(made.signature[2:]),
            p=person,
        )


def _never_asked(scene: SignerScene) -> None:
    scene.market.execute(
        "UPDATE fleet.release_instructions SET intent_hash = NULL, environment = NULL, policy_version = NULL, "
        "policy_hash = NULL, fee_ceiling_wei = NULL, expires_at = NULL"
    )


def _other_policy(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.release_instructions SET policy_hash = :h", h="ab" * 32)
    _intent_again(scene)


def _expired(scene: SignerScene) -> None:
    scene.market.execute(
        "UPDATE fleet.release_instructions SET expires_at = :at",
        at=(datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0),
    )
    _intent_again(scene)


def _later_expiry(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.release_instructions SET expires_at = expires_at + interval '1 day'")
    _intent_again(scene)


def _lower_ceiling(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.release_instructions SET fee_ceiling_wei = max_total_fee_wei - 1")
    _intent_again(scene)


def _other_epoch(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.release_instructions SET release_epoch = release_epoch + 1")
    _intent_again(scene)


def _smallest_units(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.release_instructions SET raw_units = true")
    _intent_again(scene)


def _removed_from_the_book(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.address_book SET action = 'remove'")


def _forged_book(scene: SignerScene) -> None:
    scene.market.execute("UPDATE fleet.address_book SET label = 'wallet of the crook'")


@pytest.mark.parametrize(
    ("rewrite", "words"),
    sampled(
        [
            (_another_signed_seller, "nobody of the pinned approvers approved exactly this, 2 must have"),
            (_no_approvals, "nobody of the pinned approvers approved exactly this"),
            (_one_approval, "ada of the pinned approvers approved exactly this, 2 must have"),
            (_one_person_twice, "ada of the pinned approvers approved exactly this, 2 must have"),
            (_strangers, "nobody of the pinned approvers approved exactly this"),
            (_signatures_of_something_else, "nobody of the pinned approvers approved exactly this"),
            (_never_asked, "nobody was asked to approve it, and 2 persons must have"),
            (_other_policy, "it was judged by policy abababababababab, pinned is"),
            (_expired, "its approval expired"),
            (_later_expiry, "nobody of the pinned approvers approved exactly this"),
            (_lower_ceiling, "its approvers agreed to"),
            (_other_epoch, "nobody of the pinned approvers approved exactly this"),
            (_smallest_units, "nobody of the pinned approvers approved exactly this, 3 must have"),
            (_removed_from_the_book, "was taken out of the address book by entry 1"),
            (_forged_book, "is signed by nobody of the pinned approvers, 2 must have signed it"),
        ]
    ),
)
def test_a_superuser_rewrites_who_approved_what_and_the_signer_refuses(
    scene: SignerScene,
    payment: UUID,
    cli: Cli,
    device: SoftwareDevice,
    rewrite: Callable[[SignerScene], None],
    words: str,
) -> None:
    scene.rule()
    rewrite(scene)
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert words in said(refused)
    assert (device.signatures, device.screens) == (0, [])
    assert scene.instruction(payment).state == "handed_out"


def test_a_newer_policy_than_the_pinned_one_is_pinned_by_a_person_first(
    scene: SignerScene, payment: UUID, cli: Cli, device: SoftwareDevice
) -> None:
    for policy, words in (
        ({"hash": "cd" * 32}, "compare the new policy with its signatures and pin it"),
        ({"minimum_version": 2}, "it was judged by policy version 1, the least is 2"),
        ({"approvals": 3}, "ada, bob of the pinned approvers approved exactly this, 3 must have"),
    ):
        scene.write_trust(policy=policy)
        refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED, refused.output
        assert words in said(refused)
    scene.write_trust(policy={})
    assert cli("sign", "--yes").exit_code == 0
    assert device.signatures == 1

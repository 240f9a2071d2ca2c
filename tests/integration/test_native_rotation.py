"""A treasury's rotation where buyers pay the chain's own coin (R22, L8): their coins and the house's are moved, and a Safe
may be what they are moved to, or from. Books equal chain at each step, and what is left behind is stated."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from custody.chain.fence import Fence
from custody.chain.house_funding import book_funding
from custody.ledger.positions import asset_positions
from custody.policy.succession import rotate_treasury
from custody.releases import booking, drains, house_drains, step
from custody.releases.safe_treasury import SafeTreasury
from custody.safe import ReleasePayer, SafeTransaction, pins_of
from custody.settings.chains import NATIVE
from custody.store.attention import needs_attention
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.integration.test_release_crashes import STRIDE, Killed, boundary_name, dies_after, dies_before
from tests.integration.test_signer_rotation import RotatedScene, sign
from tests.integration.test_treasury_rotation import in_every_state
from tests.native_scene import NativeScene
from tests.release_scene import new_seed
from tests.rotation_scene import RULES
from tests.safe_scene import owner_of_seed
from tests.safe_world import OwnedSafe, sign_hash, state_of
from tests.signer_desk import said
from tests.token_chain import TokenChain
from workers.demo.development_chain import ETHER
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice


@dataclass
class NativeRotation(RotatedScene, NativeScene):
    """Buyers pay 3 coins; ``safes`` are the treasuries that are Safes, each of two owners who both sign."""

    contracts: SafeContracts | None = field(default=None, kw_only=True)
    safes: dict[str, OwnedSafe] = field(default_factory=dict[str, OwnedSafe])

    @property
    def ceiling(self) -> Decimal:
        """What one fee may cost: the dust that an account may be left with, whole coins."""
        return Decimal(self.settings.release_max_total_fee_wei) / ETHER

    def rotate_to_safe(self) -> str:
        """A Safe takes the active treasury's place; the old one's address."""
        assert self.contracts is not None
        before, owners = self.treasury, [owner_of_seed(new_seed()) for _ in range(2)]
        safe = OwnedSafe.make(self.chain.deployer, self.contracts, owners)
        self.safes[safe.address] = safe
        self.fund(safe.address)
        if self.rules is not None:
            rotate_treasury(self.signed.folder, 31337, pins_of(state_of(safe)), "draining", _now())
            self.sign_genesis()
        self.install(safe.address, {**self.former, before: "draining"})
        return before

    def fund(self, address: str) -> None:
        self.chain.development.set_balance(address, 10 * ETHER)
        self.fund_house(address)

    def restart(self) -> None:
        """What the verified genesis pins is known to the new process too; without approvals there is none that says it."""
        super().restart()
        if self.safes:
            payer = self.chain.development.new_account(10 * ETHER)
            self.market.execute(
                "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (31337, :a, 'release_payer')",
                a=payer.address,
            )
            house = self.market.execute("SELECT id FROM fleet.house_accounts WHERE address = :a", a=payer.address)[0].id
            self.post(
                "fleet_watcher", house, "adjustment", "funding", "gas_payer", "gas_funding", Decimal(10),
                key="native:payer", token="native", debit_address=payer.address, book_kind="house",
            )  # fmt: skip
            self.step.safes = {
                (31337, at): SafeTreasury(each.pinned(state_of(each)), ReleasePayer(bytes(payer.key)))
                for at, each in self.safes.items()
            }

    def sign_now(self, instruction: Any) -> None:
        safe = self.safes.get(instruction.treasury)
        if safe is None:
            super().sign_now(instruction)
            return
        digest = SafeTransaction.from_stored_bytes(bytes(instruction.unsigned_bytes)).hash()
        for owner in safe.owners:
            self.hand_in(instruction.id, sign_hash(owner, digest))

    def waiting(self) -> list[Any]:
        of_safes = self.market.execute(
            "SELECT * FROM fleet.release_instructions WHERE unsigned_kind = 'safe_transaction' AND state = 'handed_out'"
        )
        return [*super().waiting(), *of_safes]

    def coins_at(self, address: str) -> Decimal:
        """Whole coins that the books have at an address, whoever's."""
        with transaction(self.database.engine()) as connection:
            found = asset_positions(connection, 31337)
        return sum((each.amount for each in found if (each.token, each.address) == (NATIVE, address)), Decimal(0))

    def require_books_equal_chain(self) -> None:
        for address in self.houses:
            assert self.coins_at(address) * ETHER == self.chain.deployer.client.balance(address), address

    def watch_funding(self) -> int:
        """The watcher looks for coins that people sent to the house; how many inflows it booked."""
        watcher, client = self.database.engine("fleet_watcher"), self.chain.deployer.client
        return book_funding(watcher, client, self.pinned, Fence.take(watcher, 31337), client.head())

    def close(self) -> None:
        for each in self.safes.values():
            each.close()
        super().close()

    def _chains_file(self) -> str:
        """A Safe's owners stand beside it, active or former."""
        made = super()._chains_file()
        for at, safe in self.safes.items():
            names = ", ".join(f'"{each.address}"' for each in safe.owners)
            owners = f"safe = {{ owners = [{names}], threshold = 2 }}"
            made = made.replace(f'\ntreasury = "{at}"', f'\ntreasury = "{at}"\n{owners}')
            made = made.replace(f'{{ address = "{at}", ', f'{{ address = "{at}", {owners}, ')
        return made


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)


@pytest.fixture
def approved(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[NativeRotation]:
    made = NativeRotation(token_chain, database, services.mongo_url, mongo_database, tmp_path, RULES)
    yield made
    made.close()


@pytest.fixture
def plain(
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[NativeRotation]:
    made = NativeRotation(token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts=contracts)
    yield made
    made.close()


def test_native_payments_in_every_state_and_the_house_leave_an_account_for_another(approved: NativeRotation) -> None:
    scene = approved
    flying = in_every_state(scene)
    late = scene.payment(completed=False, swept=False)
    old = scene.rotate()
    # What was promised is paid from where it lies; what was swept late lies there too.
    scene.approve_all()
    assert [each.purpose for each in scene.sign_all()] == ["release"] * 3
    for name in ("handed_out", "ready", "asked"):
        assert scene.paid_to(flying[name]) == scene.units
    active, scene.treasury = scene.treasury, old
    scene.sweep_really(late, scene.market._indices, scene.units)
    scene.treasury = active
    scene.require_books_equal_chain()
    scene.order(old)
    assert {*scene.approve_all()} == {flying["not_due"], late}
    # While the move is promised and not yet sent, its coins are nobody's gift to the house.
    assert scene.watch_funding() == 0
    assert [each.purpose for each in scene.sign_all()] == ["drain"] * 2
    assert scene.watch_funding() == 0
    scene.require_books_equal_chain()
    for payment in (flying["not_due"], late):
        assert scene.of(payment, "drain")[0].state == "final"
        assert scene.entries(payment, "rotation") == [
            ("rotation", "in_transit", "treasury", old, old),
            ("rotation", "treasury", "in_transit", scene.treasury, old),
        ]
    # The house's own coins go last, less the fee that the old account pays for it.
    [last] = scene.house_drains(old)
    assert (last.state, last.recipient, last.token) == ("awaiting_approval", scene.treasury, NATIVE)
    assert last.amount == scene.coins_at(old) - scene.ceiling
    assert scene.approve_all() == [None]
    assert scene.watch_funding() == 0
    assert [each.purpose for each in scene.sign_all()] == ["drain"]
    assert scene.house_drains(old)[0].state == "final"
    assert 0 < scene.coins_at(old) < scene.ceiling
    assert scene.watch_funding() == 0
    scene.require_books_equal_chain()
    scene.due_now()
    assert scene.run() == 0  # the dust is not moved again
    # And what was moved is paid from the new one.
    scene.mark(old, "retired")
    scene.set_request(flying["not_due"], "completed")
    scene.approve_all()
    assert [each.treasury for each in scene.sign_all()] == [scene.treasury]
    assert scene.paid_to(flying["not_due"]) == scene.units
    scene.require_books_equal_chain()


def test_a_compromised_treasurys_coins_go_first_and_no_seller_waits_for_the_houses(plain: NativeRotation) -> None:
    scene = plain
    flying = in_every_state_unapproved(scene)
    old = scene.rotate("compromised")
    scene.run()
    [given] = scene.waiting()
    assert given.payment_id == flying["handed_out"]
    scene.sign_now(given)  # a device had it: only its nonce ends it (R1)
    moved: list[UUID] = []
    for _ in range(10):  # a move a round
        if scene.house_drains(old):
            break
        scene.due_now()
        scene.run()
        for each in scene.waiting():
            if each.treasury == old and each.payment_id is not None:
                assert each.purpose == "drain"
                moved.append(each.payment_id)
                scene.sign_now(each)
    assert {*moved} == {flying["ready"], flying["not_due"]}
    assert scene.paid_to(flying["handed_out"]) == scene.units
    scene.require_books_equal_chain()
    # The move of the house's own coins is with the old device, and who is to be paid is paid meanwhile.
    [last] = scene.house_drains(old)
    assert last.state == "handed_out"
    scene.due_now()
    scene.run()
    [release] = [each for each in scene.waiting() if each.treasury == scene.treasury]
    scene.sign_now(release)
    scene.due_now()
    scene.run()
    assert scene.paid_to(flying["ready"]) == scene.units
    assert scene.house_drains(old)[0].state == "handed_out"
    scene.sign_all()
    assert 0 < scene.coins_at(old) < scene.ceiling
    scene.require_books_equal_chain()


@ONLY_LONG
def test_an_account_is_left_for_a_safe_and_the_safe_for_an_account(plain: NativeRotation) -> None:
    scene = plain
    flying = in_every_state_unapproved(scene)
    account = scene.rotate_to_safe()
    safe = scene.treasury
    scene.sign_all()
    assert scene.paid_to(flying["ready"]) == scene.paid_to(flying["handed_out"]) == scene.units
    scene.order(account)
    scene.sign_all()
    assert [each.state for each in (*scene.of(flying["not_due"], "drain"), *scene.house_drains(account))] == [
        "final"
    ] * 2
    assert 0 < scene.coins_at(account) < scene.ceiling
    assert scene.watch_funding() == 0
    scene.require_books_equal_chain()
    # The Safe pays what came to it, by its owners.
    paid = scene.payment()
    scene.sign_all()
    assert (scene.instruction(paid).treasury, scene.paid_to(paid)) == (safe, scene.units)
    scene.require_books_equal_chain()
    # A Safe pays no fee: nothing stays.
    scene.rotate()
    scene.order(safe)
    scene.run()
    assert scene.watch_funding() == 0
    signed = scene.sign_all()
    assert [each.purpose for each in signed] == ["drain"] * 2
    assert scene.watch_funding() == 0
    assert (scene.coins_at(safe), scene.chain.deployer.client.balance(safe)) == (0, 0)
    scene.require_books_equal_chain()
    scene.set_request(flying["not_due"], "completed")
    scene.sign_all()
    assert scene.paid_to(flying["not_due"]) == scene.units
    scene.require_books_equal_chain()


@pytest.fixture(name="devices")
def _devices() -> Iterator[dict[str, SoftwareDevice]]:
    made: dict[str, SoftwareDevice] = {}
    yield made
    for device in made.values():
        device.__exit__(None, None, None)


def in_every_state_unapproved(scene: NativeRotation) -> dict[str, UUID]:
    """Where nobody approves: one is with the signer, one waits for it, one is not due."""
    found = {"handed_out": scene.payment(), "ready": scene.payment(), "not_due": scene.payment(completed=False)}
    scene.run()
    if scene.instruction(found["ready"]).state == "handed_out":
        found["handed_out"], found["ready"] = found["ready"], found["handed_out"]
    assert [scene.instruction(found[each]).state for each in ("handed_out", "ready")] == ["handed_out", "ready"]
    return found


def test_a_move_of_the_houses_coins_that_is_cancelled_leaves_them_where_they_were(plain: NativeRotation) -> None:
    scene = plain
    old = scene.rotate()
    scene.order(old)
    scene.run()
    [move] = scene.house_drains(old)
    assert move.state == "handed_out"
    before = scene.coins_at(old)
    scene.market.execute(
        "INSERT INTO fleet.release_requests (instruction_id, kind, reason, requested_by) VALUES (:id, 'cancel', 'not now', 'm')",
        id=move.id,
    )
    scene.due_now()
    scene.run()
    [row] = scene.waiting()
    assert row.purpose == "cancel"
    scene.sign_now(row)
    scene.due_now()
    scene.run()
    assert [each.state for each in scene.house_drains(old)] == ["cancelled"]  # nobody orders by giving up
    with transaction(scene.database.engine()) as connection:
        told = {each.what: each.unblocks for each in needs_attention(connection)}
    assert "treasury rotate 31337 --drain" in told[f"the drain of the house at {old} cancelled"]
    balance = scene.market.execute("SELECT * FROM fleet.ledger_balances WHERE book_id = :id", id=scene.houses[old])[0]
    assert balance.in_transit == 0
    assert before - scene.ceiling < balance.treasury_house < before  # the cancel's own fee
    scene.require_books_equal_chain()
    scene.order(old)
    scene.sign_all()
    assert [each.state for each in scene.house_drains(old)] == ["cancelled", "final"]
    scene.require_books_equal_chain()
    # One that runs out rings like any other.
    [made] = scene.market.execute(
        "INSERT INTO fleet.release_instructions (house_id, purpose, request_key, chain_id, treasury, token, recipient, "
        "amount, amount_units, release_epoch) VALUES (:h, 'drain', '9', 31337, :old, 'native', :new, 1, 1, 0) RETURNING id",
        h=scene.houses[old], old=old, new=scene.treasury,
    )  # fmt: skip
    scene.market.execute(
        "UPDATE fleet.release_instructions SET state = 'expired', held_reason = 'it ran out' WHERE id = :id", id=made.id
    )
    [alarm] = scene.market.execute("SELECT sentence FROM fleet.alarms WHERE kind = 'drain_expired'")
    assert alarm.sentence == f"the drain of the house at {old} expired: it ran out"


def test_the_houses_coins_stay_while_anything_may_need_a_fee(plain: NativeRotation) -> None:
    scene = plain
    payment = scene.payment()
    scene.run()
    old = scene.rotate()
    scene.order(old)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    assert scene.house_drains(old) == []
    scene.sign_all()
    assert [each.state for each in scene.house_drains(old)] == ["final"]
    scene.require_books_equal_chain()


BOUNDARIES: list[Any] = [
    (drains, "draft_house_drain", dies_after),
    (house_drains, "book_drain_promised", dies_after),
    (step, "reserve_drain", dies_after),
    (booking, "book_drained", dies_before),
    (booking, "book_drained", dies_after),
]


@pytest.mark.parametrize(("owner", "name", "how"), BOUNDARIES[::STRIDE], ids=boundary_name)
def test_a_death_at_any_boundary_moves_the_houses_coins_once(
    plain: NativeRotation, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Callable[..., Any]
) -> None:
    scene = plain
    old = scene.rotate()
    scene.order(old)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, how(getattr(owner, name)))
        with pytest.raises(Killed):
            scene.sign_all()
    scene.restart()
    scene.sign_all()
    assert [each.state for each in scene.house_drains(old)] == ["final"]
    assert 0 < scene.coins_at(old) < scene.ceiling
    scene.require_books_equal_chain()


@ONLY_LONG
def test_the_old_device_signs_both_moves_by_its_own_trust_file(
    plain: NativeRotation, devices: dict[str, SoftwareDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = plain
    payment = scene.payment(completed=False)
    old = scene.rotate()
    scene.order(old)
    scene.run()
    done = sign(scene, devices, old, monkeypatch)
    assert done.exit_code == 0, done.output
    scene.run()
    assert scene.of(payment, "drain")[0].state == "final"
    [last] = scene.house_drains(old)
    assert last.state == "handed_out"
    done = sign(scene, devices, old, monkeypatch)
    assert done.exit_code == 0, done.output
    assert "the house's own coins" in said(done)
    scene.due_now()
    scene.run()
    assert scene.house_drains(old)[0].state == "final"
    scene.require_books_equal_chain()

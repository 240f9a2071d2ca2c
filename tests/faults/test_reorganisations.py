"""L1, L5, L14: whatever becomes of the newest blocks, the books say what the canonical chain says, by new entries alone.

A real chain is bent at random: blocks are replaced with their transactions in the same place, elsewhere or nowhere, the
chain becomes shorter, or flips to another branch and back to the very blocks it left. The watcher is found before, between
and in the middle of its steps, and dies in some. After each turn every payment is compared with the chain's own logs.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import pytest
import typer
from sqlalchemy import Engine, event
from typer.testing import CliRunner

from custody.chain import erc20
from custody.ledger.adjustments import open_actions
from custody.settings.environment import settings
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from tests.branching_chain import BranchingChain, MinedBlock
from tests.canonical_books import CanonicalBooks
from tests.conftest import Database, fresh_database
from tests.counts import Counts, declared
from tests.integration.chain_fixtures import Died, Expected, WatchingFleet, chain_world, dying_at, units
from tests.marketplace import CHAIN_ID
from tests.sealed_ledger import keys_of, new_key, seal_to_the_end, verified
from workers.cli import chain as command
from workers.demo.contract_packages import REQUEST_NETWORK_PACKAGE, request_network_contract
from workers.embedded.services import Services

THRESHOLD: Final = 5
DEEPEST: Final = THRESHOLD + 5
OPEN: Final = 6  # the newest payments, which are still paid
CHECKED: Final = 18  # what was paid to these may still be replaced: they are compared after each turn
STATEMENTS: Final = 40  # of a tick, more or less: one of them is where the watcher is found
REORGANISATIONS_A_CHAIN: Final = declared(
    100, 7
)  # Anvil forgets the contracts' code somewhere above 500 blocks that come and go
CHAINS: Final = declared(50, 1)  # of a part
PARTS: Final = range(declared(2, 1))  # two halves may run side by side
FIRST_SEED: Final = 20_140_909  # any
TICKS: Final = 10  # until nothing is due any more


@dataclass
class Fuzz:
    """The chain, the fleet that watches it, and what was done to them in this turn."""

    fleet: WatchingFleet
    chain: BranchingChain
    random: Random
    books: CanonicalBooks
    payments: list[Expected] = field(default_factory=list[Expected])
    shared: set[UUID] = field(default_factory=set[UUID])
    story: list[str] = field(default_factory=list[str])
    done: dict[str, int] = field(default_factory=dict[str, int])
    bending: bool = False
    """A reorganisation is under way: another one on top would reach deeper than DEEPEST."""

    # One turn -------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        self.story.clear()
        self._new_payments()
        self._pay_and_mine(self.random.randint(1, 3))
        self._perhaps_watch()
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self._bend(self._perhaps_watch)
            self._perhaps_watch()
        if self.random.random() < 0.5:
            self._pay_and_mine(1)
        self._settle()
        addresses = {each.destination for each in self.payments[-CHECKED:]}
        self.check([each for each in self.payments[-2 * CHECKED :] if each.destination in addresses])

    def _new_payments(self) -> None:
        at = self.chain.tip() - DEEPEST  # a reorganisation may bring what is paid below where the chain is now
        new = [self.fleet.payment(self.random.randint(1, 50)) for _ in range(self.random.randint(1, 2))]
        if self.random.random() < 0.2:
            new.append(self.fleet.another_on(new[-1], self.random.randint(1, 50)))
            self.shared |= {each.payment for each in new[-2:]}  # only the reference tells them apart
        self.payments += new
        self.books.since |= dict.fromkeys((each.payment for each in new), at)

    def _pay_and_mine(self, blocks: int) -> None:
        nonces = self.chain.nonces()
        made = [[self._transaction(nonces) for _ in range(self.random.choice([0, 1, 1, 2, 3]))] for _ in range(blocks)]
        self.chain.mine(*made)
        self._say(f"mined {[len(each) for each in made]}")

    def _transaction(self, nonces: dict[str, int]) -> str:
        """A new transaction, or one that a reorganisation has thrown out and whose buyer sent nothing since."""
        targets = self.payments[-OPEN:]
        open_ids = {each.payment for each in targets}
        lost = [
            each
            for each in list(self.chain.signed.values())[-60:]
            if nonces[each.buyer] == each.nonce
            and all(payment in open_ids for payment, _ in self.books.parts[each.hash])
        ]
        if lost and self.random.random() < 0.4:
            again = self.random.choice(lost)
            nonces[again.buyer] += 1
            return again.hash
        buyer = self.random.choice(list(nonces))
        to = self.random.sample(targets, min(len(targets), self.random.choice([1, 1, 1, 2, 3])))
        paid = [(each, units(Decimal(each.amount) / self.random.choice([1, 1, 2, 4]))) for each in to]
        sent = self.chain.sign(buyer, nonces[buyer], *self._call(paid))
        nonces[buyer] += 1
        self.books.parts[sent] = [(each.payment, amount) for each, amount in paid]
        return sent

    def _call(self, paid: list[tuple[Expected, int]]) -> tuple[str, bytes]:
        world, token = self.fleet.world, self.fleet.token
        [(to, amount), *more] = paid
        if more:
            build = request_network_contract(world.packages[REQUEST_NETWORK_PACKAGE], "BatchPayments")
            return world.batch, build.calldata(
                "batchERC20PaymentsWithReference",
                token,
                [each.destination for each, _ in paid],
                [amount for _, amount in paid],
                [each.reference for each, _ in paid],
                [0 for _ in paid],
                world.deployer.address,
            )
        if to.payment not in self.shared and self.random.random() < 0.25:
            return token, erc20.encode_transfer(to.destination, amount)
        return world.contracts.fee_proxy, erc20.encode_transfer_from_with_reference_and_fee(
            token=token,
            recipient=to.destination,
            amount=amount,
            reference=to.reference,
            fee_amount=0,
            fee_address="0x" + "00" * 20,
        )

    # What becomes of the chain --------------------------------------------------------------------------------------

    def _bend(self, between: Callable[[], None]) -> None:
        """One reorganisation, of any depth down to none; ``between``: what may happen while it is under way."""
        depth = min(self.random.randint(0, DEEPEST), self.chain.tip() - self.chain.floor)
        before = self.chain.newest(depth) if depth else []
        how = self.random.choice([self._replace, self._replace, self._shorten, self._flip])
        self._say(f"{how.__name__[1:]} {depth}")
        self._count("reorganisations")
        self.bending = True
        if before:
            how(before, between)
        else:
            self.chain.mine([])
        self.bending = False

    def _replace(self, before: Sequence[MinedBlock], _between: Callable[[], None]) -> None:
        self.chain.replace(len(before), self.chain.rearranged(before))

    def _shorten(self, before: Sequence[MinedBlock], between: Callable[[], None]) -> None:
        kept = self.chain.rearranged(before)
        self.chain.shorten(len(before))
        for place in range(len(before) + self.random.randint(0, 2)):
            if self.random.random() < 0.2:
                between()  # the node is behind what it has shown before
            self.chain.mine([each for each, at in kept if at == place])

    def _flip(self, before: Sequence[MinedBlock], between: Callable[[], None]) -> None:
        self.chain.replace(len(before), self.chain.rearranged(before))
        between()
        self._count("reorganisations")
        self.chain.shorten(len(before))
        self.chain.mine_again(before)
        self._count("branches that came back hash by hash")

    # What the fleet does --------------------------------------------------------------------------------------------

    def _perhaps_watch(self) -> None:
        if self.random.random() < 0.5:
            how = self.random.random()
            if how < 0.1:
                self._die_in_a_tick()
            elif how < 0.25 and not self.bending:
                self._bend_in_a_tick()
            elif how < 0.4 and not self.bending:
                self._flip_around_a_tick()
            else:
                self.tick()
        if self.random.random() < 0.4:
            self.hold()

    def tick(self) -> None:
        """One pass of the watcher, which stops the chain exactly when what it had scanned is replaced too deep (L14)."""
        was_paused, depth = self.paused(), self._replaced_depth()
        self._say("tick")
        self.fleet.block_watch.tick(100)
        assert (self.paused() is not None) == (was_paused is not None or depth > THRESHOLD), self.told(depth)
        if was_paused is None and depth > THRESHOLD:
            self._count("pauses")

    def _die_in_a_tick(self) -> None:
        number = self.random.randint(1, STATEMENTS)
        self._say(f"dies at statement {number}")
        try:
            with dying_at(self.fleet.watcher, number):
                self.fleet.block_watch.tick(100)
        except Died:
            self._count("deaths of the watcher")
            self.fleet.watch_of = None  # the next one takes the chain

    def _bend_in_a_tick(self) -> None:
        number = self.random.randint(1, STATEMENTS)
        self._say(f"at statement {number}:")
        with meanwhile(self.fleet.watcher, number, lambda: self._bend(lambda: None)) as sent:
            self.fleet.block_watch.tick(100)
        if sent[0] >= number:
            self._count("reorganisations in the middle of a tick")

    def _flip_around_a_tick(self) -> None:
        """The watcher scans one branch, finds another one where it looks for a transaction, and then the first one again."""
        number = self.random.randint(1, STATEMENTS)
        depth = min(self.random.randint(1, DEEPEST), self.chain.tip() - self.chain.floor)
        before = self.chain.newest(depth) if depth else []
        self._say(f"flip {depth} from statement {number} to the end")
        with meanwhile(self.fleet.watcher, number, lambda: self._replace(before, lambda: None)) as sent:
            self.fleet.block_watch.tick(100)
        if sent[0] >= number:
            self._count("reorganisations", 2)
            self._count("reorganisations in the middle of a tick")
            self.chain.shorten(depth)
            self.chain.mine_again(before)
            self._count("branches that came back hash by hash")

    def hold(self) -> None:
        """Judge what is deep; nothing while the chain is paused."""
        paused = self.paused()
        self._say("hold" if paused is None else "hold while paused")
        holds = self._holds() if paused is not None else []
        judged = self.fleet.hold()
        if paused is not None:
            assert judged == 0, self.told(judged)
            assert self._holds() == holds, self.told(holds)
            self._count("holds that a pause kept back")

    def _settle(self) -> None:
        for _ in range(TICKS):
            self.tick()
            if not self._due_looks():
                break
        else:
            pytest.fail(self.told(f"looks are still due after {TICKS} ticks"))
        if self.paused() is not None:
            self.hold()
            if self.random.random() < 0.3:
                return  # people take their time
            go_on(self.fleet)
            self._count("times that two persons went on")
        while self.fleet.hold():
            self._count("rounds of holding")
        deepest = self.chain.tip() - THRESHOLD + 1
        [row] = self.fleet.market.execute(
            "SELECT count(*) AS n FROM fleet.chain_facts WHERE live AND judged_at IS NULL AND block_number <= :deepest",
            deepest=deepest,
        )
        assert row.n == 0, self.told(f"{row.n} deep transfers are not judged")

    def paused(self) -> str | None:
        rows = self.fleet.market.execute("SELECT paused_reason FROM fleet.chain_cursors")
        return rows[0].paused_reason if rows else None

    def _replaced_depth(self) -> int:
        """How many of the blocks that the watcher has scanned are no longer there; 0 while the chain is shorter."""
        rows = self.fleet.market.execute(
            "SELECT number, hash FROM fleet.chain_blocks ORDER BY number DESC LIMIT :limit", limit=4 * DEEPEST
        )
        there = {each.number: each.hash for each in self.chain.newest(6 * DEEPEST)}
        if not rows or rows[0].number not in there:
            return 0
        return next((place for place, row in enumerate(rows) if there.get(row.number) == row.hash), len(rows))

    def _due_looks(self) -> int:
        return self.fleet.market.execute(
            "SELECT count(*) AS n FROM fleet.chain_looks WHERE state = 'due' AND run_after <= clock_timestamp()"
        )[0].n

    def _holds(self) -> list[Any]:
        return self.fleet.market.execute(
            "SELECT idempotency_key FROM public.funds_ledger_entries WHERE entry_type = 'hold' AND book_id = ANY(:ids) "
            "ORDER BY idempotency_key",
            ids=[each.payment for each in self.payments[-CHECKED:]],
        )

    def check(self, payments: Sequence[Expected]) -> None:
        """See ``CanonicalBooks.check`` for what must be true."""
        self.books.check(payments, self.told)
        self._count("payments compared with the chain", len(payments))

    def told(self, what: object) -> str:
        return f"{what}; {' | '.join(self.story)}"

    def _say(self, what: str) -> None:
        self.story.append(what)

    def _count(self, what: str, number: int = 1) -> None:
        self.done[what] = self.done.get(what, 0) + number


@contextmanager
def meanwhile(engine: Engine, statement_number: int, action: Callable[[], None]) -> Generator[list[int]]:
    """Do something just before the engine's n-th SQL statement. Yields a list with the count."""
    sent = [0]

    def before(*_arguments: object) -> None:
        sent[0] += 1
        if sent[0] == statement_number:
            action()

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", before)


def go_on(fleet: WatchingFleet) -> None:
    """What people do after they have seen what became of the payments (R10): one proposes, another one agrees."""
    operator = fleet.database.engine("fleet_operator")
    assert (
        fleet_chain(fleet, "go-on", str(CHAIN_ID), "--by", "mina", "--reason", "the payments were looked at").exit_code
        == 0
    )
    with transaction(operator) as connection:
        [action] = open_actions(connection, "go_on")
    agree = ("agree", str(action.id), "--hash", action.hash)
    # Who proposed it is not the second person.
    assert fleet_chain(fleet, *agree, "--by", "mina").exit_code == 2
    said = fleet_chain(fleet, *agree, "--by", "omid")
    assert said.exit_code == 0, said.output
    assert fleet.market.execute("SELECT paused_reason FROM fleet.chain_cursors")[0].paused_reason is None
    assert (
        fleet.market.execute("SELECT ended_by FROM fleet.operator_actions WHERE id = :id", id=action.id)[0].ended_by
        == "omid"
    )


def fleet_chain(fleet: WatchingFleet, *arguments: str) -> Any:
    """The command ``fleet chain``, with the operator's own role."""
    app = typer.Typer()
    command.register(app)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", fleet.database.url("fleet_operator"))
        settings.cache_clear()
        try:
            return CliRunner().invoke(app, ["chain", *arguments])
        finally:
            settings.cache_clear()


@contextmanager
def fuzzing(database: Database, seed: int) -> Generator[Fuzz]:
    """A chain of its own and the fleet that watches it. What fails is told, and fails again with the same seed."""
    with chain_world() as world:
        fleet = WatchingFleet(world, database, world.contracts.usdt)
        with transaction(database.engine("fleet_operator")) as connection:
            set_threshold(connection, CHAIN_ID, THRESHOLD, floor_blocks=1, by="a person", reason="reorganisations")
        random = Random(seed)
        chain = BranchingChain(world, fleet.token, random)
        yield Fuzz(fleet, chain, random, CanonicalBooks(fleet, chain))
        if fleet.watch_of is not None:
            fleet.watch_of.panel.close()


@pytest.fixture(scope="module")
def fuzz(module_database: Database) -> Iterator[Fuzz]:
    with fuzzing(module_database, FIRST_SEED) as found:
        yield found


@pytest.mark.parametrize("part", PARTS)
def test_the_books_are_the_canonical_chain_whatever_is_replaced(
    services: Services, template_database: str, role_passwords: Path, counts: Counts, part: int
) -> None:
    """L1, L2, L12, L14, and L7's holds: see ``CanonicalBooks.check`` for what is compared."""
    done: dict[str, int] = {}
    first = FIRST_SEED + part * CHAINS
    for seed in range(first, first + CHAINS):
        with (
            fresh_database(services.database_admin_url, template_database, role_passwords) as database,
            fuzzing(database, seed) as fuzz,
        ):
            while fuzz.done.get("reorganisations", 0) < REORGANISATIONS_A_CHAIN:
                fuzz.turn()
            fuzz.check(fuzz.payments)
            assert fuzz.fleet.books_equal_chain()
            key = new_key()
            seal_to_the_end(database, key)
            assert verified(database, keys_of(key)).problems == []
            for what, number in fuzz.done.items():
                done[what] = done.get(what, 0) + number
    for what, number in sorted(done.items()):
        counts(what, number)
    counts("mismatches between books and chain", 0)


def test_a_branch_that_comes_and_goes_between_two_scans_leaves_nothing_behind(fuzz: Fuzz) -> None:
    """L1, L12: whichever statement of the watcher it meets. What was scanned is what a look is answered from."""
    fuzz.payments.append(fuzz.fleet.payment(100))
    fuzz.books.since[fuzz.payments[-1].payment] = fuzz.chain.tip()
    [buyer, *_], nonces = fuzz.chain.buyers, fuzz.chain.nonces()
    sent = fuzz.chain.sign(buyer, nonces[buyer], *fuzz._call([(fuzz.payments[-1], units(100))]))
    fuzz.books.parts[sent] = [(fuzz.payments[-1].payment, units(100))]
    fuzz.chain.mine([sent], [])
    fuzz.tick()
    before = fuzz.chain.newest(2)
    for number in range(1, STATEMENTS):
        fuzz.fleet.ask(sent)
        with meanwhile(fuzz.fleet.watcher, number, lambda: fuzz.chain.replace(2, [(sent, 1)])):
            fuzz.fleet.block_watch.tick(100)
        fuzz.chain.shorten(2)
        fuzz.chain.mine_again(before)
        fuzz.tick()
        fuzz.story[:] = [f"at statement {number}"]
        fuzz.check(fuzz.payments[-1:])

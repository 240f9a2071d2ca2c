"""Gas payers' lanes on a chain that loses, delays, refuses, replaces and reorganises, with a worker that dies anywhere.

Real PostgreSQL, the real keys agent's vault, lanes as the sweeps worker runs them; the chain is tests/nonce_chain.py. The same
on a real node: test_payer_lanes.py.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from eth_account import Account
from sqlalchemy import Connection, event

from custody.chain import Receipt, to_amount
from custody.chain.lanes import LaneBlocked, LaneTransaction, mark_final, unfinished
from custody.chain.signed_bytes import read_signed
from custody.destinations.derivation import account_xpub_from_seed, address_at, seed_from_phrase
from custody.destinations.keys.answering import answer
from custody.destinations.keys.client import KeysAgent
from custody.destinations.keys.messages import Reply, Request, read_reply
from custody.destinations.keys.vault import KeyVault
from custody.destinations.sweeps.fees import GasTerms
from custody.destinations.sweeps.lane_tending import SUSPECT_BLOCKS, tend
from custody.destinations.sweeps.payers import close_payers, open_payers
from custody.destinations.sweeps.signing import DepositKey, SweepSigner
from custody.destinations.sweeps.strategy import Depth, SweepRound, in_transaction
from custody.ledger import Entry, post
from custody.ledger.house import ensure_house_account
from custody.settings.chains import Chains
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import Counts, declared
from tests.keys_agent import new_phrase, vault_of
from tests.marketplace import Marketplace
from tests.nonce_chain import GAS, NonceChain

CHAIN = 31337
STEPS = declared(10_000, 60)
CALM_EVERY = 50
DEPTH = 5  # deeper than any reorganisation here: what is final stays
SEED = 20_261_127
CHEAPEST = 10**8  # base fee, wei per gas: every bid that was ever made pays it


class Crash(Exception):
    """The worker dies here."""


class LocalAgent(KeysAgent):
    """The agent's own answers, without its process: test_keys_agent.py has that."""

    def __init__(self, vault: KeyVault) -> None:
        super().__init__(Path("none"))
        self._vault = vault

    def _ask(self, request: Request) -> Reply:
        from custody.destinations.keys.client import SigningPostponed
        from custody.destinations.keys.shapes import ShapeRefused

        reply = read_reply(answer(self._vault, request.model_dump_json().encode()).model_dump_json().encode())
        if reply.refused is not None:
            raise ShapeRefused(reply.refused)
        if reply.later is not None:
            raise SigningPostponed(reply.later)
        return reply


class Lanes:
    """Two payers' lanes in a database of their own, and a worker that may die at any statement."""

    def __init__(self, database: Database, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.database = database
        self.engine = database.engine("fleet_sweeps")
        self.market = Marketplace(database, chain_id=CHAIN)
        self.chain = NonceChain(CHAIN, self.random)
        keys = [self.random.randbytes(32) for _ in range(2)]
        self.payers = [Account.from_key(key).address for key in keys]
        phrase = new_phrase()
        self.xpub = account_xpub_from_seed(seed_from_phrase(phrase))
        chains = Chains.model_validate(
            {
                "chains": [
                    {
                        "id": CHAIN,
                        "name": "model",
                        "genesis_hash": "0x" + "11" * 32,
                        "rpc_urls": ["http://127.0.0.1:1"],
                        "treasury": Account.create().address,
                        "fee_proxy": Account.create().address,
                        "tokens": [{"symbol": "ETH", "address": "native", "decimals": 18}],
                        "gas": {"replace_after_blocks": 2},
                    }
                ]
            }
        )
        self.settings = chains.chains[0]
        vault = vault_of(phrase, keys[0], chains, folder / "journal", 10**24, keys[1:])
        self.signer = SweepSigner(LocalAgent(vault))
        self.signer.meet()
        for payer in self.payers:
            with transaction(database.engine("fleet_operator")) as connection:
                house = ensure_house_account(connection, CHAIN, payer, "gas_payer")
            with transaction(database.engine("fleet_watcher")) as connection:
                post(connection, _funding(house, payer, self.chain.balance_wei))
        self.indices: dict[UUID, int] = {}
        self.pointless: set[UUID] = set()
        self.places = self.dies_at = 0
        event.listen(self.engine, "before_cursor_execute", self._statement)
        event.listen(self.engine, "commit", self._commit)
        self.sent: Counter[str] = Counter()

    # IntentSigner ------------------------------------------------------------------------------------------------

    def gas_limit(self, work: SweepRound, intent: LaneTransaction) -> int:
        return GAS

    def sign(self, work: SweepRound, intent: LaneTransaction, terms: GasTerms) -> bytes:
        key = DepositKey(self.signer.accounts[0], self.indices[intent.subject_id])
        raw = self.signer.sign_top_up(intent, of=key, treasury=self.settings.treasury, gas=terms)
        self._place()
        return raw

    def why_pointless(self, connection: Connection, intent: LaneTransaction) -> str | None:
        return "pointless: the test says so" if intent.subject_id in self.pointless else None

    # One round ---------------------------------------------------------------------------------------------------

    def round(self, *, wanted: int, dies_at: int = 0) -> bool:
        """What the sweeps worker does with its lanes, and ``wanted`` new intents; False if it died on the way."""
        self.places, self.dies_at = 0, dies_at
        try:
            self._round(wanted)
        except Crash:
            self.dies_at = 0
            self.market.execute("UPDATE fleet.nonce_lanes SET lease_until = NULL")  # its lease has ended
            return False
        finally:
            self.dies_at = 0
        return True

    def _round(self, wanted: int) -> None:
        payers = open_payers(
            lambda take: in_transaction(self.engine, take), cast(Any, self), CHAIN, self.payers, in_flight_limit=16
        )
        work = SweepRound(
            engine=self.engine,
            client=cast(Any, self),
            chain=self.settings,
            signer=self.signer,
            depth=Depth(DEPTH, None),
            agreed_number=self.chain.head().number,
            payers=payers,
            signers={"top_up": self},
            payer_float_maximum_wei=10**30,
        )
        for lane in payers.lanes:
            work.sending[lane.address] = tend(work, lane)
        for _ in range(wanted):
            lane = payers.pick(10**15)
            if isinstance(lane, str):
                continue
            subject = uuid4()
            self.indices[subject] = len(self.indices)
            recipient = address_at(self.xpub, self.indices[subject])
            try:
                intent = work.apply(
                    lambda connection, lane=lane, subject=subject, recipient=recipient: lane.take(
                        connection, purpose="top_up", subject_id=subject, recipient=recipient, value_wei=1
                    )
                )
            except LaneBlocked:
                continue
            lane.promise(10**15)
            work.sending[lane.address].begin(intent)
        self._settle(work)
        work.apply(lambda connection: close_payers(connection, payers))

    def _settle(self, work: SweepRound) -> None:
        """What a strategy does with what it sent: ended once it is deep."""
        for payer in self.payers:
            rows = work.apply(lambda connection, payer=payer: unfinished(connection, CHAIN, payer))
            seen = self.chain.receipts_and_headers([each for row in rows for each in row.hashes])
            for row in rows:
                receipt: Receipt | None = next((found for h in row.hashes if (found := seen.canonical(h))), None)
                if receipt is None or receipt.transaction_hash in row.cancels:
                    continue
                if self.chain.head().number - receipt.block_number + 1 >= DEPTH:
                    work.apply(
                        lambda connection, row=row, receipt=receipt: mark_final(
                            connection,
                            row.id,
                            block_number=receipt.block_number,
                            block_hash=receipt.block_hash,
                            succeeded=True,
                            fee_wei=receipt.fee,
                            transaction_hash=receipt.transaction_hash,
                        )
                    )

    # The chain's client, in which a worker may die as well ---------------------------------------------------------

    def send_raw(self, raw: bytes) -> str:
        self._place()
        self.sent[read_signed(raw).hash] += 1
        found = self.chain.send_raw(raw)
        self._place()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chain, name)

    def _statement(self, _c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("INSERT", "UPDATE")) or "post_entry" in statement:
            self._place()

    def _commit(self, _: Any) -> None:
        self._place()

    def _place(self) -> None:
        self.places += 1
        if self.places == self.dies_at:
            raise Crash(f"place {self.dies_at}")

    # What must hold ----------------------------------------------------------------------------------------------

    def open_subjects(self) -> Sequence[UUID]:
        rows = self.market.execute(
            "SELECT subject_id FROM fleet.chain_transactions WHERE state IN ('intent', 'signed', 'broadcast') "
            "AND purpose = 'top_up' ORDER BY nonce, sender"
        )
        return [row.subject_id for row in rows]

    def assert_one_intent_a_nonce(self) -> None:
        """Every signature that was ever made, and every mined one, is its own nonce's intent or its cancel."""
        rows = self.market.execute(
            "SELECT t.*, s.signed_bytes AS raw, s.kind FROM fleet.chain_transactions t "
            "JOIN fleet.nonce_signatures s ON s.transaction_id = t.id"
        )
        kept: dict[tuple[str, int], set[str]] = {}
        for row in rows:
            signed = read_signed(bytes(row.raw))
            assert (signed.sender, signed.nonce) == (row.sender, row.nonce)
            expected = (row.sender, 0) if row.kind == "cancel" else (row.recipient, int(row.value_wei))
            assert (signed.to, signed.value) == expected
            kept.setdefault((row.sender, row.nonce), set()).add(signed.hash)
        assert set(self.sent) <= {each for hashes in kept.values() for each in hashes}  # stored before it was sent
        paid: Counter[str] = Counter()
        for each in self.chain.mined():
            assert each.hash in kept[each.sender, each.nonce]
            if each.to != each.sender:
                paid[each.to] += 1
        assert not paid or max(paid.values()) == 1  # each intent has a nonce of its own: none is done twice
        assert (
            self.market.execute("SELECT count(*) AS n FROM fleet.nonce_lanes WHERE frozen_reason IS NOT NULL")[0].n == 0
        )

    def calm(self) -> None:
        """The network behaves again: within two blocks every gap is closed and every nonce is spent."""
        faults, self.chain.faults = self.chain.faults, False
        self.chain.base_fee = CHEAPEST
        assert self.round(wanted=0)
        waits = self.market.execute(
            "SELECT t.sender, t.nonce, t.hashes FROM fleet.chain_transactions t "
            "WHERE t.state IN ('intent', 'signed', 'broadcast') ORDER BY t.sender, t.nonce"
        )
        assert all(self.chain.known(row.hashes) for row in waits), "a gap is left after one look"
        for _ in range(2):
            self.chain.mine(1_000)
            assert self.round(wanted=0)
        for lane in self.market.execute("SELECT address, next_nonce FROM fleet.nonce_lanes"):
            assert self.chain.nonce(lane.address) == lane.next_nonce, "the lane is jammed"
        for _ in range(DEPTH):
            self.chain.mine(0)
        assert self.round(wanted=0)
        assert self.open_subjects() == []
        self.assert_one_intent_a_nonce()
        self.chain.faults = faults


def _funding(house: UUID, payer: str, wei: int) -> Entry:
    return Entry(
        book_kind="house",
        book_id=house,
        chain_id=CHAIN,
        token="native",
        entry_type="adjustment",
        reason="funding",
        debit="gas_payer",
        credit="gas_funding",
        amount=to_amount(wei, 18),
        key=f"funding:{payer}",
        debit_address=payer,
    )


def step(lanes: Lanes) -> str:
    """One thing that happens, to the chain or to the worker."""
    random, chain = lanes.random, lanes.chain
    what = random.choices(
        ["round", "death", "block", "drop", "arrive", "reorg", "pointless", "fees"], [26, 16, 30, 6, 6, 5, 6, 5]
    )[0]
    if what == "round":
        assert lanes.round(wanted=random.randrange(4))
    elif what == "death" and lanes.round(wanted=random.randrange(1, 4), dies_at=random.randrange(1, 60)):
        return "round"  # it was done before the place where it would have died
    elif what == "block":
        chain.mine(random.choice([0, 0, 1, 2, 3, 8]))
    elif what == "drop":
        chain.drop()
    elif what == "arrive":
        chain.arrive()
    elif what == "reorg":
        chain.reorganise(random.randrange(1, DEPTH - 1))
    elif what == "pointless" and (subjects := lanes.open_subjects()):
        lanes.pointless.add(random.choice(list(subjects)))
    elif what == "fees":
        chain.base_fee = random.choice([CHEAPEST, 10**9, 4 * 10**9, 20 * 10**9])
    return what


@pytest.mark.timeout(declared(3_600, 240))
def test_no_jam_no_gap_and_no_nonce_of_two_intents(database: Database, tmp_path: Path, counts: Counts):
    """R1, L15: whatever is lost, late, refused, replaced or reorganised, and wherever the worker dies."""
    lanes = Lanes(database, tmp_path, SEED)
    happened: Counter[str] = Counter()
    for number in range(1, STEPS + 1):
        happened[step(lanes)] += 1
        if number % CALM_EVERY == 0:
            lanes.calm()
    kinds = {
        row.kind: row.n
        for row in lanes.market.execute("SELECT kind, count(*) AS n FROM fleet.nonce_signatures GROUP BY kind")
    }
    # It did all of it: a fuzz that replaces and cancels nothing proves nothing.
    assert min(happened[each] for each in ("round", "death", "block", "drop", "arrive", "reorg")) > 0
    assert min(kinds["intent"], kinds["bump"], kinds["cancel"]) > 0
    counts("random steps of nonce lanes", STEPS)
    counts("workers that died inside a round", happened["death"])
    counts("nonces taken, all spent", kinds["intent"])
    counts("replacements", kinds["bump"] + kinds["cancel"])


def test_a_key_that_is_used_elsewhere_freezes_its_own_lane_alone(database: Database, tmp_path: Path):
    lanes = Lanes(database, tmp_path, SEED + 1)
    lanes.chain.faults = False
    assert lanes.round(wanted=4)
    thief, other = lanes.payers
    stolen = lanes.chain.pool.pop((thief, 0))
    foreign = _foreign(lanes, thief, stolen.nonce)
    lanes.chain.pool[thief, 0] = foreign
    lanes.chain.mine(10)
    for _ in range(SUSPECT_BLOCKS + 1):
        assert lanes.round(wanted=2)
        lanes.chain.mine(10)
    frozen = {row.address: row.frozen_reason for row in lanes.market.execute("SELECT * FROM fleet.nonce_lanes")}
    assert frozen[other] is None
    assert foreign.hash in (frozen[thief] or "")
    [dead] = lanes.market.execute("SELECT * FROM fleet.dead_work WHERE subject_kind = 'nonce_lane'")
    assert dead.subject_id == f"{CHAIN}:{thief}"
    assert "fleet payers thaw" in dead.unblocks
    before = lanes.chain.nonce(thief)
    assert lanes.round(wanted=6)
    lanes.chain.mine(20)
    assert lanes.chain.nonce(thief) == before  # nothing more is sent from it, and the other one goes on
    assert lanes.chain.nonce(other) > 0


def _foreign(lanes: Lanes, sender: str, nonce: int) -> Any:
    """Another transaction of the same key: made by hand, since no fleet process can."""
    key = next(
        secret.get_secret_value()
        for address, secret in lanes.signer._agent._vault._payer_keys.items()  # type: ignore[attr-defined]
        if address == sender
    )
    fields: Any = {
        "type": 2,
        "chainId": CHAIN,
        "nonce": nonce,
        "to": bytes(20),
        "value": 5,
        "gas": GAS,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 10**9,
    }
    return read_signed(bytes(Account.from_key(key).sign_transaction(fields).raw_transaction))

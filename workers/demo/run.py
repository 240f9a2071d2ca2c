"""``fleet demo``: real payments on a real EVM chain, through every process of the fleet, until the books are compared."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from sqlalchemy import Engine, text

from custody.chain import ChainClient, connections
from custody.destinations.derivation import account_xpub_from_seed, seed_from_phrase
from custody.ledger.reports.escrow import AssetAt, Proof, prove_escrow, whole
from custody.settings.chains import Chain
from custody.settings.thresholds import newest_threshold, set_threshold
from custody.store.engine import open_engine, transaction
from custody.store.mongo import open_mongo
from workers.demo.buyers import DELIVERIES_PER_PAYMENT, Paid, pay, send_webhooks
from workers.demo.fleet import DevelopmentFleet
from workers.demo.founding import APPROVERS, ENVIRONMENT, K, approver_seed
from workers.demo.marketplace import DemoPayment, confirm_delivery, open_payments
from workers.demo.provision import DEVELOPMENT_THRESHOLD_BLOCKS, Provisioned
from workers.demo.safe_treasury import OWNERS, THRESHOLD, owner_seed
from workers.demo.software_devices import end, software_device
from workers.demo.stages import Pace, watch
from workers.demo.trust_file import write_trust_file
from workers.embedded.trezor_device import Model

PAYMENTS_DEFAULT: Final = 6
PAYMENTS_MAXIMUM: Final = 1_000
_SIGNER_WAIT_SECONDS: Final = 600  # between instructions; the demo ends it long before
_REST_ATTEMPTS: Final = 40  # x the pace's poll: ten blocks of the demo's chain

Report = Callable[[str, int], None]
"""``report(stage, count)``: how many payments have reached a stage."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo did. ``entries`` counts by ledger entry type, over this run's payments."""

    payments: int
    released: int
    seconds: float
    entries: Mapping[str, int]
    deliveries: int
    block: int
    books: tuple[AssetAt, ...]
    in_balance: bool
    """Every coin is explained, and the two sides of the books are equal."""
    addresses: Mapping[str, str]
    flower_url: str
    payment_ids: tuple[str, ...]

    @property
    def books_equal_chain(self) -> bool:
        """Stricter than a proof of escrow: nothing is in transit any more either."""
        return self.in_balance and bool(self.books) and all(row.equal for row in self.books)

    @property
    def succeeded(self) -> bool:
        return self.released == self.payments and self.books_equal_chain

    def as_json(self) -> dict[str, Any]:
        return {
            "payments": self.payments,
            "released": self.released,
            "seconds": round(self.seconds, 1),
            "entries": dict(self.entries),
            "deliveries": self.deliveries,
            "books_equal_chain": self.books_equal_chain,
            "block": self.block,
            "books": [
                {
                    "token": row.symbol,
                    "address": row.address,
                    "booked": f"{whole(row.booked, row.decimals):f}",
                    "found": f"{whole(row.found, row.decimals):f}",
                    "equal": row.equal,
                }
                for row in self.books
            ],
            "addresses": dict(self.addresses),
            "flower_url": self.flower_url,
            "payment_ids": list(self.payment_ids),
        }


@dataclass
class Demo:
    """One run over a fleet that is up."""

    running: DevelopmentFleet
    report: Report
    pace: Pace = field(default_factory=Pace)

    @property
    def fleet(self) -> Provisioned:
        return self.running.provisioned

    def run(self, payments: int, *, webhooks: bool = True) -> DemoResult:
        """Take ``payments`` payments from webhook to released. Raises DemoStalled, or what a server says.

        Without ``webhooks`` nobody tells the fleet: the watcher finds every payment by itself.
        """
        started = time.monotonic()
        admin = open_engine(self.fleet.services.database_admin_url, application="fleet-demo")
        chain = self.fleet.chains.chain(self.fleet.contracts.chain_id)
        client = ChainClient(connections(chain)[0])
        mongo = open_mongo(self.fleet.services.mongo_url, application="fleet-demo")
        backend = mongo[os.environ.get("MONGO_DATABASE", "amanat")]
        try:
            self._set_threshold(admin)
            opened = open_payments(
                admin, backend, chain_id=chain.id, orders=self._orders(payments), environment=ENVIRONMENT
            )
            self.report("opened", len(opened))
            with self._people():
                deliveries = self._take(admin, opened, webhooks=webhooks)
                ids = [payment.id for payment in opened]
                self._watch(admin, opened, "held")
                confirm_delivery(admin, backend, opened)
                self._watch(admin, opened, "released")
            self._watch(admin, opened, "mirrored")
            proof = self._proof_at_rest(admin, client, chain)
            return DemoResult(
                payments=payments,
                released=self._released(admin, ids),
                seconds=time.monotonic() - started,
                entries=self._entries(admin, ids),
                deliveries=deliveries,
                block=proof.block,
                books=tuple(proof.assets),
                in_balance=proof.holds,
                addresses={
                    "treasury": self.fleet.treasury,
                    "gas_payer": self.fleet.gas_payer,
                    **({} if self.fleet.release_payer is None else {"release_payer": self.fleet.release_payer}),
                },
                flower_url=self.running.flower_url,
                payment_ids=tuple(str(item) for item in ids),
            )
        finally:
            mongo.close()
            client.close()
            admin.dispose()

    def _proof_at_rest(self, admin: Engine, client: ChainClient, chain: Chain) -> Proof:
        """The proof once the last coins have arrived: the watcher judges the newest blocks within moments."""
        for _ in range(_REST_ATTEMPTS):
            proof = prove_escrow(admin, client, chain)
            if not proof.holds or not proof.in_transit:
                return proof
            time.sleep(self.pace.poll_seconds)
        return prove_escrow(admin, client, chain)

    def _orders(self, payments: int) -> list[tuple[str, str, Decimal, str]]:
        """Tokens in turn, odd amounts down to the smallest unit, a fresh wallet a seller."""
        contracts = self.fleet.contracts
        tokens = ((contracts.usdc, "USDC"), (contracts.usdt, "USDT"))
        return [
            (
                *tokens[index % len(tokens)],
                Decimal(10_000_000 + secrets.randbelow(990_000_000)).scaleb(-6),
                Account.create().address,
            )
            for index in range(payments)
        ]

    def _take(self, admin: Engine, opened: list[DemoPayment], *, webhooks: bool) -> int:
        deployer = Account.from_key(self.fleet.secrets.deployer_key.read_text(encoding="utf-8").strip())
        paid: list[Paid] = pay(
            self.fleet.services.chain_rpc_url,
            self.fleet.contracts,
            deployer,
            opened,
            lambda count: self.report("paid", count),
        )
        if not webhooks:
            return 0
        webhook_secret = self.fleet.secrets.webhook.read_text(encoding="utf-8").strip()
        return send_webhooks(
            f"{self.running.ingress_url}/webhooks/request-network",
            webhook_secret,
            paid,
            lambda count: self.report("announced", count // DELIVERIES_PER_PAYMENT),
        )

    def _watch(self, admin: Engine, opened: list[DemoPayment], until: str) -> None:
        def report(counts: Mapping[str, int]) -> None:
            for stage, count in counts.items():
                self.report(stage, count)

        watch(admin, [payment.id for payment in opened], until, report, time.sleep, self.pace)

    def _set_threshold(self, admin: Engine) -> None:
        with transaction(admin) as connection:
            if newest_threshold(connection, self.fleet.contracts.chain_id) is None:
                set_threshold(
                    connection,
                    self.fleet.contracts.chain_id,
                    DEVELOPMENT_THRESHOLD_BLOCKS,
                    floor_blocks=1,
                    by="fleet demo",
                    reason="so that waiting for depth is seen",
                )

    @contextmanager
    def _people(self) -> Generator[None]:
        """Two of three approvers, and the treasury's signer or two owners of the Safe.

        Each has a device and a process without a database URL.
        """
        state_dir, secrets_dir = self.fleet.services.state_dir, self.fleet.secrets.directory
        with ExitStack() as running:
            if self.fleet.release_payer is not None:
                for person in OWNERS[:THRESHOLD]:
                    seed = owner_seed(secrets_dir, person)
                    path = running.enter_context(software_device(state_dir, seed, person, Model.SAFE_5))
                    running.enter_context(self._signer(person, path, "sign", "--all", trust=True))
            else:
                treasury = running.enter_context(software_device(state_dir, self.fleet.secrets.device_seed, "treasury"))
                running.enter_context(self._signer("treasury", treasury, "sign", "--all", trust=True))
            for person in APPROVERS[:K]:
                path = running.enter_context(software_device(state_dir, approver_seed(secrets_dir, person), person))
                running.enter_context(self._signer(person, path, "approve", "--all", "--as", person))
            yield

    def _trust_file(self, home: Path) -> Path:
        seed = seed_from_phrase(self.fleet.secrets.deposit_seed.read_text(encoding="utf-8"))
        write_trust_file(home / "trust.toml", self.fleet, account_xpub_from_seed(seed))
        return home / "trust.toml"

    @contextmanager
    def _signer(self, name: str, device_path: str, *command: str, trust: bool = False) -> Generator[None]:
        """``fleet signer``, as on a person's own machine: its own copy of the signed files, no database.

        With ``trust`` also a trust file of its own.
        """
        home = self.fleet.services.state_dir / "people" / name
        shutil.copytree(self.fleet.policy_dir, home / "policy", dirs_exist_ok=True)
        environment = {
            "PATH": os.defpath,
            "HOME": os.environ.get("HOME", "/"),
            "FLEET_STATE_DIR": str(home),
            "SIGNER_API_URL": self.running.signer_api_url,
            "CHAINS_FILE": str(self.fleet.chains_file),
            "POLICY_DIR": str(home / "policy"),
            "GENESIS_HASH": self.fleet.genesis_hash,
            "TREZOR_PATH": device_path,
            "SIGNER_NAME": name,
            **({"SIGNER_TRUST_FILE": str(self._trust_file(home))} if trust else {}),
        }
        arguments = (
            sys.executable,
            "-m",
            "workers.cli",
            "signer",
            *command,
            "--yes",
            "--wait",
            str(_SIGNER_WAIT_SECONDS),
        )
        with (self.fleet.services.state_dir / "logs" / f"signer_{name}.log").open("ab") as log:
            process = subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            end(process)

    def _released(self, admin: Engine, ids: list[Any]) -> int:
        with admin.connect() as connection:
            return connection.execute(
                text(
                    "SELECT count(*) FROM public.payments p "
                    "LEFT JOIN public.purchase_requests r ON r.id = p.purchase_request_id "
                    "WHERE p.id = ANY(:ids) AND p.escrow_state = 'released' AND r.status = 'seller_paid'"
                ),
                {"ids": ids},
            ).scalar_one()

    def _entries(self, admin: Engine, ids: list[Any]) -> dict[str, int]:
        with admin.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT entry_type::text AS entry_type, count(*) AS n FROM public.funds_ledger_entries "
                    "WHERE payment_id = ANY(:ids) GROUP BY 1 ORDER BY 1"
                ),
                {"ids": ids},
            )
            return {row.entry_type: row.n for row in rows}


def write_json(result: DemoResult, path: Path) -> None:
    """Write the result where ``--json FILE`` says; ``-`` is standard output."""
    body = json.dumps(result.as_json(), indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(body)
    else:
        path.write_text(body, encoding="utf-8")

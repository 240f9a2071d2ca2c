"""Every address ever issued, made again from its account by code of its own (R20).

The audit each minute looks at what is new (``audit``); this one believes none of its notes and reads everything. It
changes nothing: what it finds is for people.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, text

from custody.destinations.accounts import read_account
from custody.destinations.derivation import DerivationError

PAGE_ROWS: Final = 2_000  # a tenth of a second of derivation, and half a megabyte of rows
KEPT_MAXIMUM: Final = 1_000  # differences kept with their words; all are counted

_ROWS: Final = text(
    """
    SELECT id, chain_id, address, derivation_path, derivation_index, deposit_account_id
    FROM public.derived_destinations ORDER BY derivation_index
    """
)
_ACCOUNTS: Final = text(
    """
    SELECT a.id, a.kind, a.xpub_fingerprint, a.xpub, a.base_path, a.next_index,
        -- An account goes on where the one before it stopped; the first, behind the rows of before accounts were written down.
        coalesce(lag(a.next_index) OVER (ORDER BY a.next_index, a.created_at),
            (SELECT max(d.derivation_index) + 1 FROM public.derived_destinations d WHERE d.deposit_account_id IS NULL
                AND d.derivation_index < a.next_index), 0) AS first_index
    FROM fleet.deposit_accounts a ORDER BY a.next_index, a.created_at
    """
)


@dataclass(frozen=True, slots=True)
class IssuingAccount:
    """A deposit account: it has issued the indices ``first_index`` to ``next_index`` - 1."""

    fingerprint: str
    path_of: Callable[[int], str]
    first_index: int
    next_index: int
    address: Callable[[int, int], str] | None
    """``(chain id, index)`` to the address in lower case; None when its xpub derives nothing."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One row of derived_destinations."""

    id: UUID
    chain_id: int
    address: str
    path: str
    index: int
    account_id: UUID | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what its account derives, or indices from ``index`` on that have no row (no ``destination``)."""

    index: int
    destination: str | None
    chain_id: int | None
    address: str | None
    account: str | None
    """The account's fingerprint."""
    expected: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.destination is None:
            return f"index {self.index} of account {self.account}: {self.expected}"
        return (
            f"destination {self.destination}, chain {self.chain_id}, index {self.index}, address {self.address}: "
            f"expected {self.expected}"
        )


@dataclass(slots=True)
class AuditReport:
    """What was read and what differs; ``differences`` holds the first KEPT_MAXIMUM of ``differing``."""

    audited: int = 0
    differing: int = 0
    accounts: Sequence[str] = ()
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def ok(self) -> bool:
        return self.differing == 0

    def add(self, difference: Difference) -> None:
        self.differing += 1
        if len(self.differences) < KEPT_MAXIMUM:
            self.differences.append(difference)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "audited": self.audited,
            "accounts": list(self.accounts),
            "differing": self.differing,
            "differences": [each.as_json() for each in self.differences],
        }


def destination_count(connection: Connection) -> int:
    """How many rows an audit will read."""
    return connection.execute(text("SELECT count(*) FROM public.derived_destinations")).scalar_one()


def audit_everything(connection: Connection, progress: Callable[[int], None] = lambda _: None) -> AuditReport:
    """Derive every address again. ``progress`` is told how many rows more were read. Reads one moment if the caller's
    transaction does (REPEATABLE READ). Memory does not grow with the rows.
    """
    accounts = {row.id: _account(connection, row) for row in connection.execute(_ACCOUNTS).all()}
    return compare(accounts, _issued(connection, progress))


def compare(accounts: Mapping[UUID, IssuingAccount], issued: Iterable[Issued]) -> AuditReport:
    """Audit rows in the order of their indices. Pure."""
    report = AuditReport(accounts=[each.fingerprint for each in accounts.values()])
    expected_next = 0
    for row in issued:
        report.audited += 1
        for difference in _missing(accounts.values(), expected_next, row.index):
            report.add(difference)
        expected_next = row.index + 1
        found = _why_different(row, accounts)
        if found is not None:
            fingerprint, expected = found
            report.add(Difference(row.index, str(row.id), row.chain_id, row.address, fingerprint, expected))
    end = max((each.next_index for each in accounts.values()), default=0)
    for difference in _missing(accounts.values(), expected_next, end):
        report.add(difference)
    return report


def _why_different(row: Issued, accounts: Mapping[UUID, IssuingAccount]) -> tuple[str | None, str] | None:
    """The account and what was expected; None for a row as it should be. The spelling of an address proves nothing."""
    if row.account_id is None:
        # Issued before the fleet wrote accounts down: any account that is known may be its own.
        for each in accounts.values():
            if _own_address(each, row) == row.address.lower():
                return _why_path(row, each)
        return None, "a deposit account that it comes from: none is named, and no known one derives it"
    account = accounts.get(row.account_id)
    if account is None:
        return None, f"a known deposit account: {row.account_id} is none"
    own = _own_address(account, row)
    if own != row.address.lower():
        expected = "an account that derives it: this one's xpub does not" if own is None else to_checksum_address(own)
    elif row.index >= account.next_index:
        expected = f"an index below {account.next_index}, up to which the account has issued"
    else:
        return _why_path(row, account)
    return account.fingerprint, expected


def _why_path(row: Issued, account: IssuingAccount) -> tuple[str, str] | None:
    path = account.path_of(row.index)
    return None if path == row.path else (account.fingerprint, f"the path {path}, got {row.path}")


def _own_address(account: IssuingAccount, row: Issued) -> str | None:
    try:
        return None if account.address is None else account.address(row.chain_id, row.index)
    except DerivationError:
        return None


def _missing(accounts: Iterable[IssuingAccount], start: int, stop: int) -> Iterator[Difference]:
    """Indices from ``start`` up to ``stop`` that an account has issued and that have no row: nobody watches them."""
    for account in accounts:
        first, end = max(start, account.first_index), min(stop, account.next_index)
        if first < end:
            yield Difference(
                first,
                None,
                None,
                None,
                account.fingerprint,
                f"a row for each index up to {end - 1}, got none for {end - first}: "
                "what was issued there is watched by nobody",
            )


def _account(connection: Connection, row: Any) -> IssuingAccount:
    account = read_account(connection, row)
    try:
        address = account.in_bulk()
    except DerivationError:
        address = None
    return IssuingAccount(row.xpub_fingerprint, account.path_of, row.first_index, row.next_index, address)


def _issued(connection: Connection, progress: Callable[[int], None]) -> Iterator[Issued]:
    result = connection.execution_options(stream_results=True, yield_per=PAGE_ROWS).execute(_ROWS)
    for page in result.partitions():
        for row in page:
            yield Issued(
                row.id, row.chain_id, row.address, row.derivation_path, row.derivation_index, row.deposit_account_id
            )
        progress(len(page))

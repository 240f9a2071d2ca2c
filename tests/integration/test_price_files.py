"""prices.toml: signed as the policy is; unsigned, changed, expired, older or another fleet's is refused (R8)."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from custody.policy.signing import add_signature, document_text, signatures_path
from custody.policy.toml_text import toml_text
from custody.quotes import Price, Unusable
from tests.conftest import Database
from tests.policy_files import NOW, key, signed
from tests.quote_scene import PriceFolder

IRR = {"pair": "IRR/USD", "price": "0.0000010526"}


@pytest.fixture
def prices(tmp_path: Path) -> PriceFolder:
    return PriceFolder.make(tmp_path)


def only(database: Database, prices: PriceFolder, **options: Any) -> Price | Unusable:
    [answer] = prices.source(database, **options).answers(["IRR/USD"], NOW)
    return answer


def test_a_file_that_k_approvers_signed_is_a_source(database: Database, prices: PriceFolder) -> None:
    anchor = {"pair": "TRY/USD", "price": "0.0235", "use": "anchor"}
    found = prices.write(prices.said([IRR, anchor]))
    source = prices.source(database)
    assert source.answers(["IRR/USD", "TRY/USD"], NOW) == [
        Price("IRR/USD", "prices.toml v1, signed by ada, bob", Decimal("0.0000010526"), NOW - timedelta(hours=1))
    ]
    assert source.anchors == (
        NOW - timedelta(hours=1),
        {"IRR/USD": Decimal("0.0000010526"), "TRY/USD": Decimal("0.0235")},
    )
    with database.engine().connect() as connection:
        [row] = connection.exec_driver_sql("SELECT version, hash FROM fleet.accepted_price_files").all()
    assert tuple(row) == (1, found)


def test_a_dry_look_accepts_nothing(database: Database, prices: PriceFolder) -> None:
    prices.write(prices.said([IRR]))
    assert isinstance(only(database, prices, role="fleet_operator", accepts=False), Price)
    with database.engine().connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM fleet.accepted_price_files").scalar_one() == 0


Change = Callable[[PriceFolder], object]


def _tamper(prices: PriceFolder) -> None:
    prices.write(prices.said([IRR]))
    prices.path.write_text(prices.path.read_text().replace("0.0000010526", "0.0000000526"))


def _unsigned(prices: PriceFolder) -> None:
    prices.write(prices.said([IRR]))
    signatures_path(prices.path).unlink()


REFUSED: dict[str, tuple[Change, str]] = {
    "changed after it was signed": (_tamper, "over these bytes"),
    "unsigned": (_unsigned, "signatures: expected 2 approvers of genesis version 1, nobody signed"),
    "signed by one": (lambda p: p.write(p.said([IRR]), "ada"), "expected 2 approvers of genesis version 1, ada signed"),
    "signed twice by one": (lambda p: p.write(p.said([IRR]), "ada", "ada"), "ada signed already"),
    "signed by a stranger": (lambda p: p.write(p.said([IRR]), "ada", "eve"), "is none"),
    "expired": (
        lambda p: p.write(p.said([IRR], issued_at=NOW - timedelta(days=2), expires_at=NOW)),
        "expires_at: it expired 2019-01-16 12:00:00 UTC: sign a new version",
    ),
    "of tomorrow": (
        lambda p: p.write(p.said([IRR], issued_at=NOW + timedelta(hours=1))),
        "issued_at: expected a time that has come",
    ),
    "of another fleet": (lambda p: p.write(p.said([IRR], genesis="ab" * 32)), "another fleet's file"),
    "of another environment": (lambda p: p.write(p.said([IRR], environment="test")), "another fleet's file"),
    "missing": (lambda p: p.path.unlink(missing_ok=True), "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_file_is_refused_with_its_sentence(database: Database, prices: PriceFolder, case: str) -> None:
    change, sentence = REFUSED[case]
    change(prices)
    found = only(database, prices)
    assert isinstance(found, Unusable)
    assert found.why.startswith("it is refused: prices.toml")
    assert sentence in found.why


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"expires_at": NOW + timedelta(days=31)}, "31 days at most"),
        ({"expires_at": NOW - timedelta(hours=2)}, "a time after issued_at"),
        ({"prices": [IRR, IRR]}, "a pair is named twice"),
        ({"prices": [{**IRR, "price": "0"}]}, "greater than 0"),
        ({"prices": [{**IRR, "price": 1}]}, "an exact amount in quotes"),
        ({"prices": [{**IRR, "pair": "USD/IRR"}]}, "pair"),
        ({"prices": []}, "prices"),
    ],
)
def test_a_file_that_is_wrong_by_itself_is_refused_before_its_signatures(
    database: Database, prices: PriceFolder, changed: dict[str, Any], sentence: str
) -> None:
    prices.write(prices.said([IRR]))
    prices.path.write_text(toml_text({**prices.said([IRR]), **changed}))
    found = only(database, prices)
    assert isinstance(found, Unusable)
    assert sentence in found.why


def test_an_older_version_and_another_of_the_same_number_are_refused(database: Database, prices: PriceFolder) -> None:
    prices.write(prices.said([IRR], version=3))
    assert isinstance(only(database, prices), Price)
    for version, sentence in (
        (2, "version: expected 3 or more, got 2: it is older"),
        (3, "another version 3 was accepted"),
    ):
        prices.write(prices.said([{**IRR, "price": "0.000002"}], version=version))
        found = only(database, prices)
        assert isinstance(found, Unusable)
        assert sentence in found.why
    prices.write(prices.said([{**IRR, "price": "0.000002"}], version=9))  # none need follow the one before
    assert isinstance(only(database, prices), Price)


def test_approvers_sign_it_as_they_sign_the_policy(prices: PriceFolder) -> None:
    prices.write(prices.said([IRR]))
    signatures_path(prices.path).unlink()
    text = document_text(prices.path)
    assert text.startswith("POLICY amn1")
    assert "prices v1" in text
    for count, person in enumerate(("ada", "bob"), start=1):
        [made] = signed(text, person)
        assert add_signature(prices.path, key(person).address, made.signature) == count

"""The signature of Request Network's webhooks."""

from pathlib import Path

import pytest

from custody.providers.request_network.signature import is_authentic, read_webhook_secrets, sign
from custody.settings.environment import SettingsError
from tests.webhooks import OLD_SECRET, SECRET, write_secrets

BODY = b'{"event": "payment.confirmed", "amount": 1.0}'


def test_the_signature_is_that_of_rfc_4231() -> None:
    # RFC 4231, test case 2: the key is text, as Request Network's secret is.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert sign(b"what do ya want for nothing?", "Jefe") == expected


def test_each_secret_in_force_is_accepted_and_no_other() -> None:
    assert is_authentic(BODY, sign(BODY, SECRET), [SECRET, OLD_SECRET])
    assert is_authentic(BODY, sign(BODY, OLD_SECRET), [SECRET, OLD_SECRET])
    assert is_authentic(BODY, sign(BODY, SECRET).encode(), [SECRET])
    assert not is_authentic(BODY, sign(BODY, OLD_SECRET), [SECRET])
    assert not is_authentic(BODY, sign(BODY, SECRET), [])


def test_another_body_with_the_same_meaning_is_refused() -> None:
    assert not is_authentic(BODY.replace(b" ", b""), sign(BODY, SECRET), [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        sign(BODY, SECRET).upper(),
        sign(BODY, SECRET)[:-1],
        sign(BODY, SECRET) + "\n",
        " " + sign(BODY, SECRET),
        "sha256=" + sign(BODY, SECRET),
        "\u0661" * 64,
        "\udc80" * 64,
        b"\xff" * 64,
    ],
)
def test_a_header_of_another_form_is_refused_and_raises_nothing(header: str | bytes | None) -> None:
    assert not is_authentic(BODY, header, [SECRET])


def test_secrets_are_read_one_a_line(tmp_path: Path) -> None:
    path = write_secrets(tmp_path / "secrets", SECRET, "", OLD_SECRET)
    assert read_webhook_secrets(path) == (SECRET, OLD_SECRET)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short\n", "line 1 of .* 32 to 256"),
        (SECRET.encode() + b"\nwith a space in the secret of this line\n", "line 2"),
        (b"\xff\xfe" * 40, "not UTF-8"),
        (b"\n".join([SECRET.encode()] * 5), "holds 5 secrets"),
        (b"", "must hold"),
        (b"\n\n", "must hold"),
    ],
    ids=["short", "spaces", "binary", "many", "empty", "blank"],
)
def test_a_wrong_secrets_file_is_refused_without_showing_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "secrets"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=message) as refusal:
        read_webhook_secrets(path)
    assert "short" not in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_secrets_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write_secrets(tmp_path / "secrets", SECRET)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_webhook_secrets(path)

"""The signer's client and the server that trust.toml pins (R4): nothing is sent to another one."""

import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from workers.cli.signer import EXIT_REFUSED, signer
from workers.signer import SignerApiAway, SignerApiError, SignerClient
from workers.signer.certificate import place_at
from workers.signer.logging_in import OneSession
from workers.signer.pinned_tls import certificate_pin

TOKEN = "secret-" * 8


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer-api")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    certificate, private = folder / "api.pem", folder / "api.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A TLS server: its URL, its certificate, and every Authorization header that reached it."""
    heard: list[str] = []

    async def answer(request: Request) -> JSONResponse:
        heard.append(request.headers.get("authorization", ""))
        return JSONResponse({"instructions": []})

    certificate, private = _certificate(tmp_path)
    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[Route("/v1/instructions", answer)]),
            host="127.0.0.1",
            port=0,
            log_config=None,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(private),
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", certificate, heard
    server.should_exit = True
    thread.join()


def test_only_the_pinned_key_is_talked_to(server: tuple[str, Path, list[str]]) -> None:
    url, certificate, heard = server
    said = CliRunner().invoke(signer, ["trust", "pin", str(certificate)])
    pin = said.output.strip()
    assert len(pin) == 64
    with SignerClient(url, OneSession(TOKEN), certificate_sha256=pin) as client:
        assert client.instructions() == []
    assert heard == [f"Bearer {TOKEN}"]
    for wrong in ("0" * 64, pin[:-1] + ("0" if pin[-1] != "0" else "1")):
        with (
            SignerClient(url, OneSession(TOKEN), certificate_sha256=wrong) as client,
            pytest.raises(SignerApiError, match="is not the signer API") as caught,
        ):
            client.instructions()
        assert type(caught.value) is SignerApiError
        assert TOKEN not in str(caught.value)
    assert len(heard) == 1


def test_without_a_pin_an_unknown_authority_is_refused(server: tuple[str, Path, list[str]]) -> None:
    url, _, heard = server
    with SignerClient(url, OneSession(TOKEN)) as client, pytest.raises(SignerApiAway):
        client.instructions()
    assert heard == []
    assert ssl.create_default_context().check_hostname


def test_what_is_no_certificate_has_no_pin(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pem", tmp_path / "text.pem"):
        (tmp_path / "text.pem").write_text("hello")
        said = CliRunner().invoke(signer, ["trust", "pin", str(path)])
        assert said.exit_code == EXIT_REFUSED


def test_what_a_device_shows_of_the_api_is_the_same_pin(server: tuple[str, Path, list[str]]) -> None:
    """R6: host and certificate stand in the text that registers; behind another key there is none."""
    url, certificate, heard = server
    pin = certificate_pin(certificate.read_bytes())
    place = place_at(url, pinned=pin)
    assert (place.host, place.pin, place.shown_pin) == (url.removeprefix("https://"), pin, pin[:32])
    with pytest.raises(SignerApiAway, match="No certificate was shown"):
        place_at(url, pinned="0" * 64)
    with pytest.raises(SignerApiAway, match="No certificate was shown"):
        place_at(url)  # no authority vouches for it
    assert heard == []
    assert place_at("http://127.0.0.1:8481").shown_pin == "no TLS, loopback"

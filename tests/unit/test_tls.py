"""A question over HTTPS is asked with the public authorities; one over plain HTTP loads none."""

import ssl

import pytest

from workers.tls import authorities_for


@pytest.mark.parametrize("url", ["https://node.example/key", "https://127.0.0.1:8545"])
def test_https_is_verified(url: str) -> None:
    assert authorities_for(url) is True


@pytest.mark.parametrize("url", ["http://127.0.0.1:8545", "http://ingress:8480/healthz"])
def test_plain_http_trusts_nobody_and_loads_nothing(url: str) -> None:
    found = authorities_for(url)
    assert isinstance(found, ssl.SSLContext)
    assert found.verify_mode is ssl.CERT_REQUIRED
    assert found.cert_store_stats() == {"x509": 0, "crl": 0, "x509_ca": 0}

"""Which authorities a question over HTTP needs: none for plain HTTP, where loading them would cost 50 ms of processor time."""

import ssl


def authorities_for(url: str) -> ssl.SSLContext | bool:
    """httpx's ``verify``: the public authorities for https, else a context that trusts nobody and loads nothing."""
    return True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

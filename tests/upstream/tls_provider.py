"""The provider's side of TLS, with a certificate that only tests trust."""

from __future__ import annotations

import ssl
from pathlib import Path

#: A key, and a certificate for localhost and 127.0.0.1 that signs itself; made for tests.
PEM = Path(__file__).with_name("localhost.pem")


def serving(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A provider's side, with keys of its own for tickets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.load_cert_chain(PEM)
    return context

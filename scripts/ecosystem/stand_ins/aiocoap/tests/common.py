"""What aiocoap's tests take from a module that its sdist lacks: what this machine has."""

import os
import socket
import sys
from typing import Any, Final

PYTHON_PREFIX: Final = [sys.executable]
using_simple6: Final = "simple6" in os.environ.get("AIOCOAP_CLIENT_TRANSPORT", "")
in_woodpecker: Final = False
tcp_disabled = dtls_disabled = ws_disabled = False


def _loopback_name(*wanted: str) -> str | None:
    """Return a name of this machine that has just these addresses."""
    for name in ("ip6-localhost", "localhost"):
        try:
            found = {info[4][0] for info in socket.getaddrinfo(name, 1, type=socket.SOCK_DGRAM)}
        except OSError:
            continue
        if found == set(wanted):
            return name
    return None


loopbackname_v6: Final = _loopback_name("::1")
loopbackname_v46: Final = _loopback_name("::1", "127.0.0.1")


def run_fixture_as_standalone_server(fixture: Any) -> None:
    raise NotImplementedError(f"{fixture} is for the tests only here")

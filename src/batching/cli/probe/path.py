"""Path: the way to a host, from its name to the verdict on what its datagrams suffer."""

from __future__ import annotations

import socket
from typing import Any, Final

from batching import open_conn

from .client import Client, NoAnswerError, Result
from .devices import look_at_route
from .finding import Finding
from .route import HEADERS, Route
from .shapes import plan_shapes
from .verdict import judge

__all__ = ["look_at_path"]

_ETHERNET: Final = 1500  # MTU, where the system does not tell
_PATIENCE_S: Final = 2.0  # for the first answer
_MAX_ADDRESSES: Final = 4  # of a name, tried one after the other
_GSO_LEAST: Final = 64  # where this side sends no trains, the server may


def look_at_path(
    host: str, port: int, duration_s: float
) -> tuple[list[Finding], Result | None, tuple[Any, ...] | None]:
    """Return findings, and what was counted at which address if anybody answered there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        change = "check the name, or give a numeric address"
        return [Finding("host", "broken", f"{host} is not resolved: {why}", change)], None, None
    findings: list[Finding] = []
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for family, address in addresses[:_MAX_ADDRESSES]:
        findings, result = _look(family, address, duration_s)
        if result is not None:
            return findings, result, address
    return findings, None, None


def _look(
    family: int, address: tuple[Any, ...], duration_s: float
) -> tuple[list[Finding], Result | None]:
    findings, route = look_at_route(family, address)
    if route is None:
        return findings, None
    where = f"{address[0]} port {address[1]}"
    try:
        with open_conn(remote_addr=address, family=family, batch_size=128) as conn:
            limit = conn.offload.max_segments if conn.offload.gso else _GSO_LEAST
            client = Client(conn, plan_shapes(_room(family, route), limit))
            client.shake_hands(_PATIENCE_S)
            client.run(duration_s)
    except NoAnswerError as error:
        change = f"there: batching probe serve --port {address[1]}; let UDP through the firewalls"
        return [*findings, Finding("host", "broken", f"{where}: {error}", change)], None
    except OSError as error:
        found = f"{where}: {error.strerror or error}"
        return [*findings, Finding("host", "broken", found, "look at the route above")], None
    result = client.result
    found = f"{where} answers in {1000 * result.rtt_s:.1f} ms"
    facts: dict[str, object] = {
        "address": address[0],
        "port": address[1],
        "rtt_ms": 1000 * result.rtt_s,
        "server_max_segments": result.server_max_segments,
        "ignored": result.ignored,
    }
    return [*findings, Finding("host", "ok", found, facts=facts), *judge(result)], result


def _room(family: int, route: Route) -> int:
    """Return the bytes of the longest datagram that goes in one packet."""
    return (route.mtu or _ETHERNET) - HEADERS[socket.AddressFamily(family)]

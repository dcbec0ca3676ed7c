"""Names: dnspython on our loop asks a real name server, knot, on loopback."""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import Final

from programs import ExchangeError, Programs, free_port, programs
from suite import MissingToolError

_ZONE: Final = "batching.test."
_N_NAMES: Final = 5000
_PATIENCE_S: Final = 30
_CONFIGURATION: Final = """
server:
  rundir: "{folder}"
  listen: 127.0.0.1@{port}
database:
  storage: "{folder}"
log:
  - target: stdout
    any: warning
zone:
  - domain: "{zone}"
    storage: "{folder}"
    file: "zone"
"""


def run(n_queries: int) -> str:
    """Ask so many questions; return what was done."""
    knotd = shutil.which("knotd") or shutil.which("/usr/sbin/knotd")
    if knotd is None:
        raise MissingToolError("no knotd is here (Debian: knot)")
    with programs("names") as them, tempfile.TemporaryDirectory() as folder:
        port = _serve(them, knotd, Path(folder))
        began = time.monotonic()
        n_endpoints = int(them.run("dns_client", port, _ZONE, _N_NAMES, n_queries))
        took_s = time.monotonic() - began
    assert n_endpoints >= n_queries, f"only {n_endpoints} endpoints were ours"
    return f"{n_queries} queries answered rightly, {n_endpoints} endpoints, {took_s:.0f} s"


def _serve(them: Programs, knotd: str, folder: Path) -> int:
    port = free_port()
    them.run("zone", folder / "zone", _ZONE, _N_NAMES)
    configuration = folder / "knot.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, zone=_ZONE))
    server = them.start_tool(knotd, "-c", configuration)
    end = time.monotonic() + _PATIENCE_S
    while server.poll() is None and time.monotonic() < end:
        if _answers(port):
            return port
        time.sleep(0.05)
    server.kill()
    raise ExchangeError(f"knotd did not answer: {server.communicate()[0]}")


def _answers(port: int) -> bool:
    """Ask for the zone's SOA; tell whether the answer is one without error."""
    labels = [label.encode() for label in _ZONE.split(".")]
    name = b"".join(bytes([len(label)]) + label for label in labels)
    query = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + name + struct.pack("!2H", 6, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", port))
        try:
            sock.send(query)
            answer = sock.recv(4096)
        except OSError:
            return False
    return answer[3] & 15 == 0

"""The relay of examples/relay.py as a program: it relays, tells Prometheus, and ends when told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("prometheus_client", reason='needs pip install "udp-batching[metrics]"')

from loopback import HOST, PATIENCE_S, PlainPeer, needs_linux

pytestmark = needs_linux
PROGRAM = str(Path(__file__).parent.parent / "examples" / "relay.py")
HEADER = bytes([0, 0, 0x7A, 0x12, 0, 0, 7, 0])


class Program:
    """The program, between two peers that are bound to VNI 7."""

    def __init__(self, one: PlainPeer, other: PlainPeer, *options: str) -> None:
        flow = f"7={HOST}:{one.address[1]},{HOST}:{other.address[1]}"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", PROGRAM, f"{HOST}:0", flow, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "100"},
        )
        self.guard = threading.Timer(2 * PATIENCE_S, self.process.kill)
        self.guard.start()
        assert self.process.stdout is not None
        found = re.fullmatch(r"relaying on (\S+) (\d+)\n", self.process.stdout.readline())
        assert found, self.process.communicate(timeout=PATIENCE_S)[1]
        self.address = (found[1], int(found[2]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.guard.cancel()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the status and what was written to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def flood(peer: PlainPeer, to: tuple[str, int]) -> Iterator[None]:
    """Let a peer send without end meanwhile."""
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            peer.send(to, *[HEADER + bytes(100)] * 20)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join(PATIENCE_S)


def test_it_relays_serves_metrics_and_ends_amid_traffic() -> None:
    where = f"{HOST}:{free_port()}"
    with PlainPeer() as one, PlainPeer() as other, PlainPeer() as stranger:
        with Program(one, other, "--metrics", where) as relay:
            stranger.send(relay.address, HEADER + b"stranger")
            one.send(relay.address, HEADER + b"first", b"no header", HEADER + b"last")
            other.sock.settimeout(PATIENCE_S)
            received = [other.sock.recvfrom(64) for _ in range(2)]
            with urllib.request.urlopen(f"http://{where}/metrics", timeout=PATIENCE_S) as answer:
                served = answer.read().decode()
            with flood(one, relay.address):
                assert len(other.sock.recv(200)) == 108
                assert relay.end(signal.SIGTERM) == (0, "")
        assert received == [(HEADER + data, relay.address) for data in (b"first", b"last")]
        assert stranger.collect(0) == []
        peer = f'peer="{HOST}:{one.address[1]}",vni="7"'
        assert f'relay_datagrams_total{{fate="forwarded",{peer}}} 2.0\n' in served
        assert f'relay_bytes_total{{fate="forwarded",{peer}}} 25.0\n' in served
        for fate in ("unknown peer", "bad header"):
            assert f'relay_datagrams_total{{fate="{fate}",peer="",vni=""}} 1.0\n' in served
        assert re.search(r"^batching_recv_datagrams_total\{.*\} 4\.0$", served, re.MULTILINE)


@pytest.mark.slow
def test_sigint_ends_it_while_it_waits() -> None:
    with PlainPeer() as one, PlainPeer() as other, Program(one, other) as relay:
        assert relay.end(signal.SIGINT) == (0, "")


def test_it_has_less_than_150_lines() -> None:
    assert len(Path(PROGRAM).read_text(encoding="utf-8").splitlines()) < 150

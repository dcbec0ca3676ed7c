"""What the tests of the public interface share: PlainPeer, the other side on loopback.

A plain socket sends and receives what a Conn is tested with, so that no test trusts the
Conn with both ends.  Nothing here sleeps to let something happen: it waits for what it
wants to see, for PATIENCE_S at most.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import pytest

from batching import Conn, Message, min_control_message_size
from batching._kernel import SO_RCVBUFFORCE, SOL_UDP, UDP_GRO, UDP_SEGMENT, max_segments

T = TypeVar("T")
Address = tuple[Any, ...]

PATIENCE_S = float(os.environ.get("BATCHING_TEST_PATIENCE", "20"))  # more on slow machines
HOST = "127.0.0.1"
ANY_PORT = (HOST, 0)
_BUFFER = 16 << 20  # bytes: more than any test has on the way, so loopback never drops
_ROOM = 4 << 20  # enough for the tests that are marked needs_room; others need a system's least


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def _make_room(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
    except OSError:  # without the privilege: as much as the system's limit allows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)


def _has_room() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _make_room(sock)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= _ROOM


needs_gso = pytest.mark.skipif(
    max_segments() < 64, reason="no UDP GSO and GRO here: needs Linux 5.0"
)
needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no ::1 here: needs IPv6 on loopback")
needs_room = pytest.mark.skipif(
    not _has_room(),
    reason="receive buffers are too small here: raise net.core.rmem_max to 4194304, or be root",
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


class PlainPeer:
    """A plain socket, bound on loopback."""

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        _make_room(self.sock)
        self.sock.bind((host, port))
        self.address: Address = self.sock.getsockname()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def send(self, to: Address, *datagrams: bytes) -> None:
        for data in datagrams:
            self.sock.sendto(data, to)

    def send_train(self, to: Address, data: bytes, segment_size: int) -> None:
        """Send ``data`` as one packet, which the kernel cuts if need be."""
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment_size))]
        self.sock.sendmsg([data], control, 0, to)

    def collect_pairs(self, n: int) -> list[tuple[bytes, Address]]:
        """Return the ``n`` datagrams that came, which must be all."""
        self.sock.settimeout(PATIENCE_S)
        pairs = [self.sock.recvfrom(65536) for _ in range(n)]
        assert not select.select([self.sock], [], [], 0)[0], f"more than {n} datagrams"
        return pairs

    def collect(self, n: int) -> list[bytes]:
        """Return the ``n`` datagrams that came, which must be all, without their sender."""
        return [data for data, _ in self.collect_pairs(n)]


_dead: list[PlainPeer] = []


@functools.cache
def dead_address(host: str = HOST) -> Address:
    """Return an address at which nobody receives, nor will while these tests run.

    The port of a socket that was closed may be anybody's next; this one's hears itself alone.
    """
    _dead.append(PlainPeer(host))
    address = _dead[-1].address
    _dead[-1].sock.connect(address)
    return address


def _delivers_trains() -> bool:
    """Tell whether a train arrives over loopback as one message: Linux 5.10 cuts it."""
    if max_segments() < 64:
        return False
    with PlainPeer() as sink, PlainPeer() as source:
        sink.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        source.send_train(sink.address, b"train", 1)
        sink.sock.settimeout(PATIENCE_S)
        return sink.sock.recv(64) == b"train"


needs_whole_trains = pytest.mark.skipif(
    not _delivers_trains(), reason="loopback cuts trains here: it does not in Linux 6.1"
)


def gather(conn: Conn, n: int, max_datagrams: int | None = None) -> list[bytes]:
    """Return the ``n`` datagrams that ``conn`` receives, which must be all."""
    conn.settimeout(PATIENCE_S)
    received: list[bytes] = []
    while len(received) < n:
        received += [data for data, _ in conn.recv_batch(max_datagrams)]
    assert_nothing_left(conn)
    assert len(received) == n
    return received


def assert_nothing_left(conn: Conn) -> None:
    """Fail if anything waits in user space or in the kernel."""
    assert conn.pending == 0
    assert not select.select([conn], [], [], 0)[0]


def descriptors() -> set[int]:
    """Return the descriptors that this process has open."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}
    return {fd for fd in listed if os.path.exists(f"/proc/self/fd/{fd}")}  # not that of listing


def messages(n: int, size: int = 2048) -> list[Message]:
    """Return ``n`` messages for ``read_batch``."""
    return [Message([bytearray(size)], bytearray(min_control_message_size())) for _ in range(n)]


def start(function: Callable[..., T], *args: object) -> Future[T]:
    """Make a call in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - told by result()
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], object]) -> None:
    """Return once ``condition`` holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.0005)


def start_reader(conn: Conn, function: Callable[..., T], *args: object) -> Future[T]:
    """Make a receiving call in a thread, and return when it found nothing and waits."""
    before = conn.stats().recv_calls
    future = start(function, *args)
    # The ticket on which it will sleep was taken before the system call.
    until(lambda: conn.stats().recv_calls > before)
    return future


def run_script(script: str, **environ: str) -> str:
    """Run Python in a process of its own, warnings as errors; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", script],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout

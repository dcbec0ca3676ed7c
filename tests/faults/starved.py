"""A process in which memory runs out at every point of one call: ``starved.py WHAT STEP``.

Run with scarce_malloc.c preloaded and PYTHONMALLOC=malloc.  WHAT is called again and again:
its first allocation fails, then its second, and so on until it needs no more; once with that
one alone failing, and once with 1000 from there on.  STEP leaves out some.  It fails with an
AssertionError, or prints at how many points memory ran out.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any, Final

from batching import Conn, Message, Segments, min_control_message_size, open_conn
from holdings import Holdings
from loopback import ANY_PORT, PlainPeer, needs_gso

# OSError: ENOMEM.  SystemError and RuntimeError are CPython's own, where it has no memory to
# make a builtin's exception ready for an except clause, or a lock.
_FAILURES: Final = (MemoryError, OSError, SystemError, RuntimeError)
_MANY: Final = 1000  # not without end: CPython 3.11 goes round until it can note where it was
_MAX_LEAK: Final = 16 << 10  # bytes, of all points together; a slab or a plan is more
_SEGMENT: Final = 1200
_HAS_TRAINS: Final = not needs_gso.args[0]

_libc = ctypes.CDLL(None)
_first, _width, _seen, _failed = (
    ctypes.c_long.in_dll(_libc, f"scarce_{name}") for name in ("first", "width", "seen", "failed")
)


def starve(call: Callable[[], Any], n: int, width: int) -> tuple[Any, bool]:
    """Make a call whose ``n``-th allocation fails; return (its result, is one to be had)."""
    _width.value, _seen.value, _failed.value = width, 0, 0
    _first.value = n
    try:
        result = call()
        _first.value = -1  # first of all: even a pair takes memory
    except _FAILURES:
        _first.value = -1
        return None, False
    finally:
        _first.value = -1
    return result, True


class Receiving:
    """Datagrams and trains of several senders: each comes once, in this call or in the next."""

    def __init__(self, way: str) -> None:
        self._sources = [PlainPeer() for _ in range(3)]
        self._way = way
        self._messages = [
            Message([bytearray(_SEGMENT)], bytearray(min_control_message_size())) for _ in range(64)
        ]

    def _send(self, conn: Conn) -> list[bytes]:
        sent: list[bytes] = []
        if self._way == "rest":  # so many that their number is no small int, which need no memory
            sent = [b"%04d" % i for i in range(1000)]
            for i in range(0, 1000, 100):
                train = b"".join(sent[i : i + 100])
                self._sources[0].send_train(conn.local_addr(), train, 4)
            return sent
        for _ in range(4):
            for source in self._sources:
                datagrams = [b"%04d" % (len(sent) + i) * 300 for i in range(6)]
                source.send(conn.local_addr(), datagrams[0][:200])
                if _HAS_TRAINS:
                    source.send_train(conn.local_addr(), b"".join(datagrams[1:]), _SEGMENT)
                else:
                    source.send(conn.local_addr(), *datagrams[1:])
                sent += [datagrams[0][:200], *datagrams[1:]]
        return sent

    def _receive(self, conn: Conn) -> Any:
        if self._way == "messages":
            return conn.read_batch(self._messages)
        if self._way == "rest":
            return conn.recv_batch(10)
        return conn.recv_batch() if self._way == "pairs" else conn.recv_segments()

    def _datagrams(self, received: Any) -> list[bytes]:
        if self._way == "messages":
            return [bytes(message.data) for message in self._messages[:received]]
        if self._way in ("pairs", "rest"):
            return [data for data, _ in received]
        return [data for train in received for data in train.tolist()]

    def run(self, n: int, width: int) -> None:
        with open_conn(ANY_PORT) as conn:
            conn.setblocking(False)
            sent = self._send(conn)
            result, is_done = starve(lambda: self._receive(conn), n, width)
            got = self._datagrams(result) if is_done else []
            del result
            try:
                while True:
                    got += self._datagrams(self._receive(conn))
            except BlockingIOError:
                pass
            self.compare(got, sent, is_done)

    def compare(self, got: list[bytes], sent: list[bytes], is_done: bool) -> None:
        if conn_is_native():
            assert got == sent, (len(got), len(sent))
        else:  # where socket.recvmsg has no memory for its answer, it loses the datagram
            assert set(got) <= set(sent), "cut or merged"
            assert len(got) == len(set(got)), "doubled"
            assert not is_done or got == sent


class Sending:
    """A batch of several destinations: none of it is doubled or out of order, the next is whole."""

    def __init__(self, way: str) -> None:
        self._sinks = [PlainPeer() for _ in range(3)]
        self._way = way

    def _prepare(self, conn: Conn, first: int) -> tuple[Callable[[], Any], list[list[bytes]]]:
        """Return (a call that sends, what each sink is to get)."""
        addresses = [sink.address for sink in self._sinks]
        datagrams = [b"%06d" % i * (1 + i % 3) for i in range(first, first + 39)]
        due = [datagrams[i::3] for i in range(3)]
        if self._way == "segments":
            trains = [Segments(b"".join(due[i]), 12, addresses[i]) for i in range(3)]
            return lambda: conn.send_segments(iter(trains)), [train.tolist() for train in trains]
        if self._way == "write":
            buffers = [bytearray(8) + data for data in datagrams]
            return lambda: conn.write_batch_to(buffers, addresses[0], offset=8), [datagrams, [], []]
        # An iterator: list() of a list leaks that in CPython 3.11 when memory runs out.
        kinds = bytes, bytearray, memoryview
        items = [(kinds[i // 3 % 3](data), addresses[i % 3]) for i, data in enumerate(datagrams)]
        if self._way == "errors":
            items.insert(20, (bytes(65508), addresses[0]))  # EMSGSIZE
        return lambda: conn.send_batch(iter(items)), due

    def _arrived(self) -> list[list[bytes]]:
        arrived: list[list[bytes]] = [[], [], []]
        for sink, datagrams in zip(self._sinks, arrived, strict=True):
            sink.sock.setblocking(False)
            try:
                while True:
                    datagrams.append(sink.sock.recv(65536))
            except BlockingIOError:
                pass
        return arrived

    def run(self, n: int, width: int) -> None:
        with open_conn(ANY_PORT) as conn:
            call, due = self._prepare(conn, 1000)
            _, is_done = starve(call, n, width)
            arrived = self._arrived()
            for got, wanted in zip(arrived, due, strict=True):
                rest = iter(wanted)
                assert all(data in rest for data in got), "doubled, or out of order"
            assert not is_done or arrived == due
            call, due = self._prepare(conn, 2000)
            try:
                call()
            except OSError:
                assert self._way == "errors"
            assert self._arrived() == due


class Opening:
    """Either a Conn that works, or nothing at all."""

    def run(self, n: int, width: int) -> None:
        conn, _ = starve(lambda: open_conn(ANY_PORT), n, width)
        if conn is None:
            return
        with conn:
            conn.write_to_udp_addr_port(b"x", conn.local_addr())
            assert [data for data, _ in conn.recv_batch()] == [b"x"]


def conn_is_native() -> bool:
    with open_conn(ANY_PORT) as conn:
        return conn.offload.backend == "native"


def run_out(scene: Receiving | Sending | Opening, width: int, step: int) -> int:
    n = 0
    while True:
        scene.run(n, width)
        if not _failed.value:
            return n
        n += step


def main() -> None:
    kind, way, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
    scene = Opening() if kind == "open" else (Receiving if kind == "receive" else Sending)(way)
    gc.disable()  # Holdings.now() collects
    for width in (1, _MANY):
        run_out(scene, width, step)  # what is made but once is made now
        before = Holdings.now()
        n_points = run_out(scene, width, step)
        after = Holdings.now()
        assert after.n_descriptors == before.n_descriptors, "descriptors leaked"
        leaked = after.n_bytes - before.n_bytes
        assert leaked < _MAX_LEAK or not conn_is_native(), f"{leaked} bytes leaked"
        print(n_points)


if __name__ == "__main__":
    main()

"""Closing: who is woken, what still works, and when the descriptor is given back."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import io
import os
import pickle
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from batching import Conn, Segments, UDPConn, listen_udp, open_conn
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    messages,
    needs_gso,
    run_script,
    start,
    start_reader,
)

pytestmark = pytest.mark.kernel

RECEIVING: dict[str, Callable[[Conn], object]] = {
    "recv_batch": lambda conn: conn.recv_batch(),
    "recv_batch of 1": lambda conn: conn.recv_batch(1),
    "recv_segments": lambda conn: conn.recv_segments(),
    "read_batch": lambda conn: conn.read_batch(messages(1)),
}
OTHERS: dict[str, Callable[[Conn], object]] = {
    "send_batch": lambda conn: conn.send_batch([(b"x", (HOST, 9))]),
    "send_batch of many": lambda conn: conn.send_batch([(b"x", (HOST, 9))] * 3000),
    "send_batch of none": lambda conn: conn.send_batch([]),
    "send_segments": lambda conn: conn.send_segments([Segments(b"x", 1, (HOST, 9))]),
    "write_batch_to": lambda conn: conn.write_batch_to([b"x"], (HOST, 9)),
    "write_to_udp_addr_port": lambda conn: conn.write_to_udp_addr_port(b"x", (HOST, 9)),
    "local_addr": lambda conn: conn.local_addr(),
    "settimeout": lambda conn: conn.settimeout(1),
    "setblocking": lambda conn: conn.setblocking(True),
    "set_deadline": lambda conn: conn.set_deadline(None),
    "set_read_deadline": lambda conn: conn.set_read_deadline(time.monotonic()),
    "set_write_deadline": lambda conn: conn.set_write_deadline(time.monotonic()),
}
receiving = pytest.mark.parametrize("call", RECEIVING.values(), ids=RECEIVING.keys())


def assert_ebadf(call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        call()
    assert caught.value.errno == errno.EBADF


@receiving
def test_close_wakes_who_waits(call: Callable[[Conn], object]) -> None:
    with open_conn(ANY_PORT) as conn:
        waiting = [start_reader(conn, call, conn) for _ in range(3)]
        conn.close()
        for each in waiting:
            assert_ebadf(lambda: each.result(PATIENCE_S))  # noqa: B023 - called at once


@receiving
def test_close_wakes_who_waits_for_a_time(call: Callable[[Conn], object]) -> None:
    with open_conn(ANY_PORT) as conn:
        conn.settimeout(2 * PATIENCE_S)
        waiting = start_reader(conn, call, conn)
        conn.close()
        assert_ebadf(lambda: waiting.result(PATIENCE_S))


@pytest.mark.parametrize(
    "call", [*RECEIVING.values(), *OTHERS.values()], ids=[*RECEIVING.keys(), *OTHERS.keys()]
)
def test_every_call_after_close_raises_ebadf(call: Callable[[Conn], object]) -> None:
    conn = open_conn(ANY_PORT)
    conn.close()
    assert_ebadf(lambda: call(conn))


@needs_gso
@receiving
def test_what_is_pending_is_gone_with_close(call: Callable[[Conn], object]) -> None:
    with open_conn(ANY_PORT) as conn, PlainPeer() as peer:
        peer.send_train(conn.local_addr(), b"abc", 1)
        assert len(conn.recv_batch(1)) == 1
        conn.close()
        assert_ebadf(lambda: call(conn))


def test_some_things_still_work_after_close() -> None:
    with open_conn(ANY_PORT) as conn:
        conn.settimeout(3)
        conn.send_batch([(b"x", conn.local_addr())])
    conn.close()
    assert conn.fileno() == -1
    assert conn.stats().send_datagrams == 1
    assert conn.offload.backend in ("native", "portable")
    assert conn.pending == 0
    assert conn.gettimeout() == 3
    assert "closed" in repr(conn)
    with pytest.raises(io.UnsupportedOperation):
        conn.read_from_udp_addr_port(bytearray(9))


def test_close_closes_the_descriptor() -> None:
    conn = open_conn(ANY_PORT)
    fd, address = conn.fileno(), conn.local_addr()
    conn.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    open_conn(address).close()  # the port is free


def test_the_descriptor_is_closed_when_the_last_call_has_left() -> None:
    with open_conn(ANY_PORT) as conn:
        fd = conn.fileno()
        waiting = [start_reader(conn, conn.recv_batch) for _ in range(4)]
        conn.close()
        for each in waiting:
            assert each.exception(PATIENCE_S) is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_nobody_reads_from_a_number_that_was_given_away() -> None:
    def read_until_closed(conn: Conn) -> list[bytes]:
        received = []
        with contextlib.suppress(OSError):
            while True:
                received += [data for data, _ in conn.recv_batch()]
        return received

    for _ in range(40):
        conn = open_conn(ANY_PORT)
        readers: list[Future[list[bytes]]] = [start(read_until_closed, conn) for _ in range(3)]
        address = conn.local_addr()
        with PlainPeer() as peer:
            peer.send(address, b"mine", b"mine")
            closing = start(conn.close)
            # It may well get the number that is just being given back.
            with PlainPeer() as newcomer:
                peer.send(newcomer.address, *[b"not yours"] * 5)
                assert newcomer.collect(5) == [b"not yours"] * 5
            closing.result(PATIENCE_S)
        for each in readers:
            assert set(each.result(PATIENCE_S)) <= {b"mine"}


def test_several_may_close_at_once() -> None:
    for _ in range(20):
        conn = open_conn(ANY_PORT)
        closing = [start(conn.close) for _ in range(4)]
        for each in closing:
            each.result(PATIENCE_S)
        assert conn.fileno() == -1


@pytest.mark.parametrize(
    "make",
    [lambda: open_conn(ANY_PORT), lambda: listen_udp("udp4", ANY_PORT)],
    ids=["Conn", "UDPConn"],
)
def test_a_forgotten_one_is_a_resource_warning(make: Callable[[], Conn | UDPConn]) -> None:
    conn = make()
    fd = conn.fileno()
    forget = [conn]
    del conn
    with pytest.warns(ResourceWarning, match="unclosed <batching"):
        forget.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_cycle_of_garbage_is_collected() -> None:
    with open_conn(ANY_PORT) as conn:
        conn.send_batch([(b"x", conn.local_addr())])
        conn.recv_batch()
    # What the Conn is made of stands before it in the cycle, and is cleared first.
    cycle = [conn._receiver.slots, *messages(1), conn]
    cycle.append(cycle)
    del conn, cycle
    gc.collect()


@pytest.mark.parametrize(
    "duplicate",
    [pickle.dumps, copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_neither_can_be_pickled_or_copied(duplicate: Callable[[object], object]) -> None:
    with open_conn(ANY_PORT) as conn, listen_udp("udp4", ANY_PORT) as plain:
        for each in (conn, plain):
            with pytest.raises(TypeError, match=f"pickle or copy a {type(each).__name__}"):
                duplicate(each)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("is_waiting", [False, True], ids=["idle", "with a reader"])
def test_a_forked_childs_close_leaves_the_parents_alone(is_waiting: bool) -> None:
    script = f"""
import os, threading, warnings
import batching
with batching.open_conn(("127.0.0.1", 0)) as conn:
    conn.settimeout(20)
    here = conn.local_addr()
    got = []
    reader = threading.Thread(target=lambda: got.extend(conn.recv_batch()))
    if {is_waiting}:
        reader.start()
        while conn.stats().recv_calls < 1:
            pass
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside a thread, since 3.12
    child = os.fork()
    if not child:
        conn.send_batch([(b"from the child", here)])
        conn.close()
        try:
            conn.recv_batch()
        except OSError as error:
            os._exit(0 if error.errno == 9 else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    if {is_waiting}:
        reader.join(20)
    else:
        got += conn.recv_batch()
    assert got == [(b"from the child", here)], got
    assert conn.local_addr() == here
    conn.send_batch([(b"still here", here)] * 3)
    n = 0
    while n < 3:
        n += len(conn.recv_batch())
"""
    run_script(script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_go_on_with_the_conn() -> None:
    script = """
import os, threading, time
import batching
conn = batching.open_conn(("127.0.0.1", 0))
conn.settimeout(20)
child = os.fork()
if child:
    conn.close()  # does not wake or close the child's
    assert os.waitpid(child, 0)[1] == 0
else:
    here = conn.local_addr()
    reader = threading.Thread(target=conn.recv_batch)
    reader.start()
    conn.send_batch([(b"x", here)])
    reader.join(20)
    waiting = []
    def wait():
        try:
            conn.recv_batch()
        except OSError as error:
            waiting.append(error.errno)
    reader = threading.Thread(target=wait)
    reader.start()
    conn.close()
    reader.join(20)
    os._exit(waiting != [9])
"""
    run_script(script)


def test_leaving_a_with_block_closes() -> None:
    with open_conn(ANY_PORT) as conn:
        assert conn.fileno() >= 0
    assert conn.fileno() == -1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(ANY_PORT)

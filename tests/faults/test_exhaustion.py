"""No descriptor, no room in the receive queue, no control bytes, slabs that nobody gives back.

No memory for a single call is test_out_of_memory.py's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from types import ModuleType

import pytest

from batching import Conn, Segments, _conn, metrics, open_conn
from batching._kernel import SK_MEMINFO_DROPS, SO_MEMINFO
from holdings import Holdings, needs_mallinfo
from loopback import (
    ANY_PORT,
    PATIENCE_S,
    PlainPeer,
    needs_gso,
    needs_linux,
    run_script,
)
from seam_rig import Rig

pytestmark = needs_linux

SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h
SLAB = 65536
TRAIN = b"".join(b"%04d" % i * 300 for i in range(50))  # 60,000 bytes, of 1200 each

NO_DESCRIPTORS = """
import errno, os, resource, socket
import batching, batching.metrics
addr = ("127.0.0.1", 0)
def opened():
    return sorted(os.listdir("/proc/self/fd"))
def leave(n):
    # Of the numbers that are left to this process, n.
    top = max(map(int, opened())) + 1
    holes = top - len(opened()) + 1  # listdir's own is closed again
    fill = [os.dup(0) for _ in range(holes)]
    limit = max(map(int, opened())) + n
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
    return fill
def free(fill):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    for fd in fill:
        os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
if {is_probed}:
    batching.open_conn(addr).close()
"""

OPEN = """
n_before, refused = len(opened()), 0
for n in range(8):
    sock = None
    if {upgrades}:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(addr)
        sock.settimeout(5)
    fill = leave(n)
    try:
        if {upgrades}:
            conn = batching.try_upgrade_to_conn(sock, "udp4", 128, "some")
        else:
            conn = batching.open_conn(addr, rxq_overflows_metric_name="some")
        error = None
    except OSError as refusal:
        error = refusal
    free(fill)
    if error is None:
        break
    refused += 1
    assert error.errno == errno.EMFILE, repr(error)
    assert "some" not in batching.metrics.counters()
    if sock:
        assert sock.gettimeout() == 5 and os.get_blocking(sock.fileno()) is False
        assert sock.getsockopt(17, 104) == sock.getsockopt(socket.SOL_SOCKET, 40) == 0
        sock.sendto(b"mine", sock.getsockname())
        assert sock.recv(10) == b"mine"
        sock.close()
    kept = opened()
    assert len(kept) == n_before, (kept, n_before)
else:
    raise AssertionError("8 descriptors are not enough")
with conn:
    conn.write_to_udp_addr_port(b"x", conn.local_addr())
    assert conn.recv_batch()[0][0] == b"x"
assert len(opened()) == n_before
print(refused)
"""

GO_ON = """
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.bind(addr)
peer.settimeout(20)
conn = batching.open_conn(addr)
conn.settimeout(20)
leave(0)
try:
    os.dup(0)
except OSError as error:
    assert error.errno == errno.EMFILE
else:
    raise AssertionError("there is a descriptor left")
for i in range(3):
    sent = [b"%d" % j * 100 for j in range(i, i + 20)]
    assert conn.send_batch([(data, peer.getsockname()) for data in sent]) == 20
    assert [peer.recv(2000) for _ in sent] == sent
    peer.sendto(b"answer", conn.local_addr())
    assert conn.recv_batch() == [(b"answer", peer.getsockname())]
    peer.sendto(b"answer", conn.local_addr())
    assert conn.recv_segments()[0].tolist() == [b"answer"]
try:
    conn.send_batch([(bytes(70000), peer.getsockname()), (b"after", peer.getsockname())])
except batching.SendError as error:
    assert error.errno == errno.EMSGSIZE and peer.recv(10) == b"after"
conn.settimeout(0.01)
try:
    conn.recv_batch()
except TimeoutError:
    print(conn.stats().recv_datagrams, "gso" in repr(conn.offload))
conn.close()
peer.close()
"""


@pytest.mark.parametrize("is_probed", [False, True], ids=["first of all", "probed before"])
@pytest.mark.parametrize("upgrades", [False, True], ids=["open_conn", "try_upgrade_to_conn"])
def test_no_descriptor_at_any_point_leaves_things_as_they_were(
    backend: ModuleType, upgrades: bool, is_probed: bool
) -> None:
    # A new one: socket, then the probe's (which is closed again), then the wake-up.
    script = (NO_DESCRIPTORS + OPEN).format(upgrades=upgrades, is_probed=is_probed)
    told = run_script(script, BATCHING_BACKEND=name_of(backend))
    assert int(told) == (1 if upgrades else 2)


def test_an_open_conn_needs_no_further_descriptor(backend: ModuleType) -> None:
    script = NO_DESCRIPTORS.format(is_probed=False) + GO_ON
    assert run_script(script, BATCHING_BACKEND=name_of(backend)) == "6 True\n"


def name_of(backend: ModuleType) -> str:
    return "native" if backend.__name__.endswith("_mmsg") else "portable"


# Receive queue


@pytest.fixture
def narrow() -> Iterator[Conn]:
    with open_conn(ANY_PORT, receive_buffer=8192, rxq_overflows_metric_name="narrow") as conn:
        conn.settimeout(PATIENCE_S)
        yield conn


def queue_drops(conn: Conn) -> int:
    with socket.socket(fileno=conn.fileno()) as sock:
        words = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
        sock.detach()
    return int(struct.unpack("=9I", words)[SK_MEMINFO_DROPS])


def read_all(conn: Conn) -> int:
    conn.setblocking(False)
    n = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            n += len(conn.recv_batch())
    conn.settimeout(PATIENCE_S)
    return n


def test_received_and_dropped_are_all_that_was_sent(narrow: Conn, peer: PlainPeer) -> None:
    named_before = metrics.counters()["narrow"]
    n_sent = n_received = 0
    for size in (1, 100, 1400, 3000):
        peer.send(narrow.local_addr(), *[bytes(size)] * 250)
        n_received += read_all(narrow)
        peer.send(narrow.local_addr(), b"finds room, and tells of the drops")
        n_received += len(narrow.recv_batch())
        n_sent += 251
        drops = narrow.stats().recv_queue_drops
        assert drops == queue_drops(narrow) > 0
        assert n_received + drops == n_sent
        assert metrics.counters()["narrow"] - named_before == drops
    assert narrow.stats().recv_datagrams == n_received


@needs_gso
def test_a_dropped_train_is_one_drop(narrow: Conn, peer: PlainPeer) -> None:
    data = bytes(12_000)
    for _ in range(20):
        peer.send_train(narrow.local_addr(), data, 1200)
    n_trains = -(-read_all(narrow) // 10)
    assert 20 - n_trains <= narrow.stats().recv_queue_drops == queue_drops(narrow)


def test_drops_are_counted_across_the_wrap(
    monkeypatch: pytest.MonkeyPatch, peer: PlainPeer
) -> None:
    seen = iter([2**32 - 5, 2**32 - 1, 3, 3, 2**31 + 3])
    monkeypatch.setattr(_conn, "drop_events", lambda _sock: next(seen))  # the first: before it
    with open_conn(ANY_PORT) as conn:
        counted = [conn.stats().recv_queue_drops for _ in range(4)]
    assert counted == [4, 8, 8, 2**31 + 8]


# Control bytes


@needs_gso
def test_control_bytes_of_any_length_never_merge_datagrams(backend: ModuleType) -> None:
    whole = [b"aaaa", b"bbbb", b"cc"]
    n_lost = 0
    for size in range(65):
        with contextlib.closing(Rig(backend, gro=True, control_size=size)) as rig:
            rig.sink.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # 32 bytes, before the size
            rig.train(b"".join(whole), 4)
            pending, code = rig.slots.attempt(rig.rx)
            got = [data for data, _ in rig.slots.take()]
            if code == errno.EBADMSG:
                assert (pending, got) == (0, [])
                n_lost += 1
            else:
                assert (pending, code, got) == (3, 0, whole), size
            if size < 32 + 20:
                assert rig.counters.snapshot()["recv_control_truncated"] == 1, size
            rig.send(b"next")
            rig.slots.attempt(rig.rx)
            rest = [data for data, _ in rig.slots.take()]
            assert rest in ([b"next"], [])  # [] where it may have been merged too
            assert rig.counters.snapshot()["recv_datagrams"] == len(got) + len(rest)
    assert n_lost >= 32  # the timestamp alone, and no size


# Slabs


def receive_train(conn: Conn, peer: PlainPeer, i: int) -> Segments:
    peer.send_train(conn.local_addr(), b"%06d" % i + TRAIN[6:], 1200)
    (train,) = conn.recv_segments()
    assert bytes(train.data[:6]) == b"%06d" % i
    return train


@needs_gso
@needs_mallinfo
def test_kept_views_cost_a_slab_each_and_give_it_back(conn: Conn, peer: PlainPeer) -> None:
    conn.settimeout(PATIENCE_S)
    for i in range(20):
        receive_train(conn, peer, i)
    before = Holdings.now().n_bytes
    kept = [receive_train(conn, peer, i) for i in range(200)]
    grown = Holdings.now().n_bytes - before
    assert 190 * SLAB < grown < 210 * SLAB
    assert all(bytes(train.data) == b"%06d" % i + TRAIN[6:] for i, train in enumerate(kept))
    del kept
    left = Holdings.now().n_bytes - before
    assert left < 17 * SLAB  # the spare ones, docs/design.md, "Bounds of memory"


KEEP = """
import errno, resource, socket, struct
import batching
conn = batching.open_conn(("127.0.0.1", 0))
conn.settimeout(20)
source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
numbers, rest = [struct.pack("!I", i) for i in range(2000)], bytes(59_996)
to, control = conn.local_addr(), [(17, 103, struct.pack("=H", 1200))]
def send(i):
    source.sendmsg([numbers[i], rest], control, 0, to)
send(0)
conn.recv_segments()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
kept, n_refused = [], 0
for i in range(2000):
    send(i)
    while True:
        try:
            (train,) = conn.recv_segments()
        except MemoryError:
            pass
        except OSError as error:
            assert error.errno == errno.ENOMEM, error
        else:
            break
        n_refused += 1
        assert len(kept) > 100, len(kept)
        kept.clear()
    assert train.data[:4] == numbers[i] and len(train) == 50
    kept.append(train)
print(n_refused)
source.close()
conn.close()
"""


@needs_gso
@needs_mallinfo  # no limit of the address space holds a sanitizer's malloc
def test_no_memory_for_slabs_is_told_and_the_train_comes_when_there_is_some(
    backend: ModuleType,
) -> None:
    assert 0 < int(run_script(KEEP, BATCHING_BACKEND=name_of(backend))) < 20

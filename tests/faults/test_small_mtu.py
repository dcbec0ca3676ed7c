"""A path with a small MTU: trains above it arrive whole, and only its destination changes.

The kernel refuses a train whose segments are above the MTU (EMSGSIZE, EINVAL before
235174b2bed8) although each of its datagrams goes out by itself, in fragments.  The path
is narrow by a route's MTU, by the device's, or by a router's, of which ICMP tells.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest

from batching import Conn, open_conn
from fake_core import Clock
from loopback import Address, PlainPeer, needs_gso, needs_ipv6, needs_room, until
from netns import Link, Namespace, link, namespace, needs_netns, one_cpu, wait_for_carrier
from numbered import WAYS, Batch, assert_arrived, numbered, send

pytestmark = [needs_netns, needs_gso, needs_ipv6, needs_room, pytest.mark.kernel]

LARGE: Final = 1400  # bytes of a datagram: with its headers above 1300, below 1500
SMALL: Final = 1200
REFUSALS: Final = {errno.EMSGSIZE, errno.EINVAL}
IP_MTU: Final = 14  # include/uapi/linux/in.h
# [46, 18] datagrams fit in a train, [53, 11] small ones.
N: Final = 64
# Both at once are quick enough for every run.
ALONE: Final = [pytest.param(name, marks=pytest.mark.slow) for name in ("ipv4", "ipv6")]


class Path:
    """A Conn whose ways to ``far`` are narrow, and those to ``good`` are not."""

    def __init__(self, net: Link, how: str, family: str, stack: contextlib.ExitStack) -> None:
        self.net, self.how = net, how
        rows = {"ipv4": [0], "ipv6": [1], "dual stack": [0, 1]}[family]
        with net.right:
            self.far = [stack.enter_context(PlainPeer(Link.RIGHT[row])) for row in rows]
        with net.left:
            self.good = [stack.enter_context(PlainPeer(Link.LEFT[row])) for row in rows]
            local = {"ipv4": ("0.0.0.0", 0), "ipv6": (Link.LEFT[1], 0)}.get(family, ("::", 0))
            self.conn = stack.enter_context(open_conn(local))
        self.narrow()

    def narrow(self) -> None:
        self.is_narrow = True
        if self.how == "device":
            self.net.left.ip("link set v0 mtu 1280")
        for peer in self.far if self.how == "route" else ():
            self.net.left.ip(f"route add {peer.address[0]} dev v0 mtu 1300")

    def widen(self) -> None:
        if not self.is_narrow:
            return
        self.is_narrow = False
        if self.how == "device":
            self.net.left.ip("link set v0 mtu 1500")
        for peer in self.far if self.how == "route" else ():
            self.net.left.ip(f"route del {peer.address[0]} dev v0 mtu 1300")

    def send(self, sizes: list[int], *peers: PlainPeer) -> tuple[int, int]:
        """Send these sizes to each peer; return how many calls and trains that took."""
        before = self.conn.stats()
        batch = [pair for peer in peers for pair in numbered(sizes, peer.address)]
        assert send(self.conn, batch) is None
        assert_arrived(batch, *peers)
        after = self.conn.stats()
        return after.send_calls - before.send_calls, after.send_trains - before.send_trains

    def refusals(self) -> int:
        """Return how many times a destination fell back."""
        fallbacks = self.conn.stats().gso_fallbacks
        assert set(fallbacks) <= {errno.errorcode[code] for code in REFUSALS}
        return sum(fallbacks.values())

    def allows_small_trains(self) -> bool:
        """Tell whether the kernel says that it is the size: EINVAL may mean anything."""
        return "EINVAL" not in self.conn.stats().gso_fallbacks


@pytest.fixture(params=["route", "device"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    with one_cpu(), link() as net:
        yield net


@pytest.fixture(params=[*ALONE, "dual stack"])
def path(request: pytest.FixtureRequest, how: str, net: Link) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        path = Path(net, how, request.param, stack)
        stack.callback(path.widen)
        yield path


def is_native(conn: Conn) -> bool:
    return conn.offload.backend == "native"


def test_the_kernel_refuses_the_train_and_not_its_datagrams(path: Path) -> None:
    for good, far in zip(path.good, path.far, strict=True):  # plain sockets both
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is the kernel's choice
            good.send_train(far.address, bytes(10 * LARGE), LARGE)
        assert caught.value.errno in REFUSALS
        good.send(far.address, bytes(LARGE))
        assert far.collect(1) == [bytes(LARGE)]


@pytest.mark.parametrize("way", WAYS)
def test_all_arrives_in_order_by_each_way(path: Path, way: str) -> None:
    # Trains that fit between those that do not, and single datagrams of both sizes.
    sizes = [LARGE] * 30 + [SMALL] * 20 + [LARGE] * 10 + [100] * 30 + [LARGE, SMALL, 5, LARGE]
    for first in (0, 1000):  # refused, then remembered
        for peer in path.far + path.good:
            batch = numbered(sizes, peer.address, first=first)
            WAYS[way](path.conn, [data for data, _ in batch], peer.address)
            assert_arrived(batch, peer)
        assert path.refusals() == len(path.far)


def test_a_batch_for_all_at_once_arrives_in_order(path: Path) -> None:
    peers = path.far + path.good
    batch = numbered([LARGE] * 40 * len(peers), *[peer.address for peer in peers])
    batch += numbered([SMALL] * 20 * len(peers), *[peer.address for peer in peers], first=1000)
    assert send(path.conn, batch) is None
    assert_arrived(batch, *peers)
    assert path.refusals() == len(path.far)


def test_the_size_is_remembered_and_costs_no_further_call(path: Path) -> None:
    far, good = path.far[0], path.good[0]
    calls_good, trains_good = path.send([LARGE] * N, good)
    first, _ = path.send([LARGE] * N, far)
    steady = [path.send([LARGE] * N, far) for _ in range(3)]
    assert path.refusals() == 1
    assert trains_good == 2
    if is_native(path.conn):
        assert (calls_good, first) == (1, 2)  # the refused attempt, then all of it
        assert steady == [(1, 0)] * 3
    else:  # a call a message, each of which went out
        assert (calls_good, first) == (2, 1 + N)
        assert steady == [(N, 0)] * 3


def test_one_train_above_the_mtu_costs_one_call_more(path: Path) -> None:
    n = 40
    if is_native(path.conn):
        assert path.send([LARGE] * n, path.far[0])[0] == 2
    else:
        assert path.send([LARGE] * n, path.far[0])[0] == 1 + n


def test_trains_that_fit_go_on(path: Path) -> None:
    path.send([LARGE] * N, *path.far)
    _, trains = path.send([SMALL] * N, *path.far)
    assert trains == (2 * len(path.far) if path.allows_small_trains() else 0)
    assert path.refusals() == len(path.far)


def test_another_destination_keeps_its_trains(path: Path) -> None:
    path.send([LARGE] * N, *path.far)
    assert path.send([LARGE] * N, *path.good)[1] == 2 * len(path.good)
    assert path.send([LARGE] * N, *path.far, *path.good)[1] == 2 * len(path.good)
    assert path.refusals() == len(path.far)


def test_another_destination_through_the_same_device_keeps_its_trains(net: Link) -> None:
    with contextlib.ExitStack() as stack:
        net.right.ip("addr add 10.9.0.3/24 dev v1")
        path = Path(net, "route", "ipv4", stack)
        stack.callback(path.widen)
        with net.right:
            neighbour = stack.enter_context(PlainPeer("10.9.0.3"))
        assert path.send([LARGE] * N, *path.far, neighbour)[1] == 2
        assert path.send([LARGE] * N, *path.far, neighbour)[1] == 2
        assert path.refusals() == 1


def test_the_size_is_forgotten_after_thirty_seconds(path: Path) -> None:
    clock = Clock()
    waiter: Any = path.conn._waiter
    waiter.clock = clock

    def let_pass(seconds: float) -> None:
        clock.now += seconds
        path.send([LARGE], *path.far)  # the call that forgets was planned by what it forgets

    n = len(path.far)
    path.send([LARGE] * N, *path.far)
    let_pass(29.9)
    path.send([LARGE] * N, *path.far)
    assert path.refusals() == n
    let_pass(0.2)
    assert path.send([LARGE] * N, *path.far)[1] == 0  # tried again, as bad as before
    assert path.refusals() == 2 * n
    path.widen()
    let_pass(30.1)
    assert path.send([LARGE] * N, *path.far)[1] == 2 * n  # tried again, and it is good
    assert path.refusals() == 2 * n
    path.narrow()
    assert path.send([LARGE] * N, *path.far)[1] == 0
    assert path.refusals() == 3 * n


@contextlib.contextmanager
def behind_a_router() -> Iterator[tuple[Namespace, Conn, PlainPeer]]:
    """Give a Conn and a peer with a link of MTU 1300 between that only a router knows of."""
    with one_cpu(), link() as net, namespace() as beyond, contextlib.ExitStack() as stack:
        net.right.ip(f"link add w0 mtu 1300 type veth peer name w1 mtu 1300 netns {beyond.path}")
        net.right.ip("addr add 10.7.0.1/24 dev w0")
        net.right.ip("link set w0 up")
        net.right.sysctl("ipv4.conf.all.forwarding", 1)
        beyond.ip("addr add 10.7.0.2/24 dev w1")
        beyond.ip("link set w1 up")
        beyond.ip("route add default via 10.7.0.1")
        net.left.ip("route add default via 10.9.0.2")
        wait_for_carrier(net.right, "w0")
        wait_for_carrier(beyond, "w1")
        with beyond:
            peer = stack.enter_context(PlainPeer("10.7.0.2"))
        with net.left:
            conn = stack.enter_context(open_conn(("10.9.0.1", 0)))
        conn.send_batch([(b"found", peer.address)])  # more would not wait for the neighbour
        assert peer.collect(1) == [b"found"]
        yield net.left, conn, peer


def knows_the_mtu(side: Namespace, peer: Address) -> bool:
    with side, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(peer)
        return sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1300


def test_an_mtu_of_which_a_router_tells() -> None:
    with behind_a_router() as (side, conn, peer):
        # Once the router knows its neighbour, it holds back, and so loses, nothing.
        conn.send_batch([(b"who has", peer.address)])
        assert peer.collect(1) == [b"who has"]
        # One by itself: a train goes without DF, so the router cuts it and tells nothing.
        conn.send_batch([(bytes(LARGE), peer.address)])  # lost, as a plain socket's would be
        until(lambda: knows_the_mtu(side, peer.address))
        batch: Batch = numbered([LARGE] * N + [SMALL] * N, peer.address)
        for _ in range(2):
            assert send(conn, batch) is None
            assert_arrived(batch, peer)
        assert sum(conn.stats().gso_fallbacks.values()) == 1

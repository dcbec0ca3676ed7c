"""EIO for real: routes that take no train go on by single datagrams, alone.

Kernels answer EIO to a train where IPsec is on its route, and up to Linux 6.10 where the
device cannot checksum.  The kernel is asked which of the two it is about: what it does not
refuse is skipped, so most of this is shown by ``make test-kernels``.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any, Final

import pytest

from batching import UDPGSODisabledError, open_conn
from fake_core import Clock
from loopback import PlainPeer, needs_gso, needs_ipv6, needs_room
from netns import Link, link, needs_command, needs_netns, one_cpu
from numbered import WAYS, Batch, assert_arrived, numbered, send

pytestmark = [
    needs_netns,
    needs_command("ethtool"),
    needs_gso,
    needs_ipv6,
    needs_room,
    pytest.mark.kernel,
]

SIZE: Final = 1000  # with the 36 bytes of ESP still below the MTU
N: Final = 60  # one train
THIRD: Final = ("10.9.0.3", "fd09::3")  # on the right too, and no IPsec is on the way
AEAD: Final = f"aead rfc4106(gcm(aes)) 0x{'11' * 20} 128"


class Path:
    """A Conn on the left, ``far`` behind what refuses trains, ``good`` behind nothing."""

    def __init__(self, net: Link, version: int, connected: bool = False) -> None:
        self.net = net
        self.row = int(version == 6)
        self.local = (Link.LEFT[self.row], 0)
        with net.right:
            self.far = PlainPeer(Link.RIGHT[self.row])
        self.good = self._good()
        with net.left:
            self.conn = open_conn(self.local, self.far.address if connected else None)
        self.clock = Clock()
        waiter: Any = self.conn._waiter
        waiter.clock = self.clock

    def _good(self) -> PlainPeer:
        raise NotImplementedError

    def spoil(self) -> None:
        """Let the kernel refuse trains to ``far``."""
        raise NotImplementedError

    def mend(self) -> None:
        """Let it take them again; harmless if it does."""
        raise NotImplementedError

    def close(self) -> None:
        self.conn.close()
        for peer in (self.far, self.good):
            peer.sock.close()
        self.mend()

    def refuses_trains(self) -> bool:
        with self.net.left, PlainPeer(self.local[0]) as plain:
            try:
                plain.send_train(self.far.address, bytes(2 * SIZE), SIZE)
            except OSError as error:
                return error.errno == errno.EIO
        self.far.collect(2)
        return False

    def trains(self, *peers: PlainPeer) -> int:
        """Send a train's worth to each, all of which arrives; return how many trains it was."""
        before = self.conn.stats().send_trains
        batch = numbered([SIZE] * N * len(peers), *[peer.address for peer in peers])
        self.send(batch)
        assert_arrived(batch, *peers)
        return self.conn.stats().send_trains - before

    def send(self, batch: Batch) -> None:
        with self.net.left:  # lessons watch the routes of the thread's namespace
            assert send(self.conn, batch) is None

    def let_pass(self, seconds: float) -> None:
        self.clock.now += seconds
        self.send(numbered([5], self.far.address))  # is planned before it forgets
        self.far.collect(1)

    @property
    def fallbacks(self) -> dict[str, int]:
        return dict(self.conn.stats().gso_fallbacks)


class Ipsec(Path):
    """ESP in transport mode between the two addresses of the link."""

    def _good(self) -> PlainPeer:
        with self.net.right:
            return PlainPeer(THIRD[self.row])

    def spoil(self) -> None:
        source, target = Link.LEFT[self.row], Link.RIGHT[self.row]
        ends = f"src {source} dst {target}"
        state = f"xfrm state add {ends} proto esp spi 0x100 mode transport"
        for side in (self.net.left, self.net.right):
            side.run("ip", *state.split(), *AEAD.split())
        self.net.left.ip(f"xfrm policy add {ends} dir out tmpl {ends} proto esp mode transport")

    def mend(self) -> None:
        self.net.left.ip("xfrm policy flush")
        for side in (self.net.left, self.net.right):
            side.ip("xfrm state flush")


class NoChecksums(Path):
    """A device that cannot checksum, and lo that can."""

    def _good(self) -> PlainPeer:
        with self.net.left:
            return PlainPeer(Link.LEFT[self.row])

    def spoil(self) -> None:
        self.net.left.run("ethtool", "-K", "v0", "tx", "off")

    def mend(self) -> None:
        self.net.left.run("ethtool", "-K", "v0", "tx", "on")


REASONS: Final[dict[type[Path], str]] = {}  # why a kind is skipped, once it was tried
KINDS: Final = {"ipsec": Ipsec, "tx off": NoChecksums}


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    with one_cpu(), link() as net:
        for host, length in zip(THIRD, (24, 64), strict=True):
            net.right.ip(f"addr add {host}/{length} dev v1" + (" nodad" if length == 64 else ""))
        yield net


def spoilt(path: Path) -> Path:
    """Spoil it, or skip the test where the kernel does not let itself be spoilt."""
    kind = type(path)
    if kind not in REASONS:
        REASONS[kind] = why_not(path)
    if REASONS[kind]:
        pytest.skip(REASONS[kind])
    path.spoil()
    return path


def why_not(path: Path) -> str:
    """Tell why this kernel does not refuse trains to it, if so."""
    try:
        path.spoil()
    except AssertionError:
        return "needs ESP and AES-GCM in the kernel"
    if not path.refuses_trains():
        return "this kernel takes trains here: up to Linux 6.10 it does not"
    path.mend()
    return ""


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Path]:
    return KINDS[request.param]


@pytest.fixture
def path(kind: type[Path], version: int, net: Link) -> Iterator[Path]:
    if REASONS.get(kind):  # quickly
        pytest.skip(REASONS[kind])
    with contextlib.closing(kind(net, version)) as path:
        yield spoilt(path)


@pytest.mark.parametrize("way", WAYS)
def test_all_arrives_by_single_datagrams(path: Path, way: str) -> None:
    for first in (0, 1000):  # refused, then remembered
        batch = numbered([SIZE] * 100 + [0x10, 4], path.far.address, first=first)
        with path.net.left:
            WAYS[way](path.conn, [data for data, _ in batch], path.far.address)
        assert_arrived(batch, path.far)
    assert path.fallbacks == {"EIO": 1}
    assert path.conn.stats().send_trains == 0


def test_single_datagrams_do_not_meet_it(path: Path) -> None:
    batch = numbered(range(100, 200), path.far.address)  # no two in a train
    path.send(batch)
    assert_arrived(batch, path.far)
    assert path.fallbacks == {}


def test_other_destinations_keep_their_trains(path: Path) -> None:
    for _ in range(3):
        assert path.trains(path.far, path.good) == 1
        assert path.trains(path.good) == 1
    assert path.fallbacks == {"EIO": 1}


def test_the_loss_is_told_once(path: Path) -> None:
    batch = numbered([SIZE] * N, path.far.address)
    datagrams = [data for data, _ in batch]
    with path.net.left:
        with pytest.raises(UDPGSODisabledError) as caught:
            path.conn.write_batch_to(datagrams, path.far.address)
        assert (caught.value.errno, caught.value.retry_err) == (errno.EIO, None)
        path.conn.write_batch_to(datagrams, path.far.address)
    assert_arrived(batch + batch, path.far)


def test_a_connected_conn_goes_on_and_gets_its_trains_back(
    kind: type[Path], version: int, net: Link
) -> None:
    with contextlib.closing(kind(net, version, connected=True)) as path:
        spoilt(path)
        assert path.trains(path.far) == 0
        path.mend()
        path.let_pass(30.1)
        assert path.trains(path.far) == 1
        assert path.fallbacks == {"EIO": 1}


def test_trains_are_tried_again_after_thirty_seconds(path: Path) -> None:
    assert path.trains(path.far) == 0
    path.let_pass(30.1)
    assert path.trains(path.far) == 0  # tried, as bad as before
    assert path.fallbacks == {"EIO": 2}
    path.mend()
    path.let_pass(30.1)
    assert path.trains(path.far) == 1
    assert path.fallbacks == {"EIO": 2}
    path.spoil()
    assert path.trains(path.far) == 0
    assert path.fallbacks == {"EIO": 3}


def test_a_policy_that_goes_is_told_by_no_route(version: int, net: Link) -> None:
    with contextlib.closing(Ipsec(net, version)) as path:
        spoilt(path)
        assert path.trains(path.far) == 0
        path.mend()
        path.let_pass(29.9)
        assert path.trains(path.far) == 0
        path.let_pass(0.2)
        assert path.trains(path.far) == 1


def test_a_device_that_can_checksum_again_is_noticed(version: int, net: Link) -> None:
    with contextlib.closing(NoChecksums(net, version)) as path:
        spoilt(path)
        assert path.trains(path.far) == 0
        path.mend()
        path.let_pass(0.2)  # looks
        path.let_pass(1.1)
        assert path.trains(path.far) == 1
        assert path.fallbacks == {"EIO": 1}


def test_a_route_that_comes_under_ipsec_loses_nothing(version: int, net: Link) -> None:
    with contextlib.closing(Ipsec(net, version)) as path:
        assert path.trains(path.far, path.good) == 2
        spoilt(path)
        assert path.trains(path.far, path.good) == 1
        assert path.trains(path.far, path.good) == 1
        assert path.fallbacks == {"EIO": 1}

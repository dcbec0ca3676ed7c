"""Ends: a Conn and two plain sockets at the other end of a link, in one version of IP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from batching import Conn, SendError, open_conn
from loopback import PlainPeer
from netns import Link, link, one_cpu
from numbered import assert_arrived, numbered, send

SIZE: Final = 1000  # bytes: a train of two does not fit into a packet of an Ethernet


class Ends(NamedTuple):
    """A Conn in the left namespace, and two plain sockets to send to in the right one."""

    net: Link
    version: int
    conn: Conn
    far: PlainPeer
    other: PlainPeer

    @property
    def local(self) -> tuple[str, int]:
        """Where to bind further sockets of the left namespace."""
        return Link.LEFT[self.version == 6], 0

    def sends_all(self, sizes: list[int], first: int = 0) -> None:
        """Send these sizes to both ends in turn; all of it has to arrive."""
        batch = numbered(2 * sizes, self.far.address, self.other.address, first=first)
        assert send(self.conn, batch) is None
        assert_arrived(batch, self.far, self.other)

    def sends_trains(self) -> bool:
        """Tell whether ten datagrams to ``far`` are one message."""
        before = self.conn.stats()
        batch = numbered([SIZE] * 10, self.far.address, first=5000)
        assert send(self.conn, batch) is None
        assert_arrived(batch, self.far)
        after = self.conn.stats()
        return after.send_messages - before.send_messages == 1


@contextlib.contextmanager
def ends_on(net: Link, version: int) -> Iterator[Ends]:
    """Give new ends on a link that may have had others."""
    host = Link.RIGHT[version == 6]
    with net.right:
        far, other = PlainPeer(host), PlainPeer(host)
    with net.left:
        conn = open_conn((Link.LEFT[version == 6], 0))
    with conn, far, other:
        yield Ends(net, version, conn, far, other)


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    """Give a link for all tests of a file."""
    with one_cpu(), link() as net:
        yield net


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def ends(request: pytest.FixtureRequest, net: Link) -> Iterator[Ends]:
    """Give ends on it, in each version of IP."""
    with ends_on(net, request.param) as ends:
        yield ends


def codes(error: SendError) -> set[int | None]:
    return {each.errno for each in error.errors.values()}

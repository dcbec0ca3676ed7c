"""After a change of route or device, what destinations taught is tried again soon."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batching import open_conn
from batching._routes import RouteWatch, watch_routes
from loopback import PlainPeer, descriptors, needs_gso, until
from netns import Link, link, namespace, needs_netns

pytestmark = [needs_netns, needs_gso, pytest.mark.kernel]

SIZE = 1400
BATCH = [bytes([i]) * SIZE for i in range(20)]
RIGHT = Link.RIGHT[0]


class Path:
    """A Conn on the left, a plain socket on the right, and a clock that the test moves."""

    def __init__(self, at: Link) -> None:
        self.link = at
        with at.left:
            self.conn = open_conn((Link.LEFT[0], 0))
        with at.right:
            self.peer = PlainPeer(RIGHT)
        self.now = 1000.0
        waiter: Any = self.conn._waiter
        waiter.clock = lambda: self.now

    def send(self) -> None:
        """Send a batch, all of which arrives."""
        with self.link.left:  # the watch looks at the namespace of the thread
            self.conn.send_batch([(data, self.peer.address) for data in BATCH])
        assert self.peer.collect(len(BATCH)) == BATCH

    @property
    def n_fallbacks(self) -> int:
        return sum(self.conn.stats().gso_fallbacks.values())

    @property
    def n_trains(self) -> int:
        return self.conn.stats().send_trains


@pytest.fixture
def path() -> Iterator[Path]:
    with link() as at:
        path = Path(at)
        with path.conn, path.peer:
            yield path


def narrow_route(at: Link) -> None:
    at.left.ip("route replace 10.9.0.2/32 dev v0 mtu 1300")


def widen_route(at: Link) -> None:
    at.left.ip("route del 10.9.0.2/32 dev v0")


def narrow_device(at: Link) -> None:
    at.left.ip("link set v0 mtu 1280")


def widen_device(at: Link) -> None:
    at.left.ip("link set v0 mtu 1500")


@pytest.mark.parametrize(
    ("spoil", "mend"), [(narrow_route, widen_route), (narrow_device, widen_device)]
)
def test_trains_come_back_a_second_after_the_route_does(
    path: Path, spoil: Callable[[Link], None], mend: Callable[[Link], None]
) -> None:
    spoil(path.link)
    path.send()
    assert path.n_fallbacks == 1
    path.now += 2.0  # longer than a change of route takes to count: there has been none since
    path.send()
    assert (path.n_fallbacks, path.n_trains) == (1, 0)
    mend(path.link)
    path.now += 0.2
    path.send()  # notices the change
    assert path.n_trains == 0
    path.now += 1.0
    path.send()
    assert (path.n_fallbacks, path.n_trains) == (1, 1)


def test_a_route_that_flaps_costs_one_trial_a_second(path: Path) -> None:
    narrow_route(path.link)
    for _ in range(30):
        path.link.left.ip("route replace 10.99.0.0/24 dev v0")  # someone else's
        path.link.left.ip("route del 10.99.0.0/24 dev v0")
        path.send()
        path.now += 0.2
    assert 4 <= path.n_fallbacks <= 6  # in 6 s
    assert path.n_trains == 0


def test_a_descriptor_is_held_only_while_something_is_remembered(path: Path) -> None:
    before = len(descriptors())
    path.send()
    assert len(descriptors()) == before
    narrow_route(path.link)
    path.send()
    assert len(descriptors()) == before + 1
    widen_route(path.link)
    path.now += 31
    path.send()
    assert len(descriptors()) == before
    narrow_route(path.link)
    path.send()
    path.conn.close()
    assert len(descriptors()) == before - 2  # the socket and the wake-up too


def test_a_forked_child_does_not_take_the_parents_news(path: Path) -> None:
    narrow_route(path.link)
    path.send()
    widen_route(path.link)
    child = os.fork()
    if not child:
        try:
            path.now += 0.2
            path.conn.send_batch([(BATCH[0], path.peer.address)])  # would read what is shared
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert path.peer.collect(1) == BATCH[:1]
    path.now += 0.2
    path.send()
    path.now += 1.0
    path.send()
    assert path.n_trains == 1


def test_it_goes_on_without_a_watch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    narrow_route(path.link)
    assert watch_routes() is None
    path.send()
    widen_route(path.link)
    path.now += 29
    path.send()
    assert path.n_trains == 0
    path.now += 1
    path.send()
    assert path.n_trains == 1


def test_more_changes_than_there_is_room_for_are_a_change() -> None:
    with namespace() as side:
        with side:
            watch = RouteWatch()
        assert not watch.has_changed()
        changes = "route add 10.99.{0}.0/24 dev lo\n"
        side.run("ip", "-batch", "-", feed="".join(changes.format(i) for i in range(250)))
        assert watch.has_changed()
        until(lambda: not watch.has_changed())
        watch.close()

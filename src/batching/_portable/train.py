"""Trains: which datagrams share a message.

Rules (the kernel enforces them, or is silently wrong when they are broken):

Rule 1: a train's datagrams go to one peer, stand together in the order of that peer's
items, and have one mark and one length, of which only the last may fall short: the kernel cuts the
message's bytes every segment size, wherever the buffers end.
Rule 2: an empty datagram is a message of its own.
Rule 3: no more datagrams and no longer ones than the peer allows; in total no more
than one UDP message may have, since it is one until the kernel cuts it.
Rule 4: a Segments item of several datagrams is not merged with its neighbours, only
cut; its message has one buffer.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .mark import Mark
from .peers import Peer

__all__ = ["Outgoing", "Run", "plan"]


class Run(NamedTuple):
    """Datagrams of one item, side by side in one buffer."""

    item: int
    first: int  # of the item's datagrams
    n_datagrams: int
    segment_size: int  # of all but the last
    view: memoryview
    mark: Mark | None = None

    def cut(self, start: int, stop: int) -> "Run":
        size = self.segment_size
        view = self.view[start * size : stop * size]
        return Run(self.item, self.first + start, stop - start, size, view, self.mark)

    def singles(self) -> Iterator["Run"]:
        for index in range(self.n_datagrams):
            single = self.cut(index, index + 1)
            yield single._replace(segment_size=single.view.nbytes)


class Outgoing:
    """What one system call sends: a datagram, or a train of runs."""

    __slots__ = ("n_bytes", "n_datagrams", "peer", "runs")

    def __init__(self, peer: Peer, runs: list[Run]) -> None:
        self.peer = peer
        self.runs = runs
        self.n_datagrams = sum(run.n_datagrams for run in runs)
        self.n_bytes = sum(run.view.nbytes for run in runs)

    @property
    def segment_size(self) -> int:
        """Of a train; 0: a single datagram."""
        return self.runs[0].segment_size if self.n_datagrams > 1 else 0

    @property
    def mark(self) -> Mark | None:
        return self.runs[0].mark

    def is_allowed(self) -> bool:
        return self.n_datagrams == 1 or (
            self.n_datagrams <= self.peer.max_segments
            and self.segment_size <= self.peer.max_segment_size
        )

    def singles(self) -> list["Outgoing"]:
        return [Outgoing(self.peer, [run]) for train in self.runs for run in train.singles()]


def plan(peer: Peer, runs: Iterable[Run]) -> Iterator[Outgoing]:
    """Yield the messages of one peer's runs, by the rules of a train."""
    train: list[Run] = []
    n_bytes = 0
    for run in runs:
        if train and not _may_join(peer, train, n_bytes, run):
            yield Outgoing(peer, train)
            train, n_bytes = [], 0
        if run.n_datagrams > 1:
            yield from (Outgoing(peer, [piece]) for piece in _recut(peer, run))
        else:
            train.append(run)
            n_bytes += run.view.nbytes
    if train:
        yield Outgoing(peer, train)


def _may_join(peer: Peer, train: list[Run], n_bytes: int, run: Run) -> bool:
    size = train[0].view.nbytes
    return (
        run.n_datagrams == 1
        and run.mark == train[0].mark
        and 0 < run.view.nbytes <= size <= peer.max_segment_size
        and train[-1].view.nbytes == size  # a shorter one has closed it
        and len(train) < peer.max_segments
        and n_bytes + run.view.nbytes <= peer._max_payload
    )


def _recut(peer: Peer, run: Run) -> Iterator["Run"]:
    """Yield ``run`` in the fewest pieces that its peer allows."""
    if peer.max_segments < 2 or run.segment_size > peer.max_segment_size:
        yield from run.singles()
        return
    stride = max(1, min(peer.max_segments, peer._max_payload // run.segment_size))
    start = 0
    while start < run.n_datagrams:
        rest = run.cut(start, run.n_datagrams)
        if rest.n_datagrams <= peer.max_segments and rest.view.nbytes <= peer._max_payload:
            yield rest  # whole, perhaps one more than the stride: its last may be short
            return
        yield run.cut(start, start + stride)
        start += stride

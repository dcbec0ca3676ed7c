"""SendPlan: a window of datagrams as messages, and how far sending them has come.

Rule 1: loading checks everything before anything is sent or written, and may run user
code; nothing after it does, until release().
Rule 2: which datagrams share a message is train's to say; UDP_SEGMENT goes
with a train, never with a single datagram.
Rule 3: what the kernel took is noted before a signal handler can raise.
"""

from __future__ import annotations

import errno
import itertools
import operator
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from .._address import Address
from .._kernel import SOL_UDP, UDP_SEGMENT, is_answer
from .buffer import byte_view
from .counters import Counters, tally
from .descriptor import Descriptor
from .mark import mark_of
from .peers import Peer, Peers
from .segments import Segments
from .train import Outgoing, Run, plan

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["WINDOW", "SendPlan"]

WINDOW: Final = 8192
_T = TypeVar("_T")
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")  # Windows has not
_SEGMENT_SIZE: Final = struct.Struct("=H")  # exactly a u16: any other length is EINVAL


def _arguments(message: Outgoing) -> tuple[Any, ...]:
    """Return sendmsg's; sendto's where there is no sendmsg, and then no trains either."""
    views = [run.view for run in message.runs]
    if not _HAS_SENDMSG:
        # Windows takes an address on a connected socket too, where it is the same one.
        return views[0] if len(views) == 1 else b"".join(views), message.peer.address
    size = message.segment_size
    control = [(SOL_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(size))] if size else []
    if message.mark is not None:
        control += message.mark.control(message.peer._sockaddr)
    if message.peer._is_connected:
        return views, control
    return views, control, 0, message.peer.address


@final
class SendPlan:
    """A window of datagrams as messages: who shares one, and how far sending has come.

    Items are what was loaded: datagrams, or Segments.  Loading checks every item and
    holds its buffer until release(); it may run user code.  The messages of one peer
    stand in the order of its items; a train never mixes peers.
    Not for two threads at once.
    """

    __slots__ = (
        "__weakref__",
        "_counters",
        "_messages",
        "_peers",
        "_skipped",
        "_took",
        "_tried",
        "_views",
        "datagrams_sent",
        "position",
    )

    def __init__(self, peers: Peers, counters: Counters) -> None:
        self._peers = peers
        self._counters = counters
        self._messages: list[Outgoing] = []
        self._skipped: list[tuple[Outgoing, int]] = []
        self._views: list[memoryview] = []  # of the users' buffers; the runs' are parts
        self._tried: list[Outgoing] = []  # of the last attempt,
        self._took: list[int] = []  # and the kernel's answers, until they are counted
        self.position = 0
        self.datagrams_sent = 0

    @property
    def n_messages(self) -> int:
        return len(self._messages)

    @property
    def left(self) -> int:
        """Messages from ``position`` on."""
        return len(self._messages) - self.position

    def load(self, datagrams: list[tuple[Buffer, Address | None]], start: int = 0) -> int:
        """Take items from ``start``, WINDOW at most; return how many.

        TypeError, ValueError: "datagram INDEX: ..."; nothing is then held.
        """
        self.release()
        window = _window(datagrams, start)
        groups: dict[Peer, list[Run]] = {}
        with _Loading(self, "datagram") as loading:
            for index, item in enumerate(window, start):
                loading.index = index
                data, address = _pair(item)
                view = self._hold(data)
                peer = self._peers.get(address)
                groups.setdefault(peer, []).append(Run(index, 0, 1, view.nbytes, view))
        self._lay_out(groups)
        return len(window)

    def load_to(
        self,
        buffers: Sequence[Buffer],
        address: object,
        offset: int = 0,
        header: bytes | None = None,
    ) -> None:
        """Take all ``buffers`` (WINDOW at most, else ValueError) for one address.

        Without ``header`` the first ``offset`` bytes of each are left out; with it (of
        ``offset`` bytes) they are overwritten by it, all or none, and sent.
        """
        self.release()
        window = list(buffers)
        if len(window) > WINDOW:
            raise ValueError(f"{len(window)} buffers, at most {WINDOW}")
        if offset < 0 or (header is not None and len(header) != offset):
            raise ValueError(f"offset {offset}, must be 0 or more, and the length of a header")
        peer = self._peers.get(address)
        with _Loading(self, "buffer") as loading:
            for index, buffer in enumerate(window):
                loading.index = index
                view = self._hold(buffer)
                if header is not None and view.readonly:
                    raise ValueError("is read-only, and the header is written into it")
                if view.nbytes < offset:
                    raise ValueError(f"offset {offset}, but only {view.nbytes} bytes")
        start = offset
        if header is not None:
            start = 0
            for view in self._views:
                view[:offset] = header
        sent = (view[start:] for view in self._views)
        self._lay_out({peer: [Run(i, 0, 1, view.nbytes, view) for i, view in enumerate(sent)]})

    def load_segments(
        self, segments: list[Segments], start: int = 0, peer: Peer | None = None
    ) -> int:
        """Take trains from ``start``, WINDOW at most; return how many.

        A given ``peer`` overrides each train's address.  "segments INDEX: ...".
        """
        self.release()
        window = _window(segments, start)
        groups: dict[Peer, list[Run]] = {}
        with _Loading(self, "segments") as loading:
            for index, item in enumerate(window, start):
                loading.index = index
                if not isinstance(item, Segments):
                    raise TypeError(f"must be Segments, not {type(item).__name__}")
                view = self._hold(item.data)
                # A plain attribute: it may have been changed.
                size = int(operator.index(item.segment_size))
                if view.nbytes and size < 1:
                    raise ValueError(f"segment_size {size}, must be at least 1")
                n_datagrams = -(-view.nbytes // size) if view.nbytes else 1
                to = self._peers.get(item.addr) if peer is None else peer
                if n_datagrams == 1:
                    size = view.nbytes
                mark = mark_of(item, self._peers) if peer is None else None
                groups.setdefault(to, []).append(Run(index, 0, n_datagrams, size, view, mark))
        self._lay_out(groups)
        return len(window)

    def attempt(self, descriptor: Descriptor, limit: int = 1024) -> tuple[int, int]:
        """Send up to ``limit`` messages from ``position``; return (sent, errno or 0).

        One system call each; the first that fails is the last, and its errno is returned
        beside the count.  ``position`` moves on by what was sent.  (0, 0) only when none
        is left.
        """
        hold = descriptor._hold
        if hold is None:
            return 0, errno.EBADF
        try:
            return self._send(descriptor._sock, limit)
        finally:
            hold = None  # and so leave

    def peer(self) -> Peer:
        """Return the peer of the message at ``position``."""
        return self._messages[self.position].peer

    def segment_size(self) -> int:
        """Return the segment size of the message at ``position``; 0: a single datagram."""
        return self._messages[self.position].segment_size

    def split(self, least: int = 0) -> int:
        """Cut the train at ``position`` into single datagrams; return how many.

        ``least``, if not 0: and each later train to the same peer whose segments have as
        many bytes or more.
        """
        first = self._messages[self.position]
        messages = first.singles()
        n = len(messages)
        for message in self._messages[self.position + 1 :]:
            if 0 < least <= message.segment_size and message.peer is first.peer:
                messages.extend(message.singles())
            else:
                messages.append(message)
        self._messages[self.position :] = messages
        return n

    def recut(self) -> None:
        """Cut into datagrams each train, from ``position`` on, that its peer refuses."""
        messages: list[Outgoing] = []
        for message in self._messages[self.position :]:
            if message.is_allowed():
                messages.append(message)
            else:
                messages.extend(message.singles())
        self._messages[self.position :] = messages

    def skip(self, errno: int) -> None:
        """Pass over the message at ``position`` and note ``errno`` for it."""
        message = self._messages[self.position]
        self._skipped.append((message, errno))
        self.position += 1
        with self._counters._lock:
            self._counters.send_errors += message.n_datagrams

    def report(self) -> list[tuple[int, int, int, int]]:
        """Return (item, its first datagram, datagrams, errno) of all that was not sent.

        errno 0: not tried, or would have blocked.  Ascending.
        """
        waiting = ((message, 0) for message in self._messages[self.position :])
        entries = sorted(
            (run.item, run.first, run.n_datagrams, code)
            for message, code in itertools.chain(self._skipped, waiting)
            for run in message.runs
        )
        report: list[tuple[int, int, int, int]] = []
        for item, first, count, code in entries:
            if report:
                last_item, last_first, last_count, last_code = report[-1]
                if (item, first, code) == (last_item, last_first + last_count, last_code):
                    report[-1] = item, last_first, last_count + count, code
                    continue
            report.append((item, first, count, code))
        return report

    def release(self) -> None:
        """Let go of all buffers and peers.  May run user code."""
        if self._took:
            self._count()
        self._tried = []
        for message in self._messages:  # the skipped ones among them
            for run in message.runs:
                run.view.release()
        self._messages.clear()
        self._skipped.clear()
        while self._views:
            self._views.pop().release()
        self.position = 0
        self.datagrams_sent = 0

    def _hold(self, data: object) -> memoryview:
        view = byte_view(data)
        self._views.append(view)
        return view

    def _lay_out(self, groups: dict[Peer, list[Run]]) -> None:
        for peer, runs in groups.items():  # in order of first appearance
            self._messages.extend(plan(peer, runs))

    def _send(self, sock: socket.socket, limit: int) -> tuple[int, int]:
        batch = self._messages[self.position : self.position + max(limit, 0)]
        send = sock.sendmsg if _HAS_SENDMSG else sock.sendto
        took: list[int] = []
        self._tried, self._took = batch, took
        failure = 0
        try:
            # The kernel's answers are noted in C: whatever a signal handler raises, what
            # was sent is known, and is neither sent again nor reported as unsent.
            took.extend(itertools.starmap(send, map(_arguments, batch)))
        except OSError as error:
            if not is_answer(error):
                raise
            failure = error.errno or 0
        finally:
            self._count(has_failed=failure != 0)
        return len(took), failure

    def _count(self, has_failed: bool = False) -> None:
        """Move on by what the kernel took, once; release() does it where a signal came between."""
        n_messages = len(self._took)
        sent = self._tried[:n_messages]
        sizes = tally(message.n_datagrams for message in sent)
        n_datagrams = sum(message.n_datagrams for message in sent)
        n_bytes = sum(message.n_bytes for message in sent)
        counters = self._counters
        none: list[int] = []
        with counters._lock:
            self._took = none
            self.position += n_messages
            self.datagrams_sent += n_datagrams
            counters.send_calls += n_messages + has_failed
            counters.send_messages_per_call += n_messages  # a call each
            counters.send_datagrams_per_message += sizes
            counters.send_datagrams += n_datagrams
            counters.send_bytes += n_bytes


def _window(items: list[_T], start: int) -> list[_T]:
    if start < 0:
        raise ValueError(f"start {start}, must be at least 0")
    return items[start : start + WINDOW]


def _pair(item: object) -> tuple[object, object]:
    if not isinstance(item, tuple | list):
        raise TypeError(f"must be a pair (data, address), not {type(item).__name__}")
    if len(item) != 2:
        kind = type(item).__name__
        raise TypeError(f"must be a pair (data, address), not a {kind} of {len(item)}")
    return item[0], item[1]


class _Loading:
    """Lets go of everything when an item is unfit, and says which one it was."""

    def __init__(self, owner: SendPlan, what: str) -> None:
        self._owner = owner
        self._what = what
        self.index = 0

    def __enter__(self) -> _Loading:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        self._owner.release()
        for kind in (TypeError, ValueError):
            if isinstance(error, kind):
                raise kind(f"{self._what} {self.index}: {error}") from error.__cause__

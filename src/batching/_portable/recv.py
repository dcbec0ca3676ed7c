"""RecvSlots: what the kernel gave, until somebody takes it.

Rule 1: nothing is asked of the kernel while anything is pending, so a slab is written
again only once all that stood in it was taken.  A slab of which a view was handed out
belongs to its user, and is replaced.
Rule 2: a taking call first builds all that it returns and then moves the mark, in one
statement without a call: an exception on the way leaves everything pending.
Rule 3: no user code runs under the lock.  What ``take_into`` fills is looked at, and its
buffers are pinned, before; they are let go of after.
Rule 4: no error is lost.  One that ended an attempt which brought datagrams is told by
the next attempt that would ask the kernel.
"""

from __future__ import annotations

import errno
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, final

from .._address import Address
from .._kernel import MSG_CTRUNC, MSG_TRUNC, SLAB_SIZE, WOULD_BLOCK
from ..segments import Segments
from .control import find_fields, pack_control
from .counters import Counters
from .descriptor import Descriptor
from .message import Message, pin
from .peers import Peers

__all__ = ["RecvSlots"]

_COPIED_BELOW: Final = 4096  # so that a kept view of 64 bytes does not pin 64 KiB
_HAS_RECVMSG = hasattr(socket.socket, "recvmsg_into")  # Windows has not

_Control = list[tuple[int, int, bytes]]
_Result = tuple[int, _Control, int, Any]  # recvmsg_into's: n, control, flags, address


class _Train(NamedTuple):
    """A message that came: one datagram or several."""

    slot: int
    data: memoryview  # of its slab
    segment_size: int  # of all but the last
    n_datagrams: int
    address: Address
    flags: int  # MSG_TRUNC is its last datagram's, MSG_CTRUNC its first one's
    control: _Control

    def part(self, first: int, count: int) -> memoryview:
        size = self.segment_size
        return self.data[first * size : (first + count) * size]

    def flags_of(self, index: int) -> int:
        flags = self.flags & MSG_CTRUNC if index == 0 else 0
        return flags | (self.flags & MSG_TRUNC if index == self.n_datagrams - 1 else 0)


class _Piece(NamedTuple):
    """What a taking call takes of one train."""

    train: _Train
    first: int
    n_datagrams: int


@final
class RecvSlots:
    """Slabs that the kernel writes into, and the datagrams in them not yet taken.

    Safe from several threads: each method is one step under one lock.
    """

    __slots__ = (
        "__weakref__",
        "_control_size",
        "_counters",
        "_is_gro",
        "_kept_errno",
        "_lock",
        "_mark",
        "_max_slots",
        "_min_oob",
        "_peers",
        "_results",
        "_slabs",
        "_trains",
        "overflows",
        "pending",
        "ticket",
    )

    def __init__(
        self,
        peers: Peers,
        counters: Counters,
        max_slots: int = 16,
        gro: bool = True,
        control_size: int = 512,
        min_oob: int = 48,
    ) -> None:
        if max_slots < 1:
            raise ValueError(f"max_slots {max_slots}, must be at least 1")
        self._peers = peers
        self._counters = counters
        self._max_slots = max_slots
        self._control_size = control_size
        self._min_oob = min_oob
        self._lock = threading.Lock()
        self._slabs: list[bytearray | None] = []  # None: given away, to be replaced
        self._results: list[_Result] = []  # of the kernel, not yet made into trains
        self._trains: list[_Train] = []  # of the last attempt
        self._mark = 0, 0  # the train, and its datagram, that goes next
        self._kept_errno = 0
        self._is_gro = gro
        self.pending = 0
        self.overflows = 0
        self.ticket = 0  # the descriptor's when the kernel was last asked, with nothing pending

    def attempt(self, descriptor: Descriptor) -> tuple[int, int]:
        """Receive what is there, a slot a system call; return (datagrams pending, errno or 0).

        With datagrams pending it makes no call.  EBADMSG: a message that may have been
        a merged train lost its segment size to MSG_CTRUNC and was not delivered; others
        of the same attempt may be pending.  ESHUTDOWN: the socket was shut down.
        """
        with self._lock:
            if self.pending and not descriptor.closed:
                return self.pending, 0
            self.ticket = descriptor.ticket
            call = object()
            try:
                return self._receive(descriptor._enter(call))
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise  # a signal handler's: what the kernel says, _receive returns
                return 0, errno.EBADF
            finally:
                descriptor._calls.discard(call)
                if descriptor.closed:
                    descriptor._settle()

    def take(self, limit: int = 0) -> list[tuple[bytes, Address]]:
        """Return pending datagrams, ``limit`` at most (0: all)."""
        with self._lock:
            pieces = self._pieces(limit or self.pending)
            taken = []
            for train, first, count in pieces:
                data = train.part(first, count).tobytes()
                size, address = train.segment_size, train.address
                starts = range(0, len(data), size) if data else (0,)
                taken += [(data[start : start + size], address) for start in starts]
            self._advance(pieces)
            return taken

    def take_segments(self) -> list[Segments]:
        """Return all that is pending as trains; those of 4 KiB and more are not copied."""
        with self._lock:
            pieces = self._pieces(self.pending)
            taken = []
            for train, first, count in pieces:
                view = train.part(first, count)
                is_copied = view.nbytes < _COPIED_BELOW
                if not is_copied:
                    self._slabs[train.slot] = None
                data = view.tobytes() if is_copied else view
                segments = Segments(data, train.segment_size, train.address)
                segments.truncated = bool(train.flags & MSG_TRUNC)
                taken.append(segments)
            self._advance(pieces)
            return taken

    def take_into(self, msgs: Sequence[Message]) -> int:
        """Fill ``msgs`` from the front; return how many.  Raises as check()."""
        messages = list(msgs)
        views: list[memoryview] = []
        try:
            pin(messages, self._min_oob, views)
            with self._lock:
                pieces = self._pieces(len(messages))
                datagrams = (
                    (train, index)
                    for train, first, count in pieces
                    for index in range(first, first + count)
                )
                n_cut = n_filled = 0
                for message, (train, index) in zip(messages, datagrams, strict=False):
                    buffer, oob = views[2 * n_filled : 2 * n_filled + 2]
                    n_cut += _fill(message, buffer, oob, train, index)
                    n_filled += 1
                with self._counters._lock:
                    self._counters.recv_truncated += n_cut
                self._advance(pieces)
                return n_filled
        finally:
            while views:
                views.pop().release()

    def check(self, msgs: Sequence[Message]) -> None:
        """Raise TypeError or ValueError ("message INDEX: ...") for what cannot be filled."""
        views: list[memoryview] = []
        try:
            pin(list(msgs), self._min_oob, views)
        finally:
            while views:
                views.pop().release()

    def shrink(self) -> None:
        """Give back all slabs but one, unless something is pending."""
        with self._lock:
            if not self.pending and not self._results:
                self._trains, self._mark = [], (0, 0)
                del self._slabs[1:]

    def after_fork(self) -> None:
        """Make the lock new, in a forked child; those of the peers and counters too."""
        self._lock = threading.Lock()
        self._peers._after_fork()
        self._counters._after_fork()

    def _receive(self, sock: socket.socket) -> tuple[int, int]:
        if self._kept_errno and not self._results:
            kept, self._kept_errno = self._kept_errno, 0
            return 0, kept
        if not self._results:  # else a signal handler has cut the last attempt short
            try:
                # The kernel's answers are put away in C: a datagram that it gave is never
                # lost to a signal handler that raises.
                self._results.extend(self._calls(sock))
            except OSError as error:
                if error.errno is None:
                    raise  # TimeoutError("...") from a signal handler
                self._kept_errno = error.errno
        news = self._accept()
        if not news and not self.pending:
            news, self._kept_errno = self._kept_errno, 0
        elif self._kept_errno in WOULD_BLOCK:
            self._kept_errno = 0  # the end of what was there, and no error
        return self.pending, 0 if self.pending and news != errno.EBADMSG else news

    def _calls(self, sock: socket.socket) -> Iterable[_Result]:
        """Return the attempt's system calls, each made when its result is asked for."""
        if _HAS_RECVMSG:
            size = itertools.repeat(self._control_size)
            return map(sock.recvmsg_into, ([slab] for slab in self._offer()), size)
        receive: Callable[[bytearray], tuple[int, Any]] = sock.recvfrom_into
        return ((n, [], 0, address) for n, address in map(receive, self._offer()))

    def _offer(self) -> Iterator[bytearray]:
        """Yield the slabs in the slots' order; a call that is not made costs none."""
        for slot in range(self._max_slots):
            if slot == len(self._slabs):
                self._slabs.append(None)
            slab = self._slabs[slot]
            if slab is None:
                slab = self._slabs[slot] = bytearray(SLAB_SIZE)
            yield slab

    def _accept(self) -> int:
        """Make what came pending; return EBADMSG, ESHUTDOWN or 0 for what is no datagram."""
        n_calls = len(self._results) + (self._kept_errno != 0)
        trains = []
        n_lost = n_ends = n_cut = n_control_cut = 0
        for slot, (n, control, flags, address) in enumerate(self._results):
            if n == 0 and not address:
                n_ends += 1
                continue
            size, overflows = find_fields(control)
            if overflows >= 0:
                self.overflows = overflows
            n_control_cut += bool(flags & MSG_CTRUNC)
            if flags & MSG_CTRUNC and not size and self._is_gro:
                n_lost += 1
                continue
            n_cut += bool(flags & MSG_TRUNC)
            slab = self._slabs[slot]
            assert slab is not None
            if not 0 < size < n:
                size = n  # a single datagram
            count = -(-n // size) if n else 1
            sender = self._peers._received(address) if address else ()
            view = memoryview(slab)[:n]
            trains.append(_Train(slot, view, size, count, sender, flags, control))
        n_messages = len(trains)
        n_trains = sum(train.n_datagrams > 1 for train in trains)
        n_datagrams = sum(train.n_datagrams for train in trains)
        n_bytes = sum(train.data.nbytes for train in trains)
        counters = self._counters
        with counters._lock:
            self._trains, self._mark, self._results, self.pending = trains, (0, 0), [], n_datagrams
            counters.recv_calls += n_calls
            counters.recv_messages += n_messages
            counters.recv_trains += n_trains
            counters.recv_datagrams += n_datagrams
            counters.recv_bytes += n_bytes
            counters.recv_truncated += n_cut
            counters.recv_control_truncated += n_control_cut
        return errno.EBADMSG if n_lost else errno.ESHUTDOWN if n_ends else 0

    def _pieces(self, limit: int) -> list[_Piece]:
        """Return what the next ``limit`` pending datagrams are."""
        pieces = []
        start, first = self._mark
        for train in itertools.islice(self._trains, start, None):
            if limit < 1:
                break
            count = min(limit, train.n_datagrams - first)
            pieces.append(_Piece(train, first, count))
            limit -= count
            first = 0
        return pieces

    def _advance(self, pieces: list[_Piece]) -> None:
        if not pieces:
            return
        train, first, count = pieces[-1]
        place = self._mark[0] + len(pieces)
        mark = (place, 0) if first + count == train.n_datagrams else (place - 1, first + count)
        pending = self.pending - sum(piece.n_datagrams for piece in pieces)
        self._mark, self.pending = mark, pending


def _fill(message: Message, buffer: memoryview, oob: memoryview, train: _Train, index: int) -> bool:
    """Fill ``message`` with a train's datagram; tell whether its buffer cut that first."""
    data = train.part(index, 1)
    n = min(data.nbytes, buffer.nbytes)
    buffer[:n] = data[:n]
    flags = train.flags_of(index)
    is_cut = n < data.nbytes and not flags & MSG_TRUNC
    control = pack_control(train.control) if index == 0 else b""
    nn = min(len(control), oob.nbytes)
    oob[:nn] = control[:nn]
    if n < data.nbytes:
        flags |= MSG_TRUNC
    if nn < len(control):
        flags |= MSG_CTRUNC
    message.addr = train.address
    message.n = n
    message.nn = nn
    message.flags = flags
    return is_cut

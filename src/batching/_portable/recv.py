"""RecvSlots: what the kernel gave, until somebody takes it.

Rule 1: nothing is asked of the kernel while anything is pending, so little waits here.
A slab is written again only once all that stood in it was taken.  A slab of which a view
was handed out belongs to its user, and is replaced.
Rule 2: a taking call first builds all that it returns and then puts the new state in the
place of the old, in one statement without a call: an exception on the way leaves
everything pending.
Rule 3: the lock keeps other threads out, but Python, and so a signal handler or a finalizer,
runs under it, and may receive on this very object.  So the lock is reentrant, and who finds
that the state is no longer the one it began with begins again, as if it came later.
Rule 4: no error is lost.  One that ended an attempt which brought datagrams is told by
the next attempt that would ask the kernel.
Rule 5: what ``take_into`` fills is pinned before the lock is taken, and let go of after.
"""

from __future__ import annotations

import errno
import itertools
import operator
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, final

from .._address import Address
from .._kernel import MSG_CTRUNC, MSG_TRUNC, SLAB_SIZE, WOULD_BLOCK, is_answer
from .control import find_fields, find_metadata
from .counters import Counters, tally
from .descriptor import POLLIN, Descriptor
from .message import Message, pin
from .peers import Peers
from .pending import Control, Piece, State, Train, fill, next_pieces
from .segments import Segments

__all__ = ["RecvSlots"]

_COPIED_BELOW: Final = 4096  # so that a kept view of 64 bytes does not pin 64 KiB
_HAS_RECVMSG = hasattr(socket.socket, "recvmsg_into")  # Windows has not

_Result = tuple[int, Control, int, Any]  # recvmsg_into's: n, control, flags, address
_Arrival = tuple[_Result, list[bytearray], int]  # with its slab, and its number in the attempt


@final
class RecvSlots:
    """Slabs that the kernel writes into, and the datagrams in them not yet taken.

    Safe from several threads: each method is one step under one lock.
    """

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_control_size",
        "_counters",
        "_has_metadata",
        "_is_gro",
        "_kept_errno",
        "_lock",
        "_max_slots",
        "_min_oob",
        "_peers",
        "_port",
        "_spare",
        "_state",
        "overflows",
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
        metadata: bool = False,
        port: int = 0,
    ) -> None:
        if max_slots < 1:
            raise ValueError(f"max_slots {max_slots}, must be at least 1")
        self._peers = peers
        self._counters = counters
        self._max_slots = max_slots
        self._control_size = control_size
        self._min_oob = min_oob
        self._lock = threading.RLock()
        self._spare: list[list[bytearray]] = []  # slabs, each as recvmsg_into wants it
        self._arrived: list[_Arrival] = []  # of the kernel, not yet made into trains
        self._state = State([], 0, 0)
        self._kept_errno = 0
        self._is_gro = gro
        self._has_metadata = metadata  # options are on that tell of trains
        self._port = port  # ours
        self.overflows = 0
        self.ticket = 0  # the descriptor's when the kernel was last asked, with nothing pending

    @property
    def has_pending(self) -> bool:
        """Whether any are; told without memory, unlike their number."""
        return self._state.pending > 0 or bool(self._arrived)

    @property
    def pending(self) -> int:
        """Datagrams received and not yet taken; at least, where a signal cut an attempt short."""
        return self._state.pending or len(self._arrived)

    def attempt(self, descriptor: Descriptor) -> tuple[int, int]:
        """Receive what is there, a slot a system call; return (datagrams pending, errno or 0).

        With datagrams pending it makes no call.  EBADMSG: a message that may have been
        a merged train lost its segment size to MSG_CTRUNC and was not delivered; others
        of the same attempt may be pending.  ESHUTDOWN: the socket was shut down.
        """
        with self._lock:
            hold = descriptor._hold
            if hold is None:
                return 0, errno.EBADF
            try:
                if pending := self._state.pending:
                    return pending, 0
                self.ticket = descriptor.ticket
                return self._receive(descriptor._sock)
            finally:
                hold = None  # and so leave

    def fetch(
        self, descriptor: Descriptor, limit: int = 0, sleeps: bool = False
    ) -> list[tuple[bytes, Address]] | int:
        """Make an attempt, and take; return its errno, or 0 where nothing was left to take.

        Where there was nothing, and if it ``sleeps``, do so for the descriptor's
        ``patience_s`` at most, and make another.  Others who sleep are woken if any are left.
        """
        try:
            return self._look(descriptor, sleeps) or self.take(limit) or 0
        finally:
            self._pass_on(descriptor)

    def fetch_segments(self, descriptor: Descriptor, sleeps: bool = False) -> list[Segments] | int:
        """As ``fetch``, of ``take_segments``."""
        try:
            return self._look(descriptor, sleeps) or self.take_segments() or 0
        finally:
            self._pass_on(descriptor)

    def fetch_into(
        self, descriptor: Descriptor, msgs: Sequence[Message], sleeps: bool = False
    ) -> int:
        """As ``fetch``, of ``take_into``; an errno is returned negative.

        ``msgs`` are checked before a sleep.
        """
        try:
            return -self._look(descriptor, sleeps, msgs) or self.take_into(msgs)
        finally:
            self._pass_on(descriptor)

    def _pass_on(self, descriptor: Descriptor) -> None:
        # Others may sleep on the kernel, which knows nothing of what is pending here.
        if self.has_pending:
            descriptor.kick()

    def _look(
        self, descriptor: Descriptor, sleeps: bool, msgs: Sequence[Message] | None = None
    ) -> int:
        _, failure = self.attempt(descriptor)
        # Patience is read after the ticket was taken: who changes it kicks then.
        if failure in WOULD_BLOCK and sleeps and descriptor.patience_s > 0:
            if msgs is not None:
                self.check(msgs)
            descriptor.wait(POLLIN, descriptor.patience_s, self.ticket)
            _, failure = self.attempt(descriptor)
        return failure

    def take(self, limit: int = 0) -> list[tuple[bytes, Address]]:
        """Return pending datagrams, ``limit`` at most (0: all)."""
        with self._lock:
            while True:
                state = self._state
                pieces = next_pieces(state, limit or state.pending)
                taken = []
                for train, first, count in pieces:
                    data = train.part(first, count).tobytes()
                    size, address = train.segment_size, train.address
                    starts = range(0, len(data), size) if data else (0,)
                    taken += [(data[start : start + size], address) for start in starts]
                if self._leave(state, pieces, [train.slab for train, _, _ in pieces]):
                    return taken

    def take_segments(self) -> list[Segments]:
        """Return all that is pending as trains; those of 4 KiB and more are not copied."""
        with self._lock:
            while True:
                state = self._state
                pieces = next_pieces(state, state.pending)
                taken, spare = [], []
                for train, first, count in pieces:
                    data: memoryview | bytes = train.part(first, count)
                    if len(data) < _COPIED_BELOW:
                        data = bytes(data)
                        spare.append(train.slab)
                    segments = Segments(data, train.segment_size, train.address)
                    segments.truncated = bool(train.flags & MSG_TRUNC)
                    if self._has_metadata:
                        self._tell(segments, train)
                    taken.append(segments)
                if self._leave(state, pieces, spare):
                    return taken

    def _tell(self, segments: Segments, train: Train) -> None:
        """Note what came with a train."""
        found = find_metadata(train.control)
        segments._ecn = found.ecn
        segments._interface = found.interface
        segments.timestamp_ns = found.timestamp_ns
        segments.local_addr = self._peers._received_at(found, self._port)

    def take_into(self, msgs: Sequence[Message]) -> int:
        """Fill ``msgs`` from the front; return how many.  Raises as check()."""
        messages = list(msgs)
        views: list[memoryview] = []
        try:
            pin(messages, self._min_oob, views)
            with self._lock:
                while True:
                    state = self._state
                    pieces = next_pieces(state, len(messages))
                    datagrams = (
                        (train, index)
                        for train, first, count in pieces
                        for index in range(first, first + count)
                    )
                    n_cut = n_filled = 0
                    for message, (train, index) in zip(messages, datagrams, strict=False):
                        buffer, oob = views[2 * n_filled : 2 * n_filled + 2]
                        n_cut += fill(message, buffer, oob, train, index)
                        n_filled += 1
                    spare = [train.slab for train, _, _ in pieces]
                    if self._leave(state, pieces, spare, n_cut):
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
            if not self.has_pending:
                del self._spare[1:]

    def after_fork(self) -> None:
        """Make the lock new, in a forked child; those of the peers and counters too."""
        self._lock = threading.RLock()
        self._peers._after_fork()
        self._counters._after_fork()

    def _receive(self, sock: socket.socket) -> tuple[int, int]:
        has_failed = False
        if not self._arrived:  # else a signal handler has cut an attempt short
            if kept := self._kept_errno:
                self._kept_errno = 0
                return 0, kept
            has_failed = self._ask(sock)
        odd = self._accept(has_failed)
        if pending := self._state.pending:
            return pending, odd if odd == errno.EBADMSG else 0
        if odd:
            return 0, odd
        kept, self._kept_errno = self._kept_errno, 0
        return 0, kept or errno.EAGAIN

    def _ask(self, sock: socket.socket) -> bool:
        """Make the attempt's system calls; tell whether the last of them failed."""
        offered: list[list[bytearray]] = []
        n_arrived = itertools.count()
        try:
            # The kernel's answers are put away in C: a datagram that it gave is never
            # lost to a signal handler that raises.
            self._arrived.extend(zip(self._calls(sock, offered), offered, n_arrived, strict=False))
        except OSError as error:
            if not is_answer(error):
                raise
            if error.errno not in WOULD_BLOCK:  # which is the end of what was there
                self._kept_errno = error.errno or 0
            return True
        finally:
            self._spare += offered[next(n_arrived) :]
        return False

    def _calls(self, sock: socket.socket, offered: list[list[bytearray]]) -> Iterable[_Result]:
        """Return the system calls, each made when its result is asked for."""
        slabs = self._offer(offered)
        if _HAS_RECVMSG:
            return map(sock.recvmsg_into, slabs, itertools.repeat(self._control_size))
        receive: Callable[[bytearray], tuple[int, Any]] = sock.recvfrom_into
        buffers = map(operator.itemgetter(0), slabs)
        return ((n, [], 0, address) for n, address in map(receive, buffers))

    def _offer(self, offered: list[list[bytearray]]) -> Iterator[list[bytearray]]:
        """Yield a slab a slot, from the spare ones as long as there are; note it."""
        for _ in range(self._max_slots):
            try:
                slab = self._spare.pop()
            except IndexError:
                slab = [bytearray(SLAB_SIZE)]
            offered.append(slab)
            yield slab

    def _accept(self, has_failed: bool) -> int:
        """Make what came pending; return EBADMSG, ESHUTDOWN or 0 for what is no datagram."""
        counters = self._counters
        while True:
            state = self._state
            arrived = self._arrived[:]
            accepted = slice(len(arrived))
            n_calls = len(arrived) + has_failed
            trains = []
            n_lost = n_ends = n_cut = n_control_cut = 0
            for (n, control, flags, address), slab, _ in arrived:
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
                if not 0 < size < n:
                    size = n  # a single datagram
                count = -(-n // size) if n else 1
                sender = self._peers._received(address) if address else ()
                view = memoryview(slab[0])[:n]
                trains.append(Train(slab, view, size, count, sender, flags, control))
            n_messages = len(trains)
            sizes = tally(train.n_datagrams for train in trains)
            n_datagrams = sum(train.n_datagrams for train in trains)
            n_bytes = sum(train.data.nbytes for train in trains)
            new = State(state.trains + trains, state.first, state.pending + n_datagrams)
            with counters._lock:
                if self._state is not state:
                    continue
                self._state = new
                del self._arrived[accepted]
                counters.recv_calls += n_calls
                counters.recv_messages_per_call += n_messages  # a call each
                counters.recv_datagrams_per_message += sizes
                counters.recv_datagrams += n_datagrams
                counters.recv_bytes += n_bytes
                counters.recv_truncated += n_cut
                counters.recv_control_truncated += n_control_cut
            return errno.EBADMSG if n_lost else errno.ESHUTDOWN if n_ends else 0

    def _leave(
        self, state: State, pieces: list[Piece], spare: list[list[bytearray]], n_cut: int = 0
    ) -> bool:
        """Take ``pieces`` away, unless they are no longer pending, and tell whether they were.

        ``spare``: the slabs of which nobody needs anything but perhaps the rest of the last.
        """
        if not pieces:
            return True
        train, first, count = pieces[-1]
        n_whole = len(pieces)
        first += count
        if first == train.n_datagrams:
            first = 0
        else:
            n_whole -= 1
            spare.pop()
        n_taken = sum(piece.n_datagrams for piece in pieces)
        new = State(state.trains[n_whole:], first, state.pending - n_taken)
        with self._counters._lock:
            if self._state is not state:
                return False
            self._state = new
            self._counters.recv_truncated += n_cut
        self._spare += spare[: max(0, self._max_slots - len(self._spare))]
        return True

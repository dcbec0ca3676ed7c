"""Conn, the batched connection.  The front, and no more than that."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ._address import Address
from ._backend import Counters, Message, Peers, RecvSlots
from ._errors import SendError, UDPGSODisabledError
from ._errqueue import TransportError
from ._kernel import drop_events
from ._options import OptionsConn, Wishes
from ._receiver import Receiver
from ._sender import Sender
from ._stats import FrozenDict, Stats, stats_of
from ._waiter import Waiter
from .geneve import GENEVE_FIXED_HEADER_LENGTH, GeneveHeader
from .metrics import counter, track
from .offload import Offload
from .packetconn import is_dual_stack
from .segments import Segments

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MIN_OOB", "Conn"]

MIN_OOB: Final = 176
"""Control bytes of every option that can be on, where size_t has 8 bytes.

CMSG_SPACE(4) is 24, for each of UDP_GRO and SO_RXQ_OVFL, and for IP_TOS or IPV6_TCLASS; 32 for
SO_TIMESTAMPNS; IPV6_PKTINFO 40, and of IPv4 over IPv6 IP_PKTINFO besides, 32."""

_MAX_SLOTS: Final = 16  # 1 MiB of slabs
_NO_GENEVE: Final = GeneveHeader()


class Conn(OptionsConn):
    """A UDP socket that moves batches.  ``open_conn`` and ``try_upgrade_to_conn`` make one.

    Every call may be made from several threads.  ``close`` wakes whoever waits, with
    OSError(EBADF); the descriptor is closed when the last call in progress has left.
    After it ``stats``, ``offload``, ``pending``, ``gettimeout`` and ``close`` still work.
    A ``Conn`` cannot be pickled or copied.  Data given to a sending call belongs to the
    caller, who must not change it before the call returns; received data is the caller's.
    """

    def __init__(
        self,
        sock: socket.socket,
        offload: Offload,
        batch_size: int,
        overflows: str | None,
        wishes: Wishes | None = None,
    ) -> None:
        """Take ownership of ``sock``, or raise and leave it as it was, but non-blocking.

        ``overflows`` names the counter of drop events; only a ``Conn`` that came about
        brings it into being.  ``wishes``: what was switched on beside the payload.
        """
        drops_before = drop_events(sock) or 0  # of a socket taken over
        waiter = Waiter(sock)
        try:
            if wishes is not None and wishes.transport_errors:
                waiter.collect_errors()
            self._counters = Counters()
            peers = Peers(int(sock.family), is_dual_stack(sock), offload.max_segments)
            with contextlib.suppress(OSError):  # ENOTCONN
                peers.connect(sock.getpeername())
            has_metadata = wishes is not None and wishes.has_metadata
            slots = RecvSlots(
                peers,
                self._counters,
                max_slots=min(_MAX_SLOTS, batch_size),
                gro=offload.gro,
                min_oob=MIN_OOB,
                metadata=has_metadata,
                port=sock.getsockname()[1] if has_metadata else 0,
            )
        except BaseException:
            waiter.descriptor.release()
            raise
        self._receiver = Receiver(
            waiter, slots, counter(overflows) if overflows else None, drops_before
        )
        self._sender = Sender(waiter, peers, self._counters, offload.max_segments)
        self._offload = offload
        self._batch_size = batch_size
        self._peers = peers
        self._waiter = waiter
        self._descriptor = waiter.descriptor
        track(self)

    # Receiving

    def recv_batch(self, max_datagrams: int | None = None) -> list[tuple[bytes, Address]]:
        """Return the datagrams that one system call brought, at least one.

        Waits for the first.  The rest beyond ``max_datagrams`` waits for the next call,
        of whichever kind.

        Returns:
            Pairs of (data, sender), which ``send_batch`` takes as they are.

        Raises:
            TypeError, ValueError: ``max_datagrams`` is no int, or < 1.
            BlockingIOError: Non-blocking, and nothing is there.
            TimeoutError: The time is up.
            OSError: EBADF: closed; ECONNREFUSED, when connected: an earlier datagram
                was refused; ESHUTDOWN: somebody shut the socket down.
        """
        if max_datagrams is None:
            return self._receiver.batch(0)
        if not isinstance(max_datagrams, int):
            raise TypeError(f"max_datagrams must be int, not {type(max_datagrams).__name__}")
        if max_datagrams < 1:
            raise ValueError(f"max_datagrams {max_datagrams}, must be at least 1")
        return self._receiver.batch(min(max_datagrams, 0x7FFFFFFF))

    def recv_segments(self) -> list[Segments]:
        """Return the trains that one system call brought, at least one, without copying.

        A train of 4 KiB and more is a view of the memory that the kernel wrote; while
        anything of it is kept, so are up to 64 KiB.  Waits and raises as ``recv_batch`` does.
        """
        return self._receiver.segments()

    def read_batch(self, msgs: Sequence[Message], flags: int = 0) -> int:
        """Fill ``msgs`` from the front, one datagram each; return how many, at least one.

        Waits for the first; what does not fit in ``msgs`` waits for the next call, of
        whichever kind.  Empty ``msgs`` return 0 at once.  ``Message.flags`` has MSG_TRUNC
        when its buffer was too short.

        Args:
            msgs: Each with one writable buffer, and an ``oob`` of
                ``min_control_message_size()`` bytes or more.
            flags: MSG_DONTWAIT: non-blocking, for this call.  MSG_WAITFORONE: changes nothing.

        Raises:
            TypeError, ValueError: A message that cannot be filled, by its index; other
                flags.
            OSError: As ``recv_batch``.
        """
        return self._receiver.into(msgs, flags)

    def read_from_udp_addr_port(self, buffer: Buffer) -> tuple[int, Address]:
        """Refuse: a single read could get several datagrams, merged by GRO.

        Raises:
            io.UnsupportedOperation: Always.
        """
        raise io.UnsupportedOperation(
            "single reads are not supported, GRO may have merged several datagrams: use read_batch"
        )

    @property
    def pending(self) -> int:
        """Datagrams received and waiting in user space.

        Who polls ``fileno()`` reads until it is 0 first: the kernel knows nothing of them.
        """
        return self._receiver.slots.pending

    def recv_transport_errors(self) -> list[TransportError]:
        """Return what the network said of datagrams that did not arrive, the oldest first.

        Each once; at most 256 wait, ``Stats.transport_errors_lost`` counts what made room.
        Never waits.

        Raises:
            ValueError: It was opened without ``transport_errors``.
            OSError: EBADF: closed.
        """
        waiter = self._open_waiter
        if waiter.errors is None:
            raise ValueError("transport errors are not collected: open_conn(transport_errors=True)")
        waiter.check_open()
        waiter.drain_errors()
        return waiter.errors.take()

    # Sending

    def send_batch(self, datagrams: Iterable[tuple[Buffer, Address | None]]) -> int:
        """Send pairs of (data, address); return how many.

        Of any length.  Every pair is checked before the first system call.  Datagrams of
        one destination keep their order; one destination's error never keeps the others'
        back.  Waits while the socket has no room.

        Raises:
            TypeError, ValueError: By its index, a pair that is none, data without the
                buffer protocol or not contiguous, an address that is not numeric or of
                another family, None when not connected.
            SendError: Some did not go out; tells which.  SendBlocked: non-blocking, and
                the socket is full.  SendTimeout: the time is up.
            OSError: EBADF: closed.
        """
        return self._sender.send(datagrams)

    def send_segments(self, segments: Iterable[Segments], *, to: Address | None = None) -> int:
        """Send trains whole; return how many datagrams that were.

        What cannot travel as it is (more datagrams than the kernel takes in one, or more
        bytes) is cut anew.  Raises as ``send_batch``; indices count trains.

        Args:
            segments: Trains, received ones for example.
            to: Overrides the address of every train.
        """
        return self._sender.send_segments(segments, to)

    def write_batch_to(
        self,
        buffs: Sequence[Buffer],
        addr: Address | None,
        geneve: GeneveHeader = _NO_GENEVE,
        offset: int = 0,
    ) -> None:
        """Send each of ``buffs`` to ``addr`` as a datagram.

        Args:
            buffs: ``batch_size`` at most.  Writable when ``geneve.vni`` is set.
            addr: A numeric address; None: the connected one.
            geneve: With its ``vni`` set, written into the first ``offset`` bytes of
                every buffer and sent; else those bytes are left out.
            offset: Bytes: 8 (GENEVE_FIXED_HEADER_LENGTH) with a header, else at most the
                length of the shortest buffer.

        Raises:
            TypeError, ValueError: By its index; before any header is written.  More than
                ``batch_size`` buffers, or an ``offset`` out of its limits.
            UDPGSODisabledError: A destination was found not to take GSO, and will be
                spared it; ``retry_err`` is None when all was sent all the same.
            SendError, OSError: As ``send_batch``.
        """
        if len(buffs) > self._batch_size:
            raise ValueError(f"{len(buffs)} buffers, at most {self._batch_size}")
        header = None
        if offset != 0 or geneve is not _NO_GENEVE:
            header = _header(geneve, offset)
        if disabled := self._sender.send_to(buffs, addr, offset, header):
            code, retry_err = disabled
            on_laddr: Address = ()
            with contextlib.suppress(OSError):  # closed meanwhile
                on_laddr = self.local_addr()
            raise UDPGSODisabledError(on_laddr, retry_err, code)

    def write_to_udp_addr_port(self, data: Buffer, addr: Address | None) -> int:
        """Send one datagram; return its length in bytes.

        Raises:
            TypeError, ValueError: As ``send_batch``.
            OSError: The kernel's refusal; BlockingIOError, TimeoutError as ``send_batch``.
        """
        failure: OSError | None = None
        try:
            self._sender.send_to((data,), addr, 0, None)
        except SendError as error:
            failure = error.errors.get(0, error)
        if failure is not None:
            try:
                raise failure  # not above: its context, the SendError, holds it
            finally:
                del failure  # as this frame would, and with it the data until a collection
        return memoryview(data).nbytes

    def disable_gso(self, addr: Address | None = None) -> None:
        """Let no more trains go to ``addr``, for good: datagrams to it go out one by one.

        For a program that has found its trains to be lost or mangled on the way, which the
        kernel cannot know.  What the kernel itself refuses is found out without it, and
        forgotten again.  A train that another thread has planned already may still go.
        ``offload`` tells it; ``Stats.gso_fallbacks`` does not.

        Args:
            addr: A numeric address.  None: the connected one; if not connected, all.

        Raises:
            TypeError, ValueError: As ``send_batch``.  ValueError: 65536 addresses are
                disabled already; one by one, no more are remembered.
            OSError: EBADF: closed.
        """
        self._open_waiter.check_open()
        self._peers.disable_gso(addr)

    # State

    def close(self) -> None:
        """Close it; every later call, and each that waits, raises OSError(EBADF)."""
        super().close()
        self._sender.close()

    @property
    def offload(self) -> Offload:
        """What the kernel does for this connection, and why not more."""
        return self._offload.without_gso(self._peers.gso_disabled, self._peers.is_gso_disabled)

    @property
    def batch_size(self) -> int:
        """Buffers that one ``write_batch_to`` takes."""
        return self._batch_size

    def stats(self) -> Stats:
        """Return a snapshot of what this connection did."""
        with contextlib.suppress(OSError), self._descriptor as sock:
            self._receiver.drops.note(drop_events(sock))
        return stats_of(
            self._counters.snapshot(),
            recv_queue_drops=self._receiver.drops.total,
            transport_errors_lost=errors.lost if (errors := self._open_waiter.errors) else 0,
            gso_fallbacks=FrozenDict(self._sender.lessons.fallbacks),
        )

    def _state(self) -> str:
        offload = self.offload
        return (
            f"{super()._state()} {offload.backend} max_segments={offload.max_segments}"
            f" gro={offload.gro} pending={self.pending}"
        )


def _header(geneve: GeneveHeader, offset: int) -> bytes | None:
    """Check both; return what to write into the first ``offset`` bytes, or None."""
    if not isinstance(geneve, GeneveHeader):
        raise TypeError(f"geneve must be GeneveHeader, not {type(geneve).__name__}")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be int, not {type(offset).__name__}")
    if not 0 <= offset <= sys.maxsize:
        raise ValueError(f"offset {offset}, must be 0 to {sys.maxsize}")
    if not geneve.vni.is_set:
        return None
    if offset != GENEVE_FIXED_HEADER_LENGTH:
        raise ValueError(
            f"offset {offset}, must be {GENEVE_FIXED_HEADER_LENGTH} with a Geneve header"
        )
    encoded = bytearray(GENEVE_FIXED_HEADER_LENGTH)
    geneve.encode(encoded)
    return bytes(encoded)

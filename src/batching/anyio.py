"""AsyncConn: a Conn for asyncio and trio alike, through anyio.  Needs ``udp-batching[anyio]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.abc
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from . import _open
from ._conn import Conn
from ._errors import SendBlocked, SendError, send_error
from .metrics import Stats
from .offload import Offload
from .segments import Segments

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Buffer

    from ._address import Address

__all__ = ["AsyncConn", "open_conn"]

_T = TypeVar("_T")


async def open_conn(
    local_addr: Address | None = None, remote_addr: Address | None = None, **options: Any
) -> AsyncConn:
    """Open a batched UDP connection; ``options`` and errors as ``batching.open_conn``."""
    await checkpoint()
    return AsyncConn(_open.open_conn(local_addr, remote_addr, **options))


class AsyncConn(anyio.abc.AsyncResource):
    """A ``Conn`` whose calls are awaited.

    One task at a time may receive, and one send: anyio.BusyResourceError for another.
    Cancellation loses nothing that was received: it strikes before a batch is taken, or
    not at all.  What a cancelled sending call has sent is not told.
    Closed: anyio.ClosedResourceError, in calls that wait too.
    """

    def __init__(self, conn: Conn) -> None:
        """Take ownership of ``conn``, which is made non-blocking; deadlines do not count."""
        conn.settimeout(0)
        self._conn = conn
        self._receiving = anyio.ResourceGuard("receiving from")
        self._sending = anyio.ResourceGuard("sending to")
        self._waits: set[anyio.CancelScope] = set()
        self._is_closed = False

    # Receiving

    async def recv_batch(self, max_datagrams: int | None = None) -> list[tuple[bytes, Address]]:
        """Return datagrams, at least one, as ``Conn.recv_batch``; wait for the first."""
        return await self._receive(lambda: self._conn.recv_batch(max_datagrams))

    async def recv_segments(self) -> list[Segments]:
        """Return trains, at least one, as ``Conn.recv_segments``; wait for the first."""
        return await self._receive(self._conn.recv_segments)

    def __aiter__(self) -> Self:
        """Iterate over batches, without end."""
        return self

    async def __anext__(self) -> list[tuple[bytes, Address]]:
        return await self.recv_batch()

    async def _receive(self, call: Callable[[], _T]) -> _T:
        with self._receiving:
            await checkpoint()  # before: asyncio's own cancel() strikes in shielded ones, too
            while True:
                self._check_open()
                try:
                    return call()
                except BlockingIOError:
                    await self._wait(anyio.wait_readable)

    # Sending

    async def send_batch(self, datagrams: Iterable[tuple[Buffer, Address | None]]) -> int:
        """Send pairs of (data, address), as ``Conn.send_batch``; wait while there is no room."""
        return await self._send(_Batch(list(datagrams)), self._conn.send_batch)

    async def send_segments(
        self, segments: Iterable[Segments], *, to: Address | None = None
    ) -> int:
        """Send trains, as ``Conn.send_segments``; wait while there is no room."""
        if isinstance(segments, Segments):  # iterable too, but of datagrams
            raise TypeError("segments must be an iterable of Segments, not one: [segments]")
        batch = _Batch(list(segments))
        return await self._send(batch, lambda trains: self._conn.send_segments(trains, to=to))

    async def _send(self, batch: _Batch, call: Callable[[list[Any]], int]) -> int:
        with self._sending:
            await checkpoint_if_cancelled()
            has_waited = False
            while True:
                self._check_open()
                try:
                    batch.sent += call(batch.left())
                    break
                except SendBlocked as error:
                    batch.note(error)
                    await self._wait(anyio.wait_writable)
                    has_waited = True
                except SendError as error:
                    batch.note(error)
                    break
        if not has_waited:
            await cancel_shielded_checkpoint()
        if errors := batch.errors():
            raise send_error(0, batch.sent, errors, ())
        return batch.sent

    # State

    async def aclose(self) -> None:
        """Close it, and wake who waits."""
        self._is_closed = True
        for scope in self._waits:
            scope.cancel()
        try:
            await cancel_shielded_checkpoint()
            while self._waits:  # the loop must have forgotten the descriptor: it may come again
                await cancel_shielded_checkpoint()
        finally:
            self._conn.close()

    def local_addr(self) -> Address:
        """Return the local address."""
        return self._conn.local_addr()

    @property
    def offload(self) -> Offload:
        """What the kernel does for this connection, and why not more."""
        return self._conn.offload

    def stats(self) -> Stats:
        """Return a snapshot of what this connection did."""
        return self._conn.stats()

    def _check_open(self) -> None:
        if self._is_closed or self._conn.fileno() < 0:
            raise anyio.ClosedResourceError

    async def _wait(self, until: Callable[[Conn], Awaitable[None]]) -> None:
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                await until(self._conn)
            finally:
                self._waits.discard(scope)


class _Batch:
    """What is left to send of a list, and what went wrong, by the list's indices."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.sent = 0  # datagrams
        self._open = list(range(len(items)))
        self._errors: dict[int, OSError] = {}
        self._begun: dict[int, _Begun] = {}  # trains that went out in part

    def left(self) -> list[Any]:
        """Return the items yet to be sent."""
        return [self.items[i] for i in self._open]

    def note(self, error: SendError) -> None:
        """Take what a call has to tell of what was left."""
        self.sent += error.sent
        still_open = [self._open[i] for i in error.unsent]
        for i, reason in error.errors.items():
            index = self._open[i]
            if isinstance(reason, SendBlocked):
                begun = self._begun.setdefault(index, _Begun())
                self.items[index] = begun.cut(self.items[index], reason)
                still_open.append(index)
            else:
                self._errors[index] = reason
        self._open = sorted(still_open)

    def errors(self) -> dict[int, OSError]:
        """Return the errors by index."""
        for index, begun in self._begun.items():
            begun.end(self.items[index], self._errors.pop(index, None))
            if begun.errors:
                self._errors[index] = send_error(0, begun.n - len(begun.errors), begun.errors, ())
        return self._errors


class _Begun:
    """A train of which a part went out: how far it is, and what of it failed."""

    def __init__(self) -> None:
        self.n = 0  # datagrams that are through
        self.errors: dict[int, OSError] = {}

    def cut(self, train: Segments, error: SendBlocked) -> Segments:
        """Return what is left of ``train``: one by one its datagrams go in order."""
        n = error.unsent[0]
        self._note(error)
        self.n += n
        rest = memoryview(train.data).cast("B")[n * train.segment_size :]
        return Segments(rest, train.segment_size, train.addr)

    def end(self, train: Segments, error: OSError | None) -> None:
        """Take what became of what was left."""
        n = len(train)
        if isinstance(error, SendError):
            self._note(error)
        elif error is not None:
            self.errors.update((self.n + i, error) for i in range(n))
        self.n += n

    def _note(self, error: SendError) -> None:
        self.errors.update((self.n + i, reason) for i, reason in error.errors.items())

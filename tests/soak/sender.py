"""A thread that sends: its flows, what is not yet acknowledged, and when it is sent again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from .ledger import CAPACITY
from .plan import SENDING
from .transmit import Address, Item, Transmitter, ViolationError
from .wire import DATA, HEADER, Flow, body

if TYPE_CHECKING:
    from .endpoint import Endpoint

_AGAIN_S: Final = 0.15  # without an acknowledgement
_LOOK_S: Final = 0.02
_MAX_BYTES: Final = 1 << 19  # a batch
_MAX_WAITING: Final = 1 << 18  # bytes of a flow, so that queues overflow only where they should
_LAST_NEW: Final = CAPACITY // 2  # transmissions; the rest is kept for sending again
_SIZES: Final = (
    (HEADER, 100),
    (100, 1200),
    (1200, 1500),  # on either side of every MTU
    (1200, 1500),
    (1400, 1472),
    (1500, 9000),
    (9000, 65507),
)


class _Waiting:
    """A datagram that was not acknowledged yet."""

    __slots__ = ("due", "number", "size", "txs")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.txs: list[int] = []
        self.due = 0.0


class _Stream:
    """A flow, as its sender sees it."""

    def __init__(self, flow: int, to: int) -> None:
        self.flow = flow
        self.to = to
        self.next_seq = 0
        self.waiting: dict[int, _Waiting] = {}  # by seq
        self.n_bytes = 0  # of all that was made
        self.n_delivered = 0  # bytes


class Sender:
    """Sends on one Conn to all sockets of the other endpoint until all was acknowledged."""

    def __init__(self, endpoint: Endpoint, conn: int, thread: int) -> None:
        plan, side = endpoint.plan, endpoint.side
        self.wake = threading.Event()
        self.n_again = 0
        self.seq_total = 0
        self._endpoint = endpoint
        self._conn = conn
        self._window = plan.ends[side].window
        self._choose = plan.random("send", side, endpoint.life, conn, thread)
        self.transmitter = Transmitter(endpoint.ledger, plan.number, self._choose)
        targets = [conn] if plan.is_connected else range(plan.ends[1 - side].n_conns)
        self._streams = [
            _Stream(Flow(side, endpoint.life, DATA, conn, thread, to).id, to) for to in targets
        ]
        self._by_flow = {stream.flow: stream for stream in self._streams}
        self._look_at = 0.0

    def is_done(self) -> bool:
        return not self._endpoint.is_active and not any(s.waiting for s in self._streams)

    def step(self) -> list[Item]:
        """Return what to send next; waits a little when that is nothing."""
        now = time.monotonic()
        items: list[Item] = []
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            items = self._again(now)
        if not items and self._endpoint.is_active:
            items = self._new(now)
        if not items:
            self.wake.wait(_LOOK_S)
            self.wake.clear()
        return items

    def transmit(self, items: list[Item]) -> None:
        way = self._choose.choice(SENDING)
        self.transmitter.send(self._endpoint.sockets[self._conn].conn, way, items)

    def acknowledge(self, flow: int, seq: int) -> None:
        """Take note that a datagram was delivered; called by readers."""
        stream = self._by_flow[flow]
        waiting = stream.waiting.pop(seq, None)
        if waiting is None:
            if not 0 <= seq < stream.next_seq:
                raise ViolationError(f"acknowledged, but never sent: {Flow.of(flow)} seq {seq}")
            return
        stream.n_delivered += waiting.size  # readers of one Conn: under its lock
        marks = self._endpoint.ledger.marks
        if not any(marks[flow * CAPACITY + tx] for tx in waiting.txs):
            raise ViolationError(f"acknowledged, but not received: {Flow.of(flow)} seq {seq}")

    def describe(self) -> str:
        """Return what is not yet acknowledged."""
        return "; ".join(
            f"{Flow.of(stream.flow)}: seq {seq} of {each.size} bytes, tx {each.txs[-5:]}"
            for stream in self._streams
            for seq, each in list(stream.waiting.items())[:3]
        )

    def _again(self, now: float) -> list[Item]:
        items: list[Item] = []
        total = 0
        for stream in self._streams:
            for seq, waiting in list(stream.waiting.items()):
                if waiting.due <= now and total < _MAX_BYTES:
                    self._append(items, stream, seq, waiting, now)
                    total += waiting.size
                    self.n_again += 1
        return items

    def _new(self, now: float) -> list[Item]:
        choose = self._choose
        n = choose.choice((1, 3, 10, 40, 128, 300, 1500))
        sizes = self._sizes(n)
        turns = choose.choice((1, 7, 100))  # datagrams in a row to one destination
        items: list[Item] = []
        total = 0
        streams = [stream for stream in self._streams if self._has_room(stream)]
        for i, size in enumerate(sizes):
            total += size
            if not streams or total > _MAX_BYTES:
                break
            stream = streams[i // turns % len(streams)]
            if choose.randrange(60) == 0:
                items.append(Item(stream.flow, -1, b"", self._address(stream)))
            seq = stream.next_seq
            stream.next_seq = seq + 1
            self.seq_total += 1
            stream.n_bytes += size
            stream.waiting[seq] = _Waiting(choose.randrange(1 << 16), size)
            self._append(items, stream, seq, stream.waiting[seq], now)
            if not self._has_room(stream):
                streams.remove(stream)
        return items

    def _has_room(self, stream: _Stream) -> bool:
        used = self._endpoint.ledger.used[stream.flow]
        return (
            len(stream.waiting) < self._window
            and stream.n_bytes - stream.n_delivered < _MAX_WAITING
            and used < _LAST_NEW
        )

    def _append(
        self, items: list[Item], stream: _Stream, seq: int, waiting: _Waiting, now: float
    ) -> None:
        content = body(waiting.number, waiting.size)
        item = self.transmitter.item(stream.flow, seq, content, self._address(stream))
        if item is None:
            raise ViolationError(f"{Flow.of(stream.flow)} has no transmissions left")
        waiting.txs.append(item.tx)
        waiting.due = now + _AGAIN_S * min(len(waiting.txs), 4)
        items.append(item)

    def _address(self, stream: _Stream) -> Address | None:
        plan, side = self._endpoint.plan, self._endpoint.side
        if plan.is_connected:
            return None
        host, port = plan.address(1 - side, stream.to)
        if plan.ends[side].is_wildcard and self._choose.random() < 0.5:
            host = f"::ffff:{host}"
        return host, port

    def _sizes(self, n: int) -> list[int]:
        choose = self._choose
        low, high = choose.choice(_SIZES)
        size = choose.randint(low, high)
        pattern = choose.choice(("equal", "equal", "tail", "mixed", "alternating"))
        if pattern == "mixed":
            return [choose.randint(*choose.choice(_SIZES[:-1])) for _ in range(n)]
        if pattern == "alternating":
            other = choose.randint(low, high)
            return [size if i % 2 else other for i in range(n)]
        sizes = [size] * n
        if pattern == "tail":
            sizes[-1] = choose.randint(HEADER, size)
        return sizes

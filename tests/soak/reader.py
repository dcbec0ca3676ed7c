"""A thread that receives in every way, checks each datagram as it comes, and acknowledges."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import time
from typing import TYPE_CHECKING, Any, Final

from batching import Conn, Message, min_control_message_size

from .ledger import CAPACITY
from .plan import RECEIVING
from .transmit import Item, Transmitter, ViolationError
from .wire import ACK, DATA, MAX_RECEIPTS, CorruptError, Flow, parse, parse_receipts, receipts

if TYPE_CHECKING:
    from .endpoint import Endpoint

_LOOK_S: Final = 0.05
_TOLD: Final = {  # what a connected socket is told of earlier datagrams
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ENOBUFS,
    errno.EMSGSIZE,
    errno.EPERM,
}
Received = list[tuple[bytes, tuple[Any, ...]]]


class Reader:
    """Receives on one Conn until the round is over."""

    def __init__(self, endpoint: Endpoint, conn: int, thread: int) -> None:
        plan, side = endpoint.plan, endpoint.side
        self.n_told = 0  # errors
        self.n_reordered = 0
        self._endpoint = endpoint
        self._conn = conn
        self._thread = thread
        self._pause_s = plan.ends[side].pause_s
        self._choose = plan.random("read", side, endpoint.life, conn, thread)
        self.transmitter = Transmitter(endpoint.ledger, plan.number, self._choose)
        self._last: dict[int, int] = {}  # flow: the tx that this thread saw last
        self._messages = [
            Message([bytearray(65536)], bytearray(min_control_message_size())) for _ in range(12)
        ]

    def step(self) -> None:
        """Receive once, check, acknowledge."""
        conn = self._endpoint.sockets[self._conn].conn
        received = self._try(conn)
        if received:
            if self._pause_s and self._endpoint.is_active:
                time.sleep(self._pause_s)  # the reader that is too slow is the fault
            self._acknowledge(conn, self._account(received))

    def _try(self, conn: Conn) -> Received:
        try:
            return self.receive(conn, self._choose.choice(RECEIVING))
        except BlockingIOError:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                if not conn.pending:
                    select.select([conn], [], [], _LOOK_S)
        except TimeoutError:
            pass
        except OSError as error:
            if error.errno == errno.EBADF:
                self._endpoint.await_change(self._conn, conn)
            elif error.errno in _TOLD:
                self.n_told += 1
            else:
                raise
        return []

    def receive(self, conn: Conn, way: str) -> Received:
        """Make one receiving call."""
        if way == "segments":
            return [
                (data, train.addr or ())
                for train in conn.recv_segments()
                for data in train.tolist()
            ]
        if way == "messages":
            n = conn.read_batch(self._messages)
            return [(bytes(each.data), each.addr or ()) for each in self._messages[:n]]
        limit = self._choose.choice((1, 3, 50)) if way == "limit" else None
        received = conn.recv_batch(limit)
        if not received or (limit and len(received) > limit):
            raise ViolationError(f"recv_batch({limit}) returned {len(received)} datagrams")
        return received

    def _account(self, received: Received) -> dict[tuple[Any, ...], list[tuple[int, int]]]:
        """Enter what came into the ledger; return what to acknowledge, by address."""
        found: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
        endpoint = self._endpoint
        ledger, number = endpoint.ledger, endpoint.plan.number
        with endpoint.locks[self._conn]:  # two readers must not both be the first
            for data, address in received:
                if not data:
                    ledger.empty_received[self._empty_flow(address)] += 1
                    continue
                try:
                    parsed = parse(data, number)
                except CorruptError as error:
                    raise ViolationError(f"CORRUPT from {address}: {error}") from None
                self._enter(parsed.flow, parsed.tx, address)
                if parsed.flow >> 5 & 1 == ACK:
                    for flow, seq in parse_receipts(parsed.body):
                        endpoint.acknowledge(flow, seq)
                else:
                    found.setdefault(address, []).append((parsed.flow, parsed.seq))
        return found

    def _enter(self, flow: int, tx: int, address: tuple[Any, ...]) -> None:
        ledger = self._endpoint.ledger
        cell = flow * CAPACITY + tx
        if ledger.marks[cell]:
            raise ViolationError(f"DOUBLED: {Flow.of(flow)} tx {tx} came before")
        if not ledger.states[cell]:
            raise ViolationError(f"CORRUPT: {Flow.of(flow)} tx {tx} was never sent")
        ledger.marks[cell] = 1
        ledger.received[flow] += 1
        last = self._last.get(flow)
        if last is None:
            self._check_way(Flow.of(flow), address)
        elif tx < last:
            self.n_reordered += 1
            if self._endpoint.plan.is_ordered:
                raise ViolationError(f"REORDERED: {Flow.of(flow)} tx {tx} came after {last}")
        self._last[flow] = tx

    def _check_way(self, flow: Flow, address: tuple[Any, ...]) -> None:
        plan, side = self._endpoint.plan, self._endpoint.side
        expected = plan.address(1 - side, flow.conn)
        if flow.side != 1 - side or flow.to != self._conn or _plain(address) != expected:
            raise ViolationError(
                f"ASTRAY: {flow} from {address} (expected {expected}) at {(side, self._conn)}"
            )

    def _empty_flow(self, address: tuple[Any, ...]) -> int:
        plan, side = self._endpoint.plan, self._endpoint.side
        port = _plain(address)[1]
        source = port - plan.address(1 - side, 0)[1]
        if not 0 <= source < plan.ends[1 - side].n_conns:
            raise ViolationError(f"ASTRAY: an empty datagram from {address}")
        return Flow(1 - side, 0, DATA, source, 0, self._conn).id

    def _acknowledge(self, conn: Conn, found: dict[tuple[Any, ...], list[tuple[int, int]]]) -> None:
        side, life = self._endpoint.side, self._endpoint.life
        items: list[Item] = []
        for address, pairs in found.items():
            source = Flow.of(pairs[0][0]).conn
            flow = Flow(side, life, ACK, self._conn, self._thread, source).id
            to = None if self._endpoint.plan.is_connected else address
            for start in range(0, len(pairs), MAX_RECEIPTS):
                content = receipts(pairs[start : start + MAX_RECEIPTS])
                item = self.transmitter.item(flow, 0, content, to)
                if item is None:
                    raise ViolationError(f"{Flow.of(flow)} has no transmissions left")
                items.append(item)
        if items:
            self.transmitter.send(conn, self._choose.choice(("batch", "to", "single")), items)


def _plain(address: tuple[Any, ...]) -> tuple[str, int]:
    """Return host and port, a v4-mapped address as the IPv4 one."""
    host = ipaddress.ip_address(address[0])
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host), address[1]

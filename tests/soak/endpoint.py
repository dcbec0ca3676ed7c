"""One endpoint of a round, from within its process: its Conn, its threads, its own faults."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from batching import Conn, open_conn, try_upgrade_to_conn
from batching._kernel import SO_RCVBUFFORCE, SO_SNDBUFFORCE

from . import inject
from .ledger import Ledger
from .plan import Plan
from .reader import Reader
from .sabotage import sabotaged
from .sender import Sender
from .signals import Interrupted, Interrupter
from .transmit import ViolationError
from .wire import N_FLOWS, Flow

_PATIENCE_S: Final = 20.0
_IP_RECVERR: Final = 11  # include/uapi/linux/in.h
_IPV6_RECVERR: Final = 25  # include/uapi/linux/in6.h


class Socket:
    """A Conn that may be closed and opened again at the same address."""

    def __init__(self, plan: Plan, side: int, index: int) -> None:
        self._plan, self._side, self._index = plan, side, index
        self.seen: Counter[str] = Counter()  # the stats of those that were closed
        self._lock = threading.Lock()
        self._is_open, self._is_over = True, False
        self.conn = self._open()

    def close(self, *, for_good: bool = False) -> None:
        with self._lock:
            self._is_over = self._is_over or for_good
            if self._is_open:
                self._is_open = False
                self._close()

    def _close(self) -> None:
        stats = self.conn.stats()
        for name in ("recv_queue_drops", "recv_datagrams", "recv_trains", "send_trains"):
            self.seen[name] += getattr(stats, name)
        self.seen.update({f"fallback {k}": n for k, n in stats.gso_fallbacks.items()})
        self.conn.close()

    def reopen(self) -> None:
        """Open it again, once the last call of the closed one, or a child, has let go of it."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._lock:
                    if not self._is_over:
                        self.conn = self._open()
                        self._is_open = True
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise
                time.sleep(0.002)

    def _open(self) -> Conn:
        plan, end = self._plan, self._plan.ends[self._side]
        host, port = plan.address(self._side, self._index)
        local = ("::" if end.is_wildcard else host, port)
        remote = plan.address(1 - self._side, self._index) if plan.is_connected else None
        if end.is_upgraded:
            conn = self._upgrade(local, remote)
        else:
            conn = open_conn(
                local,
                remote,
                gso=end.gso,
                gro=end.gro,
                max_segments=end.max_segments,
                receive_buffer=end.receive_buffer,
                send_buffer=end.send_buffer,
            )
        conn.settimeout(end.timeout_s)
        return sabotaged(conn, plan, self._side)

    def _upgrade(self, local: Any, remote: Any) -> Conn:
        end, family = self._plan.ends[self._side], self._plan.socket_family(self._side)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            for option, forced, n_bytes in (
                (socket.SO_RCVBUF, SO_RCVBUFFORCE, end.receive_buffer or 4 << 20),
                (socket.SO_SNDBUF, SO_SNDBUFFORCE, end.send_buffer),
            ):
                if n_bytes:
                    sock.setsockopt(socket.SOL_SOCKET, option, n_bytes)
                    with contextlib.suppress(OSError):  # EPERM
                        sock.setsockopt(socket.SOL_SOCKET, forced, n_bytes)
            if end.is_cautious:
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            sock.bind(local)
            if remote:
                sock.connect(remote)
            conn = try_upgrade_to_conn(sock, "udp4" if family == socket.AF_INET else "udp6")
        except BaseException:
            sock.close()
            raise
        if not isinstance(conn, Conn):
            raise ViolationError("a UDP socket was not upgraded")
        return conn


def _has_datagrams(sock: socket.socket) -> bool:
    for _ in range(3):  # an error of an earlier datagram is told first, and once
        try:
            sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            continue
        return True
    return False


class Endpoint:
    """A round, as one of its two processes runs it."""

    def __init__(
        self,
        plan: Plan,
        side: int,
        life: int,
        ledger: Ledger,
        say: Callable[..., None],
        interrupter: Interrupter,
    ) -> None:
        self.plan, self.side, self.life, self.ledger = plan, side, life, ledger
        self._say = say
        self._interrupter = interrupter
        self._stopping = threading.Event()
        self._ends_at = 0.0
        self._started = 0.0
        end = plan.ends[side]
        self.sockets = [Socket(plan, side, i) for i in range(end.n_conns)]
        self.locks = [threading.Lock() for _ in self.sockets]
        self._senders = [
            [Sender(self, i, thread) for thread in range(end.senders)] for i in range(end.n_conns)
        ]
        self._readers = [
            Reader(self, i, thread) for i in range(end.n_conns) for thread in range(end.readers)
        ]
        self._all: list[Sender | Reader] = [*itertools.chain(*self._senders), *self._readers]
        self._n_busy = end.senders * end.n_conns
        self._lock = threading.Lock()
        self._has_failed = False
        self._forks_due = sorted(f.start_s for f in plan.of_side(side, "fork")) if not life else []

    @property
    def is_active(self) -> bool:
        """Whether new datagrams are still made."""
        return time.monotonic() < self._ends_at

    def stop(self) -> None:
        """End the round; called by another thread than runs it, which may wait on a Conn."""
        self._stopping.set()
        for each in self.sockets:
            each.close(for_good=True)  # wakes those who wait without a timeout

    def run(self, active_s: float) -> dict[str, object]:
        """Run the round in this and other threads until ``stop``; return what to report."""
        self._started = time.monotonic() - (self.plan.active_s - active_s)
        self._ends_at = time.monotonic() + active_s
        senders = [sender for row in self._senders for sender in row]
        is_sending = self.plan.ends[self.side].main_role == "send"
        main: Sender | Reader = senders[0] if is_sending else self._readers[0]
        jobs: list[Callable[[], None]] = [
            lambda each=each: self._work(each)  # type: ignore[misc]
            for each in self._all
            if each is not main
        ]
        if self.plan.of_side(self.side, "reopen") and not self.life:
            jobs.append(self._reopen_at_times)
        if self.plan.of_side(self.side, "errno") and not self.life:
            jobs.append(self._inject)
        threads = [threading.Thread(target=self._guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        with self._interrupter.during(self.plan, self.side, main):
            self._guarded(lambda: self._work(main, is_main=True))
        self._stopping.wait()
        for thread in threads:
            thread.join(_PATIENCE_S)
            if thread.is_alive():
                self._fail("a thread did not wake when its Conn was closed")
        return self._report(senders)

    def _work(self, each: Sender | Reader, *, is_main: bool = False) -> None:
        is_sender = isinstance(each, Sender)
        while not self._stopping.is_set() and not (isinstance(each, Sender) and each.is_done()):
            has_to_fork = is_main and self._is_fork_due()
            try:
                if isinstance(each, Sender):
                    if items := each.step():
                        call = functools.partial(each.transmit, items)
                        self._fork(call) if has_to_fork else call()
                else:
                    if has_to_fork:
                        self._fork(lambda: None)
                    each.step()
            except Interrupted:
                if not is_sender:
                    self._say("gap", flows=self._gap(self._lows(0)))
        if is_sender:
            with self._lock:
                self._n_busy -= 1
                if not self._n_busy:
                    self._say("finished")

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - told to the run, which ends
            if isinstance(error, ViolationError):
                self._fail(str(error))
            else:
                self._fail("".join(traceback.format_exception(error)))

    def _fail(self, what: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._say("violation", text=what, state=self.describe())

    # What befalls it

    def _reopen_at_times(self) -> None:
        for fault in self.plan.of_side(self.side, "reopen"):
            if self._stopping.wait(max(0.0, self._started + fault.start_s - time.monotonic())):
                return
            index = fault.value % len(self.sockets)
            self.sockets[index].close()
            lows = self._lows(index)
            self._stopping.wait(fault.value % 50 / 1000)
            self.sockets[index].reopen()
            self._say("gap", flows=self._gap(lows))

    def _inject(self) -> None:
        choose = self.plan.random("errno", self.side)
        (fault,) = self.plan.of_side(self.side, "errno")
        try:
            self._stopping.wait(fault.start_s)
            while time.monotonic() < self._started + fault.stop_s:
                inject.load(inject.rules(choose))
                if self._stopping.wait(0.1):
                    return
        finally:
            inject.load("")

    def _lows(self, conn: int) -> dict[int, int]:
        """Return the last tx that was received, by flow to one Conn."""
        flows = (Flow.of(number) for number in range(N_FLOWS))
        return {
            flow.id: self.ledger.last_received(flow.id)
            for flow in flows
            if flow.side != self.side and flow.to == conn
        }

    def _gap(self, lows: dict[int, int]) -> list[tuple[int, int, int]]:
        """Return (flow, first, past the last) that may have been lost here, up to now."""
        return [
            (flow, low + 1, self.ledger.used[flow])
            for flow, low in lows.items()
            if self.ledger.used[flow] > low + 1
        ]

    def _is_fork_due(self) -> bool:
        if self._forks_due and time.monotonic() >= self._started + self._forks_due[0]:
            del self._forks_due[0]
            return True
        return False

    def _fork(self, call: Callable[[], None]) -> None:
        """Let a child make a call, and close what it inherited."""
        child = os.fork()
        if not child:
            status = 1
            try:
                call()
                for each in self.sockets:
                    each.conn.close()
                status = 0
            except BaseException:  # noqa: BLE001 - a child must not come back from here
                traceback.print_exc()
            finally:
                os._exit(status)
        end = time.monotonic() + _PATIENCE_S
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(child, 9)
                os.waitpid(child, 0)
                raise ViolationError("a forked child did not end")
            time.sleep(0.002)
        if status:
            raise ViolationError(f"a forked child failed: {status}")

    # For its threads

    def await_change(self, conn: int, closed: Conn) -> None:
        """Return soon after a closed Conn was replaced, or after a while."""
        end = time.monotonic() + 0.05
        while self.sockets[conn].conn is closed and time.monotonic() < end:
            if self._stopping.wait(0.002):
                return

    def acknowledge(self, flow: int, seq: int) -> None:
        found = Flow.of(flow)
        if found.life == self.life:
            self._senders[found.conn][found.thread].acknowledge(flow, seq)

    # What it tells

    def unread(self) -> int:
        """Return how many datagrams wait in user space, and one for each queue that has some."""
        n = 0
        for each in self.sockets:
            with contextlib.suppress(OSError):  # closed just now
                n += each.conn.pending
                with socket.socket(fileno=os.dup(each.conn.fileno())) as sock:
                    n += _has_datagrams(sock)
        return n

    def describe(self) -> str:
        """Return the state of what is not done, and where each thread is."""
        lines = [str(each.conn) for each in self.sockets]
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            calls = " > ".join(
                f"{each.name}:{each.lineno}" for each in traceback.extract_stack(frame)
            )
            lines.append(f"{names.get(ident)}: {calls}")
        lines += [text for row in self._senders for each in row if (text := each.describe())]
        return "\n".join(lines)

    def _report(self, senders: list[Sender]) -> dict[str, object]:
        stats: Counter[str] = Counter()
        for each in self.sockets:
            stats.update(each.seen)
        errors: Counter[str] = Counter()
        for transmitter in (each.transmitter for each in self._all):
            errors.update(transmitter.errors)
        with contextlib.suppress(OSError):
            stats["descriptors"] = len(os.listdir("/proc/self/fd"))
        return {
            "stats": stats,
            "errors": errors,
            "datagrams": sum(each.seq_total for each in senders),
            "again": sum(each.n_again for each in senders),
            "told": sum(each.n_told for each in self._readers),
            "reordered": sum(each.n_reordered for each in self._readers),
        }

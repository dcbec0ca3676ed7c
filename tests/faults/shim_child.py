"""What a child of shim.FaultyKernel does: jobs in by JSON, what happened out by JSON."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from batching import (
    Conn,
    Message,
    Segments,
    SendError,
    UDPGSODisabledError,
    min_control_message_size,
    open_conn,
)

HOST = "127.0.0.1"
SOL_UDP = int(socket.IPPROTO_UDP)
UDP_SEGMENT = 103  # include/uapi/linux/udp.h
_shim = ctypes.CDLL(None)
_logged: list[logging.LogRecord] = []
Item = tuple[bytes, int, tuple[str, int]]  # data, segment size, address


def _load(rules: str) -> None:
    _shim.faults_load(rules.encode())


def _used(rules: str) -> list[int]:
    return [int(_shim.faults_used(i)) for i in range(rules.count(";") + 1)]


# Sending


def _call(conn: Conn, way: str, items: list[Item]) -> None:
    if way == "send_segments":
        conn.send_segments([Segments(*item) for item in items])
    elif way == "send_batch":
        conn.send_batch([(data, address) for data, _, address in items])
    elif items:
        conn.write_batch_to([data for data, _, _ in items], items[0][2])


def _singles(items: list[Item]) -> list[list[Item]]:
    return [
        [(data[at : at + size], size, address) for at in range(0, len(data), size)]
        for data, size, address in items
    ]


def _fates(error: SendError, singles: list[list[Item]]) -> tuple[dict[int, int], list[int]]:
    """Return failed and unsent by datagram, counted through the call."""
    firsts = [sum(map(len, singles[:i])) for i in range(len(singles))]
    failed, unsent = {}, [firsts[i] + k for i in error.unsent for k in range(len(singles[i]))]
    for i, own in error.errors.items():
        if isinstance(own, SendError):
            failed.update({firsts[i] + k: e.errno or 0 for k, e in own.errors.items()})
            unsent += [firsts[i] + k for k in own.unsent]
            assert own.sent + len(own.errors) + len(own.unsent) == len(singles[i])
        else:
            failed.update({firsts[i] + k: own.errno or 0 for k in range(len(singles[i]))})
    return failed, sorted(unsent)


def _send_cell(
    timeout: float | None, way: str, rules: str, items: list[Any], is_connected: bool
) -> dict[str, Any]:
    """Make a call under ``rules``, and one without them that sends what it left."""
    given: list[Item] = [(bytes.fromhex(data), size, (HOST, port)) for data, size, port in items]
    singles = _singles(given)
    told: dict[str, Any] = {"kind": "", "errno": 0, "disabled": 0}
    failed: dict[int, int] = {}
    unsent: list[int] = []
    with open_conn((HOST, 0), given[0][2] if is_connected else None) as conn:
        conn.settimeout(timeout)
        error: BaseException | None = None
        _load(rules)
        try:
            _call(conn, way, given)
        except UDPGSODisabledError as caught:
            told["disabled"], error = caught.errno, caught.retry_err
        except SendError as caught:
            error = caught
        told["used"] = _used(rules)
        _load("")
        told["sent"] = sum(map(len, singles))
        if isinstance(error, SendError):
            failed, unsent = _fates(error, singles)
            told |= {"kind": type(error).__name__, "errno": error.errno, "sent": error.sent}
        stats = conn.stats()
        told["fallbacks"] = dict(stats.gso_fallbacks)
        told["counted"] = stats.send_datagrams
        conn.settimeout(None)
        flat = [single for own in singles for single in own]
        _call(conn, "write_batch_to" if way == "write_batch_to" else "send_batch",
              [flat[i] for i in unsent])  # fmt: skip
    return told | {"failed": list(failed.items()), "unsent": unsent}


def send(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_send_cell(**cell) for cell in cells]


# Receiving


def _recv_batch(conn: Conn) -> list[tuple[bytes, bool]]:
    return [(data, False) for data, _ in conn.recv_batch()]


def _recv_segments(conn: Conn) -> list[tuple[bytes, bool]]:
    found = []
    for train in conn.recv_segments():
        own = train.tolist()
        found += [(data, False) for data in own[:-1]] + [(own[-1], train.truncated)]
    return found


def _read_batch(conn: Conn) -> list[tuple[bytes, bool]]:
    control = min_control_message_size()
    buffers = [bytearray(2048) for _ in range(8)]
    messages = [Message([buffer], bytearray(control)) for buffer in buffers]
    n = conn.read_batch(messages)
    return [
        (bytes(buffers[i][: messages[i].n]), bool(messages[i].flags & socket.MSG_TRUNC))
        for i in range(n)
    ]


_READERS: dict[str, Callable[[Conn], list[tuple[bytes, bool]]]] = {
    "recv_batch": _recv_batch,
    "recv_segments": _recv_segments,
    "read_batch": _read_batch,
}


def _recv_cell(
    timeout: float | None, way: str, rules: str, sent: list[Any], expected: int, calls: int
) -> dict[str, Any]:
    """Receive under ``rules`` what waits in the kernel, until ``expected`` datagrams came."""
    events: list[Any] = []
    n_got = 0
    _logged.clear()
    with open_conn((HOST, 0)) as conn, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data, size in sent:
            control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))] if size else []
            sender.sendmsg([bytes.fromhex(data)], control, 0, conn.local_addr())
        conn.settimeout(timeout)
        _load(rules)
        for _ in range(calls):
            if n_got >= expected:
                break
            try:
                found = _READERS[way](conn)
            except OSError as error:
                events.append([type(error).__name__, error.errno])
            else:
                n_got += len(found)
                events += [["cut" if is_cut else "whole", data.hex()] for data, is_cut in found]
        used = _used(rules)
        _load("")
        conn.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            events += [["surplus", data.hex()] for data, _ in _READERS[way](conn)]
        stats = conn.stats()
    return {
        "events": events,
        "used": used,
        "control_truncated": stats.recv_control_truncated,
        "truncated": stats.recv_truncated,
        "calls": stats.recv_calls,
        "logged": len(_logged),
    }


def receive(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_recv_cell(**cell) for cell in cells]


# Threads


def race(way: str, rules: str, shared: int, own: list[int], rounds: int, n: int) -> dict[str, Any]:
    """Send from a thread for each port of ``own``: ``n`` datagrams to ``shared``, and to its own.

    A datagram is its thread, the port's kind, and a number.
    """
    told: list[list[Any]] = [[] for _ in own]
    start = threading.Barrier(len(own))

    def run(me: int, conn: Conn) -> None:
        start.wait()
        for turn in range(rounds):
            numbers = range(turn * n, turn * n + n)
            pairs = [(struct.pack("!BBI", me, 0, i), (HOST, shared)) for i in numbers]
            others = [(struct.pack("!BBI", me, 1, i), (HOST, own[me])) for i in numbers]
            calls = [pairs, others] if way == "write_batch_to" else [pairs + others]
            for items in calls:
                try:
                    _call(conn, way, [(data, len(data), to) for data, to in items])
                except UDPGSODisabledError as error:
                    told[me].append([type(error).__name__, error.errno, repr(error.retry_err)])
                except BaseException as error:  # noqa: BLE001 - the test says what may come
                    told[me].append([type(error).__name__, str(error), ""])

    with open_conn((HOST, 0)) as conn:
        _load(rules)
        threads = [threading.Thread(target=run, args=(me, conn)) for me in range(len(own))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = conn.stats()
    return {
        "told": told,
        "used": _used(rules),
        "met": int(_shim.faults_met(0)),
        "fallbacks": dict(stats.gso_fallbacks),
        "counted": stats.send_datagrams,
        "errors": stats.send_errors,
        "trains": stats.send_trains,
    }


class _Recorder(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _logged.append(record)


if __name__ == "__main__":
    logging.getLogger("batching").addHandler(_Recorder())
    jobs: dict[str, Callable[..., Any]] = {"send": send, "receive": receive, "race": race}
    json.dump(jobs[sys.argv[1]](**json.load(sys.stdin)), sys.stdout)

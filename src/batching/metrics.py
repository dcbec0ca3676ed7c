"""What connections did, in numbers: of one ``Conn``, of a name, and for Prometheus.

Rule 1: numbers only grow.  A series may end, it never goes back.
Rule 2: nothing is registered with anyone unless the user does it.
Rule 3: nothing of the user's or of a Conn's is called under the lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from ._stats import Sizes, Stats

if TYPE_CHECKING:
    from ._collector import Collector, Tracked

__all__ = ["Sizes", "Stats", "counters", "prometheus_collector"]


class Counter:
    """A number of its own name that only grows.  Safe from several threads."""

    __slots__ = ("value",)

    value: int

    def __init__(self) -> None:
        self.value = 0

    def add(self, n: int) -> None:
        """Add ``n``, which is not negative."""
        if n < 0:
            raise ValueError(f"{n} added to a counter, must be at least 0")
        with _lock:
            self.value += n


class KernelCounter:
    """A 32-bit number of the kernel's that only grows, and wraps.  Safe from several threads."""

    __slots__ = ("_lock", "seen", "total")

    def __init__(self, seen: int = 0) -> None:
        self.seen = seen
        self.total = 0
        """What it has grown by since."""
        self._lock = threading.RLock()

    def note(self, seen: int | None) -> int:
        """Note what the kernel said, None: nothing; return what it has grown by."""
        if seen is None:
            return 0
        with self._lock:  # nothing is called in here, so no signal's handler comes between
            delta = (seen - self.seen) & 0xFFFFFFFF
            if delta > 0x80000000:  # another thread has been here with a newer one
                return 0
            self.seen = seen
            self.total += delta
        return delta

    def after_fork(self) -> None:
        """Make the lock new, in a forked child: a thread that is gone may hold it."""
        self._lock = threading.RLock()


_lock = threading.RLock()  # a finalizer, run by the collector, may come back to us
_counters: dict[str, Counter] = {}
_tracked: weakref.WeakKeyDictionary[Tracked, int] = weakref.WeakKeyDictionary()
_n_tracked = 0


def counter(name: str) -> Counter:
    """Return the counter of that name: one a process, made when first asked for."""
    with _lock:
        return _counters.setdefault(name, Counter())


def counters() -> dict[str, int]:
    """Return the named counters as they stand: SO_RXQ_OVFL deltas, in drop events.

    A name is there once a connection that was given it (``rxq_overflows_metric_name``) has
    switched the socket option on; several connections may add to one.
    """
    return {name: each.value for name, each in _counters.copy().items()}


def track(conn: Tracked) -> None:
    """Let the collectors of this process see ``conn`` for as long as it lives."""
    global _n_tracked
    with _lock:
        _n_tracked += 1
        _tracked[conn] = _n_tracked


def prometheus_collector() -> Collector:
    """Return a collector for prometheus_client: ``REGISTRY.register(prometheus_collector())``.

    It gives the named counters as ``batching_rxq_overflows_total`` with the label ``name``,
    and all of ``Stats`` of every open ``Conn`` of the process, for example
    ``batching_send_datagrams_total``, with the labels ``local_addr`` ("host:port") and
    ``conn`` (a number that is not used again in this process; connections that share an
    address by ``reuse_port`` are told apart by it); ``batching_gso_fallbacks_total`` has
    ``reason`` too.  The series of a closed or forgotten ``Conn`` end, so take the rate before
    the sum: ``sum by (local_addr) (rate(batching_recv_bytes_total[1m]))``.
    docs/metrics.md tells what each of them means.

    Raises:
        ImportError: prometheus_client is not installed.
    """
    try:
        from ._collector import Collector
    except ImportError as error:
        raise ImportError(
            'prometheus_client is missing: pip install "udp-batching[metrics]"'
        ) from error
    return Collector(counters, _open_conns)


def _open_conns() -> list[tuple[Tracked, int]]:
    with _lock:
        return list(_tracked.items())


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

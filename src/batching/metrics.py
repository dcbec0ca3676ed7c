"""What connections did, in numbers: of one ``Conn``, of a name, and for Prometheus.

Rule 1: numbers only grow.  A series may end, it never goes back.
Rule 2: nothing is registered with anyone unless the user does it.
Rule 3: nothing of the user's or of a Conn's is called under the lock.
"""

# No annotations from __future__: NamedTuple would compile each, 3 ms of the package's import.

import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily

__all__ = ["Stats", "counters", "prometheus_collector"]


class FrozenDict(dict[str, int]):
    """A read-only dict; unlike a mappingproxy it can be hashed, pickled and made JSON."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a snapshot cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class Stats(NamedTuple):
    """A snapshot of what one ``Conn`` did since it was made.

    Calls are system calls, messages what one call handed over or brought, a train a message of
    several datagrams; a datagram is one whether it travelled in a train or alone.
    """

    recv_calls: int = 0
    """System calls made to receive, those that brought nothing too."""
    recv_messages: int = 0
    """Messages received: trains and single datagrams."""
    recv_trains: int = 0
    """Messages of more than one datagram, merged by the kernel (GRO)."""
    recv_datagrams: int = 0
    """Datagrams received, empty ones too."""
    recv_bytes: int = 0
    """Payload bytes received."""
    recv_truncated: int = 0
    """Messages that were cut because they did not fit (MSG_TRUNC)."""
    recv_control_truncated: int = 0
    """Messages whose control bytes were cut (MSG_CTRUNC)."""
    recv_queue_drops: int = 0
    """Drop events: a merged train that found no room in the receive queue counts as one."""
    transport_errors_lost: int = 0
    """Errors of the network that made room for newer ones, as nobody asked for them in time."""
    send_calls: int = 0
    """System calls made to send, those that sent nothing too."""
    send_messages: int = 0
    """Messages that the kernel accepted: trains and single datagrams."""
    send_trains: int = 0
    """Messages of more than one datagram that the kernel accepted (GSO)."""
    send_datagrams: int = 0
    """Datagrams that the kernel accepted, each once."""
    send_bytes: int = 0
    """Payload bytes that the kernel accepted."""
    send_errors: int = 0
    """Datagrams that were given up with an error."""
    gso_fallbacks: Mapping[str, int] = FrozenDict()
    """Reason (an errno's name) to how many times a destination lost GSO, or part of it, for it.

    Read-only.
    """


class Tracked(Protocol):
    """What ``track`` takes: a ``Conn``, as far as this module knows one."""

    def stats(self) -> Stats:
        """Return a snapshot."""

    def local_addr(self) -> tuple[Any, ...]:
        """Return the local address; OSError once closed."""


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


def prometheus_collector() -> "Collector":
    """Return a collector for prometheus_client: ``REGISTRY.register(prometheus_collector())``.

    It gives the named counters as ``batching_rxq_overflows_total`` with the label ``name``,
    and each number of ``Stats`` of every open ``Conn`` of the process, for example
    ``batching_send_datagrams_total``, with the labels ``local_addr`` ("host:port") and
    ``conn`` (a number that is not used again in this process; connections that share an
    address by ``reuse_port`` are told apart by it); ``batching_gso_fallbacks_total`` has
    ``reason`` too.  The series of a closed or forgotten ``Conn`` end, so take the rate before
    the sum: ``sum by (local_addr) (rate(batching_recv_bytes_total[1m]))``.

    Raises:
        ImportError: prometheus_client is not installed.
    """
    try:
        from prometheus_client.core import CounterMetricFamily
    except ImportError as error:
        raise ImportError(
            'prometheus_client is missing: pip install "udp-batching[metrics]"'
        ) from error
    return Collector(CounterMetricFamily)


class Collector:
    """What ``prometheus_client`` asks at a scrape; made by ``prometheus_collector``."""

    def __init__(self, family: type["CounterMetricFamily"]) -> None:
        self._family = family

    def collect(self) -> Iterator["CounterMetricFamily"]:
        """Yield every metric, those without a series too."""
        overflows = self._family(
            "batching_rxq_overflows",
            "Drop events of receive queues (SO_RXQ_OVFL), by the name given to connections.",
            labels=["name"],
        )
        for name, value in counters().items():
            overflows.add_metric([name], value)
        yield overflows
        seen = _snapshots()
        for name in Stats._fields:
            has_reason = name == "gso_fallbacks"
            family = self._family(
                f"batching_{name}",
                f"{name} of batching.metrics.Stats, of each open Conn.",
                labels=["local_addr", "conn", *(["reason"] if has_reason else [])],
            )
            for labels, stats in seen:
                if has_reason:
                    for reason, count in stats.gso_fallbacks.items():
                        family.add_metric([*labels, reason], count)
                else:
                    family.add_metric(labels, getattr(stats, name))
            yield family


def _snapshots() -> list[tuple[list[str], Stats]]:
    """Return (labels, stats) of every Conn that is open and answers."""
    with _lock:
        numbered = list(_tracked.items())
    seen = []
    for conn, number in numbered:
        try:
            labels = [_spell(conn.local_addr()), str(number)]
            seen.append((labels, conn.stats()))
        except Exception:  # noqa: BLE001 - one Conn must not cost the scrape of all
            continue
    return seen


def _spell(address: tuple[Any, ...]) -> str:
    """Return "host:port", or "[host]:port" for IPv6."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

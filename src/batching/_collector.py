"""Collector: what prometheus_client is given at a scrape.

Rule 1: what one Conn gives is of one moment: sums and counts agree.
Rule 2: one Conn that fails must not cost the scrape of all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from ._kernel import GSO_REFUSED, SEGMENT_TOO_LARGE, Memory, socket_memory
from ._stats import Sizes, Stats
from .offload import Offload

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LABELS: Final = ("local_addr", "conn")
COUNTERS: Final = {
    "recv_calls": "System calls made to receive",
    "recv_messages": "Messages received: trains and single datagrams",
    "recv_trains": "Messages received of more than one datagram (GRO)",
    "recv_datagrams": "Datagrams received",
    "recv_bytes": "Payload bytes received",
    "recv_truncated": "Messages received that were cut because they did not fit (MSG_TRUNC)",
    "recv_control_truncated": "Messages received whose control bytes were cut (MSG_CTRUNC)",
    "recv_queue_drops": "Messages that found no room in the receive queue; a train counts as one",
    "transport_errors_lost": "Errors of the network that nobody asked for before newer ones came",
    "send_calls": "System calls made to send",
    "send_messages": "Messages that the kernel accepted: trains and single datagrams",
    "send_trains": "Messages of more than one datagram that the kernel accepted (GSO)",
    "send_datagrams": "Datagrams that the kernel accepted",
    "send_bytes": "Payload bytes that the kernel accepted",
    "send_errors": "Datagrams that were given up with an error",
}
HISTOGRAMS: Final = {  # with what their sizes add up to
    "recv_datagrams_per_message": ("Datagrams of each message received", "recv_datagrams"),
    "recv_messages_per_call": ("Messages of each call that brought something", "recv_messages"),
    "send_datagrams_per_message": ("Datagrams of each message sent", "send_datagrams"),
    "send_messages_per_call": ("Messages of each call that sent something", "send_messages"),
}
_BOUNDS: Final = (*(str(float(bound)) for bound in Sizes.bounds), "+Inf")
REASONS: Final = sorted(errno.errorcode[code] for code in GSO_REFUSED | SEGMENT_TOO_LARGE)
MEMORY: Final = {
    "recv_queue_bytes": "Memory that the receive queue takes; SO_MEMINFO",
    "recv_buffer_bytes": "Memory that the receive queue may take (SO_RCVBUF)",
    "send_queue_bytes": "Memory of what was sent and has not left the machine; SO_MEMINFO",
    "send_buffer_bytes": "Memory of it that may be (SO_SNDBUF)",
}


class Tracked(Protocol):
    """A ``Conn``, as far as a scrape knows one."""

    @property
    def pending(self) -> int:
        """Datagrams that wait in user space."""

    @property
    def offload(self) -> Offload:
        """What the kernel does for it."""

    def stats(self) -> Stats:
        """Return a snapshot."""

    def local_addr(self) -> tuple[Any, ...]:
        """Return the local address; OSError once closed."""

    def getsockopt(self, level: int, option: int, buflen: int) -> Any:
        """As ``socket.socket`` has it."""


class Seen(NamedTuple):
    """What one Conn gave."""

    labels: list[str]
    stats: Stats
    pending: int
    offload: Offload
    memory: Memory | None


class Collector:
    """What ``prometheus_client`` asks at a scrape; made by ``prometheus_collector``."""

    def __init__(
        self,
        counters: Callable[[], dict[str, int]],
        tracked: Callable[[], list[tuple[Tracked, int]]],
    ) -> None:
        self._counters = counters
        self._tracked = tracked

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, those without a series too."""
        yield self._overflows()
        seen = [one for conn, number in self._tracked() if (one := _look_at(conn, number))]
        for name, what in COUNTERS.items():
            yield _counter(name, what, [(one.labels, getattr(one.stats, name)) for one in seen])
        for name, (what, of) in HISTOGRAMS.items():
            yield _histogram(name, what, of, seen)
        yield _fallbacks(seen)
        yield _gauge(
            "pending_datagrams",
            "Datagrams received that wait in user space",
            [(one.labels, one.pending) for one in seen],
        )
        yield _gauge(
            "max_segments",
            "Datagrams that a train may have on its way out; 1 without GSO",
            [(one.labels, one.offload.max_segments) for one in seen],
        )
        yield _offload(seen)
        for name, what in MEMORY.items():
            known = [(one.labels, getattr(one.memory, name)) for one in seen if one.memory]
            yield _gauge(name, what, known)

    def _overflows(self) -> Metric:
        family = CounterMetricFamily(
            "batching_rxq_overflows",
            "Drop events of receive queues (SO_RXQ_OVFL), by the name given to connections",
            labels=["name"],
        )
        for name, value in self._counters().items():
            family.add_metric([name], value)
        return family


def _look_at(conn: Tracked, number: int) -> Seen | None:
    """Return what a Conn gives, None if it is closed or does not answer."""
    try:
        labels = [_spell(conn.local_addr()), str(number)]
        stats = conn.stats()
        return Seen(labels, stats, conn.pending, conn.offload, socket_memory(conn))
    except Exception:  # noqa: BLE001 - rule 2
        return None


def _spell(address: tuple[Any, ...]) -> str:
    """Return "host:port", or "[host]:port" for IPv6."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unit(name: str) -> str:
    return "bytes" if name.endswith("_bytes") else ""


def _counter(name: str, what: str, values: list[tuple[list[str], int]]) -> Metric:
    family = CounterMetricFamily(f"batching_{name}", what, labels=LABELS, unit=_unit(name))
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _gauge(name: str, what: str, values: list[tuple[list[str], int]]) -> Metric:
    family = GaugeMetricFamily(f"batching_{name}", what, labels=LABELS, unit=_unit(name))
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _histogram(name: str, what: str, of: str, seen: list[Seen]) -> Metric:
    family = HistogramMetricFamily(f"batching_{name}", what, labels=LABELS)
    for one in seen:
        buckets = _buckets(getattr(one.stats, name))
        family.add_metric(one.labels, buckets, getattr(one.stats, of))
    return family


def _buckets(sizes: Sizes) -> list[tuple[str, float]]:
    """Return (bound, how many were that size or smaller), as prometheus_client wants it."""
    return list(zip(_BOUNDS, accumulate(sizes), strict=True))


def _fallbacks(seen: list[Seen]) -> Metric:
    family = CounterMetricFamily(
        "batching_gso_fallbacks",
        "How many times a destination lost GSO, or part of it, by the errno that said so",
        labels=[*LABELS, "reason"],
    )
    for one in seen:
        # From the beginning, at 0: what appears with its first event has not grown by it.
        reasons = dict.fromkeys(REASONS, 0) if one.offload.gso else {}
        for reason, count in (reasons | dict(one.stats.gso_fallbacks)).items():
            family.add_metric([*one.labels, reason], count)
    return family


def _offload(seen: list[Seen]) -> Metric:
    family = InfoMetricFamily(
        "batching_offload", "Whether GSO and GRO are on, and the back end", labels=LABELS
    )
    for one in seen:
        on = {True: "on", False: "off"}
        value = {"backend": one.offload.backend}
        family.add_metric(
            one.labels, value | {"gso": on[one.offload.gso], "gro": on[one.offload.gro]}
        )
    return family

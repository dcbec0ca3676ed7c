"""Stats, named counters, and what prometheus_client is given."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from batching import metrics
from batching.metrics import FrozenDict, Stats, counter, counters, prometheus_collector, track

pytestmark = pytest.mark.kernel

Scrape = Callable[..., float | None]


class FakeConn:
    """As much of a Conn as the metrics know; ``fault`` is raised by both calls."""

    def __init__(self, stats: Stats, address: tuple[Any, ...] = ("127.0.0.1", 9)) -> None:
        self._stats = stats
        self._address = address
        self.fault: Exception | None = None

    def stats(self) -> Stats:
        if self.fault:
            raise self.fault
        return self._stats

    def local_addr(self) -> tuple[Any, ...]:
        if self.fault:
            raise self.fault
        return self._address


@pytest.fixture
def name() -> str:
    """Give a name that no other test has counted under: counters live as long as the process."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def scrape() -> Scrape:
    """Give a function from (sample, labels but ``conn``) to its value, or None."""
    pytest.importorskip("prometheus_client", reason='needs "udp-batching[metrics]"')
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(prometheus_collector())

    def value(sample: str, **labels: str) -> float | None:
        found = [
            each.value
            for family in registry.collect()
            for each in family.samples
            if each.name == sample
            and {k: v for k, v in each.labels.items() if k != "conn"} == labels
        ]
        return sum(found) if found else None

    return value


def host() -> str:
    """Return a host that no other test's FakeConn has."""
    return uuid.uuid4().hex


def test_stats_begin_at_zero_and_are_compared_by_value() -> None:
    assert Stats() == Stats(recv_calls=0, gso_fallbacks=FrozenDict({}))
    assert Stats(send_bytes=1) != Stats()
    assert hash(Stats(gso_fallbacks=FrozenDict({"EIO": 1}))) == hash(
        Stats(gso_fallbacks=FrozenDict({"EIO": 1}))
    )


def test_stats_cannot_be_changed() -> None:
    stats = Stats(gso_fallbacks=FrozenDict({"EIO": 1}))
    with pytest.raises(AttributeError):
        stats.recv_calls = 1  # type: ignore[misc]
    fallbacks: Any = stats.gso_fallbacks
    for change in (
        lambda: fallbacks.__setitem__("EIO", 2),
        lambda: fallbacks.__delitem__("EIO"),
        lambda: fallbacks.__ior__({"EIO": 2}),
        lambda: fallbacks.update(EIO=2),
        lambda: fallbacks.setdefault("EPERM", 2),
        lambda: fallbacks.pop("EIO"),
        fallbacks.popitem,
        fallbacks.clear,
    ):
        with pytest.raises(TypeError, match="snapshot"):
            change()
    assert stats.gso_fallbacks == {"EIO": 1}


def test_stats_do_not_follow_the_mapping_that_they_were_made_of() -> None:
    fallbacks = {"EIO": 1}
    stats = Stats(gso_fallbacks=FrozenDict(fallbacks))
    fallbacks["EIO"] = 2
    assert stats.gso_fallbacks["EIO"] == 1


def test_stats_can_be_pickled_copied_and_made_json() -> None:
    stats = Stats(send_datagrams=128, gso_fallbacks=FrozenDict({"EMSGSIZE": 2}))
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert copy.deepcopy(stats) == stats
    assert json.loads(json.dumps(stats._asdict()))["gso_fallbacks"] == {"EMSGSIZE": 2}


def test_one_counter_exists_for_a_name(name: str) -> None:
    assert name not in counters()
    counter(name).add(2)
    counter(name).add(0)
    counter(name).add(3)
    assert counter(name) is counter(name)
    assert counters()[name] == 5


def test_counters_returns_a_snapshot(name: str) -> None:
    counter(name)
    snapshot = counters()
    counter(name).add(1)
    snapshot[name] += 10
    assert counters()[name] == 1


def test_counter_never_goes_back(name: str) -> None:
    with pytest.raises(ValueError, match="-1 added"):
        counter(name).add(-1)


def test_counter_loses_nothing_between_threads(name: str) -> None:
    def work() -> None:
        for _ in range(5_000):
            counter(name).add(1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counters()[name] == 20_000


def test_collector_gives_named_counters(scrape: Scrape, name: str) -> None:
    assert scrape("batching_rxq_overflows_total", name=name) is None
    counter(name).add(7)
    assert scrape("batching_rxq_overflows_total", name=name) == 7


def test_collector_gives_every_number_of_a_conn(scrape: Scrape) -> None:
    names = [name for name in Stats._fields if name != "gso_fallbacks"]
    numbers = dict(zip(names, range(1, 100), strict=False))
    address = host()
    conn = FakeConn(Stats(**numbers, gso_fallbacks=FrozenDict({"EIO": 3})), (address, 53))
    track(conn)
    for each, number in numbers.items():
        assert scrape(f"batching_{each}_total", local_addr=f"{address}:53") == number
    labels = {"local_addr": f"{address}:53", "reason": "EIO"}
    assert scrape("batching_gso_fallbacks_total", **labels) == 3


def test_ipv6_address_is_spelled_in_brackets(scrape: Scrape) -> None:
    conn = FakeConn(Stats(recv_calls=4), ("fe80::1", 53, 0, 2))
    track(conn)
    assert scrape("batching_recv_calls_total", local_addr="[fe80::1]:53") == 4


def test_conns_of_one_address_are_series_of_their_own(scrape: Scrape) -> None:
    address = host()
    conns = [FakeConn(Stats(recv_calls=calls), (address, 1)) for calls in (5, 6)]
    for conn in conns:
        track(conn)
    found = [
        (sample.labels["conn"], sample.value)
        for family in prometheus_collector().collect()
        for sample in family.samples
        if sample.name == "batching_recv_calls_total"
        and sample.labels["local_addr"] == f"{address}:1"
    ]
    assert sorted(value for _number, value in found) == [5, 6]
    assert len({number for number, _value in found}) == 2


def test_series_of_a_forgotten_conn_ends(scrape: Scrape) -> None:
    address = host()
    conn = FakeConn(Stats(), (address, 1))
    track(conn)
    assert scrape("batching_recv_calls_total", local_addr=f"{address}:1") == 0
    del conn
    gc.collect()
    assert scrape("batching_recv_calls_total", local_addr=f"{address}:1") is None


@pytest.mark.parametrize("fault", [OSError(9, "closed"), RuntimeError("a bug")])
def test_conn_that_fails_does_not_break_the_scrape(scrape: Scrape, fault: Exception) -> None:
    address = host()
    good, bad = (FakeConn(Stats(), (address, port)) for port in (1, 2))
    track(bad)
    track(good)
    bad.fault = fault
    assert scrape("batching_recv_calls_total", local_addr=f"{address}:1") == 0
    assert scrape("batching_recv_calls_total", local_addr=f"{address}:2") is None


def test_missing_prometheus_client_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ImportError, match=r'pip install "udp-batching\[metrics\]"'):
        metrics.prometheus_collector()


def test_nothing_is_registered_unasked() -> None:
    prometheus_client = pytest.importorskip(
        "prometheus_client", reason='needs "udp-batching[metrics]"'
    )
    names = [family.name for family in prometheus_client.REGISTRY.collect()]
    assert not [name for name in names if name.startswith("batching")]

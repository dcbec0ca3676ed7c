"""The Prometheus collector: every number, of real and of broken connections, over real HTTP."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batching import Conn, Offload, open_conn
from batching._stats import FrozenDict
from batching.metrics import Sizes, Stats, counter, prometheus_collector, track
from loopback import ANY_PORT, PlainPeer

prometheus_client = pytest.importorskip("prometheus_client", reason='needs "udp-batching[metrics]"')
from prometheus_client.openmetrics import exposition  # noqa: E402 - once it is there
from prometheus_client.openmetrics import parser as openmetrics_parser  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

pytestmark = pytest.mark.kernel

Scrape = Callable[..., float | None]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
FORMATS = {
    "text": ("text/plain", text_string_to_metric_families),
    "OpenMetrics": (
        "application/openmetrics-text; version=1.0.0",
        openmetrics_parser.text_string_to_metric_families,
    ),
}


class FakeConn:
    """As much of a Conn as a scrape knows; ``fault`` is raised by what asks its socket."""

    pending = 0
    offload = Offload(gso=False, gro=False, max_segments=1, backend="portable")

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

    def getsockopt(self, level: int, option: int, buflen: int) -> bytes:
        return bytes(buflen)


@pytest.fixture
def registry() -> Any:
    """Give a registry with nothing in it but the collector."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(prometheus_collector())
    return registry


@pytest.fixture
def scrape(registry: Any) -> Scrape:
    """Give a function from (sample, labels but ``conn``) to its value, or None."""

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


@pytest.fixture
def url(registry: Any) -> Iterator[str]:
    """Give the address of a real HTTP server that serves the registry."""
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def host() -> str:
    """Return a host that no other test's FakeConn has."""
    return uuid.uuid4().hex


def samples(url: str, form: str, local_addr: str) -> Samples:
    """Scrape over HTTP and parse; return what is of one address, without its number."""
    accept, parse = FORMATS[form]
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith(accept.split(";")[0])
        text = answer.read().decode()
    return {
        (
            each.name,
            tuple(sorted((k, v) for k, v in each.labels.items() if k != "conn")),
        ): each.value
        for family in parse(text)
        for each in family.samples
        if each.labels.get("local_addr") == local_addr
    }


def spelled(conn: Conn) -> str:
    name, port = conn.local_addr()[:2]
    return f"{name}:{port}"


@pytest.mark.parametrize("form", FORMATS)
def test_a_scrape_tells_what_stats_tell(url: str, form: str, conn: Conn, peer: PlainPeer) -> None:
    conn.send_batch([(b"four", peer.address)] * 7)
    peer.send(conn.local_addr(), b"a", b"bc", b"def")
    for _ in range(3):
        conn.recv_batch(1)
    where = spelled(conn)
    found = samples(url, form, where)
    stats = conn.stats()

    def value(name: str, **labels: str) -> float:
        return found[f"batching_{name}", tuple(sorted({"local_addr": where, **labels}.items()))]

    for name, number in stats._asdict().items():
        if isinstance(number, Sizes):
            bounds = (*map(str, map(float, number.bounds)), "+Inf")
            told = [value(f"{name}_bucket", le=bound) for bound in bounds]
            assert told == [sum(number[: i + 1]) for i in range(len(number))], name
            assert value(f"{name}_count") == number.total
        elif name != "gso_fallbacks":
            assert value(f"{name}_total") == number, name
    assert value("send_datagrams_per_message_sum") == stats.send_datagrams == 7
    assert value("recv_datagrams_per_message_sum") == stats.recv_datagrams == 3
    assert value("send_messages_per_call_sum") == stats.send_messages
    assert value("recv_messages_per_call_sum") == stats.recv_messages
    assert value("max_segments") == conn.offload.max_segments
    gso, gro = ("on" if is_on else "off" for is_on in (conn.offload.gso, conn.offload.gro))
    assert value("offload_info", backend=conn.offload.backend, gso=gso, gro=gro) == 1


def test_what_waits_is_told_where_it_waits(scrape: Scrape, conn: Conn, peer: PlainPeer) -> None:
    where = {"local_addr": spelled(conn)}
    assert scrape("batching_pending_datagrams", **where) == 0
    if sys.platform == "linux":
        assert scrape("batching_recv_queue_bytes", **where) == 0
        for way, option in (("recv", socket.SO_RCVBUF), ("send", socket.SO_SNDBUF)):
            size = conn.getsockopt(socket.SOL_SOCKET, option)
            assert scrape(f"batching_{way}_buffer_bytes", **where) == size
    is_train = conn.offload.gro and conn.offload.gso
    if is_train:
        peer.send_train(conn.local_addr(), b"abc", 1)
    else:
        peer.send(conn.local_addr(), b"a", b"b", b"c")
    if sys.platform == "linux":
        assert (scrape("batching_recv_queue_bytes", **where) or 0) >= 3
    conn.recv_batch(1)
    if is_train or conn.offload.backend == "portable":
        assert scrape("batching_pending_datagrams", **where) == conn.pending == 2


@pytest.mark.parametrize("form", FORMATS)
def test_conns_that_close_during_scrapes_break_none(url: str, form: str) -> None:
    faults: list[Exception] = []
    is_over = threading.Event()

    def come_and_go() -> None:
        try:
            while not is_over.is_set():
                with open_conn(ANY_PORT) as conn:
                    conn.send_batch([(b"x", conn.local_addr())] * 3)
        except Exception as fault:  # noqa: BLE001 - whatever it is
            faults.append(fault)

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    with open_conn(ANY_PORT) as lasting:
        where = spelled(lasting)
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                found = samples(url, form, where)
                assert found["batching_send_calls_total", (("local_addr", where),)] == 0
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    assert not faults


def test_a_scrape_changes_nothing_and_can_be_made_again(registry: Any, conn: Conn) -> None:
    gc.collect()  # what other tests left behind shall not end between the two
    first, second = (prometheus_client.generate_latest(registry) for _ in range(2))
    assert first == second
    assert spelled(conn).encode() in first


def test_names_and_units_follow_the_conventions(registry: Any, conn: Conn) -> None:
    families = list(registry.collect())
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("batching_")
        assert family.documentation[0].isupper()
        assert not family.documentation.endswith(".")
        assert (family.unit == "bytes") == family.name.endswith("_bytes")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    told = {family.name.removeprefix("batching_") for family in families}
    assert set(Stats._fields) <= told
    generate: Any = exposition.generate_latest
    generate(registry)  # refuses what OpenMetrics does not allow


def test_collector_gives_named_counters(scrape: Scrape) -> None:
    name = host()
    assert scrape("batching_rxq_overflows_total", name=name) is None
    counter(name).add(7)
    assert scrape("batching_rxq_overflows_total", name=name) == 7


def test_collector_gives_every_number_of_a_conn(scrape: Scrape) -> None:
    names = [name for name, number in Stats()._asdict().items() if number == 0]
    numbers: dict[str, Any] = dict(zip(names, range(1, 100), strict=False))
    address = host()
    stats = Stats(gso_fallbacks=FrozenDict({"EIO": 3}))._replace(**numbers)
    conn = FakeConn(stats, (address, 53))
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
    monkeypatch.delitem(sys.modules, "batching._collector", raising=False)
    with pytest.raises(ImportError, match=r'pip install "udp-batching\[metrics\]"'):
        prometheus_collector()


def test_nothing_is_registered_unasked() -> None:
    names = [family.name for family in prometheus_client.REGISTRY.collect()]
    assert not [name for name in names if name.startswith("batching")]

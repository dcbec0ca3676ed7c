"""The end-to-end test of a probe: it names the shape that is mangled, and no other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

import mangler
from batching import open_conn
from batching.cli.probe.client import Client, NoAnswerError, Result
from batching.cli.probe.finding import Finding, worst
from batching.cli.probe.server import Server
from batching.cli.probe.shapes import Shape
from batching.cli.probe.verdict import judge
from loopback import HOST, PATIENCE_S, PlainPeer, needs_gso, needs_ipv6, needs_whole_trains, start
from mangler import Harm, leave, to_shape

SHAPES = [
    Shape(64, 2, 64),
    Shape(64, 16, 33),
    Shape(1200, 2, 1200),
    Shape(1200, 16, 601),
    Shape(1200, 54, 1200),
]
HARMS = [
    mangler.cut,
    mangler.drop,
    mangler.swap,
    mangler.corrupt,
    mangler.double,
    mangler.merge,
]


@contextlib.contextmanager
def serving(host: str = HOST) -> Iterator[tuple[Server, tuple[Any, ...]]]:
    """Give a server in a thread, and its address."""
    with open_conn((host, 0)) as conn:
        server = Server(conn, lambda _: None)
        running = start(server.run)
        try:
            yield server, conn.local_addr()
        finally:
            server.stop()
            running.result(PATIENCE_S)


def run(address: tuple[Any, ...], shapes: list[Shape] = SHAPES, duration_s: float = 3) -> Result:
    with open_conn(remote_addr=address) as conn:
        client = Client(conn, shapes)
        client.shake_hands(PATIENCE_S)
        client.run(duration_s)
    return client.result


def run_through(out: Harm = leave, back: Harm = leave, duration_s: float = 3) -> Result:
    """Test a path on which something is harmed."""
    with serving() as (_, address), mangler.mangler(address, out, back) as middle:
        return run(middle, duration_s=duration_s)


def broken(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.state == "broken"]


@needs_gso
@pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=needs_ipv6)])
def test_a_path_that_harms_nothing_is_ok(host: str) -> None:
    with serving(host) as (server, address):
        result = run(address, duration_s=0.5)
    assert {finding.name: finding.state for finding in judge(result)} == {
        "datagrams out": "ok",
        "datagrams back": "ok",
    }
    for records in result.records.values():
        for record in records:
            assert record.is_tested
            assert record.sent >= 2 * record.shape.segments
    assert (server.counts["clients"], server.counts["ignored"]) == (1, 0)


@needs_whole_trains
@pytest.mark.parametrize(
    "harm",
    [
        harm if harm is mangler.drop else pytest.param(harm, marks=pytest.mark.slow)
        for harm in HARMS
    ],
    ids=lambda harm: harm.__name__,
)
@pytest.mark.parametrize("direction", ["out", pytest.param("back", marks=pytest.mark.slow)])
def test_the_shape_that_is_mangled_is_named_and_no_other(
    harm: Callable[[list[bytes]], list[bytes]], direction: str
) -> None:
    shape = Shape(1200, 16, 601)
    result = run_through(**{direction: to_shape(*shape, harm)})
    (finding,) = [each for each in judge(result) if each.state == "broken"]
    assert finding.name == f"{direction}: 16 x 1200 B, short tail"
    assert "BATCHING_DISABLE_UDP_GSO=1" in finding.change
    assert finding.change.startswith("here" if direction == "out" else "on the server")


def test_a_path_that_loses_every_tenth_datagram_is_slow() -> None:
    result = run_through(mangler.lose_every(10), mangler.lose_every(10))
    findings = judge(result)
    assert worst(findings) == "slow"
    assert "the path loses both alike" in " ".join(finding.change for finding in findings)


@needs_whole_trains
@pytest.mark.slow
def test_a_mangled_shape_is_found_on_a_path_that_loses_as_well() -> None:
    lose, mangle = mangler.lose_every(30), to_shape(*SHAPES[2], mangler.drop)
    result = run_through(lambda train: [e for part in mangle(train) for e in lose(part)])
    assert broken(judge(result)) == [f"out: {SHAPES[2]}"]


def test_nobody_who_answers_is_told_in_time() -> None:
    with PlainPeer() as silent, open_conn(remote_addr=silent.address) as conn:
        begun = time.monotonic()
        with pytest.raises(NoAnswerError, match="does not answer"):
            Client(conn, SHAPES).shake_hands(0.3)
        assert time.monotonic() < begun + PATIENCE_S


def test_a_closed_port_is_told_as_such() -> None:
    with PlainPeer() as closed:
        address = closed.address
    with open_conn(remote_addr=address) as conn, pytest.raises(NoAnswerError, match="nobody"):
        Client(conn, SHAPES).shake_hands(PATIENCE_S)

"""The end-to-end test of a probe: it names the shape that is mangled, and no other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

import mangler
from batching import open_conn
from batching.cli.probe import client as client_module
from batching.cli.probe.client import Client, NoAnswerError, Result
from batching.cli.probe.finding import Finding
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
HARMS = {
    "cut": "damaged",
    "drop": "lost",
    "swap": "out of order",
    "corrupt": "damaged",
    "double": "doubled",
    "merge": "damaged",
}


@contextlib.contextmanager
def serving(
    host: str = HOST, receive_buffer: int | None = None
) -> Iterator[tuple[Server, tuple[Any, ...]]]:
    """Give a server in a thread, and its address."""
    with open_conn((host, 0), receive_buffer=receive_buffer) as conn:
        server = Server(conn, lambda _: None)
        running = start(server.run)
        try:
            yield server, conn.local_addr()
        finally:
            server.stop()
            running.result(PATIENCE_S)


def run(address: tuple[Any, ...], duration_s: float, receive_buffer: int | None = None) -> Result:
    with open_conn(remote_addr=address, receive_buffer=receive_buffer) as conn:
        client = Client(conn, SHAPES)
        client.shake_hands(PATIENCE_S)
        client.run(duration_s)
    return client.result


def run_through(harm: Harm, direction: str, duration_s: float = PATIENCE_S) -> Result:
    """Test a path on which something is harmed in one direction, or in "both"."""
    out, back = (harm if direction in (way, "both") else leave for way in ("out", "back"))
    with serving() as (_, address), mangler.mangler(address, out, back) as middle:
        return run(middle, duration_s=duration_s)


@pytest.fixture
def soon_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all shapes go once, and those in doubt as long as it takes, on a slow machine too."""
    monkeypatch.setattr(client_module, "_ALL_FOR", 0.0)


def broken(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.state == "broken"]


@needs_gso
@pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=(needs_ipv6, pytest.mark.slow))])
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
    ("harm", "direction"),
    [
        ("cut", "out"),
        *[
            pytest.param(harm, direction, marks=pytest.mark.slow)
            for harm, direction in (
                ("drop", "out"),
                ("swap", "out"),
                ("corrupt", "out"),
                ("merge", "out"),
                ("drop", "back"),
                ("double", "back"),
            )
        ],
    ],
)
def test_the_shape_that_is_mangled_is_named_and_no_other(
    soon_in_doubt: None, harm: str, direction: str
) -> None:
    shape = Shape(1200, 16, 601)
    result = run_through(to_shape(*shape, getattr(mangler, harm)), direction)
    (finding,) = [each for each in judge(result) if each.state == "broken"]
    assert finding.name == f"{direction}: 16 x 1200 B, short tail"
    assert HARMS[harm] in finding.found
    assert "BATCHING_DISABLE_UDP_GSO=1" in finding.change
    assert finding.change.startswith("here" if direction == "out" else "on the server")


@needs_whole_trains
@pytest.mark.slow
def test_a_mangled_shape_is_found_on_a_path_that_loses_as_well(soon_in_doubt: None) -> None:
    lose, mangle = mangler.lose_every(30), to_shape(*SHAPES[2], mangler.drop)
    result = run_through(lambda train: [e for part in mangle(train) for e in lose(part)], "out")
    assert broken(judge(result)) == [f"out: {SHAPES[2]}"]


@needs_gso
@pytest.mark.parametrize("direction", ["out", pytest.param("back", marks=pytest.mark.slow)])
def test_a_receive_buffer_that_is_too_small_is_no_mangling(direction: str) -> None:
    small, large = 4096, 1 << 20
    buffers = (small, large) if direction == "out" else (large, small)
    with serving(receive_buffer=buffers[0]) as (_, address):
        result = run(address, duration_s=0.5, receive_buffer=buffers[1])
    findings = {finding.name: finding for finding in judge(result)}
    assert findings[f"datagrams {direction}"].state == "slow"
    assert "raise the receive buffer" in findings[f"datagrams {direction}"].change
    assert not broken(list(findings.values()))


@pytest.mark.slow
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

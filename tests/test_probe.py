"""``batching probe`` as an operator runs it: rows, JSON, exit status, wrong arguments."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from typer.testing import CliRunner

import mangler
from batching.cli.app import app
from batching.cli.probe import buffers, drops, loopback, system
from batching.cli.probe.finding import Finding, checked, worst
from loopback import HOST, PATIENCE_S, PlainPeer, needs_gso, needs_linux, needs_whole_trains
from mangler import leave, to_shape
from test_cli import environment, run

STATES = {"ok", "unknown", "slow", "broken"}
LOCAL = [
    "kernel",
    "back end",
    "GSO",
    "environment",
    "cores",
    "open files",
    "GRO",
    "receive buffer",
    "send buffer",
]

_AS_NOBODY = [
    "setpriv",
    "--reuid=65534",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
]


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a ``batching probe serve``, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "batching", "probe", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"answering at \[.*\]:(\d+) \(UDP\)\n", process.stdout.readline())
        assert found, process.communicate()
        hint = process.stdout.readline()
        assert hint == f"on the other machine: batching probe HOST:{found[1]}\n"
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def assert_schema(content: dict[str, Any]) -> None:
    """Fail unless it is what docs/probe.md says of the JSON."""
    assert list(content) == [
        "schema",
        "date",
        "batching",
        "target",
        "address",
        "state",
        "findings",
        "shapes",
    ]
    assert content["schema"] == 1
    assert content["state"] in STATES
    for finding in content["findings"]:
        assert list(finding) == ["name", "state", "found", "change", "facts"]
        assert finding["state"] in STATES
        assert "\n" not in finding["found"] + finding["change"]
        assert finding["change"] or finding["state"] in ("ok", "unknown")
    for shape in content["shapes"]:
        assert list(shape) == [
            "direction",
            "size",
            "segments",
            "tail",
            "rounds",
            "is_tested",
            "sent",
            "plain",
            "train",
        ]
        for way in ("plain", "train"):
            assert list(shape[way]) == ["lost", "damaged", "doubled", "swapped"]


def by_name(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in content["findings"]}


# This machine


@needs_linux
def test_rows_fit_100_columns_and_the_json_has_the_same(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    done = CliRunner().invoke(app, ["probe", "--json", str(path)])
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line.endswith(" ")] == []
    content = json.loads(path.read_text(encoding="utf-8"))
    assert_schema(content)
    assert (content["target"], content["address"], content["shapes"]) == (None, None, [])
    names = [finding["name"] for finding in content["findings"]]
    assert names[: len(LOCAL)] == LOCAL
    assert names[-2:] == ["drops", "counters"]
    for name in names:
        assert re.search(rf"^{re.escape(name)} ", done.stdout, re.MULTILINE), name


@needs_whole_trains
def test_what_is_measured_here_is_told() -> None:
    findings = {
        each.name: each for each in [*system.look_at_system(), *loopback.look_at_loopback()]
    }
    limit = findings["GSO"].facts["max_segments"]
    assert limit in (64, 128)
    assert findings["GRO"].facts == {"on": True, "sent": limit, "came": limit, "messages": 1}
    assert findings["GSO"].state == findings["GRO"].state == "ok"


@needs_linux
@pytest.mark.parametrize(
    ("variable", "name", "change"),
    [
        ("BATCHING_DISABLE_UDP_GSO", "GSO", "unset BATCHING_DISABLE_UDP_GSO"),
        ("BATCHING_DISABLE_UDP_GRO", "GRO", "unset BATCHING_DISABLE_UDP_GRO"),
    ],
)
def test_a_switch_that_slows_down_is_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, change: str
) -> None:
    monkeypatch.setenv(variable, "1")
    findings = {
        each.name: each for each in [*system.look_at_system(), *loopback.look_at_loopback()]
    }
    assert (findings[name].state, findings[name].change) == ("slow", change)
    assert findings["environment"].state == "slow"
    assert variable in findings["environment"].found


@needs_gso
def test_a_batch_size_that_cannot_be_is_broken_and_status_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATCHING_BATCH_SIZE", "many")
    result = CliRunner().invoke(app, ["probe", "--json", "-"])
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert_schema(content)
    assert content["state"] == "broken"
    found = by_name(content)["environment"]
    assert (found["state"], found["found"]) == (
        "broken",
        "BATCHING_BATCH_SIZE=many, must be 1 to 1024",
    )


@needs_linux
def test_a_buffer_that_the_system_limits_is_slow_and_names_the_sysctl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buffers, "IDEAL_BUFFER", 1 << 30)  # more than any system grants
    (received, sent) = buffers.look_at_buffers()
    for finding, sysctl in ((received, "rmem_max"), (sent, "wmem_max")):
        assert finding.state == "slow"
        assert f"sysctl -w net.core.{sysctl}=1073741824" in finding.change


def test_a_check_that_cannot_be_made_says_why() -> None:
    def check() -> list[Finding]:
        raise PermissionError(1, "Operation not permitted")

    (finding,) = checked("route", check)
    assert finding.state == "unknown"
    assert "Operation not permitted" in finding.found


def test_the_worst_state_counts() -> None:
    findings = [Finding("a", state, "") for state in ("ok", "slow", "unknown")]
    assert worst(findings) == "slow"
    assert worst([]) == "ok"


@needs_linux
def test_a_socket_that_drops_is_named_by_its_port() -> None:
    with PlainPeer() as peer, PlainPeer() as source:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the system's least
        source.send(peer.address, *[bytes(1000)] * 20)
        finding = drops.look_at_drops()[0]
        port = str(peer.address[1])
        assert finding.state == "slow"
        assert finding.facts["ports"][port] > 0  # type: ignore[index]


HOSTILE = ["", "sl local", "1: :: 1", "1: 0:ZZ 2 3 4 5 6 7 8 9 10 11 12", "\x00" * 100]


def test_tables_of_another_form_are_passed_over() -> None:
    assert list(drops.read_table(HOSTILE)) == []
    with pytest.raises(ValueError, match="no two lines"):
        drops.read_snmp("Udp: only one\n")


@pytest.mark.slow
@needs_linux
@pytest.mark.skipif(
    not (shutil.which("setpriv") and os.geteuid() == 0), reason="needs root and setpriv"
)
def test_it_works_as_nobody() -> None:
    done = subprocess.run(
        [*_AS_NOBODY, sys.executable, "-m", "batching", "probe", "--json", "-"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
    )
    if "Permission denied" in done.stderr:
        pytest.skip("nobody may not read this interpreter: lifted by one in a public place")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert_schema(content)
    receive = by_name(content)["receive buffer"]
    assert receive["facts"]["granted"] == receive["facts"]["without_privilege"]


# A path


@needs_gso
def test_probe_and_serve_find_a_path_well_and_end_cleanly() -> None:
    with serving() as (process, port):
        done = CliRunner().invoke(
            app, ["probe", f"localhost:{port}", "--duration", "0.5", "--json", "-"]
        )
        assert (done.exit_code, done.stderr) == (0, "")
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1].startswith("ended: 1 clients, 0 turned away")
    content = json.loads(done.stdout)
    assert_schema(content)
    names = by_name(content)
    for name in ("route", "host", "datagrams out", "datagrams back"):
        assert names[name]["state"] == "ok", names[name]
    assert {shape["size"] for shape in content["shapes"]} == {64, 1200, 8972}
    assert all(shape["is_tested"] for shape in content["shapes"])


@pytest.mark.slow
@needs_whole_trains
def test_a_mangled_shape_is_status_1_and_is_shown() -> None:
    harm = to_shape(1200, 16, 601, mangler.corrupt)
    with serving() as (_, port), mangler.mangler((HOST, port), harm, leave) as middle:
        done = run("probe", f"{HOST}:{middle[1]}", "--duration", "0.5")
    assert done.returncode == 1
    (row,) = [line for line in done.stdout.splitlines() if " broken " in line]
    assert row.startswith("out: 16 x 1200 B, short tail ")
    assert "\n16 x 1200 B, short tail " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.slow
@needs_gso
def test_a_path_that_loses_every_tenth_datagram_is_slow_and_status_0() -> None:
    lose = mangler.lose_every(10)
    with serving() as (_, port), mangler.mangler((HOST, port), lose, lose) as middle:
        done = run("probe", f"{HOST}:{middle[1]}", "--duration", "1", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert content["state"] == "slow"
    assert "the path loses both alike" in by_name(content)["datagrams out"]["change"]
    plain = by_name(content)["datagrams out"]["facts"]["plain"]
    assert 0.05 < plain["lost"] / plain["sent"] < 0.15


def test_nobody_who_answers_is_status_1_and_says_what_to_run() -> None:
    with PlainPeer() as closed:
        port = closed.address[1]
    done = CliRunner().invoke(app, ["probe", f"{HOST}:{port}"])
    assert (done.exit_code, done.stderr) == (1, "")
    assert "nobody listens" in done.stdout
    assert f"batching probe serve --port {port}" in done.stdout


def test_a_name_that_is_not_resolved_is_status_1() -> None:
    result = CliRunner().invoke(app, ["probe", "no..such..name:7478", "--json", "-"])
    assert result.exit_code == 1
    assert by_name(json.loads(result.stdout))["host"]["state"] == "broken"


def test_a_port_in_use_is_one_line_and_status_1() -> None:
    with PlainPeer() as peer:
        arguments = ["probe", "serve", "--host", HOST, "--port", str(peer.address[1])]
        result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert f"port {peer.address[1]}: Address already in use" in result.stderr

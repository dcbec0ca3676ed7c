"""The peers of the comparison: built, or missing for a reason; they pass on what was sent."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batching._kernel import max_segments

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BUILT = BENCHMARKS.parent / "build" / "peers"
GO, RUST = BUILT / "peers-go", BUILT / "rust" / "release" / "peers"
MIXTURE = "64,64,64,576,576,1400"
DATAGRAMS = 300
QUICK = ("C", "batching", "quinn", "by hand", "send_segments")
SLOW = ("sendto", "send_batch", "write_batch_to")
TOOLS = ("go", "cargo", "cc", "iperf3")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers.programs")


def test_a_program_whose_toolchain_is_not_here_is_missing_for_that_reason(
    programs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = programs.programs(tmp_path / "peers")
    reasons = [each.missing for each in found.values()]
    assert reasons == [
        f"no {tool}: the row is left out"
        for tool in ("go toolchain", "Rust toolchain", "C compiler", "iperf3")
    ]
    assert not any(each.command for each in found.values())


def test_a_program_whose_build_fails_is_missing_for_what_the_tool_said(
    programs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in TOOLS:
        (tmp_path / name).write_text("#!/bin/sh\necho error: no room >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = programs.programs(tmp_path / "peers")
    assert len(found) == len(TOOLS)
    for each in found.values():
        assert not each.command
        assert each.missing.endswith(": error: no room")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield benchmarks/process.py, with the command of a ceiling that was built."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    if not sys.platform.startswith("linux") or max_segments() < 64:
        pytest.skip("needs UDP GSO of 64 segments")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.syspath_prepend(str(BENCHMARKS))
        module: Any = importlib.import_module("process")
        patch.setattr(
            module, "ceiling", module.build(tmp_path_factory.mktemp("ceiling")), raising=False
        )
        yield module


def started(process: Any, *command: str) -> Any:
    return process.Process(list(command), None)


def passer(process: Any, role: str, way: str, *more: str) -> Any:
    """Start what echoes, forwards or pings in a way."""
    if way == "C":
        slots = () if role == "ping" else ("8", "sleep")
        return started(process, *process.ceiling, role, MIXTURE, *slots, *more)
    batch = () if role == "ping" else ("128",)
    for program, its_way in ((GO, "batching"), (RUST, "quinn")):
        if way == its_way:
            if not program.exists():
                pytest.skip("needs python -m peers.programs, in benchmarks/")
            return started(process, str(program), role, way, MIXTURE, *batch, *more)
    return started(process, *process.python("contender.py", role, way, MIXTURE, *batch), *more)


@pytest.mark.parametrize(
    "way", [*QUICK, *(pytest.param(way, marks=pytest.mark.slow) for way in SLOW)]
)
def test_what_is_forwarded_is_what_was_sent(process: Any, way: str) -> None:
    ceiling = process.ceiling
    with started(process, *ceiling, "recv", MIXTURE, "8", "sleep") as receiver:
        (port,) = receiver.ports()
        with passer(process, "forward", way, str(port)) as forwarder:
            (through,) = forwarder.ports()
            ends = ("64", "train", str(through))
            with started(process, *ceiling, "send", MIXTURE, "128", *ends) as sender:
                sender.ports()
                receiver.tell("check")
                sent = sender.ask(f"check {DATAGRAMS} 1")
                came = process.Result(**receiver.answer(20))
            assert forwarder.cpu() > 0
    assert (sent.datagrams, came.datagrams, came.wrong) == (DATAGRAMS, DATAGRAMS, 0)


def test_what_is_not_what_was_to_be_sent_is_wrong(process: Any) -> None:
    ceiling = process.ceiling
    with started(process, *ceiling, "recv", "64", "8", "sleep") as receiver:
        (port,) = receiver.ports()
        with started(process, *ceiling, "send", "65", "8", "8", "train", str(port)) as sender:
            sender.ports()
            receiver.tell("check")
            sender.ask("check 8")
            assert receiver.answer(20)["wrong"] == 8


@pytest.mark.parametrize("way", ["C", "batching", "quinn", "send_batch"])
def test_pings_are_answered(process: Any, way: str) -> None:
    with passer(process, "echo", way) as echo:
        (port,) = echo.ports()
        with passer(process, "ping", way, str(port)) as pinger:
            pinger.ports()
            for command in ("20", "20 10000"):
                pinger.tell(command)
                answer = pinger.answer(20)
                assert 0 < answer["p50"] <= answer["p99"] <= answer["p999"]
                assert answer["cpu"] > 0


@pytest.fixture
def iperf3(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not shutil.which("iperf3"):
        pytest.skip("needs iperf3")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers.iperf3")


@pytest.mark.slow
def test_iperf3_tells_what_it_sent_and_what_came(iperf3: Any) -> None:
    sent, came = iperf3.Pair().run(1400, 0.1)
    assert sent.datagrams >= came.datagrams > 0
    assert all(0.9 < each.seconds < 30 and each.cpu > 0 for each in (sent, came))


def test_iperf3_that_cannot_serve_is_an_error(iperf3: Any) -> None:
    nowhere = iperf3.Pair(host="192.0.2.1")  # RFC 5737: nobody's
    with pytest.raises(RuntimeError, match="iperf3"):
        nowhere.run(1400, 0.1)


def test_iperf3_report_of_a_failure_is_an_error(iperf3: Any) -> None:
    with pytest.raises(RuntimeError, match="no route"):
        iperf3.results(b'{"error": "no route"}', 64)
    with pytest.raises(RuntimeError, match="killed"):
        iperf3.results(b"killed", 64)

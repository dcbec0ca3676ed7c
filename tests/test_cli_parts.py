"""The parts of the command line: ratios, the table, the contenders."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from batching.cli import contenders
from batching.cli.bench import bench
from batching.cli.contenders import CONTENDERS, SENDERS
from batching.cli.ends import before_end
from batching.cli.measure import Sample
from batching.cli.report import Report, Row


def measured(name: str, rate: float, size: int = 64) -> Row:
    sample = Sample(int(rate), 1.0, 0.5, int(rate), int(rate))
    return Row(name, "send", size, samples={1: sample})


def report(rows: list[Row]) -> Report:
    return Report(["a machine", "a version"], rows)


def table(rows: list[Row]) -> str:
    from rich.console import Console

    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        report(rows).print(console)
    return console.export_text()


def test_ratio_is_the_median_over_common_rounds() -> None:
    plain, other = measured("socket", 100), measured("batching send_batch", 300)
    plain.samples[2] = Sample(200, 1.0, 0.5, 200, 200)
    other.samples[2] = Sample(200, 1.0, 0.5, 200, 200)
    other.samples[3] = Sample(9000, 1.0, 0.5, 9000, 9000)
    assert report([plain, other]).ratio(other) == 2


def test_ratio_without_a_plain_socket_is_none() -> None:
    other = measured("batching send_batch", 300)
    assert report([other]).ratio(other) is None


def test_largest_numbers_fit_80_columns() -> None:
    rows = [measured(contender.name, 123_456_789, 65507) for contender in SENDERS]
    rows.append(Row("uvloop", "send", 65507, error="it was ended by SIGKILL"))
    text = table(rows)
    assert "123,456,789" in text
    assert max(len(line.rstrip()) for line in text.splitlines() if "," in line) <= 80


def test_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    report([measured("socket", 1000), measured("batching send_batch", 5000)]).plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")


# ---- how a run ends ----


def test_datagram_of_another_length_is_refused() -> None:
    assert before_end([64, 64, 0, 64], 64) == 2
    with pytest.raises(ValueError, match="63 bytes was received, 64 were sent"):
        before_end([64, 63], 64)


def test_names_of_contenders_are_unique_and_found() -> None:
    keys = [(contender.name, contender.direction) for contender in CONTENDERS]
    assert len(set(keys)) == len(keys)
    for contender in CONTENDERS:
        assert contenders.find(contender.name, contender.direction) is contender


def test_default_bench_takes_less_than_a_minute() -> None:
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(bench).parameters.items()
    }
    starts_s = 0.3  # of two processes, a run
    a_row = defaults["duration"] + defaults["rounds"] * starts_s
    assert 2 * len(CONTENDERS) * a_row < 60

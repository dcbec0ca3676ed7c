"""The comparison: who fails is told and nobody else fails; the report keeps what is by hand."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from netns import needs_command, needs_netns

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SECTIONS = ("machine", "goals", "losses", "tables")
DOCUMENT = "".join(
    f"## By hand: {name}\n\n<!-- begin: {name} -->\nof old\n<!-- end: {name} -->\n\nWhy {name}.\n"
    for name in SECTIONS
)
SEND = {"sent": 128, "received": 128, "cpu ns": 90.0, "other cpu ns": 80.0}
SETTINGS = {"rounds": 2, "casts": 2, "seconds": 0.1, "cores": [0, 1]}
MACHINE = {
    "processor": "A processor",
    "cpus": 2,
    "kernel": "Linux",
    "python": "CPython",
    "versions": {"batching": "0"},
    "backend": "native",
    "gso": True,
    "gro": False,
    "max_segments": 64,
}


@pytest.fixture(autouse=True)
def path_of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> Any:
    return importlib.import_module(name)


def send_at(wall_ns: float) -> list[dict[str, float]]:
    """Return what two rounds of sending yield."""
    return [{**SEND, "wall ns": wall_ns}, {**SEND, "wall ns": wall_ns * 1.1}]


def receive_at(cpu_ns: float) -> list[dict[str, float]]:
    """Return what a round of receiving yields."""
    return [{**SEND, "wall ns": cpu_ns, "cpu ns": cpu_ns, "queued cpu ns": cpu_ns}]


def recorded(directory: Path) -> Any:
    """Return what a run has found, as it was written and read again."""
    contest, goals, work = module("contest"), module("goals"), module("work")
    outcome, book = module("outcomes"), module("book")
    rows = [
        contest.Row("send_batch", "batching", send_at(100.0), 1024.0),
        contest.Row("C, 64", "C", send_at(50.0), 1024.0),
        contest.Row("Go batching", "batching (Go)", send_at(200.0), 1024.0),
        contest.Row("quinn-udp", "quinn-udp", failure="no Rust toolchain: the row is left out"),
    ]
    table = contest.Table(work.Work("send"), rows)
    lossy = contest.Table(work.Work("send", path="lossy"), [], "no netem here")
    pings = [{"p50": 2e4, "p99": 3e4, "p999": 4e4, "cpu ns": 9e3, "other cpu ns": 9e3}]
    ping = contest.Table(work.Work("ping", count=1), [contest.Row("C", "C", pings, 1024.0)])
    found = book.Book("2026-11-24", MACHINE, SETTINGS)
    received = [
        contest.Row(name, peer, receive_at(cpu_ns), 1024.0)
        for name, peer, cpu_ns in (
            ("read_batch", "batching", 80.0),
            ("C, copying", "C", 110.0),
            ("Go batching", "batching (Go)", 100.0),
        )
    ]
    receive = contest.Table(work.Work("receive", "64"), received)
    tables = (("send", table), ("receive", receive), ("paths", lossy), ("ping", ping))
    for group, each in tables:
        found.add(group, each)
        for outcome_of_it in goals.judge(each):
            found.add(group, outcome_of_it)
    found.add("latency", outcome.Outcome("ping-pong / plain, p50", [1.25], at_most=1.05))
    found.add("latency", outcome.Outcome("round trip / plain, p50", [0.9], at_most=1.05))
    found.failures["echo"] = "interrupted"
    found.write(directory / "found.json")
    return book.Book.read(directory / "found.json")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report twice, over one of old; return it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        directory = tmp_path_factory.mktemp("report")
        written = directory / "benchmarks.md"
        written.write_text(DOCUMENT, encoding="utf-8")
        found = recorded(directory)
        module("report").write(found, written)
        first = written.read_text(encoding="utf-8")
        module("report").write(found, written)
    assert written.read_text(encoding="utf-8") == first, "written twice, it is another"
    return written


def test_report_replaces_what_stands_between_markers_and_nothing_else(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert "of old" not in text
    for name in SECTIONS:
        assert f"## By hand: {name}\n\n<!-- begin: {name} -->\n" in text
        assert f"\n<!-- end: {name} -->\n\nWhy {name}.\n" in text


@pytest.mark.parametrize(
    "line",
    [
        "| latency | round trip / plain, p50 | 0.900 |  | ≤ 1.05 | met |",
        "| latency | ping-pong / plain, p50 | 1.250 |  | ≤ 1.05 | **missed** |",
        "| 1400 B send | send_batch | rate | C, 64 (0.500) |",
        "| quinn-udp | failed: no Rust toolchain: the row is left out |  |  |  |  |  |",
        "**1400 B send, 1 % loss**: not measured: no netem here",
        "**echo failed:** interrupted.",
        "| C | 20.0 | 30.0 | 40.0 | 9000 | 9000 | 1.0 |",
        "2 of 6 goals are met.",
        "| receive | 64 B receive: C, copying / Go batching, CPU | 1.100 |  | none |  |",
        (
            "2 rounds of 0.1 s in 2 casts of new processes, fewer and shorter ones of what is"
            " varied; sender on core 0, receiver on core 1."
        ),
    ],
)
def test_report_tells_what_was_met_missed_lost_and_what_failed(document: Path, line: str) -> None:
    assert line in document.read_text(encoding="utf-8").splitlines()


def test_ratio_of_two_others_is_none_of_ours_that_is_behind(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    lost = text[text.index("<!-- begin: losses -->") : text.index("<!-- end: losses -->")]
    assert "C, copying" not in lost


def test_report_shows_the_plots_that_were_drawn(document: Path) -> None:
    pytest.importorskip("matplotlib", reason='needs "udp-batching[cli]"')
    text = document.read_text(encoding="utf-8")
    for name in ("send", "ping"):
        assert f"![{name}](benchmarks/{name}.svg)" in text
        drawn = document.parent / "benchmarks" / f"{name}.svg"
        assert drawn.read_text(encoding="utf-8").endswith("</svg>\n")
    assert "paths.svg" not in text


def test_report_refuses_a_document_without_one_section_of_each_name() -> None:
    replaced = module("report").replaced
    once = "<!-- begin: goals -->\n<!-- end: goals -->\n"
    for text in ("", once + once, "<!-- begin: goals -->"):
        with pytest.raises(ValueError, match="sections called goals"):
            replaced(text, "goals", "new")


def test_run_that_has_a_group_again_takes_its_place_and_ends_its_failure(tmp_path: Path) -> None:
    book, again = recorded(tmp_path), recorded(tmp_path)
    book.failures = {"send": "a contender hung", "echo": "interrupted"}
    again.failures = {"memory": "not here"}
    again.outcomes = {"latency": again.outcomes["latency"][:1]}
    book.update(again)
    assert book.failures == {"echo": "interrupted", "memory": "not here"}
    assert "send" not in book.outcomes, "of a table that is no more"
    assert len(book.outcomes["latency"]) == 1
    assert [*book.tables] == ["send", "receive", "paths", "ping"]


def test_relay_that_takes_more_time_is_behind_and_one_that_takes_less_is_not() -> None:
    result = module("process").Result
    spent = {"ours": 2.0, "C": 1.0, "by hand": 3.0}
    results = {name: [result(100, 0, 100, 0, 0.0, cpu)] for name, cpu in spent.items()}
    results["send_segments(recv_segments())"] = results["C, forward"] = results["C"]
    found = module("relays")._judge(64, "live", results)
    assert [each.name for each in found if each.is_behind] == ["64 B ours / C, CPU, live"]


def test_rounds_are_shared_among_casts_and_their_order_alternates_throughout() -> None:
    turns = [[*each.turns(["a", "b"])] for each in module("cast").casts(5, 2)]
    order = [
        ["".join(name for name, _ in turn[at : at + 2]) for at in range(0, len(turn), 2)]
        for turn in turns
    ]
    assert order == [["ba", "ab", "ba"], ["ba", "ab", "ba", "ab"]]
    assert [[is_counted for _, is_counted in turn] for turn in turns] == [
        [False] * 2 + [True] * 4,
        [False] * 2 + [True] * 6,
    ]


@pytest.mark.parametrize(
    ("rounds", "n_casts", "shares"),
    [(9, 3, [3, 3, 3]), (4, 2, [2, 2]), (3, 1, [3]), (5, 3, [1, 2, 2]), (0, 1, [0])],
)
def test_casts_have_all_rounds_together(rounds: int, n_casts: int, shares: list[int]) -> None:
    casts = module("cast").casts(rounds, n_casts)
    assert [len(each.rounds) for each in casts] == shares
    assert [number for each in casts for number in each.rounds] == [*range(1, rounds + 1)]


def test_what_is_varied_takes_fewer_rounds_and_casts() -> None:
    whole = module("throughput").Setup({}, (0, 1), 9, 0.15, n_casts=3)
    assert [len(each.rounds) for each in whole.shorter().casts()] == [2, 2]
    assert [len(each.rounds) for each in whole.casts(times=4)] == [12, 12, 12]


class Arrivals:
    """A receiver to which patterns of these numbers come, then the mark."""

    def __init__(self, *numbers: int) -> None:
        self.datagrams = [module("child").pattern(number, 100) for number in numbers]

    def take(self) -> list[bytes]:
        return [*self.datagrams, b"."]


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        (range(600), (600, 600, 0)),
        ([0, 1, 5, 6, 250, 300], (301, 6, 0)),
        ([3, 3], (260, 2, 0)),  # more than were sent
        ([2, 1], (258, 2, 0)),
    ],
    ids=["all", "some are missing", "one comes twice", "one is overtaken"],
)
def test_datagrams_that_are_missing_on_a_path_with_loss_are_counted(
    capsys: pytest.CaptureFixture[str], numbers: list[int], found: tuple[int, ...]
) -> None:
    module("contender").compare(Arrivals(*numbers), [100], may_miss=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["datagrams"], told["measured"], told["wrong"]) == found


@pytest.mark.parametrize("may_miss", [False, True])
def test_datagram_that_is_another_is_wrong_and_one_missing_is_so_where_none_may_be(
    capsys: pytest.CaptureFixture[str], may_miss: bool
) -> None:
    arrivals = Arrivals(0, 1, 4)
    arrivals.datagrams[1] = arrivals.datagrams[1][:-1] + b"?"
    module("contender").compare(arrivals, [100], may_miss=may_miss)
    assert json.loads(capsys.readouterr().out)["wrong"] == (1 if may_miss else 2)


@pytest.fixture(scope="module")
def ceiling(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.syspath_prepend(str(BENCHMARKS))
        return tuple(module("process").build(tmp_path_factory.mktemp("ceiling")))


@pytest.fixture
def setup(ceiling: tuple[str, ...]) -> Any:
    """Return one short round, with nobody here but C and Python."""
    programs = module("peers.programs")
    found = dict.fromkeys(("quinn-udp", "batching (Go)"), programs.Program(missing="not here"))
    found["C"] = programs.Program(ceiling)
    return module("throughput").Setup(found, module("process").cores(), 2, 0.01, n_casts=2)


def contenders(setup: Any, work: Any, *names: str) -> list[Any]:
    everybody = module("contenders").contenders(setup, work)
    return [each for each in everybody if each.name in names]


def test_contender_that_fails_is_out_and_the_others_go_on(setup: Any) -> None:
    work = module("work").Work("send", "64", 8)
    good, gone = contenders(setup, work, "send_batch", "quinn-udp")
    bad = type(good)("bad", good.peer, good.program, "no such way")
    table = module("contest").compete(setup, work, [bad, good, gone])
    assert [row.failure for row in table.rows] == [table.rows[0].failure, "", "not here"]
    assert "no such way" in table.rows[0].failure
    assert [len(row.samples) for row in table.rows] == [0, 2, 0]
    sample = table.row("send_batch").samples[0]
    assert sample["received"] == sample["sent"] > 0


def test_each_cast_has_new_processes_and_who_fails_in_one_has_failed(
    setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, work = module("entries"), module("work").Work("send", "64", 8)
    seen: dict[str, list[int]] = {}
    round_of = entries.Sending.round

    def round_(entry: Any, seconds: float) -> dict[str, float]:
        name, process = entry.contender.name, entry.sender._process.pid
        seen.setdefault(name, []).append(process)
        if name == "write_batch_to" and len({*seen[name]}) == 2:
            raise RuntimeError("the second of them")
        sample: dict[str, float] = round_of(entry, seconds)
        return sample

    monkeypatch.setattr(entries.Sending, "round", round_)
    both = contenders(setup, work, "send_batch", "write_batch_to")
    table = module("contest").compete(setup, work, both)
    first, *_, last = seen["send_batch"]
    assert seen["send_batch"] == [first, first, last, last]
    assert first != last
    assert table.row("write_batch_to") is None
    assert {row.contender: row.failure for row in table.rows} == {
        "send_batch": "",
        "write_batch_to": "the second of them",
    }


@pytest.mark.parametrize("size", ["1400", "9000,64"])
def test_c_that_copies_receives_what_was_sent(setup: Any, size: str) -> None:
    work = module("work").Work("receive", size)
    each = module("contenders").Contender("C, copying", "C", setup.ceiling, "copy")
    table = module("contest").compete(setup, work, [each])
    assert [row.failure for row in table.rows] == [""]
    assert all(sample["received"] > 0 for sample in table.rows[0].samples)


def test_way_of_receiving_that_c_does_not_know_is_refused(ceiling: tuple[str, ...]) -> None:
    command = [*ceiling, "recv", "64", "8", "copyy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sleep|spin|copy" in done.stderr


def test_many_destinations_get_their_own_in_order(setup: Any) -> None:
    order, work = module("order"), module("work").Work("send", "64", 32, destinations=16)
    for each in contenders(setup, work, "send_batch", "send_segments", "C, 64"):
        order.arrives_in_order(each, work)


def test_destination_that_gets_too_little_is_seen(
    setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, work = module("order"), module("work").Work("send", "64", 8, destinations=2)
    monkeypatch.setattr(order, "hosts", lambda number: ["127.0.1.1"] * 2)
    (each,) = contenders(setup, work, "send_batch")
    with pytest.raises(RuntimeError, match="1 of 2 destinations"):
        order.arrives_in_order(each, work)


@needs_netns
@needs_command("ethtool", "nsenter")
def test_work_is_done_over_a_veth_that_merges(setup: Any) -> None:
    work = module("work").Work("receive", path="merged")
    table = module("contest").compete(setup, work, contenders(setup, work, "recv_segments"))
    assert not table.failure
    assert [row.failure for row in table.rows] == [""]
    assert table.rows[0].samples[0]["received"] > 0


def test_path_that_cannot_be_made_says_why(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    work = module("work").Work("send", path="veth")
    table = module("contest").compete(setup, work, [])
    assert table.failure == "unshare: No such file or directory"

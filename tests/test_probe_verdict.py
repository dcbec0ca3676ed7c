"""What the counts of a path mean: each verdict, from counts that call for it and for no other."""

from __future__ import annotations

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from batching.cli.probe.client import Result
from batching.cli.probe.record import Record
from batching.cli.probe.shapes import Shape
from batching.cli.probe.tally import Count
from batching.cli.probe.verdict import judge

SMALL, LARGE = Shape(64, 16, 64), Shape(1200, 16, 1200)
GOOD = (Count(), Count())
TRAIN_LOSES = (Count(), Count(lost=1))
BOTH_LOSE = (Count(lost=4), Count(lost=5))
PLAIN_GONE = (Count(lost=16), Count())


def result(*rounds: tuple[Count, Count], shape: Shape = LARGE) -> Result:
    """Return a path on which one shape had those rounds, and another nothing to tell of."""
    records = [Record("out", SMALL, [GOOD] * 14), Record("out", shape, list(rounds))]
    return Result({"out": records, "back": []})


def states(told: Result) -> dict[str, str]:
    return {finding.name: finding.state for finding in judge(told)}


def test_all_whole_is_ok() -> None:
    assert states(result(*[GOOD] * 2)) == {"datagrams out": "ok"}


def test_loss_of_trains_only_is_broken_once_it_is_sure() -> None:
    assert states(result(*[TRAIN_LOSES] * 11)) == {"datagrams out": "slow"}
    assert states(result(*[TRAIN_LOSES] * 12)) == {
        "datagrams out": "slow",
        f"out: {LARGE}": "broken",
    }


def test_a_shape_in_doubt_is_named() -> None:
    (finding,) = judge(result(*[TRAIN_LOSES] * 8))
    assert str(LARGE) in finding.change
    assert "--duration" in finding.change


def test_loss_while_the_receiver_dropped_is_not_blamed_on_the_path() -> None:
    told = result(*[TRAIN_LOSES] * 20)
    told.drops["out"] = 3
    (finding,) = judge(told)
    assert (finding.state, finding.change) == (
        "slow",
        "raise the receive buffer of the server: net.core.rmem_max",
    )


def test_trains_that_lose_little_more_are_not_broken() -> None:
    (finding,) = judge(result(*[BOTH_LOSE] * 20))
    assert (finding.state, finding.change[:25]) == ("slow", "the path loses both alike")


@pytest.mark.parametrize("drops", [0, 5])
def test_damage_of_trains_needs_no_second_look(drops: int) -> None:
    told = result(GOOD, (Count(), Count(damaged=1)))
    told.drops["out"] = drops
    assert states(told)[f"out: {LARGE}"] == "broken"


def test_damage_of_any_kind_is_the_paths() -> None:
    told = result((Count(damaged=2), Count(damaged=2)))
    assert states(told) == {"datagrams out": "broken"}


def test_a_length_of_which_none_arrives_alone_is_broken() -> None:
    assert states(result(PLAIN_GONE, PLAIN_GONE)) == {
        "datagrams out": "slow",
        "out: 1200 B": "broken",
    }


def test_a_shape_whose_trains_were_refused_is_not_judged() -> None:
    told = result(*[TRAIN_LOSES] * 20)
    told.records["out"][1].singly = True
    told.fallbacks = {"EIO": 1}
    assert states(told) == {"datagrams out": "ok", "GSO on this route": "slow"}


def test_what_this_system_does_not_send_is_told() -> None:
    told = result(GOOD)
    told.errors["EPERM"] = 7
    assert "EPERM (7)" in judge(told)[-1].found


def test_a_server_that_goes_silent_is_broken() -> None:
    told = result(GOOD)
    told.gave_up = "it does not answer"
    assert states(told)["server"] == "broken"

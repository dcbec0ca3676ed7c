"""The pytest plugin under which a third-party suite is run: on which loop, and what came of it.

Environment: ECOSYSTEM_LOOP (stock or ours), ECOSYSTEM_LOG (a file that gets a line of JSON for
each phase of a test, at once, so that a run that hangs or dies has told what it did, and one in
the end for the number of endpoints that were ours).
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from counting import count_endpoints, endpoints

LOG: Final = Path(os.environ["ECOSYSTEM_LOG"])
_EXIT_LIMIT_S: Final = 15


def run_on_ours() -> None:
    """Make every new loop of asyncio ours, and give uvloop's our endpoints."""
    import batching.asyncio as ours

    count_endpoints(ours)
    ours.EventLoop.__module__ = "asyncio.unix_events"  # suites ask whether a loop is asyncio's
    # The policy is where asyncio.run, asyncio.Runner, new_event_loop and unittest get theirs from.
    policy: Any = asyncio.DefaultEventLoopPolicy
    policy._loop_factory = ours.EventLoop
    for name in ("SelectorEventLoop", "EventLoop"):  # the latter from 3.13 on
        if hasattr(asyncio, name):
            setattr(asyncio, name, ours.EventLoop)
    loop = asyncio.new_event_loop()
    assert type(loop) is ours.EventLoop
    loop.close()
    try:
        import uvloop
    except ImportError:
        return

    async def create_datagram_endpoint(loop: Any, *arguments: Any, **options: Any) -> Any:
        return await ours.create_datagram_endpoint(*arguments, **options)

    kind: Any = uvloop.Loop
    kind.create_datagram_endpoint = create_datagram_endpoint


def tell(**line: object) -> None:
    with LOG.open("a") as log:
        log.write(json.dumps(line) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome = "skipped" if hasattr(report, "wasxfail") else report.outcome
    if report.when == "call" or outcome != "passed":
        text = "" if outcome == "passed" else str(report.longrepr)[-2000:]
        tell(test=report.nodeid, outcome=outcome, text=text)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        tell(test=report.nodeid, outcome="failed", text=str(report.longrepr)[-2000:])


def pytest_sessionfinish() -> None:
    tell(endpoints=dict(endpoints))
    faulthandler.dump_traceback_later(_EXIT_LIMIT_S, exit=True)  # a failed test's thread waits on


if os.environ["ECOSYSTEM_LOOP"] == "ours":
    run_on_ours()

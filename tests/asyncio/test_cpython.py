"""CPython's own tests of datagrams, from the installed ``test`` package, on our loop.

Those with mock sockets meet our transport over a stand-in for Conn that makes the calls of
a plain socket; all else in the transport is as it ever is.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import unittest
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from batching import _transport_sending
from batching._transport import DatagramTransport
from batching.asyncio import EventLoop

pytestmark = pytest.mark.filterwarnings("default")  # of CPython's tests, not of ours

try:
    from test.test_asyncio import (  # type: ignore[import-not-found]
        test_base_events,
        test_events,
        test_selector_events,
    )
except ImportError:
    pytest.skip("this interpreter came without its test package", allow_module_level=True)


class PlainConn:
    """What a transport asks of a Conn, over a socket that is none of UDP."""

    pending = 0

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._receiver = self
        self._sender = mock.Mock()
        self._sender.peers.get.side_effect = ValueError("no address is numeric")

    def batch_at_once(self) -> list[Any]:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return [self._sock.recvfrom(65536)]
        return []

    def send_batch(self, batch: list[Any]) -> None:
        for data, addr in batch:
            if addr is None:
                self._sock.send(data)
            else:
                self._sock.sendto(data, addr)

    def close(self) -> None:
        pass


def names_of(case: type, word: str) -> list[str]:
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    return [name for name in names if word in name]


def run(case: unittest.TestCase) -> None:
    """Run a test case; fail with what it tells."""
    result = unittest.TestResult()
    with warnings.catch_warnings():
        case.run(result)
    for _, text in (*result.errors, *result.failures):
        pytest.fail(text)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert result.wasSuccessful()


@pytest.fixture(autouse=True)
def _forget_the_loop() -> Iterator[None]:
    """Undo what these tests do to the whole process."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.set_event_loop_policy(None)


# Not names of this module: pytest would run all that is in them.
CASES: dict[str, Any] = {
    "mock": test_selector_events.SelectorDatagramTransportTests,
    "real": test_events.SelectEventLoopTests,
    "base": test_base_events.BaseEventLoopWithSelectorTests,
}


@pytest.mark.parametrize("name", names_of(CASES["mock"], "test"))
def test_transport_with_a_mock_socket(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Transport(DatagramTransport):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(_transport_sending, "share_socket", PlainConn)
    monkeypatch.setattr(test_selector_events, "_SelectorDatagramTransport", Transport)
    run(CASES["mock"](name))
    assert made  # it was ours that was tested


SELECTORS = ["EpollSelector", "PollSelector", "SelectSelector"]


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("name", names_of(CASES["real"], "datagram"))
def test_endpoint_with_a_real_socket(name: str, selector: str) -> None:
    case: Any = CASES["real"]
    kind: Any = getattr(selectors, selector, None)
    if kind is None:
        pytest.skip(f"no {selector} here")

    class OnOurs(case):  # type: ignore[misc]
        def create_event_loop(self) -> asyncio.AbstractEventLoop:
            return EventLoop(kind())

    run(OnOurs(name))


@pytest.mark.parametrize("name", names_of(CASES["base"], "datagram"))
def test_endpoint_of_the_base_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "reuse_address" in name:
        pytest.skip("tests an argument that was removed")
    monkeypatch.setattr(test_base_events.asyncio, "SelectorEventLoop", EventLoop)
    run(CASES["base"](name))

"""What aiocoap's tests take from a module that its sdist lacks: cases that watch the log."""

import functools
import gc
import inspect
import logging
import unittest
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest import IsolatedAsyncioTestCase

__all__ = [
    "CLEANUPTIME",
    "Destructing",
    "IsolatedAsyncioTestCase",
    "WithLogMonitoring",
    "no_warnings",
    "precise_warnings",
]

CLEANUPTIME: Final = 0.01
_SLOW: Final = "Executing "  # so asyncio begins to say that the machine was busy
_Test = Callable[[Any], Any]


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.list: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        # It must keep nothing alive that a test drops.
        record.msg, record.args, record.exc_info = record.getMessage(), (), None
        self.list.append(record)

    def __iter__(self) -> Iterator[logging.LogRecord]:
        return iter(self.list)


class WithLogMonitoring(IsolatedAsyncioTestCase):
    """A case that keeps the records of its log."""

    def setUp(self) -> None:
        self.handler = _Records()
        logging.root.setLevel(0)
        logging.root.addHandler(self.handler)
        self.addCleanup(logging.root.removeHandler, self.handler)
        super().setUp()

    def assertWarned(self, message: str) -> None:  # noqa: N802 - the tests' name for it
        for record in self.handler:
            if record.levelno == logging.WARNING and record.getMessage() == message:
                self.handler.list.remove(record)
                return
        self.fail(f"no such warning: {message}")


class Destructing(WithLogMonitoring):
    """A case that makes sure that what it drops is gone."""

    async def _del_to_be_sure(self, attribute: Any) -> None:
        if isinstance(attribute, str):
            label, reference = attribute, weakref.ref(getattr(self, attribute))
            delattr(self, attribute)
        else:
            label, reference = attribute["label"], weakref.ref(attribute["get"](self))
            attribute["del"](self)
        for _ in range(5):
            if reference() is None:
                return
            gc.collect()
        if reference() is not None:
            self.fail(f"{label} goes on living, for {gc.get_referrers(reference())}")


def precise_warnings(expected: list[str]) -> Callable[[_Test], _Test]:
    """Fail unless just these warnings are logged; three dots stand for any end."""

    def check(case: Any, start: int) -> None:
        logged = [
            record.getMessage()
            for record in case.handler.list[start:]
            if record.levelno >= logging.WARNING and not record.msg.startswith(_SLOW)
        ]
        if len(logged) != len(expected) or not all(map(_is_like, logged, expected)):
            case.fail(f"warnings: {logged}, expected: {expected}")

    def decorate(test: _Test) -> _Test:
        @functools.wraps(test)
        async def watched(self: Any) -> Any:
            start = len(self.handler.list)
            result = await test(self)
            check(self, start)
            return result

        @functools.wraps(test)
        def called(self: Any) -> Any:
            start = len(self.handler.list)
            result = test(self)
            check(self, start)
            return result

        return watched if inspect.iscoroutinefunction(test) else called

    return decorate


def _is_like(message: str, expected: str) -> bool:
    if expected.endswith("..."):
        return message.startswith(expected[:-3])
    return message == expected


no_warnings: Final = precise_warnings([])


def is_test_successful(case: unittest.TestCase) -> bool:
    raise NotImplementedError(f"{case} is left out here")

"""Boundaries: every point of a call where Python may look for signals, each in turn.

A timer hits the same few points again and again, and never the one that matters.  So the
main thread is traced, and at the n-th point of a call the interpreter's own flag for a
signal is set, as its C handler of a real one does; then Python goes on and looks for signals
where it always does, no sooner.  The trace function must be C throughout, or it would meet
the signal itself: it is the C function that sets the flag, called through ctypes, and only
its argument is found in Python, before.
"""

from __future__ import annotations

import ctypes
import dis
import gc
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

import pytest

T = TypeVar("T")

NEVER: Final = -2
SIGNAL = signal.SIGUSR1
_PACKAGE = "/batching/"
# Where the interpreter looks for signals: after a call, on entry, at a jump back.
_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")
_points: dict[CodeType, frozenset[int]] = {}


def _points_of(code: CodeType) -> frozenset[int]:
    if code not in _points:
        _points[code] = frozenset(
            each.offset
            for each in dis.get_instructions(code)
            if each.opname.startswith(_LOOKS) and each.opname != "CALL_INTRINSIC_1"
        )
    return _points[code]


class Boundaries:
    """Traces calls of the package, and sets the signal's flag at the chosen point of one."""

    def __init__(self) -> None:
        self.chosen = NEVER
        self.n_passed = 0
        self.place = ""
        set_flag = ctypes.PyDLL(None).PyErr_SetInterruptEx

        class Choice:
            """Makes the C function's argument of a frame: the signal, or one that is none."""

            @staticmethod
            def from_param(frame: FrameType) -> ctypes.c_int:
                return ctypes.c_int(SIGNAL if self._is_chosen(frame) else 0)

        class Nothing:
            @staticmethod
            def from_param(_argument: object) -> ctypes.c_int:
                return ctypes.c_int(0)

        set_flag.argtypes = [Choice, Nothing, Nothing]  # type: ignore[list-item]
        # The result is the frame's trace function; an int of C becomes it without Python.
        results: dict[int, Any] = {0: set_flag, -1: set_flag}
        set_flag.restype = results.__getitem__
        self._trace: Any = set_flag

    def _is_chosen(self, frame: FrameType) -> bool:
        if _PACKAGE not in frame.f_code.co_filename:
            return False
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if frame.f_lasti not in _points_of(frame.f_code):
            return False
        self.n_passed += 1
        if self.n_passed != self.chosen + 1:
            return False
        self.place = f"{frame.f_code.co_qualname} at line {frame.f_lineno}"
        sys.settrace(None)  # tracing of what is next would be Python, and meet the signal
        return True

    def run(self, call: Callable[[], T], chosen: int = NEVER) -> T:
        """Make a call with the signal at the point ``chosen``, counted from 0."""
        self.chosen, self.n_passed, self.place = chosen, 0, ""
        gc.disable()  # the finalizer of what another test left has points, too
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(None)
            gc.enable()

    def each(self) -> Iterator[int]:
        """Yield 0, 1, … as long as ``run`` with the last one found that point."""
        for chosen in itertools.count():
            yield chosen
            if not self.place:
                return


@pytest.fixture
def boundaries() -> Iterator[Boundaries]:
    """Give the boundaries of a call; the test sets a handler of SIGNAL."""
    kept = signal.getsignal(SIGNAL)
    tracing = sys.gettrace()
    yield Boundaries()
    sys.settrace(tracing)
    signal.signal(SIGNAL, kept)

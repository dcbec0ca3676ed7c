"""Which back end serves this process: the native one where it was built, else the portable.

BATCHING_BACKEND=native|portable forces one of the two; native then fails to import
rather than be replaced.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._kernel import IS_LINUX

__all__ = [
    "NAME",
    "WHY_NOT_NATIVE",
    "WINDOW",
    "Counters",
    "Descriptor",
    "Dispatcher",
    "Message",
    "Peer",
    "Peers",
    "RecvSlots",
    "Segments",
    "SendPlan",
]

WHY_NOT_NATIVE = ""
NAME = os.environ.get("BATCHING_BACKEND", "")
if NAME not in ("", "native", "portable"):
    raise ValueError(f"BATCHING_BACKEND={NAME}, must be native, portable or empty")
if NAME == "portable":
    WHY_NOT_NATIVE = "native: BATCHING_BACKEND=portable"
else:
    try:
        from . import _mmsg as _mmsg
    except ImportError as error:
        why = f"not built ({error})" if IS_LINUX else "needs Linux"
        if NAME:
            raise ImportError(f"BATCHING_BACKEND=native: {why}") from error
        NAME, WHY_NOT_NATIVE = "portable", f"native: {why}"
    else:
        NAME = "native"

if NAME == "native" or TYPE_CHECKING:
    from ._mmsg import (
        WINDOW,
        Counters,
        Descriptor,
        Dispatcher,
        Message,
        Peer,
        Peers,
        RecvSlots,
        Segments,
        SendPlan,
    )
else:
    from ._portable import (
        WINDOW,
        Counters,
        Descriptor,
        Dispatcher,
        Message,
        Peer,
        Peers,
        RecvSlots,
        Segments,
        SendPlan,
    )

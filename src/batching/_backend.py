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
_wanted = os.environ.get("BATCHING_BACKEND", "")
if _wanted not in ("", "native", "portable"):
    raise ValueError(f"BATCHING_BACKEND={_wanted}, must be native, portable or empty")

NAME = _wanted
if not _wanted:
    try:
        from . import _mmsg as _mmsg
    except ImportError as error:
        NAME = "portable"
        WHY_NOT_NATIVE = f"native: not built ({error})" if IS_LINUX else "native: needs Linux"
    else:
        NAME = "native"
elif _wanted == "portable":
    WHY_NOT_NATIVE = "native: BATCHING_BACKEND=portable"

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

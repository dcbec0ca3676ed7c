"""What all tests share: which back ends there are, and which of them this run is about.

BATCHING_BACKEND, which the package obeys too, chooses the back end of a run; ``make test``
makes one run over each.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batching import Conn
    from loopback import PlainPeer
    from seam_rig import Rig

MODULES = {"native": "batching._mmsg", "portable": "batching._portable"}
FORCED = os.environ.get("BATCHING_BACKEND", "")


def is_available(name: str) -> bool:
    """Tell whether a back end can be imported here, with what it is to have."""
    try:  # sources that were not built pass for an empty package, from another folder
        return hasattr(importlib.import_module(MODULES[name]), "SendPlan")
    except ImportError:
        return False


AVAILABLE = [name for name in MODULES if is_available(name)]


def pytest_configure() -> None:
    """Refuse to run over a back end that is not there."""
    if FORCED and FORCED not in AVAILABLE:
        raise pytest.UsageError(
            f"BATCHING_BACKEND={FORCED}, available: {', '.join(AVAILABLE)} (make test builds all)"
        )


def pytest_report_header() -> str:
    """Tell the back ends, the one in use, and the kernel."""
    return (
        f"batching: back ends {', '.join(AVAILABLE)}, in use {FORCED or AVAILABLE[0]};"
        f" kernel {platform.system()} {platform.release()}"
    )


@pytest.fixture(params=[FORCED or AVAILABLE[0]])
def backend(request: pytest.FixtureRequest) -> ModuleType:
    """Give the module of the back end that the run is about."""
    return importlib.import_module(MODULES[request.param])


@pytest.fixture
def rig(backend: ModuleType) -> Iterator[Rig]:
    """Give a sender and a receiver around the back end."""
    from seam_rig import Rig

    with contextlib.closing(Rig(backend)) as rig:
        yield rig


@pytest.fixture
def gro(backend: ModuleType) -> Iterator[Rig]:
    """Give the same, whose receiver takes trains whole."""
    from seam_rig import Rig

    with contextlib.closing(Rig(backend, gro=True)) as rig:
        yield rig


@pytest.fixture
def conn() -> Iterator[Conn]:
    """Give a connection on loopback, without a timeout."""
    from batching import open_conn

    with open_conn(("127.0.0.1", 0)) as conn:
        yield conn


@pytest.fixture
def peer() -> Iterator[PlainPeer]:
    """Give a plain socket on loopback to send to and to receive from."""
    from loopback import PlainPeer

    with PlainPeer() as peer:
        yield peer

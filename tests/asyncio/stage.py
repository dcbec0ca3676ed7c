"""The stage: one scenario is played on several event loops, and all that happens is noted.

A scenario is an async function that is given a Stage.  What its endpoints are told, what
its calls return and raise, and what plain sockets receive is noted per name, in order;
``play`` returns these notes, which must not depend on the loop.  What no two runs have in
common (ports, descriptors, addresses of objects) is replaced by what it stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import sys
import textwrap
import time
from asyncio import selector_events
from collections.abc import Awaitable, Callable, Iterator
from itertools import zip_longest
from typing import Any, Final

import pytest

import batching.asyncio
from loopback import HOST, PATIENCE_S, PlainPeer

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

Scenario = Callable[["Stage"], Awaitable[None]]
Hook = Callable[..., object]
Notes = dict[str, list[tuple[Any, ...]]]
_CALLBACK: Final = re.compile(r"^Exception in callback .*", re.DOTALL)
_OURS: Final = re.compile(r"\b(_Selector|_?)(Datagram|Plain)Transport\b")


class World:
    """A kind of loop, and how datagram endpoints come about in it."""

    def __init__(self, name: str, new_loop: Callable[[], Any], *, is_ours: bool) -> None:
        self.name, self.new_loop, self._is_ours = name, new_loop, is_ours

    async def create(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        if self._is_ours:
            return await batching.asyncio.create_datagram_endpoint(*arguments, **options)
        loop = asyncio.get_running_loop()
        return await loop.create_datagram_endpoint(*arguments, **options)

    @contextlib.contextmanager
    def running(self) -> Iterator[asyncio.Runner]:
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            yield runner

    def __repr__(self) -> str:
        return self.name


def _mended() -> Any:
    """Stock's transport as from 3.13.6 on: a datagram takes with it all that it was counted."""
    stock: Any = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]
    source = textwrap.dedent(inspect.getsource(stock._sendto_ready))
    mended, n = re.subn(r"(_buffer_size [+-]= len\(data\))$", r"\1 + 8", source, flags=re.MULTILINE)
    assert n == 2
    names: dict[str, Any] = {}
    exec(mended, vars(selector_events), names)
    return type("_DatagramTransport", (stock,), names)


_LEAKS: Final = (3, 13) <= sys.version_info < (3, 13, 6)
_DatagramTransport: Final[Any] = _mended() if _LEAKS else None


class _MendedLoop(asyncio.SelectorEventLoop):
    def _make_datagram_transport(self, *arguments: Any) -> Any:
        return _DatagramTransport(self, *arguments)


STOCK: Final = World("stock", _MendedLoop if _LEAKS else asyncio.SelectorEventLoop, is_ours=False)
LOOP: Final = World("loop", batching.asyncio.new_event_loop, is_ours=False)
ENDPOINT: Final = World("endpoint", asyncio.SelectorEventLoop, is_ours=True)
OURS: Final = [LOOP, ENDPOINT]
if uvloop is not None:
    UVLOOP: Final = World("uvloop", uvloop.new_event_loop, is_ours=True)
    OURS.append(UVLOOP)

each_world: Final = pytest.mark.parametrize("world", OURS, ids=repr)
each_asyncio_world: Final = pytest.mark.parametrize("world", [LOOP, ENDPOINT], ids=repr)


class Endpoint(asyncio.DatagramProtocol):
    """A protocol that notes what it is told; ``hooks`` do more, by the callback's name."""

    def __init__(self, stage: Stage, name: str, hooks: dict[str, Hook]) -> None:
        self.stage, self.name, self.hooks = stage, name, hooks
        self.transport: Any = None
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.is_lost = False

    def _tell(self, callback: str, *values: Any) -> None:
        self.stage.note(self.name, callback, *values)
        if callback in self.hooks:
            self.hooks[callback](self, *values)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._tell("connection_made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        self._tell("datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        # Apart: an error of a datagram that waits is told at the end of the turn, in order.
        self.stage.note(f"{self.name}'s errors", exc)
        if "error_received" in self.hooks:
            self.hooks["error_received"](self, exc)

    def pause_writing(self) -> None:
        self._tell("pause_writing")

    def resume_writing(self) -> None:
        self._tell("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._tell("connection_lost", exc)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the transport; note what it returns or raises."""
        return self.stage.call(self.name, method, getattr(self.transport, method), *arguments)


class Stage:
    """What a scenario has to play with; closing it ends all that was made."""

    def __init__(self, world: World, stack: contextlib.AsyncExitStack) -> None:
        self.world, self._stack = world, stack
        self.loop: Any = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._handle)
        self.notes: Notes = {}
        self._names: dict[int, str] = {}  # of ports
        self._sinks: list[tuple[str, PlainPeer]] = []

    async def endpoint(self, name: str, **options: Any) -> Endpoint:
        """Open an endpoint, on a free port of loopback unless ``options`` say else."""
        kind = options.pop("kind", Endpoint)
        hooks = {key: options.pop(key) for key in list(options) if hasattr(kind, key)}
        if not {"local_addr", "remote_addr", "sock"} & set(options):
            options["local_addr"] = (HOST, 0)
        made: Endpoint = kind(self, name, hooks)
        transport, _ = await self.world.create(lambda: made, **options)
        self._stack.push_async_callback(self._close, made)
        self.name_port(transport.get_extra_info("sockname"), name)
        assert made.transport is transport
        return made

    async def _close(self, endpoint: Endpoint) -> None:
        if not endpoint.is_lost:
            endpoint.transport.abort()
            await self.until(lambda: endpoint.is_lost)

    def sink(self, name: str = "sink", host: str = HOST) -> PlainPeer:
        """Give a plain socket; all that it was sent is noted in the end."""
        peer = self._stack.enter_context(PlainPeer(host))
        peer.sock.setblocking(False)
        self.name_port(peer.address, name)
        self._sinks.append((name, peer))
        return peer

    def name_port(self, address: Any, name: str) -> None:
        if isinstance(address, tuple):
            self._names[address[1]] = f"<{name}>"

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once ``condition`` holds; turns of the loop pass meanwhile."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"the condition did not come true: {self.notes}"
            await asyncio.sleep(0.0005)  # not 0: a task that is always ready ends every burst

    async def collect(self, n: int, *, index: int = 0) -> None:
        """Note the ``n`` datagrams that come to the sink."""
        name, peer = self._sinks[index]
        n += len(self.notes.get(name, ()))

        def is_through() -> bool:
            self._drain(name, peer)
            return len(self.notes.get(name, ())) >= n

        await self.until(is_through)

    def _drain(self, name: str, peer: PlainPeer) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.note(name, *peer.sock.recvfrom(65536))

    def drain(self) -> None:
        for name, peer in self._sinks:
            self._drain(name, peer)

    def call(self, name: str, label: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call; note what it returns or raises."""
        try:
            result = function(*arguments)
        except Exception as exc:  # noqa: BLE001 - noted, and compared
            self.note(name, label, "raised", exc)
            return None
        self.note(name, label, result)
        return result

    def note(self, name: str, *values: Any) -> None:
        self.notes.setdefault(name, []).append(tuple(self._plain(value) for value in values))

    def _handle(self, loop: Any, context: dict[str, Any]) -> None:
        keys = sorted(set(context) - {"source_traceback", "handle"})
        message = _CALLBACK.sub("Exception in a callback", context["message"])
        self.note("handler", message, context.get("exception"), *keys)

    def _plain(self, value: Any) -> Any:
        """Replace what no two runs have in common."""
        if isinstance(value, BaseException):
            return type(value).__name__, self._plain(str(value))
        if isinstance(value, (tuple, list)):
            return tuple(self._plain(each) for each in value)
        if isinstance(value, bool) or value is None or isinstance(value, (bytes, float)):
            return value
        if isinstance(value, int):
            return self._names.get(value, value)
        if isinstance(value, str):
            value = re.sub(r"0x[0-9a-f]+|fd=\d+", "...", _OURS.sub("Transport", value))
            return re.sub(r"\b\d{4,5}\b", lambda m: self._names.get(int(m[0]), m[0]), value)
        return type(value).__name__


async def _play(world: World, scenario: Scenario) -> Notes:
    async with contextlib.AsyncExitStack() as stack:
        stage = Stage(world, stack)
        await scenario(stage)
        stage.drain()
        notes = stage.notes
    return notes  # noqa: RET504 - with what closing adds


def play(world: World, scenario: Scenario, *, debug: bool = False) -> Notes:
    """Play a scenario in a loop of its own; return what happened."""
    with asyncio.Runner(loop_factory=world.new_loop, debug=debug) as runner:
        return runner.run(_play(world, scenario))


def compare(world: World, scenario: Scenario, *, debug: bool = False) -> Notes:
    """Play it on stock asyncio too; fail unless the same happened."""
    expected = play(STOCK, scenario, debug=debug)
    assert expected, "a scenario in which nothing happens shows nothing"
    notes = play(world, scenario, debug=debug)
    for name in expected | notes:
        found, wanted = notes.get(name, []), expected.get(name, [])
        for i, (one, other) in enumerate(zip_longest(found, wanted)):
            assert one == other, f"{name} {i}: {one}, on stock {other}"
    return notes


class Scenarios:
    """The scenarios of a file: ``@scenarios`` adds one, ``@scenarios.each`` plays each."""

    def __init__(self) -> None:
        self._added: list[Any] = []

    def __call__(self, scenario: Scenario) -> Scenario:
        self._added.append(pytest.param(scenario, id=scenario.__name__))
        return scenario

    def marked(self, *marks: pytest.MarkDecorator) -> Callable[[Scenario], Scenario]:
        def add(scenario: Scenario) -> Scenario:
            self._added.append(pytest.param(scenario, id=scenario.__name__, marks=marks))
            return scenario

        return add

    @property
    def each(self) -> pytest.MarkDecorator:
        return pytest.mark.parametrize("scenario", self._added)

"""Rounds, one after the other, until the time is up or something is wrong."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from .ledger import Ledger
from .path import Path, counted
from .plan import OF_LINK, OF_NETWORK, SILENT, WHOLE_ROUND, Fault, Options, Plan, make
from .verdict import Gap, Verdict, judge
from .wire import N_FLOWS, Flow
from .worker import Worker, WorkerError

_TICK_S: Final = 0.02
_LEAD_S: Final = 0.1  # the ledger says so this long before, and after, what loses silently
_FINISH_S: Final = 25.0  # after the last new datagram
_SETTLE_S: Final = 0.5  # without any arrival: what is not here is lost
_STALL_S: Final = 0.3
_WARM_ROUNDS: Final = 4  # of a worker
_MAX_GROWTH: Final = 48 << 20  # bytes, of a worker after it was warm


class SoakError(Exception):
    """The soak found something; the text is for whoever has to mend it."""


@dataclass
class Totals:
    """What a run came to, and its tables."""

    started: float = field(default_factory=time.monotonic)
    rounds: int = 0
    datagrams: int = 0
    again: int = 0
    transmissions: int = 0
    received: int = 0
    reordered: int = 0
    told: int = 0
    drops: int = 0
    stalls: list[str] = field(default_factory=list)  # a reader came late to what was there
    lost: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    kernel: Counter[str] = field(default_factory=Counter)  # what it counted as lost
    by_fault: dict[str, Counter[str]] = field(default_factory=dict)
    by_backend: dict[str, Counter[str]] = field(default_factory=dict)
    growth: dict[str, int] = field(default_factory=dict)  # bytes, by worker, at the last look


class Run:
    """One soak: workers, the network, and what they came to."""

    def __init__(
        self, options: Options, path: Path | None, shim: str, tick: Callable[[Run], None]
    ) -> None:
        self.options = options
        self.totals = Totals()
        self.ledger = Ledger.new()
        self.plan: Plan | None = None
        self.path = path
        self._shim = shim
        self._tick = tick
        self._workers: dict[tuple[str, int, str], Worker] = {}

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        os.close(self.ledger.fd)

    def rss(self) -> int:
        """Return the resident memory of all workers, in bytes."""
        return sum(worker.rss() for worker in self._workers.values())

    def fds(self) -> int:
        return sum(worker.fds() for worker in self._workers.values())

    def round(self, number: int) -> None:
        """Run one round.

        Raises:
            SoakError: Something that must not happen did.
        """
        plan = self.plan = make(self.options, number)
        try:
            _Round(self, plan).run()
        except (WorkerError, OSError, AssertionError) as error:
            raise SoakError(self._dump(plan, f"{type(error).__name__}: {error}")) from error
        finally:
            if self.path:
                self.path.end(plan)

    def _dump(self, plan: Plan, what: str) -> str:
        rows = []
        for flow in self.ledger.flows():
            states, marks = self.ledger.columns(flow.id)
            rows.append(
                f"  {flow}: {len(states)} transmissions,"
                f" states {dict(Counter(states))}, {marks.count(1)} received"
            )
        return "\n".join((f"{plan.name}: {what}", str(plan), "The ledger:", *rows))

    def worker(self, backend: str, side: int, *, with_shim: bool) -> Worker:
        key = backend, side, self._shim if with_shim else ""
        if key not in self._workers:
            self._workers[key] = Worker(backend, side, self.options, self.ledger.fd, key[2])
        return self._workers[key]

    def replace(self, dead: Worker) -> Worker:
        """Let a worker die, and return a new one for its side."""
        dead.kill()
        del self._workers[dead.backend, dead.side, dead.preload]
        return self.worker(dead.backend, dead.side, with_shim=bool(dead.preload))

    def pulse(self) -> None:
        self._tick(self)


class _Round:
    """One round, from its start to its verdict."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self._run, self._plan, self._path = run, plan, run.path
        self._workers = [
            run.worker(end.backend, side, with_shim=bool(plan.of_side(side, "errno")))
            for side, end in enumerate(plan.ends)
        ]
        self._finished = [False, False]
        self._gaps: list[Gap] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._n_silent = 0
        self._started = 0.0

    def run(self) -> None:
        plan, ledger = self._plan, self._run.ledger
        ledger.clear()
        if self._path:
            self._path.begin(plan)
        before = self._path.losses() if self._path else None
        self._ready()
        ledger.is_silent = "queue" in plan.kinds()
        self._started = time.monotonic()
        for worker in self._workers:
            worker.tell("go", active_s=plan.active_s)
        for fault in plan.faults:
            self._schedule(fault)
        self._traffic()
        self._settle()
        reports = self._stop()
        kernel = None
        if self._path and before is not None:
            kernel = self._path.losses()
            kernel.subtract(before)
            self._run.totals.kernel.update(counted(kernel))
        own, other = (report["stats"].get("recv_queue_drops", 0) for report in reports)
        verdict = judge(plan, ledger, self._gaps, kernel, (own, other))
        self._add(verdict, reports, own + other)
        if verdict.violations:
            raise WorkerError("\n".join(verdict.violations[:20]))
        self._check_growth()

    def _ready(self) -> None:
        for worker in self._workers:
            self._tell_round(worker, life=0)
        for worker in self._workers:
            worker.expect("ready")

    def _tell_round(self, worker: Worker, *, life: int) -> None:
        namespace = self._path.namespace(self._plan, worker.side) if self._path else None
        worker.tell("round", number=self._plan.number, life=life, namespace=namespace)

    # Faults

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), action))

    def _schedule(self, fault: Fault) -> None:
        path = self._path
        start, stop = self._started + fault.start_s, self._started + fault.stop_s
        if fault.kind == "kill":
            self._at(start, lambda: self._kill(fault))
        elif path and fault.kind in (*OF_NETWORK, *OF_LINK) and fault.kind not in WHOLE_ROUND:
            self._at(start, lambda: self._begin(path, fault, stop))

    def _begin(self, path: Path, fault: Fault, stop: float) -> None:
        """Let a fault of the network begin, and see to its end."""

        def begin() -> None:
            path.start(fault, self._plan)
            self._at(stop, last)

        def end() -> None:
            path.stop(fault)

        def last() -> None:
            if fault.kind in SILENT:
                self._then_speak(end)
            elif fault.kind == "mtu":
                self._briefly(end)
            else:
                end()

        if fault.kind in SILENT:
            self._hush(begin)
        elif fault.kind == "mtu":  # both ends do not change at one instant
            self._briefly(begin)
        else:
            begin()

    def _hush(self, action: Callable[[], None]) -> None:
        self._n_silent += 1
        self._run.ledger.is_silent = True
        self._at(time.monotonic() + _LEAD_S, action)

    def _then_speak(self, action: Callable[[], None]) -> None:
        action()
        self._at(time.monotonic() + _LEAD_S, self._speak)

    def _briefly(self, action: Callable[[], None]) -> None:
        self._hush(lambda: self._then_speak(action))

    def _speak(self) -> None:
        self._n_silent -= 1
        self._run.ledger.is_silent = self._n_silent > 0 or "queue" in self._plan.kinds()

    def _kill(self, fault: Fault) -> None:
        ledger = self._run.ledger
        self._workers[fault.side] = worker = self._run.replace(self._workers[fault.side])
        lows = {
            flow.id: ledger.last_received(flow.id)
            for flow in ledger.flows()
            if flow.side != fault.side
        }
        self._tell_round(worker, life=1)
        worker.expect("ready")
        # A flow may begin only now: what was sent of it to nobody is in the gap too.
        for number in range(N_FLOWS):
            flow = Flow.of(number)
            if flow.side != fault.side and ledger.used[number]:
                self._gaps.append((number, lows.get(number, -1) + 1, ledger.used[number]))
        left_s = self._started + self._plan.active_s - time.monotonic()
        worker.tell("go", active_s=max(left_s, 0.2))
        self._finished[fault.side] = False

    # Its course

    def _traffic(self) -> None:
        end = self._started + self._plan.active_s + _FINISH_S
        while not all(self._finished) or self._due:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            self._look()
            if now > end:
                raise WorkerError(f"UNDELIVERED after {_FINISH_S} s:\n{self._describe()}")
            time.sleep(_TICK_S)

    def _look(self) -> None:
        for worker in self._workers:
            worker.poll()
            for message in worker.take("gap"):
                self._gaps += [(flow, first, last) for flow, first, last in message["flows"]]
            if worker.take("finished"):
                self._finished[worker.side] = True
        self._run.pulse()

    def _settle(self) -> None:
        """Return once all arrived, or nothing does any more and nothing waits to be read.

        Raises:
            WorkerError: A reader leaves alone what is there for it.
        """
        ledger = self._run.ledger
        seen, since, end = -1, time.monotonic(), time.monotonic() + _FINISH_S
        while ledger.in_flight() > 0:
            self._look()
            now = time.monotonic()
            if ledger.arrived() != seen:
                if seen >= 0 and now - since > _STALL_S:
                    self._run.totals.stalls.append(f"{now - since:.2f} s in {self._plan}")
                seen, since = ledger.arrived(), now
            elif now > since + _SETTLE_S:
                unread = self._unread()
                if not any(unread):
                    return
                if now > end:
                    raise WorkerError(f"UNREAD by side: {unread}\n{self._describe()}")
            time.sleep(_TICK_S)

    def _unread(self) -> list[int]:
        for worker in self._workers:
            worker.tell("count")
        return [worker.expect("unread")["n"] for worker in self._workers]

    def _stop(self) -> list[dict[str, Any]]:
        for worker in self._workers:
            worker.tell("stop")
        reports = [worker.expect("stopped") for worker in self._workers]
        self._look()
        return reports

    def _describe(self) -> str:
        states = []
        for worker in self._workers:
            worker.tell("describe")
            states.append(f"side {worker.side}: {worker.expect('state')['state']}")
        return "\n".join(states)

    # What it came to

    def _add(self, verdict: Verdict, reports: list[dict[str, Any]], drops: int) -> None:
        totals, plan = self._run.totals, self._plan
        datagrams = sum(report["datagrams"] for report in reports)
        again = sum(report["again"] for report in reports)
        totals.rounds += 1
        totals.datagrams += datagrams
        totals.again += again
        totals.transmissions += verdict.sent
        totals.received += verdict.received
        totals.drops += drops
        totals.lost += verdict.lost
        totals.told += sum(report["told"] for report in reports)
        totals.reordered += sum(report["reordered"] for report in reports)
        for report in reports:
            totals.errors.update(report["errors"])
            for name, n in report["stats"].items():
                if name.startswith("fallback "):
                    totals.fallbacks[name[9:]] += n
        row = Counter(
            rounds=1,
            datagrams=datagrams,
            again=again,
            refused=sum(sum(report["errors"].values()) for report in reports),
            drops=drops,
            **{f"lost {name}": n for name, n in verdict.lost.items()},
        )
        pair = " + ".join(sorted(end.backend for end in plan.ends))
        totals.by_backend.setdefault(pair, Counter()).update(row)
        for kind in plan.kinds() or {"none"}:
            totals.by_fault.setdefault(kind, Counter()).update(row)

    def _check_growth(self) -> None:
        for worker in self._workers:
            worker.n_rounds += 1
            rss, fds = worker.rss(), worker.fds()
            name = f"{worker.backend}{' with shim' * bool(worker.preload)}, side {worker.side}"
            if worker.n_rounds == 1:
                worker.warm_fds = fds
            elif fds != worker.warm_fds:
                raise WorkerError(f"LEAK: {name} has {fds} descriptors, had {worker.warm_fds}")
            if worker.n_rounds == _WARM_ROUNDS:
                worker.warm_rss = rss
            elif worker.n_rounds > _WARM_ROUNDS:
                self._run.totals.growth[name] = rss - worker.warm_rss
                if rss - worker.warm_rss > _MAX_GROWTH:
                    raise WorkerError(
                        f"LEAK: {name} has {rss >> 20} MiB, had {worker.warm_rss >> 20} MiB"
                    )

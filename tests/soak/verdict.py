"""Is what became of a round's transmissions in order?  What was lost, and who told of it.

A loss is explained by the first of these that holds:

silence   it was sent while the network was made to lose without telling
gap       the receiver was closed, dead, or interrupted in a call
drops     the kernel has counted packets that found no room, or were lost otherwise: each is
          one datagram at least, and one exactly where no trains are sent, or none taken
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .ledger import REFUSED, SENT, SENT_IN_SILENCE, UNKNOWN, UNSENT, Ledger
from .path import counted, other_drops, socket_drops
from .plan import Plan
from .wire import Flow

Gap = tuple[int, int, int]  # flow, first tx, past the last
_TRAIN: Final = 128  # datagrams that one packet in a queue may be


@dataclass
class Verdict:
    """What one round came to."""

    sent: int = 0
    received: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # by explanation
    unsure: int = 0  # the call that sent it never told
    violations: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)  # what counters have to explain


def judge(
    plan: Plan,
    ledger: Ledger,
    gaps: Iterable[Gap],
    kernel: Counter[str] | None,
    drops: tuple[int, int],
) -> Verdict:
    """Judge a round that is over.

    Args:
        plan: What was done.
        ledger: What became of each transmission.
        gaps: What may have been lost at a receiver.
        kernel: What the kernel counted meanwhile; None: it is not ours alone.
        drops: What each side says that it dropped (recv_queue_drops).
    """
    verdict = Verdict()
    allowed: dict[int, list[Gap]] = {}
    for gap in gaps:
        allowed.setdefault(gap[0], []).append(gap)
    to_explain: Counter[int] = Counter()  # losses that counters have to explain, by receiving side
    for flow in ledger.flows():
        to_explain[1 - flow.side] += _judge_flow(flow, ledger, allowed.get(flow.id, []), verdict)
    _judge_empties(plan, ledger, allowed, to_explain, verdict)
    _judge_counters(plan, to_explain, kernel, drops, verdict)
    return verdict


def _judge_flow(flow: Flow, ledger: Ledger, gaps: list[Gap], verdict: Verdict) -> int:
    states, marks = ledger.columns(flow.id)
    missing = []
    for tx, (state, mark) in enumerate(zip(states, marks, strict=True)):
        verdict.sent += state in (SENT, SENT_IN_SILENCE)
        verdict.received += mark
        verdict.unsure += state == UNKNOWN
        if mark:
            if state in (REFUSED, UNSENT):
                how = "refused" if state == REFUSED else "unsent"
                verdict.violations.append(f"TOLD WRONGLY: {flow} tx {tx}: {how}, but it arrived")
        elif state == SENT_IN_SILENCE:
            verdict.lost["silence"] += 1
        elif state == SENT:
            if any(first <= tx < end for _, first, end in gaps):
                verdict.lost["gap"] += 1
            else:
                missing.append(tx)
    if missing:
        verdict.rows.append(f"{flow}: {len(missing)} lost, tx {missing[0]} to {missing[-1]}")
    return len(missing)


def _judge_empties(
    plan: Plan,
    ledger: Ledger,
    allowed: dict[int, list[Gap]],
    to_explain: Counter[int],
    verdict: Verdict,
) -> None:
    """Empty datagrams carry no number: they are counted for each pair of sockets."""
    totals: dict[tuple[int, int, int], Counter[str]] = {}
    for number, (sent, unsure, received) in enumerate(
        zip(ledger.empty_sent, ledger.empty_unsure, ledger.empty_received, strict=True)
    ):
        if sent or unsure or received:
            flow = Flow.of(number)
            row = totals.setdefault((flow.side, flow.conn, flow.to), Counter())
            row.update(sent=sent, unsure=unsure, received=received)
    has_gap = {(Flow.of(number).side, Flow.of(number).to) for number in allowed}
    for (side, conn, to), row in totals.items():
        verdict.sent += row["sent"]
        verdict.received += row["received"]
        verdict.unsure += row["unsure"]
        if row["received"] > row["sent"] + row["unsure"]:
            verdict.violations.append(
                f"DOUBLED: {row['received']} empty datagrams from {conn} of side {side} to {to},"
                f" {row['sent']} to {row['sent'] + row['unsure']} sent"
            )
        lost = max(0, row["sent"] - row["received"])
        if (side, to) in has_gap or plan.kinds() & {"kill"}:
            verdict.lost["gap"] += lost
        else:
            to_explain[1 - side] += lost


def _judge_counters(
    plan: Plan,
    to_explain: Counter[int],
    kernel: Counter[str] | None,
    drops: tuple[int, int],
    verdict: Verdict,
) -> None:
    lost = to_explain.total()
    verdict.lost["drops"] += lost
    seen = kernel or Counter()
    in_queues = sum(drops) if kernel is None else socket_drops(seen)
    elsewhere = other_drops(seen)
    weights = [_TRAIN if _may_get_trains(plan, side) else 1 for side in (0, 1)]
    if kernel and "kill" in plan.kinds():  # the dead told nobody what they had dropped
        is_explained = lost <= in_queues * max(weights) + elsewhere * _TRAIN
    else:
        over = [max(0, to_explain[side] - drops[side] * weights[side]) for side in (0, 1)]
        is_explained = sum(over) <= elsewhere * _TRAIN
    if not is_explained:
        verdict.violations.append(
            f"LOST: {dict(to_explain)} datagrams by receiving side; recv_queue_drops {drops}, a"
            f" packet up to {weights} datagrams; the kernel has counted {in_queues} packets dropped"
            f" from sockets and {elsewhere} elsewhere (all that it counted: {dict(+seen)})\n"
            + "\n".join(verdict.rows)
        )
    # The other way round: who is told of more drops than there are losses is told wrongly.
    if in_queues > lost + verdict.lost["silence"] + verdict.lost["gap"] + verdict.unsure:
        verdict.violations.append(
            f"COUNTED: {in_queues} drops, but only {dict(verdict.lost)} lost;"
            f" recv_queue_drops {drops}, the kernel: {dict(counted(seen))}"
        )
    if kernel is not None and not plan.kinds() & {"kill", "reopen"} and sum(drops) != in_queues:
        verdict.violations.append(
            f"COUNTED: recv_queue_drops is {drops}, the kernel's counters say {in_queues}"
        )


def _may_get_trains(plan: Plan, side: int) -> bool:
    sender, receiver = plan.ends[1 - side], plan.ends[side]
    is_sent = sender.is_upgraded or (sender.gso == "auto" and sender.max_segments != 1)
    return is_sent and (receiver.is_upgraded or receiver.gro == "auto")

"""Verdict: what the records of a path mean, as findings.

Loss that meets datagrams one by one as well is the path's, and slow.  Damage is broken, and
so is what only trains suffer: something between the two kernels mangles them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .client import Result
from .finding import Finding
from .record import Direction, Record
from .tally import Count

__all__ = ["judge"]

_HERE: Final = "set BATCHING_DISABLE_UDP_GSO=1, or call conn.disable_gso(addr), where it is sent"
_FIX: Final[dict[Direction, str]] = {"out": f"here: {_HERE}", "back": f"on the server: {_HERE}"}
_RECEIVER: Final[dict[Direction, str]] = {"out": "the server", "back": "this side"}
_DOUBT: Final = 3.0  # of 6.9, as a logarithm: six rounds that agree


def judge(result: Result) -> list[Finding]:
    """Return what there is to say: of each direction, and of each shape that is mangled."""
    findings = []
    for direction, records in result.records.items():
        sent = [record for record in records if record.rounds]
        if sent:
            findings += _judge_direction(direction, sent, result)
    if result.fallbacks:
        findings.append(_judge_fallbacks(result.fallbacks))
    if result.errors:
        why = ", ".join(f"{name} ({n:,})" for name, n in result.errors.items())
        change = "a firewall, a route or a queue of this machine refuses them"
        findings.append(Finding("sending", "slow", f"datagrams were refused here: {why}", change))
    if result.gave_up:
        change = "look whether the server still runs; run again"
        found = f"ended before its time: {result.gave_up}"
        findings.append(Finding("server", "broken", found, change))
    return findings


def _judge_direction(direction: Direction, records: list[Record], result: Result) -> list[Finding]:
    has_drops = result.drops[direction] > 0
    plain = _sum(record.total(0) for record in records)
    mangled = [record for record in records if _is_mangled(record, plain, has_drops)]
    findings = [_summary(direction, records, result)]
    findings += [_judge_mangled(record) for record in mangled]
    for size in _sizes_lost(records):
        found = f"of datagrams of {size} B none arrives one by one"
        change = (
            f"the path's MTU is less than the route's: send less than {size} bytes, or lower it"
        )
        findings.append(Finding(f"{direction}: {size} B", "broken", found, change))
    return findings


def _is_mangled(record: Record, plain: Count, has_drops: bool) -> bool:
    """Tell whether it is trains of this shape that the path harms."""
    if not record.is_tested:
        return False
    if record.total(1).damaged and not plain.damaged:
        return True
    if has_drops and not record.total(1).damaged:
        return False  # the receiver's own socket may have lost them
    return record.harms_trains_only


def _summary(direction: Direction, records: list[Record], result: Result) -> Finding:
    """Return the finding of a direction as a whole."""
    name = f"datagrams {direction}"
    plain = _sum(record.total(0) for record in records)
    train = _sum(record.total(1) for record in records if record.is_tested)
    n_plain = sum(record.sent for record in records)
    n_train = sum(record.sent for record in records if record.is_tested)
    facts: dict[str, object] = {
        "plain": {"sent": n_plain, **plain._asdict()},
        "train": {"sent": n_train, **train._asdict()},
        "drops": result.drops[direction],
    }
    if not n_train:
        found = f"{n_plain:,} one by one: {_harms(plain, n_plain)}; no train could be sent"
        change = "see GSO" if direction == "out" else "run batching probe on the server"
        return Finding(name, "slow", found, change, facts)
    if not plain.harm and not train.harm:
        found = f"{n_plain:,} one by one and {n_train:,} in trains came whole"
        return Finding(name, "ok", found, facts=facts)
    found = f"one by one {_harms(plain, n_plain)}; in trains {_harms(train, n_train)}"
    if plain.damaged:
        change = "the path damages datagrams of any kind: look at its tunnels and devices"
        return Finding(name, "broken", found, change, facts)
    if result.drops[direction]:
        found += f"; {_RECEIVER[direction]} had no room for {result.drops[direction]:,} packets"
        change = f"raise the receive buffer of {_RECEIVER[direction]}: net.core.rmem_max"
        return Finding(name, "slow", found, change, facts)
    if doubtful := [record for record in records if record.is_suspect and record.odds > _DOUBT]:
        change = f"trains may suffer more ({doubtful[0].shape}): run again with --duration 20"
    elif not plain.harm:
        change = "only trains suffer: see the shapes below"
    elif not train.harm:
        change = "only those that travel alone suffer, so it is no matter of offload"
    else:
        change = "the path loses both alike: send slower, or look where it drops"
    return Finding(name, "slow", found, change, facts)


def _judge_mangled(record: Record) -> Finding:
    plain, train = record.total(0), record.total(1)
    found = (
        f"mangled in trains: {_harms(train, record.sent)}; one by one {_harms(plain, record.sent)}"
    )
    facts: dict[str, object] = {
        "direction": record.direction,
        **record.shape._asdict(),
        "rounds": len(record.rounds),
        "plain": plain._asdict(),
        "train": train._asdict(),
    }
    name = f"{record.direction}: {record.shape}"
    return Finding(name, "broken", found, _FIX[record.direction], facts)


def _judge_fallbacks(fallbacks: dict[str, int]) -> Finding:
    """Return the finding that this system itself takes no trains, or not of all sizes."""
    reasons = ", ".join(fallbacks)
    change = {
        "EMSGSIZE": "the path's MTU is less than the route's: send shorter datagrams",
        "EIO": "IPsec, or a device without checksum offload: ethtool -K DEVICE tx on",
        "EPERM": "a firewall refuses trains by their length: let it pass up to 65535 bytes",
    }.get(next(iter(fallbacks)), "send what the route's MTU allows; look at the firewall")
    found = f"trains were refused here by {reasons}, and went out one by one"
    return Finding("GSO on this route", "slow", found, change, {"errors": fallbacks})


def _sizes_lost(records: list[Record]) -> list[int]:
    """Return the sizes of which no datagram came that travelled alone, though others did."""
    by_size: dict[int, list[Record]] = {}
    for record in records:
        by_size.setdefault(record.shape.size, []).append(record)
    lost = []
    for size, of_size in by_size.items():
        # Short tails are of another size, and are left out.
        equal = [record for record in of_size if record.shape.tail == size]
        if sum(record.total(0).lost for record in equal) == sum(record.sent for record in equal):
            lost.append(size)
    return lost if len(lost) < len(by_size) else []


def _sum(counts: Iterable[Count]) -> Count:
    total = Count()
    for count in counts:
        total = total.plus(count)
    return total


def _harms(count: Count, sent: int) -> str:
    """Return the counts in words, of so many that were sent."""
    words = {"lost": count.lost, "damaged": count.damaged, "doubled": count.doubled}
    words["out of order"] = count.swapped
    told = [f"{n:,} {word}" for word, n in words.items() if n]
    return f"{', '.join(told) or 'all whole'} of {sent:,}"

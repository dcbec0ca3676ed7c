"""Whether each way of Python delivers its share over a path that loses one datagram in a hundred.

python3 benchmarks/lossy.py [--rounds N]

It needs root (or `unshare -Ur`), ethtool and netem.  Where this kernel has none, another does:

python3 scripts/kernels/main.py run 6.12 build/venv-python3/bin/python benchmarks/lossy.py

All that comes is compared and what is missing is counted; the queue holds all of a round, so
that only the path loses any.  Rates are of other rounds, at full speed.  The rounds of the ways
alternate.  It fails where anything is wrong, or the share that is lost further than SIGMAS off.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path as File
from statistics import median

sys.path.insert(0, str(File(__file__).resolve().parent.parent / "src"))

import report
from cast import in_turn
from contenders import OURS, PLAIN, contenders
from entries import Pairing
from paths import CUT, LOSE, PATHS, Path, PathError, ends
from peers.programs import Program
from process import Result, cores
from throughput import COUNT, MARK, Setup, mark_until_answer
from work import Work

from batching._kernel import MAX_PAYLOAD_IPV4, max_segments

LOSS = 0.01
SIGMAS = 4.0
SENT = 64 * COUNT  # datagrams a round: they fit in the queue
SECONDS = 0.2  # a round at full speed
# netem is asked before a device cuts trains, and loses them whole; behind the cut none is whole.
LOSSES = (
    PATHS["lossy"],
    Path(
        "1 % loss of what was cut before",
        left=(CUT,),
        right=(
            "ethtool -K v1 gro off",
            "ip link add loss0 type ifb",
            "ip link set loss0 up",
            "tc qdisc add dev v1 ingress",
            "tc filter add dev v1 ingress matchall action mirred egress redirect dev loss0",
            f"tc qdisc add dev loss0 root {LOSE}",
        ),
        is_lossy=True,
    ),
)


@contextlib.contextmanager
def ways(path: Path) -> Iterator[dict[str, Pairing]]:
    """Start both ends of every way, by its name."""
    nobody: dict[str, Program] = defaultdict(Program)
    setup = Setup(nobody, cores(), rounds=0, seconds=SECONDS)
    work = Work("pair", path="lossy")
    with ends(path) as where, contextlib.ExitStack() as stack:
        found = {}
        for each in contenders(setup, work):
            if each.peer in (OURS, PLAIN):
                pair = Pairing(setup, where, work, each)
                stack.push(pair.stack)
                pair.start()
                found[each.name] = pair
        yield found


def sift(pair: Pairing) -> Result:
    """Send numbered patterns; return what was found of them at the other end."""
    pair.receiver.tell("flush")
    pair.receiver.answer()
    pair.receiver.tell("sift")
    pair.sender.ask(f"check {SENT} {len(MARK)}")
    found = mark_until_answer(pair.sender, pair.receiver, MARK)
    if found.wrong or found.datagrams > SENT:
        raise RuntimeError(f"{pair.contender.name}: {found.wrong} wrong; {found}")
    return found


def unsure(path: Path, way: str, sent: int) -> float:
    """Return how far the share that is lost may be from LOSS by chance."""
    longest = min(max_segments(), MAX_PAYLOAD_IPV4 // Work("pair").sizes[0])
    if path.right or way == "socket":  # nothing is whole where it is lost
        longest = 1
    full, rest = divmod(COUNT, longest)
    squares = full * longest**2 + rest**2
    return SIGMAS * math.sqrt(LOSS * (1 - LOSS) * squares / COUNT / sent)


def compare(path: Path, rounds: int) -> bool:
    """Print what came over a path; return whether all ways delivered their share."""
    came, took = Counter[str](), defaultdict[str, list[float]](list)
    with ways(path) as pairs:
        for number in range(rounds):
            for way in in_turn(list(pairs), number):
                came[way] += sift(pairs[way]).measured
                took[way].append(pairs[way].round(SECONDS)["wall ns"])
    sent, are_fair = rounds * SENT, True
    print(f"{path.title}: {sent} sent, all that came as it was sent\n")
    print(report.table(("way", "came", "lost", "may be lost", "rate / socket"), []))
    for way in pairs:
        lost, may_differ = 1 - came[way] / sent, unsure(path, way, sent)
        is_fair = abs(lost - LOSS) <= may_differ
        rate = median(a / b for a, b in zip(took["socket"], took[way], strict=True))
        may = f"{LOSS:.0%} ± {may_differ:.2%}{'' if is_fair else ' **UNFAIR**'}"
        print(f"| {way} | {came[way]} | {lost:.2%} | {may} | {rate:.2f} |")
        are_fair &= is_fair
    print(flush=True)
    return are_fair


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    print(f"Linux {platform.release()}, {rounds} rounds", flush=True)
    try:
        fair = [compare(path, rounds) for path in LOSSES]
    except PathError as error:
        sys.exit(str(error))
    return 0 if all(fair) else 1


if __name__ == "__main__":
    sys.exit(main())

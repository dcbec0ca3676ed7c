"""A resolver's client: dnspython, unchanged, on batching's loop.

    dns_client.py PORT ZONE NAMES QUERIES

It asks for addresses, each the one that the zone gives its name, and prints how many endpoints
were ours; a wrong answer, or none, is an error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Final

import dns.asyncquery
import dns.message
import dns.rcode

import batching.asyncio
from counting import count_endpoints, endpoints
from zone import address_of

_N_TASKS: Final = 32
_TIMEOUT_S: Final = 20


async def ask(port: int, zone: str, numbers: Iterator[int], n_names: int) -> None:
    """Ask until there is nothing left to ask: a socket a query, as dnspython does unasked."""
    for number in numbers:
        index = number % n_names
        query = dns.message.make_query(f"n{index}.{zone}", "A")
        answer = await dns.asyncquery.udp(query, "127.0.0.1", timeout=_TIMEOUT_S, port=port)
        assert answer.rcode() == dns.rcode.NOERROR, answer
        found = [item.address for records in answer.answer for item in records]
        assert found == [address_of(index)], f"{number}: {found}"


async def main() -> None:
    port, zone, n_names, n_queries = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    numbers = iter(range(n_queries))
    async with asyncio.TaskGroup() as tasks:
        for _ in range(_N_TASKS):
            tasks.create_task(ask(port, zone, numbers, n_names))
    assert next(numbers, None) is None


if __name__ == "__main__":
    count_endpoints(batching.asyncio)
    with asyncio.Runner(loop_factory=batching.asyncio.new_event_loop) as runner:
        runner.run(main())
    print(sum(endpoints.values()), flush=True)

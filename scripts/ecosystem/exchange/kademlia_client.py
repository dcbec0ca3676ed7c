"""A node that keeps nothing itself: kademlia, unchanged, on batching's loop.

    kademlia_client.py PORT KEYS

It sets so many keys, which the node at PORT has to store, then gets each, and prints how many
endpoints were ours; another value, or none, is an error.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from typing import Final

from kademlia.network import Server
from kademlia.storage import ForgetfulStorage

import batching.asyncio
from counting import count_endpoints, endpoints

_N_TASKS: Final = 32
_SIZE: Final = 1000  # bytes of a value; a call fits in 8 KiB


class KeepingNothing(ForgetfulStorage):  # type: ignore[misc,unused-ignore]
    def __setitem__(self, key: bytes, value: object) -> None:
        pass


def value_of(number: int) -> bytes:
    return random.Random(number).randbytes(_SIZE)


async def put(node: Server, numbers: Iterator[int]) -> None:
    for number in numbers:
        assert await node.set(f"key {number}", value_of(number)), f"{number} was not stored"


async def get(node: Server, numbers: Iterator[int]) -> None:
    for number in numbers:
        assert await node.get(f"key {number}") == value_of(number), f"{number} came wrong"


async def main() -> None:
    port, n_keys = map(int, sys.argv[1:])
    node = Server(storage=KeepingNothing())
    await node.listen(0, "127.0.0.1")
    assert await node.bootstrap([("127.0.0.1", port)]), "the other node did not answer"
    for work in (put, get):
        numbers = iter(range(n_keys))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_N_TASKS):
                tasks.create_task(work(node, numbers))
    node.stop()


if __name__ == "__main__":
    count_endpoints(batching.asyncio)
    with asyncio.Runner(loop_factory=batching.asyncio.new_event_loop) as runner:
        runner.run(main())
    print(sum(endpoints.values()), flush=True)

"""A node of a distributed hash table: kademlia, unchanged, on batching's loop.

It prints its port, ends when its standard input does, and then prints how many endpoints were
ours.
"""

from __future__ import annotations

import asyncio
import sys

from kademlia.network import Server

import batching.asyncio
from counting import count_endpoints, endpoints


async def main() -> None:
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, is_over.set)
    node = Server()
    await node.listen(0, "127.0.0.1")
    print(node.transport.get_extra_info("sockname")[1], flush=True)
    await is_over.wait()
    node.stop()


if __name__ == "__main__":
    count_endpoints(batching.asyncio)
    with asyncio.Runner(loop_factory=batching.asyncio.new_event_loop) as runner:
        runner.run(main())
    print(sum(endpoints.values()), flush=True)

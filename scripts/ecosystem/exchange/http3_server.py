"""A server of HTTP/3: hypercorn, unchanged, on batching's loop.

    http3_server.py PORT CERTIFICATE KEY

GET /SIZE answers with so many bytes; POST / answers with the hash of what came.  It ends when
its standard input does, and prints how many endpoints were ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import Any

import hypercorn.asyncio
import hypercorn.config

import batching.asyncio
from counting import count_endpoints, endpoints
from payload import blocks


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":  # the lifespan
        return
    body = hashlib.sha256()
    while True:
        message = await receive()
        body.update(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["method"] == "POST":
        await send({"type": "http.response.body", "body": body.hexdigest().encode()})
        return
    for block in blocks(int(scope["path"].strip("/"))):
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def serve() -> None:
    config = hypercorn.config.Config()
    port, config.certfile, config.keyfile = sys.argv[1:]
    config.bind = ["127.0.0.1:0"]
    config.quic_bind = [f"127.0.0.1:{port}"]
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, is_over.set)
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=is_over.wait)


if __name__ == "__main__":
    count_endpoints(batching.asyncio)
    with asyncio.Runner(loop_factory=batching.asyncio.new_event_loop) as runner:
        runner.run(serve())
    print(sum(endpoints.values()), flush=True)

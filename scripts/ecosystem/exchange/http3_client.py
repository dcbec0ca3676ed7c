"""A client of HTTP/3: aioquic, unchanged, on batching's loop.

    http3_client.py PORT CERTIFICATE SIZE

It gets SIZE bytes and posts a tenth of it, and prints how many endpoints were ours; a wrong
byte is an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import defaultdict
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

import batching.asyncio
from counting import count_endpoints, endpoints
from payload import blocks, digest


class Answer:
    """What came of a request, so far."""

    def __init__(self) -> None:
        self.hash, self.size, self.start = hashlib.sha256(), 0, b""
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, data: bytes) -> None:
        self.hash.update(data)
        self.size += len(data)
        self.start = (self.start + data)[:64]


class Client(QuicConnectionProtocol):  # type: ignore[misc,unused-ignore]
    """A connection and its requests."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._answers: dict[int, Answer] = defaultdict(Answer)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for answer in self._answers.values():
                if not answer.is_over.done():
                    answer.is_over.set_exception(ConnectionError(str(event)))
        for each in self._http.handle_event(event):
            if isinstance(each, (DataReceived, HeadersReceived)):
                answer = self._answers[each.stream_id]
                if isinstance(each, DataReceived):
                    answer.add(each.data)
                if each.stream_ended:
                    answer.is_over.set_result(None)

    async def request(self, method: str, path: str, body: Any = ()) -> Answer:
        stream = self._quic.get_next_available_stream_id()
        answer = self._answers[stream]
        headers = [(b":method", method), (b":scheme", "https"), (b":authority", "localhost")]
        headers.append((b":path", path))
        encoded = [(name, value.encode()) for name, value in headers]
        self._http.send_headers(stream, encoded, end_stream=not body)
        for block in body:
            self._http.send_data(stream, block, end_stream=False)
        if body:
            self._http.send_data(stream, b"", end_stream=True)
        self.transmit()
        await answer.is_over
        return answer


async def main() -> None:
    port, certificate, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, server_name="localhost", max_data=1 << 26, max_stream_data=1 << 26
    )
    configuration.load_verify_locations(certificate)
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Client
    ) as client:
        got = await client.request("GET", f"/{size}")
        assert got.size == size, f"{got.size} bytes of {size} came"
        assert got.hash.hexdigest() == digest(size), "what came is not what was sent"
        posted = size // 10
        answer = await client.request("POST", "/", list(blocks(posted)))
        assert answer.start.decode() == digest(posted), "what was posted came wrong"


if __name__ == "__main__":
    count_endpoints(batching.asyncio)
    with asyncio.Runner(loop_factory=batching.asyncio.new_event_loop) as runner:
        runner.run(main())
    print(sum(endpoints.values()), flush=True)

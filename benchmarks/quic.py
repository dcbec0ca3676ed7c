"""aioquic on an event loop under test, client and server a process each.

quic.py server LOOP
quic.py client LOOP PORT

The server answers a line with the CPU time it has used.  The client's commands are
download BYTES, upload BYTES and messages COUNT (of 100 bytes, one connection, each echoed before
the next leaves); each opens a connection, which is not in what is measured.  What arrives is kept
and compared afterwards: by the client, and, of an upload, by its digest in the server's answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import sys
import tempfile
import time
from pathlib import Path

import trustme
from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from child import LOOPBACK, commands, say
from event_loop import FACTORIES, answer_cpu

MESSAGE = 100  # bytes
LIMIT_S = 110


def content(length: int) -> bytes:
    """Return bytes that do not repeat within a packet's reach."""
    block = random.Random(1).randbytes(1_000_003)
    return (block * (length // len(block) + 1))[:length]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a stream: its first line says what is wanted."""
    request, _, length = (await reader.readline()).decode().strip().partition(" ")
    if request == "download":
        writer.write(content(int(length)))
    elif request == "upload":
        data = await reader.read()
        writer.write(hashlib.sha256(data).hexdigest().encode())
    else:
        while data := await reader.read(MESSAGE):
            writer.write(data)
    writer.write_eof()


def serve_forever(way: str) -> None:
    loop = FACTORIES[way]()
    tasks = set()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    configuration = QuicConfiguration(is_client=False)
    with tempfile.TemporaryDirectory() as directory:
        chain, key = Path(directory) / "chain.pem", Path(directory) / "key.pem"
        certificate = trustme.CA().issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(chain)
        certificate.private_key_pem.write_to_path(key)
        configuration.load_cert_chain(chain, key)
    server = loop.run_until_complete(
        serve(LOOPBACK, 0, configuration=configuration, stream_handler=handle)
    )
    transport = server._transport
    say(ports=[transport.get_extra_info("sockname")[1]])
    answer_cpu(loop)
    loop.run_forever()


async def request(port: int, what: str, amount: int) -> dict[str, float]:
    """Return what it took, once what came is what it should be."""
    configuration = QuicConfiguration(is_client=True, verify_mode=ssl.CERT_NONE)
    clock, cpu_clock = time.perf_counter, time.process_time
    data = content(amount if what != "messages" else MESSAGE)
    async with connect(LOOPBACK, port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        cpu, start = cpu_clock(), clock()
        writer.write(f"{what} {amount}\n".encode())
        if what == "messages":
            for _ in range(amount):
                writer.write(data)
                if await reader.readexactly(MESSAGE) != data:
                    raise RuntimeError("another answer than the message")
            writer.write_eof()
            came = expected = b""
        else:
            if what == "upload":
                writer.write(data)
                expected = hashlib.sha256(data).hexdigest().encode()
            else:
                expected = data
            writer.write_eof()
            came = await reader.read()
        elapsed, cpu = clock() - start, cpu_clock() - cpu
        if came != expected:
            raise RuntimeError(f"{what}: {len(came)} bytes came, and not those that should")
    return {"seconds": elapsed, "cpu": cpu}


def ask(way: str, port: int) -> None:
    loop = FACTORIES[way]()
    say(ports=[])
    for what, amount in commands():
        run = asyncio.wait_for(request(port, what, int(amount)), LIMIT_S)
        say(**loop.run_until_complete(run))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve_forever(sys.argv[2])
    else:
        ask(sys.argv[2], int(sys.argv[3]))

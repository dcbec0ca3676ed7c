"""HTTP/3: hypercorn and aioquic on our loop, through a path that drops, doubles and reorders."""

from __future__ import annotations

from typing import Final

from programs import free_port, line_of, programs

_SEED: Final = 20
_WRITTEN: Final = ("server.pem", "server.key", "client.pem")  # by trustme
_SHARE: Final = 0.02  # of each fault, in either direction


def run(size: int) -> str:
    """Get ``size`` bytes and post a tenth; return what was done."""
    with programs("http3") as them:
        them.run_module("trustme", "--quiet", "--dir", them.home, "--identities", "localhost")
        certificate, key, root = (them.home / name for name in _WRITTEN)
        port = free_port()
        server = them.start("http3_server", port, certificate, key)
        while "(QUIC)" not in line_of(server.stdout):
            pass
        relay = them.start("relay", port, _SEED, _SHARE)
        relay_port = int(line_of(relay.stdout))
        n_client = int(them.run("http3_client", relay_port, root, size))
        n_server = int(them.end(server, "the server"))
        path = them.end(relay, "the relay")
    assert n_client, "the client had no endpoint of ours"
    assert n_server, "the server had no endpoint of ours"
    return f"{size} bytes got and {size // 10} posted intact; the path: {path}"

"""UDP sockets that move many datagrams a call.

``open_conn`` opens a ``Conn``; ``send_batch`` and ``recv_batch`` move lists of (data,
address), ``send_segments`` and ``recv_segments`` whole trains without copying::

    import batching

    with batching.open_conn(("127.0.0.1", 0)) as conn:
        conn.send_batch([(b"ping", conn.local_addr())] * 3)
        for data, addr in conn.recv_batch():
            print(data, addr)

Names of the Go original (tailscale.com/net/batching) have PEP 8 spelling:
``try_upgrade_to_conn``, ``Conn.read_batch``, ``Conn.write_batch_to``, ``Message``.
"""

from ._backend import Message
from ._conn import Conn
from ._errors import SendBlocked, SendError, SendTimeout, UDPGSODisabledError
from ._errqueue import TransportError
from ._open import IDEAL_BATCH_SIZE, min_control_message_size, open_conn, try_upgrade_to_conn
from ._steering import steer
from .geneve import (
    GENEVE_FIXED_HEADER_LENGTH,
    GENEVE_PROTOCOL_DISCO,
    GENEVE_PROTOCOL_WIREGUARD,
    GeneveHeader,
    VirtualNetworkID,
)
from .metrics import Stats
from .offload import Offload
from .packetconn import PacketConn, UDPConn, listen_udp
from .segments import Segments

__version__ = "0.1.0"

__all__ = [
    "GENEVE_FIXED_HEADER_LENGTH",
    "GENEVE_PROTOCOL_DISCO",
    "GENEVE_PROTOCOL_WIREGUARD",
    "IDEAL_BATCH_SIZE",
    "Conn",
    "GeneveHeader",
    "Message",
    "Offload",
    "PacketConn",
    "Segments",
    "SendBlocked",
    "SendError",
    "SendTimeout",
    "Stats",
    "TransportError",
    "UDPConn",
    "UDPGSODisabledError",
    "VirtualNetworkID",
    "listen_udp",
    "min_control_message_size",
    "open_conn",
    "steer",
    "try_upgrade_to_conn",
]

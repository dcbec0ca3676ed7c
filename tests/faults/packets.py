"""IP packets with UDP in them: built, taken apart, and their checksums verified."""

from __future__ import annotations

import ipaddress
import random
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

UDP = 17
VNET_HDR = 10  # bytes of a virtio_net_hdr
_FRAGMENT = 44  # the extension header of IPv6
_GSO_UDP_L4 = 5  # VIRTIO_NET_HDR_GSO_UDP_L4, include/uapi/linux/virtio_net.h
_NEEDS_CSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM


class Datagram(NamedTuple):
    """One UDP packet as it is on the wire."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes
    tos: int = 0
    """DSCP and ECN."""


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071); 0 over data that has a right one in it."""
    # The sum with end-around carry of 16-bit words is the number that they spell, mod 0xFFFF.
    number = int.from_bytes(data + bytes(len(data) % 2), "big")
    return 0xFFFF - ((number % 0xFFFF or 0xFFFF) if number else 0)


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    if len(source) == 4:
        return source + destination + struct.pack("!BBH", 0, UDP, length)
    return source + destination + struct.pack("!II", length, UDP)


def parse(packet: bytes) -> Datagram | None:
    """Take a packet apart, its lengths and checksums asserted; None if it is not UDP.

    Fragments are none of its business: see ``reassemble``.
    """
    if packet[0] >> 4 == 4:
        header = (packet[0] & 0xF) * 4
        total, fragment = struct.unpack_from("!2xH2xH", packet)
        assert total == len(packet)
        assert not fragment & 0x3FFF, "a fragment"
        assert checksum(packet[:header]) == 0, "IPv4 header checksum"
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        tos = packet[1]
    else:
        header = 40
        assert struct.unpack_from("!4xH", packet)[0] == len(packet) - header
        protocol, source, destination = packet[6], packet[8:24], packet[24:40]
        tos = int.from_bytes(packet[:2], "big") >> 4 & 0xFF
    if protocol != UDP:
        return None
    udp = packet[header:]
    source_port, destination_port, length, given = struct.unpack_from("!HHHH", udp)
    assert length == len(udp)
    assert given, "a UDP checksum that was left out"
    assert checksum(_pseudo_header(source, destination, length) + udp) == 0, "UDP checksum"
    return Datagram(
        (str(ipaddress.ip_address(source)), source_port),
        (str(ipaddress.ip_address(destination)), destination_port),
        udp[8:],
        tos,
    )


def reassemble(packets: Iterable[bytes]) -> Iterator[bytes]:
    """Give the packets, fragments put together; they must come in order and be all there."""
    begun: dict[bytes, bytes] = {}
    for packet in packets:
        if packet[0] >> 4 == 4:
            size, (total, word) = (packet[0] & 0xF) * 4, struct.unpack_from("!2xH2xH", packet)
            assert total == len(packet)
            assert checksum(packet[:size]) == 0, "IPv4 header checksum"
            offset, has_more = (word & 0x1FFF) * 8, bool(word & 0x2000)
            key, start = packet[4:6] + packet[8:10] + packet[12:size], size
        elif packet[6] == _FRAGMENT:
            protocol, word, number = struct.unpack_from("!BxHI", packet, 40)
            assert struct.unpack_from("!4xH", packet)[0] == len(packet) - 40
            offset, has_more = word & 0xFFF8, bool(word & 1)
            key, start = packet[8:40] + struct.pack("!BI", protocol, number), 48
        else:
            offset, has_more, key, start = 0, False, b"", 0
        if not offset and not has_more:
            yield packet
            continue
        assert offset == len(begun.get(key, b"")), "a gap between fragments"
        begun[key] = begun.get(key, b"") + packet[start:]
        if not has_more:
            yield _defragmented(packet, begun.pop(key))
    assert not begun, "fragments of packets that are not whole"


def _defragmented(packet: bytes, payload: bytes) -> bytes:
    """Return the packet that has the header of a fragment, and the whole payload."""
    if packet[0] >> 4 == 6:
        return packet[:4] + struct.pack("!HB", len(payload), packet[40]) + packet[7:40] + payload
    size = (packet[0] & 0xF) * 4
    total = struct.pack("!H", size + len(payload))
    header = packet[:2] + total + packet[4:6] + bytes(2) + packet[8:10] + bytes(2) + packet[12:size]
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def complete(packet: bytes) -> bytes:
    """Return what was read from a TUN with vnet_hdr as a device would send it.

    That is without that header, and with the checksum which it left to the device.
    """
    flags, gso_type, start, offset = struct.unpack_from("=BB4xHH", packet)
    assert not gso_type, "a train that was not cut"
    packet = packet[VNET_HDR:]
    if not flags & _NEEDS_CSUM:
        return packet
    at = start + offset
    found = struct.pack("!H", checksum(packet[start:]) or 0xFFFF)
    return packet[:at] + found + packet[at + 2 :]


def noise(size: int, seed: int) -> bytes:
    """Return ``size`` bytes that tell where they belong: whose they are, and in which order."""
    return random.Random(seed).randbytes(size)


def build(
    source: tuple[str, int], destination: tuple[str, int], payload: bytes, tos: int = 0
) -> bytes:
    """Return a packet, its checksums complete.  ``payload`` may be up to 65507 bytes."""
    return _packet(source, destination, payload, is_partial=False, tos=tos)


def build_train(
    source: tuple[str, int], destination: tuple[str, int], payload: bytes, segment_size: int
) -> bytes:
    """Return a super-packet for a TUN with vnet_hdr, which arrives as a train.

    ``segment_size`` 0: a packet of one datagram, with the header that such a TUN wants.
    """
    packet = _packet(source, destination, payload, is_partial=bool(segment_size))
    start = 20 if packet[0] >> 4 == 4 else 40
    if not segment_size:
        return bytes(VNET_HDR) + packet
    return struct.pack("=BBHHHH", _NEEDS_CSUM, _GSO_UDP_L4, start + 8, segment_size, start, 6) + (
        packet
    )


def _packet(
    source: tuple[str, int],
    destination: tuple[str, int],
    payload: bytes,
    *,
    is_partial: bool,
    tos: int = 0,
) -> bytes:
    own, peer = (ipaddress.ip_address(host).packed for host, _ in (source, destination))
    length = 8 + len(payload)
    pseudo = _pseudo_header(own, peer, length)
    udp = struct.pack("!HHHH", source[1], destination[1], length, 0) + payload
    # Partial: the sum over the pseudo header alone, not inverted; the rest is offloaded.
    found = ~checksum(pseudo) & 0xFFFF if is_partial else checksum(pseudo + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", found) + payload
    if len(own) == 4:
        # Some kernels, 6.1.192 and 6.12.117 too, merge packets of one ID only if all have DF.
        id_and_df = 0x4000
        length += 20
        header = struct.pack("!BBHIBBH4s4s", 0x45, tos, length, id_and_df, 64, UDP, 0, own, peer)
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + udp
    return struct.pack("!IHBB16s16s", 6 << 28 | tos << 20, length, UDP, 64, own, peer) + udp

"""Peers: the remote addresses of one connection, and what sending to them has taught us.

Rule 1: two spellings of one sockaddr are one Peer object; everything above tells
destinations apart by identity.
Rule 2: only tuples of exact ``str`` and ``int`` are dictionary keys, and a Sockaddr
holds exact values too, so no user code (``__hash__``, ``__eq__``) runs in here.
Rule 3: bounded by CLOCK: the hand passes over who was used since it last came by, and
forgets the first who was not.  The connected peer is never forgotten.
Rule 4: the lock is reentrant, since a signal handler or a finalizer may send or receive
while its thread holds it, or raise.  Hence the order: into the ring first, out of it last.
Rule 5: a hit takes no lock: one dictionary look-up, which is atomic, and a flag whose
loss would cost no more than an early farewell.
Rule 6: whom the user wants spared trains is never forgotten: those stand in a table of their own.
"""

from __future__ import annotations

import socket
import threading
from typing import Final, final

from .._address import MAPPED_PREFIX, Address, Sockaddr, parse_address
from .._kernel import MAX_PAYLOAD_IPV4, MAX_PAYLOAD_IPV6, MAX_SEGMENT_SIZE
from .control import Metadata

__all__ = ["Peer", "Peers"]

_MAX_BROADCASTS: Final = 256  # a machine has one a network; a route may cover any number
_MAX_SPELLINGS: Final = 4  # of one peer; who has more is parsed each time
_MAX_SPARED: Final = 65536  # destinations: the user's own memory, which nobody else bounds


@final
class Peer:
    """A remote address and what sending to it has taught us."""

    __slots__ = (
        "__weakref__",
        "_is_connected",
        "_is_no_source",
        "_is_spared",
        "_is_used",
        "_max_payload",
        "_max_segments",
        "_sockaddr",
        "_spellings",
        "address",
        "max_segment_size",
    )

    def __init__(self, sockaddr: Sockaddr, max_segments: int) -> None:
        self.address: Address = sockaddr.spell()
        self._max_segments = max_segments
        self.max_segment_size = MAX_SEGMENT_SIZE
        # A train is one UDP message until the kernel cuts it: the same limit applies.
        self._max_payload = MAX_PAYLOAD_IPV4 if sockaddr.is_ipv4 else MAX_PAYLOAD_IPV6
        self._sockaddr = sockaddr
        self._spellings: list[Address] = []
        self._is_connected = False
        self._is_spared = False
        self._is_used = False
        self._is_no_source = sockaddr.is_no_source

    @property
    def max_segments(self) -> int:
        """Datagrams a train to it may have; stays 1 once GSO was disabled for it."""
        return self._max_segments

    @max_segments.setter
    def max_segments(self, value: int) -> None:
        self._max_segments = 1 if self._is_spared else value

    def _spare(self) -> None:
        self._is_spared = True
        self._max_segments = 1

    def __repr__(self) -> str:
        return f"<Peer {self.address}, at most {self.max_segments} segments>"


@final
class Peers:
    """The peers of one Conn, bounded: who was not used lately is forgotten first.

    Safe from several threads.
    """

    __slots__ = (
        "__weakref__",
        "_broadcasts",
        "_by_sockaddr",
        "_by_spelling",
        "_capacity",
        "_connected",
        "_family",
        "_hand",
        "_is_all_spared",
        "_is_dual_stack",
        "_lock",
        "_max_segments",
        "_ring",
        "_spared",
        "tclass",
        "tos",
    )

    def __init__(
        self, family: int, is_dual_stack: bool, max_segments: int, capacity: int = 2048
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity}, must be at least 1")
        self._family = family
        self._is_dual_stack = is_dual_stack
        self._max_segments = max_segments
        self._capacity = capacity
        self._lock = threading.RLock()
        self._by_spelling: dict[Address, Peer] = {}
        self._by_sockaddr: dict[Sockaddr, Peer] = {}
        self._spared: dict[Sockaddr, Peer] = {}
        self._is_all_spared = False
        self._ring: list[Peer] = []
        # Hosts: only the kernel knows these, so they outlive their Peers.
        self._broadcasts: set[bytes] = set()
        self._hand = 0
        self._connected: Peer | None = None
        self.tos = self.tclass = 0  # the socket's, of which marked trains keep DSCP

    def __len__(self) -> int:
        return len(self._by_sockaddr)

    def get(self, address: object) -> Peer:
        """Return the peer of an address as users spell it; None is the connected one.

        TypeError and ValueError as ``_address.parse_address``.
        """
        if address is None:
            connected = self._connected
            if connected is None:
                raise ValueError("no address, and the connection is not connected")
            return connected
        spelling = _exact(address)
        if spelling is None:
            return self._look_up(address, None)
        peer = self._by_spelling.get(spelling)
        if peer is None:
            return self._look_up(spelling, spelling)
        peer._is_used = True
        return peer

    def disable_gso(self, address: object) -> None:
        """Let no more trains go to ``address``, for good, also when it was forgotten meanwhile.

        None: to the connected one; without one, to anybody.  TypeError and ValueError as
        ``get``; ValueError for the 65537th address.
        """
        if address is None and self._connected is None:
            with self._lock:
                self._is_all_spared = True  # first: who comes meanwhile finds it so
                for peer in [*self._by_sockaddr.values(), *self._spared.values()]:
                    peer._spare()
            return
        peer = self.get(address)
        sockaddr = peer._sockaddr
        with self._lock:
            peer = self._by_sockaddr.get(sockaddr, peer)  # the one that is found from now on
            if sockaddr not in self._spared and len(self._spared) >= _MAX_SPARED:
                raise ValueError(
                    f"GSO is disabled for {_MAX_SPARED} destinations, at most {_MAX_SPARED}"
                )
            self._spared[sockaddr] = peer
            peer._spare()

    @property
    def gso_disabled(self) -> list[Address]:
        """The addresses that it is disabled for, one by one."""
        with self._lock:
            return [peer.address for peer in self._spared.values()]

    @property
    def is_gso_disabled(self) -> bool:
        """Whether it is disabled for all."""
        return self._is_all_spared

    def connect(self, address: Address) -> None:
        """Make ``address`` the peer that None means; datagrams to it carry no address."""
        sockaddr = self._parse(address)
        with self._lock:
            peer = self._intern(sockaddr)
            if self._connected is not None:
                self._connected._is_connected = False
            peer._is_connected = True
            self._connected = peer

    def _received(self, address: Address) -> Address:
        """Return the one tuple of a sender, given as ``recvmsg`` spells it."""
        peer = self._by_spelling.get(address)  # of exact str and int: the socket module's
        if peer is not None:
            peer._is_used = True
            return peer.address
        try:
            return self._look_up(address, address).address
        except (TypeError, ValueError):
            return address  # of another family than ours: not for us to judge

    def _received_at(self, found: Metadata, port: int) -> Address | None:
        """Return the one tuple of the address that something was sent to."""
        if not found.local:
            return None
        is_mapped = len(found.local) == 4 and self._family == socket.AF_INET6
        sockaddr = Sockaddr(MAPPED_PREFIX + found.local if is_mapped else found.local, port)
        if sockaddr.is_link_local:
            sockaddr = sockaddr._replace(scope_id=found.interface or 0)
        with self._lock:
            peer = self._intern(sockaddr)
        if (found.is_no_source and not peer._is_no_source) or self._broadcasts:
            self._note_source(sockaddr.host, found.is_no_source)
        return peer.address

    def _note_source(self, host: bytes, is_none: bool) -> None:
        if not is_none:
            self._broadcasts.discard(host)  # an address may become one of ours
        elif host not in self._broadcasts:
            if len(self._broadcasts) >= _MAX_BROADCASTS:
                self._broadcasts.clear()
            self._broadcasts.add(host)

    def _is_source(self, peer: Peer) -> bool:
        """Tell whether something can be sent from a peer."""
        return not peer._is_no_source and peer._sockaddr.host not in self._broadcasts

    def _parse(self, address: object) -> Sockaddr:
        return parse_address(address, self._family, self._is_dual_stack)

    def _look_up(self, address: object, spelling: Address | None) -> Peer:
        sockaddr = self._parse(address)
        with self._lock:
            peer = self._intern(sockaddr)
            # An interface's name may come to mean another index: never remembered.
            if (
                spelling is not None
                and len(peer._spellings) < _MAX_SPELLINGS
                and spelling not in self._by_spelling
                and "%" not in spelling[0]
                and peer is self._by_sockaddr.get(sockaddr)
            ):
                peer._spellings.append(spelling)
                self._by_spelling[spelling] = peer
            return peer

    def _intern(self, sockaddr: Sockaddr) -> Peer:
        peer = self._by_sockaddr.get(sockaddr)
        if peer is not None:
            peer._is_used = True
            return peer
        peer = self._spared.get(sockaddr) or Peer(sockaddr, self._max_segments)
        if len(self._ring) < self._capacity:
            self._ring.append(peer)
        else:
            self._replace(peer)
        # One that stands in the ring only, after a signal, is pushed out in its turn.
        peer = self._by_sockaddr.setdefault(sockaddr, peer)
        if self._is_all_spared:  # asked only now: who disables it for all passes over the table
            peer._spare()
        return peer

    def _replace(self, newcomer: Peer) -> None:
        """Put ``newcomer`` into the place of whom the hand finds unused.

        It counts as used once it is met again, so a flood of newcomers pushes out itself.
        """
        for _ in range(2 * len(self._ring)):  # the second round finds all unused
            place = self._hand
            self._hand = (place + 1) % len(self._ring)
            peer = self._ring[place]
            if peer._is_connected:
                continue
            if peer._is_used:
                peer._is_used = False
                continue
            for spelling in peer._spellings:
                self._by_spelling.pop(spelling, None)
            peer._spellings = []
            if self._by_sockaddr.get(peer._sockaddr) is peer:
                del self._by_sockaddr[peer._sockaddr]
            self._ring[place] = newcomer
            return
        self._ring.append(newcomer)  # nobody but the connected one is there

    def _after_fork(self) -> None:
        """Make the lock new, in a forked child: a thread that is gone may hold it."""
        self._lock = threading.RLock()


def _exact(address: object) -> Address | None:
    """Return ``address`` if it is a tuple of nothing but exact str and int."""
    if type(address) is tuple and all(type(field) in (str, int) for field in address):
        return address
    return None

"""Peers: remote addresses, parsed once, and what sending to them has taught us."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

from .control cimport Metadata
from .linux cimport (
    AF_INET, AF_INET6, IN6_IS_ADDR_LINKLOCAL, IN6_IS_ADDR_V4MAPPED, htonl, htons, in6_addr, inet_ntop, is_long,
    is_unicode, ntohl, ntohs, raw_decref, raw_incref, sockaddr_in, sockaddr_in6, socklen_t,
)

from .._address import parse_address

cdef const char *NO_HOST = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


@cython.final
@cython.no_gc  # addresses are made of str and int
cdef class Peer:
    """A remote address and what sending to it has taught us."""

    def __cinit__(self):
        self.state.first_item = self.state.last_item = -1
        self.state.max_segment_size = 65535
        self.state.owner = <PyObject *>self

    @property
    def max_segments(self):
        return self.state.max_segments

    @max_segments.setter
    def max_segments(self, int value):
        self.state.max_segments = 1 if self.is_spared else value

    @property
    def max_segment_size(self):
        return self.state.max_segment_size

    @max_segment_size.setter
    def max_segment_size(self, int value):
        self.state.max_segment_size = value


cdef enum:
    MAX_SPARED = 65536  # destinations: the user's own memory, which nobody else bounds


cdef inline bint is_immutable(tuple address):
    # Its identity, or its hash, then stands for its content, and no user code runs.
    # An interface's name may come to mean another index: never remembered.
    cdef Py_ssize_t i, n = PyTuple_GET_SIZE(address)
    if type(address) is not tuple or n == 0 or not is_unicode(<object>PyTuple_GET_ITEM(address, 0)):
        return False
    if "%" in <str><object>PyTuple_GET_ITEM(address, 0):
        return False
    for i in range(1, n):
        if not is_long(<object>PyTuple_GET_ITEM(address, i)):
            return False
    return True


@cython.final
@cython.no_gc  # addresses are made of str and int
cdef class Peers:
    """The peers of one Conn: found by identity, else equality, else sockaddr."""
    def __cinit__(self, int family, bint is_dual_stack, int max_segments, Py_ssize_t capacity=2048):
        if capacity < 1:
            raise ValueError(f"capacity {capacity}, must be at least 1")
        self.family = family
        self.is_dual_stack = is_dual_stack
        self.max_segments = max_segments
        self.capacity = max(capacity, 2)  # the connected one stays, and another has to have room
        self.by_address, self.by_name, self.spared, self.broadcasts = {}, {}, {}, set()

    def __dealloc__(self):
        for i in range(CACHE_SIZE):
            self.put(&self.seen[i], NULL)
            self.put(&self.seen_peer[i], NULL)
            self.put(&self.heard[i], NULL)

    def __len__(self):
        return len(self.by_name)

    cdef int put(self, PyObject **entry, PyObject *value) except -1:
        cdef PyObject *old = entry[0]
        if value != NULL:
            raw_incref(value)
        entry[0] = value
        if old != NULL:
            raw_decref(old)
        return 0

    def get(self, address):
        return self.find(address)

    def connect(self, address):
        cdef Peer peer = self.find(address)
        peer.state.is_connected = True
        self.connected = peer

    def disable_gso(self, address):
        cdef Peer peer
        cdef bytes key
        if address is None and self.connected is None:
            self.is_all_spared = True  # first: who comes meanwhile finds it so
            for peer in [*self.by_name.values(), *self.spared.values()]:
                spare(peer)
            return
        peer = self.find(address)
        key = PyBytes_FromStringAndSize(<char *>&peer.state.name, peer.state.name_length)
        with cython.critical_section(self):
            peer = self.by_name.get(key, peer)  # the one that is found from now on
            if key not in self.spared and len(self.spared) >= MAX_SPARED:
                raise ValueError(f"GSO is disabled for {MAX_SPARED} destinations, at most {MAX_SPARED}")
            self.spared[key] = peer
            spare(peer)

    @property
    def gso_disabled(self):
        return [(<Peer>peer).address for peer in [*self.spared.values()]]

    @property
    def is_gso_disabled(self):
        return self.is_all_spared

    cdef Peer find(self, object address):
        cdef size_t slot
        cdef Peer peer
        if address is None and self.connected is not None:
            return self.connected
        slot = ((<uintptr_t><PyObject *>address >> 4) ^ (<uintptr_t><PyObject *>address >> 14)) % CACHE_SIZE
        with cython.critical_section(self):
            if self.seen[slot] == <PyObject *>address:
                peer = <Peer>self.seen_peer[slot]
                if not peer.is_forgotten:
                    peer.is_used = True
                    return peer
            return self.look_up(address, slot)

    cdef Peer look_up(self, object address, size_t slot):
        cdef sockaddr_in6 name
        cdef Peer peer
        cdef bint keep = isinstance(address, tuple) and is_immutable(address)
        if address is None:
            raise ValueError("no address, and the connection is not connected")
        peer = self.by_address.get(address) if keep else None
        if peer is None or peer.is_forgotten:
            peer = self.named(&name, self.pack(address, &name))
            if keep:
                if len(self.by_address) >= 2 * self.capacity:
                    self.by_address.clear()
                self.by_address[address] = peer
        else:
            peer.is_used = True
        if keep:
            self.put(&self.seen_peer[slot], NULL)  # first, so that no pair is ever wrong
            self.put(&self.seen[slot], <PyObject *>address)
            self.put(&self.seen_peer[slot], <PyObject *>peer)
        return peer

    cdef socklen_t pack(self, object address, sockaddr_in6 *name) except 0:
        cdef sockaddr_in *name4 = <sockaddr_in *>name
        memset(name, 0, sizeof(sockaddr_in6))
        parsed = parse_address(address, self.family, self.is_dual_stack)
        if self.family == AF_INET:
            name4.sin_family = AF_INET
            name4.sin_port = htons(<uint16_t>parsed.port)
            memcpy(&name4.sin_addr, PyBytes_AS_STRING(parsed.host), 4)
            return sizeof(sockaddr_in)
        name.sin6_family = AF_INET6
        name.sin6_port = htons(<uint16_t>parsed.port)
        name.sin6_flowinfo = htonl(<uint32_t>parsed.flowinfo)
        name.sin6_scope_id = <uint32_t>parsed.scope_id
        memcpy(&name.sin6_addr, PyBytes_AS_STRING(parsed.host), 16)
        return sizeof(sockaddr_in6)

    cdef Peer named(self, sockaddr_in6 *name, socklen_t length):
        cdef bytes key = PyBytes_FromStringAndSize(<char *>name, length)
        cdef Peer peer = self.by_name.get(key)
        if peer is None:
            peer = self.spared.get(key)
            if peer is None:
                peer = self.newcomer(name, length)
            while len(self.by_name) >= self.capacity:
                self.forget_one()
            self.by_name[key] = peer
            peer.is_forgotten = False
            if self.is_all_spared:  # asked only now: who disables it for all passes over the table
                spare(peer)
        else:
            peer.is_used = True
        return peer

    cdef Peer newcomer(self, sockaddr_in6 *name, socklen_t length):
        cdef Peer peer = Peer()
        peer.state.name = name[0]
        peer.state.name_length = length
        peer.state.max_segments = self.max_segments
        is_ipv6 = self.family == AF_INET6 and not IN6_IS_ADDR_V4MAPPED(&name.sin6_addr)
        peer.state.max_bytes = 65535 - 8 if is_ipv6 else 65535 - 20 - 8
        peer.address = spell(name)
        peer.is_no_source = is_no_source(name)
        return peer

    cdef int forget_one(self) except -1:
        # The clock algorithm: who was used since the hand last passed gets another round.
        # A newcomer is used once it is met again, so a flood of them pushes out itself.
        key = next(iter(self.by_name))
        cdef Peer peer = self.by_name.pop(key)
        if peer.is_used or peer is self.connected:
            peer.is_used = False
            self.by_name[key] = peer
        else:
            peer.is_forgotten = True
        return 0

    cdef Peer hear(self, sockaddr_in6 *name, socklen_t length):
        # A sender, of whose address there is one tuple.
        cdef uint32_t *words = <uint32_t *>name
        cdef size_t slot = (words[0] ^ (words[0] >> 16) ^ words[1] ^ words[2] ^ words[5] ^ (words[1] >> 16)) % CACHE_SIZE
        cdef Peer peer
        with cython.critical_section(self):
            if self.heard[slot] != NULL:
                peer = <Peer>self.heard[slot]
                if not peer.is_forgotten and memcmp(&peer.state.name, name, sizeof(sockaddr_in6)) == 0:
                    peer.is_used = True
                    return peer
            peer = self.named(name, length)
            self.put(&self.heard[slot], <PyObject *>peer)
            return peer

    cdef object heard_at(self, Metadata *found, uint16_t port):
        # The address that something was sent to: one of ours, or a group's.
        cdef sockaddr_in6 name
        cdef sockaddr_in *name4 = <sockaddr_in *>&name
        cdef Peer peer
        memset(&name, 0, sizeof(name))
        name.sin6_port = htons(port)  # where sin_port is
        name.sin6_family = <uint16_t>self.family
        if self.family == AF_INET:
            memcpy(&name4.sin_addr, &found.local.s6_addr[12], 4)
            peer = self.hear(&name, sizeof(sockaddr_in))
        else:
            name.sin6_addr = found.local
            if is_of_a_link(&found.local):
                name.sin6_scope_id = found.interface
            peer = self.hear(&name, sizeof(sockaddr_in6))
        if found.is_no_source and not peer.is_no_source or self.broadcasts:
            self.note_source(found)
        return peer.address

    cdef int note_source(self, Metadata *found) except -1:
        cdef bytes host = PyBytes_FromStringAndSize(<char *>&found.local, sizeof(in6_addr))
        if not found.is_no_source:
            self.broadcasts.discard(host)  # an address may become one of ours
        elif host not in self.broadcasts:
            if len(self.broadcasts) >= MAX_BROADCASTS:
                self.broadcasts.clear()
            self.broadcasts.add(host)
        return 0

    cdef bint is_source(self, Peer peer, in6_addr *host) except -1:
        # Whether something can be sent from a peer, whose host is given, of IPv4 v4-mapped.
        if peer.is_no_source:
            return False
        return not self.broadcasts or PyBytes_FromStringAndSize(<char *>host, sizeof(in6_addr)) not in self.broadcasts


cdef void spare(Peer peer) noexcept:
    peer.is_spared = True
    peer.state.max_segments = 1


cdef bint is_no_source(sockaddr_in6 *name):
    # A group's address, the broadcast of every network, or a wildcard.
    cdef unsigned char *host = name.sin6_addr.s6_addr
    if name.sin6_family == AF_INET:
        host = <unsigned char *>&(<sockaddr_in *>name).sin_addr
    elif IN6_IS_ADDR_V4MAPPED(&name.sin6_addr):
        host += 12
    else:
        return host[0] == 0xFF or memcmp(host, NO_HOST, 16) == 0  # RFC 4291 2.7, 2.5.2
    # RFC 5771; RFC 919
    return 224 <= host[0] < 240 or memcmp(host, b"\xff\xff\xff\xff", 4) == 0 or memcmp(host, NO_HOST, 4) == 0


cdef inline bint is_of_a_link(in6_addr *host):
    # RFC 4007 6: it means something on one link only, or, of groups, on one interface.
    return IN6_IS_ADDR_LINKLOCAL(host) or (host.s6_addr[0] == 0xFF and host.s6_addr[1] & 0xF in (1, 2))


cdef object spell(sockaddr_in6 *name):
    cdef char text[64]
    cdef sockaddr_in *name4 = <sockaddr_in *>name
    if name.sin6_family == AF_INET:
        inet_ntop(AF_INET, &name4.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(name4.sin_port)
    inet_ntop(AF_INET6, &name.sin6_addr, text, sizeof(text))
    return text.decode("ascii"), ntohs(name.sin6_port), ntohl(name.sin6_flowinfo), name.sin6_scope_id

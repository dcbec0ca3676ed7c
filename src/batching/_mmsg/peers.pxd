from cpython.object cimport PyObject

from libc.stdint cimport uint16_t

from .control cimport Metadata
from .linux cimport in6_addr, sockaddr_in6, socklen_t
from .train cimport PeerState

cdef enum:
    CACHE_SIZE = 1024  # a power of two
    MAX_BROADCASTS = 256  # a machine has one a network; a route of that kind may cover any number


cdef class Peer:
    cdef PeerState state
    cdef readonly object address
    cdef bint is_used, is_forgotten
    cdef bint is_spared  # for good: max_segments is 1, whatever it is set to
    cdef bint is_no_source  # nothing is sent from it: it is a group's address, or a wildcard


cdef class Peers:
    cdef int family, max_segments
    cdef bint is_dual_stack
    cdef public int tos, tclass
    cdef Py_ssize_t capacity
    cdef Peer connected
    cdef dict by_address, by_name  # address tuple, sockaddr bytes → Peer
    cdef dict spared  # likewise by name: those without GSO by the user's wish, never forgotten
    cdef bint is_all_spared
    cdef set broadcasts  # hosts, of IPv4 v4-mapped: only the kernel knows these, so they outlive their Peers
    cdef PyObject *seen[CACHE_SIZE]  # the address object (owned) that hashed here last,
    cdef PyObject *seen_peer[CACHE_SIZE]  # and its Peer (owned)
    cdef PyObject *heard[CACHE_SIZE]  # the Peer (owned) whose sockaddr hashed here last

    cdef int put(self, PyObject **entry, PyObject *value) except -1
    cdef Peer find(self, object address)
    cdef Peer look_up(self, object address, size_t slot)
    cdef socklen_t pack(self, object address, sockaddr_in6 *name) except 0
    cdef Peer named(self, sockaddr_in6 *name, socklen_t length)
    cdef Peer newcomer(self, sockaddr_in6 *name, socklen_t length)
    cdef int forget_one(self) except -1
    cdef Peer hear(self, sockaddr_in6 *name, socklen_t length)
    cdef object heard_at(self, Metadata *found, uint16_t port)
    cdef int note_source(self, Metadata *found) except -1
    cdef bint is_source(self, Peer peer, in6_addr *host) except -1

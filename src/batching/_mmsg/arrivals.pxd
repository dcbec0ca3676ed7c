from libc.stdint cimport uint16_t, uint32_t, uint64_t

from .descriptor cimport Counters, Descriptor
from .linux cimport iovec, mmsghdr, pthread_mutex_t, sockaddr_in6
from .peers cimport Peers
from .slab cimport Pool
from .slots cimport Arrival, Slot


cdef class Arrivals:
    cdef object __weakref__
    cdef Peers peers
    cdef Counters counters
    cdef Pool pool
    cdef pthread_mutex_t lock
    cdef Slot *slots
    cdef mmsghdr *headers
    cdef iovec *iovecs
    cdef sockaddr_in6 *names
    cdef char *controls
    cdef size_t control_size, min_oob
    cdef bint gro
    cdef bint has_metadata  # options are on that tell of trains
    cdef uint16_t port  # ours
    cdef int max_slots, n_slots  # allowed, and in use now
    cdef int n_copied  # slots that COPIED bytes take, by the last call's messages
    cdef int n_lone  # calls in a row that brought one message,
    cdef int n_alone  # and so, calls to come that ask for no more
    cdef int n_arrived, current  # of the last call's messages: how many, and the first not yet taken whole
    cdef int n_idle  # calls in a row that left most slots empty
    cdef readonly int pending
    cdef readonly uint32_t overflows
    cdef readonly uint64_t ticket

    cdef void acquire(self) noexcept
    cdef void free_slabs(self, int first) noexcept
    cdef int try_once(self, Descriptor descriptor, int most, int *pending) except -1
    cdef int ask(self, Descriptor descriptor, int most) noexcept
    cdef bint prepare(self, int n) noexcept
    cdef int read_arrivals(self, int received, int asked) noexcept
    cdef void adapt(self, int received, size_t n_bytes) noexcept
    cdef Arrival *next_arrival(self) noexcept
    cdef object sender(self)

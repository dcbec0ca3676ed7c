from .descriptor cimport Counters, Descriptor
from .lent cimport Lent
from .peers cimport Peer, Peers
from .train cimport Plan, Train

cdef enum:
    WINDOW_ = 8192  # datagrams or trains: so many of a destination's may share messages


cdef class SendPlan:
    cdef Plan plan
    cdef Peers peers
    cdef Counters counters
    cdef list loaded  # holds every object whose memory is lent to the kernel
    cdef Lent lent
    cdef int start
    cdef readonly int position
    cdef readonly int datagrams_sent
    cdef SendPlan next  # of a Dispatcher's spare ones

    cdef void add(self, Peer peer, char *memory, size_t n_bytes, size_t segment_size) noexcept
    cdef void aim(self, Peer peer) noexcept
    cdef void spread(self) noexcept
    cdef int begin(self, list loaded, int start, int stop) except -1
    cdef int finish(self) except -1
    cdef int let_go(self) except -1
    cpdef int load(self, list datagrams, int start=*) except -1
    cdef int take_only(self, list datagrams, int *i, int stop) except -1
    cdef int take_mixed(self, list datagrams, int *i, int stop) except -1
    cpdef load_to(self, buffers, address, Py_ssize_t offset=*, bytes header=*)
    cpdef int load_segments(self, list segments, int start=*, Peer peer=*) except -1
    cdef int depart(self, Descriptor descriptor) except -2
    cdef int send_once(self, Descriptor descriptor, int limit, int *failure) except -1
    cdef void count(self, int sent) noexcept
    cdef Train *current(self) except NULL
    cpdef release(self)

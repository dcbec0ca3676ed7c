from libc.stdint cimport int64_t

from .mark cimport Marks
from .peers cimport Peers


cdef class Segments:
    cdef object __weakref__
    cdef object source  # a Slab or bytes, of a train that came; None once `data` was replaced
    cdef object view  # of the source, made when first asked for; or what the user gave
    cdef public object segment_size
    cdef public object addr
    cdef public bint truncated
    cdef public object local_addr
    cdef int ecn_mark  # -1: none
    cdef int interface_index  # 0: none
    cdef public bint _is_way_out  # the interface was asked for, and is not where a train came in
    cdef int64_t received_ns  # 0: not known

    cdef object shown(self)
    cdef Py_ssize_t n_bytes(self) except -1
    cdef int add_mark(self, Marks *marks, Peers peers) except -1

    cdef inline int mark_in(self, Marks *marks, Peers peers) except -1:
        # The number of what it asks for when it is sent; 0: nothing.
        if self.ecn_mark < 0 and self.local_addr is None and not self._is_way_out:
            return 0
        return self.add_mark(marks, peers)

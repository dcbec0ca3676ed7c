cdef struct Target:
    char *memory
    Py_ssize_t n_bytes


cdef class Message:
    cdef public object buffers, oob, addr
    cdef public int n, nn, flags
    cdef object data_owner, oob_owner  # whose memory the views below hold; None: no view
    cdef Py_buffer data_view, oob_view

    cdef int prepare(self, Py_ssize_t min_oob) except -1
    cdef bint locate(self, Target *data, Target *oob) noexcept

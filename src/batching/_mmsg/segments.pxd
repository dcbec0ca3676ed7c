cdef class Segments:
    cdef object __weakref__
    cdef object source  # a Slab or bytes, of a train that came; None once `data` was replaced
    cdef object view  # of the source, made when first asked for; or what the user gave
    cdef public object segment_size
    cdef public object addr
    cdef public bint truncated

    cdef object shown(self)
    cdef Py_ssize_t n_bytes(self) except -1

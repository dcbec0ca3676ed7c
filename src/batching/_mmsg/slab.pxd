from .slots cimport SlabPool


cdef class Pool:
    cdef SlabPool pool


cdef class Slab:
    cdef Pool pool
    cdef char *data  # what arrived, within the slab
    cdef Py_ssize_t n_bytes
    cdef char *memory  # the whole slab, once it belongs to this

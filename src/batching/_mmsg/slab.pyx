"""Slabs that somebody looks at, and where their memory goes when nobody does any more."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

from .linux cimport pthread_mutex_destroy, pthread_mutex_init
from .slots cimport empty_pool, give_slab


@cython.final
cdef class Pool:
    """The memory of slabs; it outlives the RecvSlots while views do."""

    def __cinit__(self):
        pthread_mutex_init(&self.pool.lock, NULL)

    def __dealloc__(self):
        empty_pool(&self.pool, True)
        pthread_mutex_destroy(&self.pool.lock)


@cython.final
@cython.freelist(64)
@cython.no_gc  # it holds nothing that could hold it, and __dealloc__ needs its pool
cdef class Slab:
    """A train's memory while somebody looks at it: read-only, as long as what arrived."""

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.n_bytes, True, flags)

    def __dealloc__(self):
        if self.memory != NULL:
            give_slab(&self.pool.pool, self.memory)

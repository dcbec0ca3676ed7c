from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject

from .linux cimport BATCHING_HAS_GIL, is_bytearray, raw_bytearray_data, raw_bytearray_size


cdef struct Target:
    char *memory
    Py_ssize_t n_bytes


cdef class Message:
    cdef public object buffers, oob, addr
    cdef public int n, nn, flags
    cdef object data_owner, oob_owner  # whose memory the views below hold; None: no view
    cdef Py_buffer data_view, oob_view

    cdef int prepare(self, Py_ssize_t min_oob) except -1


cdef inline bint is_lendable(PyObject *buffer) noexcept:
    # With the GIL held, a bytearray's memory can be used without exporting it.
    return BATCHING_HAS_GIL and is_bytearray(buffer)


cdef inline PyObject *only_buffer(Message message) noexcept:
    if PyList_CheckExact(message.buffers) and PyList_GET_SIZE(message.buffers) == 1:
        return PyList_GET_ITEM(message.buffers, 0)
    if type(message.buffers) is tuple and len(<tuple>message.buffers) == 1:
        return <PyObject *>(<tuple>message.buffers)[0]
    return NULL


cdef inline bint is_ready(Message message, Py_ssize_t min_oob) noexcept:
    # The common case: bytearrays, of which nothing has to be prepared.
    cdef PyObject *data = only_buffer(message)
    cdef PyObject *oob = <PyObject *>message.oob
    return (message.data_owner is None and message.oob_owner is None and data != NULL
            and is_lendable(data) and is_lendable(oob) and raw_bytearray_size(oob) >= min_oob)


cdef inline bint find(PyObject *buffer, PyObject *owner, Py_buffer *view, Target *target) noexcept:
    if is_lendable(buffer):
        target.memory = raw_bytearray_data(buffer)
        target.n_bytes = raw_bytearray_size(buffer)
        return True
    target.memory = <char *>view.buf
    target.n_bytes = view.len
    return buffer == owner and owner != <PyObject *>None  # None: there is no view


# Find the memory again, in C only; False when the fields are not those prepared.

cdef inline bint locate_data(Message message, Target *data) noexcept:
    cdef PyObject *buffer = only_buffer(message)
    return buffer != NULL and find(buffer, <PyObject *>message.data_owner, &message.data_view, data)

cdef inline bint locate_oob(Message message, Target *oob) noexcept:
    return find(<PyObject *>message.oob, <PyObject *>message.oob_owner, &message.oob_view, oob)

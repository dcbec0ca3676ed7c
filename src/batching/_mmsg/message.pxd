from cpython.object cimport PyObject

from .linux cimport (
    BATCHING_HAS_GIL, is_bytearray, is_list, is_tuple, raw_bytearray_data, raw_bytearray_size, raw_list_item,
    raw_list_size, raw_tuple_item, raw_tuple_size,
)


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
    # Without references, of which Cython would count some.
    cdef PyObject *buffers = <PyObject *>message.buffers
    if is_list(buffers) and raw_list_size(buffers) == 1:
        return raw_list_item(buffers, 0)
    if is_tuple(buffers) and raw_tuple_size(buffers) == 1:
        return raw_tuple_item(buffers, 0)
    return NULL

cdef inline bint find(PyObject *buffer, PyObject *owner, Py_buffer *view, Target *target) noexcept:
    # The memory of a buffer, if it is held as prepare() leaves it: a bytearray not at all, any
    # other by the view of its owner, which it is.
    if is_lendable(buffer):
        target.memory = raw_bytearray_data(buffer)
        target.n_bytes = raw_bytearray_size(buffer)
        return owner == <PyObject *>None
    target.memory = <char *>view.buf
    target.n_bytes = view.len
    return buffer == owner and owner != <PyObject *>None  # None: there is no view

cdef inline bint find_oob(Message message, Target *oob) noexcept:
    return find(<PyObject *>message.oob, <PyObject *>message.oob_owner, &message.oob_view, oob)

cdef inline bint is_ready(Message message, Py_ssize_t min_oob, Target *data) noexcept:
    # Find where a datagram goes, in C only; False: prepare() has something to do, or to refuse.
    cdef PyObject *buffer = only_buffer(message)
    cdef Target oob
    return (buffer != NULL and find(buffer, <PyObject *>message.data_owner, &message.data_view, data)
            and find_oob(message, &oob) and oob.n_bytes >= min_oob)

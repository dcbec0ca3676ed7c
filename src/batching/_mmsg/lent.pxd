# Memory of the users' buffers that is lent to the kernel.
#
# Rule 1: of bytes, bytearrays and memoryviews whoever borrows holds the object itself; a bytearray
# is pinned, so that it cannot be resized, and a memoryview, so that it cannot be released.
# Anything else is held by its view.
# Rule 2: all is taken back at one time.  Both may run the objects' own code.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from .linux cimport (
    BATCHING_HAS_GIL, batching_pin, batching_unpin, iovec, is_bytearray, is_bytes, is_open_view, raw_bytearray_data,
    raw_bytearray_size, raw_bytes_data, raw_bytes_size, raw_items, raw_view,
)

cdef enum:
    MORE = 128  # buffers: room grows by

cdef struct Lent:
    Py_buffer *views
    int n_views, views_capacity
    PyObject **pinned  # bytearrays and memoryviews, whose memory is to be had without a view
    int n_pinned, pinned_capacity


cdef inline void *with_room(void *array, Py_ssize_t n, int *capacity, size_t size) except NULL:
    # For n and MORE, where there is none for another.
    cdef void *grown = array
    if n >= capacity[0]:
        grown = realloc(array, (n + MORE) * size)
        if grown == NULL:
            raise MemoryError
        capacity[0] = <int>(n + MORE)
    return grown

cdef inline int export(Lent *lent, object data, bint is_writable, char **memory, size_t *n_bytes) except -1:
    cdef Py_buffer *view
    lent.views = <Py_buffer *>with_room(lent.views, lent.n_views, &lent.views_capacity, sizeof(Py_buffer))
    view = &lent.views[lent.n_views]
    try:
        PyObject_GetBuffer(data, view, PyBUF_WRITABLE if is_writable else PyBUF_SIMPLE)
    except BufferError as error:
        raise ValueError(
            f"the buffer must be {'writable and ' if is_writable else ''}C-contiguous: {error}"
        ) from error
    lent.n_views += 1
    memory[0] = <char *>view.buf
    n_bytes[0] = view.len
    return 0

cdef inline int pin(Lent *lent, PyObject *data) except -1:
    lent.pinned = <PyObject **>with_room(lent.pinned, lent.n_pinned, &lent.pinned_capacity, sizeof(PyObject *))
    batching_pin(data)
    lent.pinned[lent.n_pinned] = data
    lent.n_pinned += 1
    return 0

cdef inline int lend(Lent *lent, PyObject *data, bint is_writable, char **memory, size_t *n_bytes) except -1:
    if is_bytes(data) and not is_writable:
        memory[0] = raw_bytes_data(data)
        n_bytes[0] = raw_bytes_size(data)
        return 0
    if BATCHING_HAS_GIL and is_bytearray(data):
        pin(lent, data)
        memory[0] = raw_bytearray_data(data)
        n_bytes[0] = raw_bytearray_size(data)
        return 0
    if BATCHING_HAS_GIL and is_open_view(data, is_writable):
        pin(lent, data)
        memory[0] = <char *>raw_view(data).buf
        n_bytes[0] = raw_view(data).len
        return 0
    return export(lent, <object>data, is_writable, memory, n_bytes)

cdef inline int lend_bytearrays(Lent *lent, list items, size_t least, size_t left_out, iovec *vectors) except -1:
    # The first items as long as they are bytearrays of so many bytes or more; return how many.
    # Nothing was lent before.  It is what lend() does, for the usual case, at a third of its cost.
    cdef Py_ssize_t i = 0, n = PyList_GET_SIZE(items)
    cdef PyObject *data
    if not BATCHING_HAS_GIL:
        return 0
    lent.pinned = <PyObject **>with_room(lent.pinned, n, &lent.pinned_capacity, sizeof(PyObject *))
    while i < n:
        data = PyList_GET_ITEM(items, i)
        if not is_bytearray(data) or <size_t>raw_bytearray_size(data) < least:
            break
        batching_pin(data)
        vectors[i].iov_base = raw_bytearray_data(data) + left_out
        vectors[i].iov_len = raw_bytearray_size(data) - left_out
        i += 1
    if i:
        memcpy(lent.pinned, raw_items(items), i * sizeof(PyObject *))
    lent.n_pinned = <int>i
    return <int>i

cdef inline int take_back(Lent *lent) except -1:
    cdef int i, n_views = lent.n_views
    lent.n_views = 0
    for i in range(lent.n_pinned):
        batching_unpin(lent.pinned[i])
    lent.n_pinned = 0
    for i in range(n_views):
        PyBuffer_Release(&lent.views[i])
    return 0

cdef inline void free_lent(Lent *lent) noexcept:
    free(lent.views)
    free(lent.pinned)
    memset(lent, 0, sizeof(Lent))

cdef inline void trim_lent(Lent *lent, int kept) noexcept:
    if max(lent.views_capacity, lent.pinned_capacity) > kept:
        free_lent(lent)

"""Message: a datagram's place in read_batch, filled without a Python object made."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject

from .linux cimport cut_view, is_bytearray, raw_bytearray_size, raw_view


@cython.final
@cython.no_gc_clear  # __dealloc__ releases the buffers, also when a cycle is collected
cdef class Message:
    """A datagram's place in Conn.read_batch: a buffer to fill, and what came.

    Fields as golang.org/x/net/ipv6.Message has them.  A buffer that is no bytearray
    stays exported (cannot be resized or released) while the Message has it.

    Args:
        buffers: One writable, C-contiguous buffer, in a list.
        oob: A writable buffer of min_control_message_size() bytes or more for the
            control bytes.

    Attributes:
        addr: The sender.
        n: Bytes of the datagram in buffers[0]; 0 is an empty datagram.
        nn: Control bytes in oob; a train's first datagram has them.
        flags: MSG_TRUNC: the buffer was too short; MSG_CTRUNC: control bytes were cut.
    """

    def __init__(self, buffers, oob=None):
        self.buffers = buffers
        self.oob = bytearray() if oob is None else oob

    def __dealloc__(self):
        if self.data_owner is not None:
            PyBuffer_Release(&self.data_view)
        if self.oob_owner is not None:
            PyBuffer_Release(&self.oob_view)

    @property
    def data(self):
        """The n bytes received, in buffers[0]; not a copy."""
        cdef object buffer = self.buffers[0]
        cdef object view = PyMemoryView_FromObject(buffer)
        cdef int n = self.n
        if is_bytearray(<PyObject *>buffer) and 0 <= n <= raw_view(<PyObject *>view).len:
            cut_view(view, n)  # it is new and ours: slicing would make another
            return view
        # A view with a zero in its shape cannot be cast; it holds nothing anyway.
        return view.cast("B")[:n] if view.nbytes else memoryview(b"")

    def __repr__(self):
        return f"<Message n={self.n} nn={self.nn} flags={self.flags:#x} addr={self.addr!r}>"

    cdef int prepare(self, Py_ssize_t min_oob) except -1:
        # Check, and get hold of the memory.  May run the buffers' own code.
        cdef Py_ssize_t n
        if type(self.buffers) is not list and type(self.buffers) is not tuple:
            raise TypeError(f"buffers must be a list, not {type(self.buffers).__name__}")
        n = len(self.buffers)
        if n != 1:
            raise ValueError(f"must have exactly 1 buffer, has {n}")
        data = self.buffers[0]
        if self.data_owner is not None and self.data_owner is not data:
            self.data_owner = None
            PyBuffer_Release(&self.data_view)
        if self.oob_owner is not None and self.oob_owner is not self.oob:
            self.oob_owner = None
            PyBuffer_Release(&self.oob_view)
        if self.data_owner is None and not is_lendable(<PyObject *>data):
            borrow(data, &self.data_view, "buffers[0]")
            self.data_owner = data
        if self.oob_owner is None and not is_lendable(<PyObject *>self.oob):
            borrow(self.oob, &self.oob_view, "oob")
            self.oob_owner = self.oob
        n = raw_bytearray_size(<PyObject *>self.oob) if is_lendable(<PyObject *>self.oob) else self.oob_view.len
        if n < min_oob:
            raise ValueError(f"oob of {n} bytes, must hold at least {min_oob}")
        return 0


cdef int borrow(object buffer, Py_buffer *view, str name) except -1:
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE)
    except BufferError as error:
        raise ValueError(f"{name} must be writable and C-contiguous: {error}") from None
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    return 0

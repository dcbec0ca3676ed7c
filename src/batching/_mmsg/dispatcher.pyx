"""Dispatcher: the plans of a Conn, and the first attempt of each of its sending calls."""

cimport cython

from .descriptor cimport Counters, Descriptor
from .peers cimport Peer, Peers
from .segments cimport Segments
from .send cimport WINDOW_, SendPlan

cdef enum:
    NOT_TRIED = -1


@cython.final
@cython.no_gc_clear  # a finalizer may still send
cdef class Dispatcher:
    """Makes the first attempt of a sending call, with a plan that no other call has."""
    cdef Descriptor descriptor
    cdef Peers peers
    cdef Counters counters
    cdef SendPlan spare  # and behind it, by `next`, as many as there were calls at one time

    def __cinit__(self, Descriptor descriptor not None, Peers peers not None, Counters counters not None):
        self.descriptor = descriptor
        self.peers = peers
        self.counters = counters

    cpdef SendPlan take(self):
        cdef SendPlan plan
        with cython.critical_section(self):
            plan = self.spare
            if plan is not None:
                self.spare, plan.next = plan.next, None
        return SendPlan(self.peers, self.counters) if plan is None else plan

    def give(self, SendPlan plan not None):
        self.keep(plan)

    cdef int keep(self, SendPlan plan) except -1:
        plan.release()
        with cython.critical_section(self):
            self.spare, plan.next = plan, self.spare
        return 0

    # A plan that fails to load holds nothing, and is not kept.

    def send(self, datagrams, bint holds_back=False):
        cdef list items = list(datagrams)
        cdef SendPlan plan = self.take()
        if holds_back or len(items) > WINDOW_:
            return plan, items, NOT_TRIED
        plan.load(items)
        return self.attempt(plan)

    def send_to(self, buffers, address, Py_ssize_t offset=0, bytes header=None, bint holds_back=False):
        cdef SendPlan plan = self.take()
        if holds_back:
            return plan, list(buffers), NOT_TRIED
        plan.load_to(buffers, address, offset, header)
        return self.attempt(plan)

    def send_segments(self, segments, to=None, bint holds_back=False):
        if isinstance(segments, Segments):  # iterable too, but of datagrams
            raise TypeError("segments must be an iterable of Segments, not one: [segments]")
        cdef list items = list(segments)
        cdef Peer peer = None if to is None else self.peers.find(to)
        cdef SendPlan plan = self.take()
        if holds_back or len(items) > WINDOW_:
            return plan, items, NOT_TRIED
        plan.load_segments(items, 0, peer)
        return self.attempt(plan)

    cdef object attempt(self, SendPlan plan):
        cdef int failure = plan.depart(self.descriptor), sent = plan.datagrams_sent
        if failure >= 0:
            return plan, plan.loaded, failure
        self.keep(plan)
        return sent

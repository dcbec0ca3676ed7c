# Planning: which datagrams share a message.  C only; no Python object is touched.
#
# Rule 1: a train has one peer, one mark and one segment size; only its last datagram may be
# shorter, and none may be empty (an empty one is a message of its own).
# Rule 2: a train holds what the peer allows: max_segments, max_segment_size, and never
# more bytes than IP carries.
# Rule 3: the datagrams of one peer keep their order; peers come in the order of their
# first datagram.

from cpython.object cimport PyObject
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from .control cimport SEND_CONTROL_SIZE, put_segment_size
from .linux cimport (
    MSG_DONTWAIT, iovec, mmsghdr, msghdr, sendmmsg, sendmsg, sendto, sockaddr_in6, socklen_t,
)
from .mark cimport Marks, is_same, put_mark

cdef struct PeerState:
    sockaddr_in6 name  # or a sockaddr_in; zeroed first, so that it compares as bytes
    socklen_t name_length
    bint is_connected
    int max_segments
    int max_segment_size
    int max_bytes
    int first_item, last_item  # scratch of plan_items(); -1 outside of it
    int segments_now, segment_size_now  # the two limits as plan_items() read them, once
    PyObject *owner  # the Peer that this is part of

cdef struct Item:  # what was loaded: a datagram, or a run of them in one buffer
    char *data
    size_t n_bytes
    size_t segment_size  # 0: a single datagram
    PeerState *peer
    int next_item  # of the same peer; -1: none
    int mark  # its number from 1; 0: none; not set where the plan has no marks

cdef struct Piece:  # datagrams of one item in one message; there is one iovec for each
    int item
    int first_datagram  # within the item
    int n_datagrams

cdef struct Train:  # a message, of one datagram or several
    PeerState *peer
    int first_piece
    int n_pieces
    int n_datagrams
    int segment_size  # 0: a single datagram
    int failure  # errno
    int mark  # as its items'
    bint is_cut  # scratch of cut_trains()
    size_t n_bytes

cdef struct Plan:
    Item *items
    int n_items, items_capacity
    PeerState **peers
    PeerState *only  # not NULL: all items are single datagrams to it, and stand in iovecs, not in items
    Marks marks
    Piece *pieces
    iovec *iovecs
    int n_pieces, pieces_capacity
    bint is_implied  # every item is one piece and has an iovec of its number; pieces are not filled yet
    Train *trains
    mmsghdr *headers
    char *controls
    int n_trains, trains_capacity


cdef inline bint grow(void **array, size_t n, size_t size) noexcept nogil:
    cdef void *grown = realloc(array[0], n * size)
    if grown == NULL:
        return False
    array[0] = grown
    return True

cdef inline bint reserve_items(Plan *plan, int n) noexcept nogil:
    if n <= plan.items_capacity:
        return True
    if not (grow(<void **>&plan.items, n, sizeof(Item)) and grow(<void **>&plan.peers, n, sizeof(void *))):
        return False
    plan.items_capacity = n
    return True

cdef inline bint reserve_pieces(Plan *plan, int n) noexcept nogil:
    if n <= plan.pieces_capacity:
        return True
    if not (grow(<void **>&plan.pieces, n, sizeof(Piece)) and grow(<void **>&plan.iovecs, n, sizeof(iovec))):
        return False
    plan.pieces_capacity = n
    return True

cdef inline bint reserve_trains(Plan *plan, int n) noexcept nogil:
    if n <= plan.trains_capacity:
        return True
    if not (grow(<void **>&plan.trains, n, sizeof(Train))
            and grow(<void **>&plan.headers, n, sizeof(mmsghdr))
            and grow(<void **>&plan.controls, n, SEND_CONTROL_SIZE)):
        return False
    plan.trains_capacity = n
    return True

cdef inline void free_plan(Plan *plan) noexcept nogil:
    free(plan.items)
    free(plan.marks.marks)
    free(plan.peers)
    free(plan.pieces)
    free(plan.iovecs)
    free(plan.trains)
    free(plan.headers)
    free(plan.controls)
    memset(plan, 0, sizeof(Plan))

cdef inline void trim_plan(Plan *plan, int kept) noexcept nogil:
    if max(plan.trains_capacity, plan.items_capacity) > kept:
        free_plan(plan)


cdef inline int datagrams_of(size_t n_bytes, size_t segment_size) noexcept nogil:
    # Of a run; 2**31 one-byte datagrams are refused when they are loaded.
    return 1 if segment_size == 0 or n_bytes == 0 else <int>((n_bytes + segment_size - 1) // segment_size)

cdef inline int segments_allowed(PeerState *peer, size_t segment_size) noexcept nogil:
    # Of that size, by number; how many bytes they may have is another matter.
    if segment_size == 0 or segment_size > <size_t>peer.segment_size_now or peer.segments_now < 2:
        return 1
    return peer.segments_now

cdef inline int next_cut(PeerState *peer, int n, size_t n_bytes, size_t segment_size) noexcept nogil:
    # How many of a run's n datagrams its next train holds.
    cdef int allowed = segments_allowed(peer, segment_size)
    if n <= allowed and n_bytes <= <size_t>peer.max_bytes:
        return n
    if allowed > 1 and <size_t>allowed * segment_size > <size_t>peer.max_bytes:
        allowed = max(1, <int>(<size_t>peer.max_bytes // segment_size))
    return allowed

cdef inline Train *open_train(Plan *plan, PeerState *peer, int mark) noexcept nogil:
    cdef Train *train = &plan.trains[plan.n_trains]
    plan.n_trains += 1
    memset(train, 0, sizeof(Train))
    train.peer = peer
    train.mark = mark
    train.first_piece = plan.n_pieces
    return train

cdef inline void add_piece(Plan *plan, Train *train, int item, int first, int n, char *data,
                           size_t n_bytes) noexcept nogil:
    cdef Piece *piece = &plan.pieces[plan.n_pieces]
    piece.item = item
    piece.first_datagram = first
    piece.n_datagrams = n
    plan.iovecs[plan.n_pieces].iov_base = data
    plan.iovecs[plan.n_pieces].iov_len = n_bytes
    plan.n_pieces += 1
    train.n_pieces += 1
    train.n_datagrams += n
    train.n_bytes += n_bytes

cdef inline void add_run(Plan *plan, PeerState *peer, int mark, int item, int first, int n, bint singly,
                         char *data, size_t n_bytes, size_t segment_size) noexcept nogil:
    # A run of n datagrams in one buffer, as trains or one by one.
    cdef int taken
    cdef size_t length
    cdef Train *train
    while n:
        taken = 1 if singly else next_cut(peer, n, n_bytes, segment_size)
        length = n_bytes if taken == n else taken * segment_size
        train = open_train(plan, peer, mark)
        train.segment_size = <int>segment_size if taken > 1 else 0
        add_piece(plan, train, item, first, taken, data, length)
        data += length
        n_bytes -= length
        first += taken
        n -= taken

cdef inline void plan_peer(Plan *plan, PeerState *peer, bint has_marks) noexcept nogil:
    cdef int index = peer.first_item, mark = 0, room = 0  # datagrams that the open train still takes
    cdef size_t size = 0  # its segment size
    cdef Train *train = NULL
    cdef Item *item
    while index >= 0:
        item = &plan.items[index]
        if item.segment_size:
            room = 0
            add_run(plan, peer, item.mark if has_marks else 0, index, 0, datagrams_of(item.n_bytes, item.segment_size), False,
                    item.data, item.n_bytes, item.segment_size)
        else:
            if (room == 0 or item.n_bytes == 0 or item.n_bytes > size
                    or (has_marks and item.mark != mark and not is_same(&plan.marks, item.mark, mark))
                    or train.n_bytes + item.n_bytes > <size_t>peer.max_bytes):
                mark = item.mark if has_marks else 0
                train = open_train(plan, peer, mark)
                size = item.n_bytes
                room = segments_allowed(peer, size)
            else:
                train.segment_size = <int>size
            add_piece(plan, train, index, 0, 1, item.data, item.n_bytes)
            room = 0 if item.n_bytes < size else room - 1
        index = item.next_item

cdef inline int n_alike(iovec *iovecs, int n, size_t size) noexcept nogil:
    # How many of the first n have so many bytes.
    cdef int i = 0
    while i < n and iovecs[i].iov_len == size:
        i += 1
    return i

cdef inline void plan_only(Plan *plan, PeerState *peer) noexcept nogil:
    # plan_peer() for the common case: all items are single datagrams of one peer, in the iovecs.
    cdef int n, most, left = plan.n_items
    cdef size_t size, room = <size_t>peer.max_bytes
    cdef iovec *vector = plan.iovecs
    cdef Train *train
    plan.is_implied = True
    while left:
        size = vector.iov_len
        most = min(left, segments_allowed(peer, size))
        n = n_alike(vector, min(most, max(1, <int>(room // size))), size) if most > 1 else 1
        train = open_train(plan, peer, 0)
        train.n_bytes = n * size
        if n < most and 0 < vector[n].iov_len < size and train.n_bytes + vector[n].iov_len <= room:
            train.n_bytes += vector[n].iov_len  # the last one
            n += 1
        train.n_pieces = train.n_datagrams = n
        train.segment_size = <int>size if n > 1 else 0
        plan.n_pieces += n
        vector += n
        left -= n

cdef inline void fill_pieces(Plan *plan) noexcept nogil:
    cdef int i
    if not plan.is_implied:
        return
    plan.is_implied = False
    for i in range(plan.n_pieces):
        plan.pieces[i].item = i
        plan.pieces[i].first_datagram = 0
        plan.pieces[i].n_datagrams = 1

cdef inline void read_limits(PeerState *peer) noexcept nogil:
    # Policy may change them meanwhile, in another thread of a free-threaded build.
    peer.segments_now = peer.max_segments
    peer.segment_size_now = peer.max_segment_size

cdef inline void lay_out(Plan *plan, int first) noexcept nogil:
    # Fill the kernel's headers, whose pointers a growing array would leave stale.
    cdef int i
    cdef Train *train
    cdef mmsghdr *header
    cdef char *control
    if first < plan.n_trains:  # of nothing there may be no memory, and memset() takes no NULL
        memset(&plan.headers[first], 0, (plan.n_trains - first) * sizeof(mmsghdr))
    for i in range(first, plan.n_trains):
        train = &plan.trains[i]
        header = &plan.headers[i]
        if not train.peer.is_connected:
            header.msg_hdr.msg_name = &train.peer.name
            header.msg_hdr.msg_namelen = train.peer.name_length
        header.msg_hdr.msg_iov = &plan.iovecs[train.first_piece]
        header.msg_hdr.msg_iovlen = train.n_pieces
        if train.segment_size:  # never on a single datagram: it gains nothing and breaks on some devices
            control = plan.controls + <size_t>i * SEND_CONTROL_SIZE
            header.msg_hdr.msg_control = control
            header.msg_hdr.msg_controllen = put_segment_size(control, <unsigned short>train.segment_size)
        if train.mark:
            control = plan.controls + <size_t>i * SEND_CONTROL_SIZE
            header.msg_hdr.msg_control = control
            header.msg_hdr.msg_controllen += put_mark(
                control + header.msg_hdr.msg_controllen, &plan.marks.marks[train.mark - 1], &train.peer.name)

cdef inline bint plan_items(Plan *plan) noexcept nogil:
    # Group the items by peer, each peer's in a list of their own, then cut trains.
    cdef int i, n, allowed, n_peers = 0
    cdef size_t needed = 0
    cdef PeerState *peer
    cdef Item *item
    plan.n_pieces = plan.n_trains = 0
    plan.is_implied = False
    if plan.only != NULL:
        if not reserve_trains(plan, plan.n_items):
            return False
        read_limits(plan.only)
        plan_only(plan, plan.only)
        lay_out(plan, 0)
        return True
    for i in range(plan.n_items):
        item = &plan.items[i]
        item.next_item = -1
        peer = item.peer
        if peer.last_item < 0:
            read_limits(peer)
        needed += 1
        if item.segment_size:
            n = datagrams_of(item.n_bytes, item.segment_size)
            allowed = next_cut(peer, n, item.n_bytes, item.segment_size)
            needed += (n + allowed - 1) // allowed
        if peer.last_item < 0:
            peer.first_item = i
            plan.peers[n_peers] = peer
            n_peers += 1
        else:
            plan.items[peer.last_item].next_item = i
        peer.last_item = i
    for i in range(n_peers):
        plan.peers[i].last_item = -1
    if needed > 0x3FFFFFFF or not (reserve_pieces(plan, <int>needed) and reserve_trains(plan, <int>needed)):
        return False
    for i in range(n_peers):
        if plan.marks.n:
            plan_peer(plan, plan.peers[i], True)
        else:
            plan_peer(plan, plan.peers[i], False)
    lay_out(plan, 0)
    return True


cdef inline int send(int fd, mmsghdr *headers, int n) noexcept nogil:
    # One system call, the quickest that will do; messages sent, or -1.
    cdef msghdr *message = &headers.msg_hdr
    cdef ssize_t sent
    if n > 1:
        return sendmmsg(fd, headers, n, MSG_DONTWAIT)
    if message.msg_iovlen == 1 and message.msg_controllen == 0:
        sent = sendto(fd, message.msg_iov.iov_base, message.msg_iov.iov_len, MSG_DONTWAIT,
                      message.msg_name, message.msg_namelen)
    else:
        sent = sendmsg(fd, message, MSG_DONTWAIT)
    return -1 if sent < 0 else 1


cdef inline bint is_refused(Train *train) noexcept nogil:
    return train.segment_size != 0 and (
        train.n_datagrams > train.peer.max_segments or train.segment_size > train.peer.max_segment_size)

cdef inline void cut_into(Plan *cut, Plan *plan, Train *train) noexcept nogil:
    # Copy a train, or its datagrams one by one.
    cdef int i
    cdef Piece *piece
    cdef iovec *vector
    cdef Train *copy = NULL
    for i in range(train.first_piece, train.first_piece + train.n_pieces):
        piece = &plan.pieces[i]
        vector = &plan.iovecs[i]
        if train.is_cut:
            add_run(cut, train.peer, train.mark, piece.item, piece.first_datagram, piece.n_datagrams, True,
                    <char *>vector.iov_base, vector.iov_len, train.segment_size)
        else:
            if copy == NULL:
                copy = open_train(cut, train.peer, train.mark)
                copy.segment_size = train.segment_size
                copy.failure = train.failure
            add_piece(cut, copy, piece.item, piece.first_datagram, piece.n_datagrams,
                      <char *>vector.iov_base, vector.iov_len)

cdef inline bint is_to_cut(Plan *plan, int i, int position, int least) noexcept nogil:
    cdef Train *train = &plan.trains[i]
    if i <= position:
        return i == position and train.n_datagrams > 1
    return 0 < least <= train.segment_size and train.peer == plan.trains[position].peer

cdef inline bint cut_trains(Plan *plan, int position, int least, bint if_refused) noexcept nogil:
    # Cut the train at `position`, and, if `least` is not 0, later ones to its peer of segments
    # of `least` bytes or more; or else, `if_refused`, those from there on that peers refuse.
    cdef Plan cut
    cdef int i
    cdef size_t more = 0
    memset(&cut, 0, sizeof(Plan))
    fill_pieces(plan)
    for i in range(plan.n_trains):
        if if_refused:
            plan.trains[i].is_cut = i >= position and is_refused(&plan.trains[i])
        else:
            plan.trains[i].is_cut = is_to_cut(plan, i, position, least)
        if plan.trains[i].is_cut:
            more += plan.trains[i].n_datagrams
    if more == 0:
        return True
    if more > 0x3FFFFFFF or not (reserve_pieces(&cut, plan.n_pieces + <int>more)
                                 and reserve_trains(&cut, plan.n_trains + <int>more)):
        free_plan(&cut)
        return False
    for i in range(plan.n_trains):
        cut_into(&cut, plan, &plan.trains[i])
    cut.items = plan.items
    cut.n_items = plan.n_items
    cut.items_capacity = plan.items_capacity
    cut.only = plan.only
    cut.marks = plan.marks
    cut.peers = plan.peers
    plan.marks.marks = NULL
    plan.items = NULL
    plan.peers = NULL
    free_plan(plan)
    plan[0] = cut
    lay_out(plan, position)
    return True

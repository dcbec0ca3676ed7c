/* The ceiling: the bare system calls of UDP offload, and nothing around them.
 *
 *   ceiling send SIZE COUNT SEGMENTS buffers|train DEST...
 *   ceiling recv SIZE SLOTS sleep|spin|copy [SOCKETS]
 *   ceiling echo SIZE SLOTS sleep|spin          and
 *   ceiling forward SIZE SLOTS sleep|spin DEST  and
 *   ceiling ping SIZE DEST                      are in passing.c
 *
 * SIZE is a number, or several that are cycled through, separated by commas.  DEST is a port of
 * 127.0.0.1, or HOST:PORT.  It prints {"ports": [...]}, then reads commands from stdin, one a
 * line, and answers each with one line of JSON; it ends with stdin, and by its own alarm if a
 * command takes too long.
 *
 *   send:  SECONDS CALLS [MARK]   send for so long, or, where SECONDS is 0, so many calls of
 *                          sendmmsg, then the mark of the end to each DEST: a datagram of MARK
 *                          bytes, one or none
 *          check N [MARK]  send pattern(0) ... pattern(N-1), then the mark; DESTs take the
 *                          datagrams in turn, and each has its own count from 0
 *   recv:  flush           throw away what is queued
 *          live            receive up to the mark; the clocks start behind the first message
 *          full            the same of a queue that was filled before; the clocks start at once
 *          check           receive up to the mark and compare with pattern(0), pattern(1), ...
 *
 * One call of sendmmsg carries COUNT datagrams in as few messages as SEGMENTS and the 65507
 * bytes of an IPv4 datagram allow: from separate buffers, or from one block of memory (train).
 * Several DESTs take the datagrams in turn, grouped by DEST.  Everything is laid out once.
 *
 * copy sleeps, too, and copies each datagram out of the slot into a buffer of its own, one of
 * COPIES in turn: what a batch of buffers of the caller's costs at the least.
 */
#include "child.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_COUNT = 8192,    /* datagrams a call */
    MAX_TO = 1024,
    MAX_SOCKETS = 2,
    COPIES = 128,        /* a batch of read_batch */
    LEAST_COPY = 2048,   /* bytes of each, at the least, as read_batch is given */
    CALLS_A_LOOK = 16    /* calls between two looks at the clock */
};

/* ---- sending ---- */

struct batch {
    struct sockaddr_in to[MAX_TO];
    uint64_t first[MAX_TO]; /* number of the next datagram, of each destination */
    struct mmsghdr messages[MAX_COUNT];
    struct iovec iov[MAX_COUNT];
    union control control[MAX_COUNT];
    int datagrams[MAX_COUNT]; /* of a message */
    int n_messages, n_to, fd, marker;
    struct sizes sizes;
    int count, segments, gap; /* gap: bytes between buffers, as malloc leaves them */
    uint8_t *memory;
};

/* Lay out one message of at most left datagrams for a destination; return how many it has. */
static int add_message(struct batch *b, int to, int left, uint8_t **block, struct iovec **iov)
{
    struct msghdr *m = &b->messages[b->n_messages].msg_hdr;
    uint64_t i = b->first[to];
    int segment = b->sizes.each[i % (uint64_t)b->sizes.n], bytes = 0, n = 0, size;
    *m = (struct msghdr){.msg_name = &b->to[to], .msg_namelen = sizeof b->to[to], .msg_iov = *iov};
    do { /* datagrams of one size, of which the last may be shorter */
        size = b->sizes.each[i % (uint64_t)b->sizes.n];
        if (size > segment || bytes + size > PAYLOAD)
            break;
        fill(*block, i++, size);
        if (b->gap || !n)
            (*iov)[m->msg_iovlen++] = (struct iovec){*block, (size_t)size};
        else
            (*iov)->iov_len += (size_t)size;
        *block += b->gap ? (size + b->gap + 15) & ~15 : size;
        bytes += size;
        n++;
    } while (n < left && n < b->segments && size == segment);
    if (n > 1) /* never on a single datagram: some kernels refuse it */
        set_segment(m, &b->control[b->n_messages], segment);
    *iov += m->msg_iovlen;
    b->first[to] = i;
    b->datagrams[b->n_messages++] = n;
    return n;
}

static void lay_out(struct batch *b, int count)
{
    struct iovec *iov = b->iov;
    uint8_t *block = b->memory;
    b->n_messages = 0;
    for (int to = 0; to < b->n_to; to++)
        for (int left = count / b->n_to + (to < count % b->n_to); left;)
            left -= add_message(b, to, left, &block, &iov);
}

static void send_call(struct batch *b, struct result *r)
{
    int done = 0;
    while (done < b->n_messages) {
        int sent = sendmmsg(b->fd, b->messages + done, (unsigned)(b->n_messages - done), 0);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            die("sendmmsg");
        }
        for (int i = 0; i < sent; i++)
            r->measured += (uint64_t)b->datagrams[done + i];
        done += sent;
        r->calls++;
    }
}

static void send_for(struct batch *b, double seconds, long calls, struct result *r)
{
    start(r);
    double end = r->seconds + seconds;
    if (seconds > 0)
        do
            for (int i = 0; i < CALLS_A_LOOK; i++)
                send_call(b, r);
        while (now(CLOCK_MONOTONIC) < end);
    else
        for (long i = 0; i < calls; i++)
            send_call(b, r);
    stop(r);
}

static void send_patterns(struct batch *b, long total, struct result *r)
{
    memset(b->first, 0, sizeof b->first);
    start(r);
    for (long left = total; left > 0; left -= b->count) {
        lay_out(b, left < b->count ? (int)left : b->count);
        send_call(b, r);
    }
    stop(r);
    memset(b->first, 0, sizeof b->first);
    lay_out(b, b->count);
}

static void send_mark(struct batch *b, unsigned mark)
{
    nanosleep(&(struct timespec){.tv_nsec = BEFORE_MARK_NS}, NULL);
    for (int i = 0; i < b->n_to; i++)
        sendto(b->marker, ".", mark, 0, (struct sockaddr *)&b->to[i], sizeof b->to[i]);
}

static struct batch *open_batch(int argc, char **argv)
{
    struct batch *b = memory(sizeof *b);
    b->sizes = sizes_of(argv[0]);
    b->count = (int)number(argv[1], 1, MAX_COUNT, "count");
    b->segments = (int)number(argv[2], 1, 128, "segments");
    b->gap = strcmp(argv[3], "train") ? 16 : 0;
    b->n_to = argc - 4;
    for (int i = 0; i < b->n_to; i++)
        b->to[i] = destination(argv[4 + i]);
    b->fd = open_sender();
    b->marker = open_sender();
    b->memory = memory((size_t)b->count * (size_t)(b->sizes.longest + 2 * 16));
    lay_out(b, b->count);
    memset(b->first, 0, sizeof b->first);
    return b;
}

void send_main(int argc, char **argv)
{
    if (argc < 5 || argc > 4 + MAX_TO) {
        fprintf(stderr, "usage: ceiling send SIZE COUNT SEGMENTS buffers|train DEST...\n");
        exit(2);
    }
    struct batch *b = open_batch(argc, argv);
    printf("{\"ports\": []}\n");
    fflush(stdout);
    char line[64];
    while (next_command(line, sizeof line)) {
        struct result r = {0};
        double seconds = 0;
        long calls = 0;
        unsigned mark = 0;
        if (sscanf(line, "check %ld %u", &calls, &mark) > 0)
            send_patterns(b, calls, &r);
        else if (sscanf(line, "%lf %ld %u", &seconds, &calls, &mark) > 1 && seconds >= 0
                 && seconds <= LIMIT_S / 2)
            send_for(b, seconds, calls, &r);
        else {
            errno = 0;
            die(line);
        }
        send_mark(b, mark > LONGEST_MARK ? LONGEST_MARK : mark);
        r.datagrams = r.measured;
        print(&r);
    }
}

/* ---- receiving ---- */

struct copies {
    uint8_t *each[COPIES];
    int room, next;
};

static struct copies *copies_of(int longest)
{
    struct copies *c = memory(sizeof *c);
    c->room = longest > LEAST_COPY ? longest : LEAST_COPY;
    for (int k = 0; k < COPIES; k++)
        c->each[k] = memory((size_t)c->room);
    return c;
}

/* Copy a datagram into the next buffer; return that. */
static const uint8_t *copy(struct copies *c, const uint8_t *data, int size)
{
    uint8_t *to = c->each[c->next];
    c->next = (c->next + 1) % COPIES;
    memcpy(to, data, (size_t)(size < c->room ? size : c->room));
    return to;
}

/* Count the datagrams of a message, or compare them with the patterns from *i on; copied, if at all. */
static long look(const uint8_t *data, int left, int segment, const struct sizes *sizes, uint64_t *i,
                 struct copies *c, struct result *r)
{
    if (c && !i)
        for (int at = 0; at < left; at += segment)
            copy(c, data + at, left - at < segment ? left - at : segment);
    if (!i) {
        if (sizes->n == 1 && (segment != sizes->longest || left % segment))
            r->wrong++;
        return (left + segment - 1) / segment;
    }
    long n = 0;
    for (; left > 0; left -= segment, data += segment, n++, ++*i) {
        int size = left < segment ? left : segment;
        const uint8_t *seen = c ? copy(c, data, size) : data;
        r->wrong += size != sizes->each[*i % (uint64_t)sizes->n] || differs(seen, *i, size);
    }
    return n;
}

/* Return the datagrams of one call; -1: nothing there.  *ended is set by the mark. */
static long receive_call(struct slots *s, int fd, int flags, const struct sizes *sizes, uint64_t *i,
                         struct copies *c, struct result *r, int *ended)
{
    int got = fill_slots(s, fd, flags);
    if (got < 0)
        return -1;
    long datagrams = 0;
    r->calls++;
    for (int m = 0; m < got; m++) {
        int length = (int)s->messages[m].msg_len, segment = segment_of(s, m);
        int tail = length ? length % segment : 0; /* a forwarder may send the mark as a train's end */
        if (length <= LONGEST_MARK || (tail && tail <= LONGEST_MARK)) {
            *ended = 1;
            length = length <= LONGEST_MARK ? 0 : length - tail;
        }
        if (length)
            datagrams += look(s->iov[m].iov_base, length, segment, sizes, i, c, r);
    }
    return datagrams;
}

struct receiver {
    struct slots *slots;
    struct sizes sizes;
    struct copies *copies; /* NULL: nothing is copied */
    int fds[MAX_SOCKETS], ports[MAX_SOCKETS], n_fds, flags;
};

static void receive(struct receiver *v, int is_live, uint64_t *i, struct result *r)
{
    int ended[MAX_SOCKETS] = {0}, open = v->n_fds;
    start(r);
    while (open) {
        for (int k = 0; k < v->n_fds; k++) {
            if (ended[k])
                continue;
            long n = receive_call(v->slots, v->fds[k], v->flags, &v->sizes, i, v->copies, r,
                                  &ended[k]);
            if (n >= 0) {
                r->datagrams += (uint64_t)n;
                if (is_live) {
                    is_live = 0;
                    start(r);
                } else
                    r->measured += (uint64_t)n;
            }
            if (ended[k])
                open--;
        }
    }
    stop(r);
}

static void flush(struct receiver *v)
{
    for (int k = 0; k < v->n_fds; k++)
        while (fill_slots(v->slots, v->fds[k], MSG_DONTWAIT) >= 0)
            ;
}

void recv_main(int argc, char **argv)
{
    if (argc < 3 || argc > 4
        || (strcmp(argv[2], "sleep") && strcmp(argv[2], "spin") && strcmp(argv[2], "copy"))) {
        fprintf(stderr, "usage: ceiling recv SIZE SLOTS sleep|spin|copy [SOCKETS]\n");
        exit(2);
    }
    struct receiver v = {.sizes = sizes_of(argv[0]), .n_fds = 1};
    v.slots = slots_of((int)number(argv[1], 1, MAX_SLOTS, "slots"));
    v.flags = strcmp(argv[2], "spin") ? MSG_WAITFORONE : MSG_DONTWAIT;
    if (!strcmp(argv[2], "copy"))
        v.copies = copies_of(v.sizes.longest);
    if (argc == 4)
        v.n_fds = (int)number(argv[3], 1, MAX_SOCKETS, "sockets");
    for (int k = 0; k < v.n_fds; k++)
        v.fds[k] = open_receiver(&v.ports[k]);
    printf(v.n_fds == 1 ? "{\"ports\": [%d]}\n" : "{\"ports\": [%d, %d]}\n", v.ports[0], v.ports[1]);
    fflush(stdout);
    char line[64];
    while (next_command(line, sizeof line)) {
        struct result r = {0};
        uint64_t i = 0;
        if (!strncmp(line, "flush", 5))
            flush(&v);
        else if (!strncmp(line, "check", 5))
            receive(&v, 0, &i, &r);
        else
            receive(&v, !strncmp(line, "live", 4), NULL, &r);
        print(&r);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*main)(int, char **);
    } roles[] = {{"send", send_main}, {"recv", recv_main}, {"echo", echo_main},
                 {"forward", forward_main}, {"ping", ping_main}};
    for (size_t i = 0; argc > 1 && i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(argv[1], roles[i].name)) {
            roles[i].main(argc - 2, argv + 2);
            return 0;
        }
    fprintf(stderr, "usage: ceiling send|recv|echo|forward|ping ..., see the top of ceiling.c\n");
    return 2;
}

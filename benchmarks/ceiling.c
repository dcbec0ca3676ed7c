/* The ceiling: the bare system calls of UDP offload on loopback, and nothing around them.
 *
 *   ceiling send SIZE COUNT SEGMENTS buffers|train PORT [PORT]
 *   ceiling recv SIZE SLOTS sleep|spin [SOCKETS]
 *
 * It prints {"ports": [...]}, then reads commands from stdin, one a line, and answers each
 * with one line of JSON; it ends with stdin, and by its own alarm if a command takes too long.
 *
 *   send:  SECONDS CALLS [MARK]   send for so long, or, where SECONDS is 0, so many calls of
 *                          sendmmsg, then the mark of the end to each port: a datagram of MARK
 *                          bytes, of none if nothing is said
 *   recv:  flush           throw away what is queued
 *          live            receive up to the mark; the clocks start behind the first message
 *          full            the same of a queue that was filled before; the clocks start at once
 *
 * One call of sendmmsg carries COUNT datagrams of SIZE bytes in as few messages as SEGMENTS and
 * the 65507 bytes of an IPv4 datagram allow: from separate buffers, or from one block of memory
 * (train).  Two ports take the datagrams in turn, grouped by port.  Everything is laid out once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* include/uapi/linux/udp.h, Linux 4.18 */
#endif
#ifndef UDP_GRO
#define UDP_GRO 104 /* Linux 5.0 */
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

enum {
    MAX_COUNT = 1024,         /* datagrams a call */
    MAX_SLOTS = 64,
    MAX_PORTS = 2,
    SLOT = 65536,             /* no UDP message, merged or not, is longer than 65535 */
    PAYLOAD = 65507,          /* 65535 - 20 - 8: IPv4 total length less its and UDP's header */
    RECEIVE_BUFFER = 32 << 20,
    LIMIT_S = 60,             /* for one command, beyond its own duration */
    IDLE_LIMIT_S = 900,       /* waiting for a command */
    CALLS_A_LOOK = 16         /* calls between two looks at the clock */
};

struct result {
    uint64_t datagrams, calls, measured, wrong;
    double seconds, cpu;
};

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void start(struct result *r)
{
    r->cpu = now(CLOCK_PROCESS_CPUTIME_ID); /* user and system, as getrusage, but in ns */
    r->seconds = now(CLOCK_MONOTONIC);
}

static void stop(struct result *r)
{
    r->seconds = now(CLOCK_MONOTONIC) - r->seconds;
    r->cpu = now(CLOCK_PROCESS_CPUTIME_ID) - r->cpu;
}

static void die(const char *what)
{
    fprintf(stderr, "ceiling: %s: %s\n", what, errno ? strerror(errno) : "wrong argument");
    exit(1);
}

static long number(const char *text, long low, long high, const char *what)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < low || value > high) {
        fprintf(stderr, "ceiling: %s %s, must be %ld to %ld\n", what, text, low, high);
        exit(2);
    }
    return value;
}

static void *memory(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        die("memory");
    return p;
}

static void print(const struct result *r)
{
    printf("{\"datagrams\": %llu, \"calls\": %llu, \"measured\": %llu, \"wrong\": %llu,"
           " \"seconds\": %.9f, \"cpu\": %.9f}\n",
           (unsigned long long)r->datagrams, (unsigned long long)r->calls,
           (unsigned long long)r->measured, (unsigned long long)r->wrong, r->seconds, r->cpu);
    fflush(stdout);
}

/* ---- sending ---- */

struct train {
    struct sockaddr_in to[MAX_PORTS];
    struct mmsghdr messages[MAX_COUNT];
    struct iovec iov[MAX_COUNT];
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(uint16_t))];
    } control[MAX_COUNT];
    int sizes[MAX_COUNT]; /* datagrams of a message */
    int n_messages, n_ports, fd;
};

static void add_message(struct train *t, int port, struct iovec *iov, int n_iov, int n, int size)
{
    struct msghdr *m = &t->messages[t->n_messages].msg_hdr;
    m->msg_name = &t->to[port];
    m->msg_namelen = sizeof t->to[port];
    m->msg_iov = iov;
    m->msg_iovlen = (size_t)n_iov;
    if (n > 1) { /* never on a single datagram: some kernels refuse it */
        struct cmsghdr *c = &t->control[t->n_messages].head;
        uint16_t segment = (uint16_t)size;
        m->msg_control = c;
        m->msg_controllen = sizeof t->control[0];
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(c), &segment, sizeof segment);
    }
    t->sizes[t->n_messages++] = n;
}

static void lay_out(struct train *t, int size, int count, int segments, int contiguous)
{
    int longest = PAYLOAD / size < segments ? PAYLOAD / size : segments;
    int used = 0;
    for (int port = 0; port < t->n_ports; port++) {
        int left = count / t->n_ports + (port < count % t->n_ports);
        char *block = contiguous ? memory((size_t)left * (size_t)size) : NULL;
        while (left) {
            int n = left < longest ? left : longest;
            struct iovec *iov = &t->iov[used];
            if (contiguous) {
                iov[0] = (struct iovec){block, (size_t)n * (size_t)size};
                block += (size_t)n * (size_t)size;
                used += 1;
            } else {
                for (int i = 0; i < n; i++)
                    iov[i] = (struct iovec){memory((size_t)size), (size_t)size};
                used += n;
            }
            add_message(t, port, iov, contiguous ? 1 : n, n, size);
            left -= n;
        }
    }
}

static void send_call(struct train *t, struct result *r)
{
    int done = 0;
    while (done < t->n_messages) {
        int sent = sendmmsg(t->fd, t->messages + done, (unsigned)(t->n_messages - done), 0);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            die("sendmmsg");
        }
        for (int i = 0; i < sent; i++)
            r->measured += (uint64_t)t->sizes[done + i];
        done += sent;
        r->calls++;
    }
}

static void send_main(int argc, char **argv)
{
    if (argc < 5 || argc > 4 + MAX_PORTS) {
        fprintf(stderr, "usage: ceiling send SIZE COUNT SEGMENTS buffers|train PORT [PORT]\n");
        exit(2);
    }
    struct train *t = memory(sizeof *t);
    int size = (int)number(argv[0], 1, PAYLOAD, "size");
    int count = (int)number(argv[1], 1, MAX_COUNT, "count");
    int segments = (int)number(argv[2], 1, 128, "segments");
    t->n_ports = argc - 4;
    for (int i = 0; i < t->n_ports; i++) {
        t->to[i].sin_family = AF_INET;
        t->to[i].sin_port = htons((uint16_t)number(argv[4 + i], 1, 65535, "port"));
        t->to[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    t->fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (t->fd < 0)
        die("socket");
    lay_out(t, size, count, segments, !strcmp(argv[3], "train"));
    printf("{\"ports\": []}\n");
    fflush(stdout);
    char line[64];
    while (alarm(IDLE_LIMIT_S), fgets(line, sizeof line, stdin)) {
        double seconds = 0;
        long calls = 0;
        unsigned mark = 0;
        if (sscanf(line, "%lf %ld %u", &seconds, &calls, &mark) < 2 || seconds < 0 || seconds > 60
            || mark > sizeof line) {
            errno = 0;
            die(line);
        }
        alarm((unsigned)seconds + LIMIT_S);
        struct result r = {0};
        start(&r);
        double end = r.seconds + seconds;
        if (seconds > 0)
            do
                for (int i = 0; i < CALLS_A_LOOK; i++)
                    send_call(t, &r);
            while (now(CLOCK_MONOTONIC) < end);
        else
            for (long i = 0; i < calls; i++)
                send_call(t, &r);
        stop(&r);
        for (int i = 0; i < t->n_ports; i++)
            sendto(t->fd, line, mark, 0, (struct sockaddr *)&t->to[i], sizeof t->to[i]);
        r.datagrams = r.measured;
        print(&r);
    }
}

/* ---- receiving ---- */

struct slots {
    struct mmsghdr messages[MAX_SLOTS];
    struct iovec iov[MAX_SLOTS];
    struct sockaddr_storage from[MAX_SLOTS];
    union {
        struct cmsghdr head;
        char space[64];
    } control[MAX_SLOTS];
    int n, size;
};

static int open_receiver(int *port)
{
    int one = 1, bytes = RECEIVE_BUFFER, fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof a;
    if (fd < 0)
        die("socket");
    if (setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one))
        die("UDP_GRO");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &length))
        die("bind");
    *port = ntohs(a.sin_port);
    return fd;
}

/* Return the datagrams of one call; -1: nothing there.  *ended is set by the mark. */
static long receive_call(struct slots *s, int fd, int flags, struct result *r, int *ended)
{
    for (int i = 0; i < s->n; i++) {
        s->messages[i].msg_hdr.msg_namelen = sizeof s->from[i];
        s->messages[i].msg_hdr.msg_controllen = sizeof s->control[i];
    }
    int got = recvmmsg(fd, s->messages, (unsigned)s->n, flags, NULL);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return -1;
        die("recvmmsg");
    }
    long datagrams = 0;
    r->calls++;
    for (int i = 0; i < got; i++) {
        struct msghdr *m = &s->messages[i].msg_hdr;
        int length = (int)s->messages[i].msg_len, segment = length;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
            if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO)
                memcpy(&segment, CMSG_DATA(c), sizeof segment);
        if (!length)
            *ended = 1;
        else {
            if (segment != s->size || length % segment)
                r->wrong++;
            datagrams += (length + segment - 1) / segment;
        }
    }
    return datagrams;
}

static void receive(struct slots *s, const int *fds, int n_fds, int flags, int live, struct result *r)
{
    int ended[MAX_PORTS] = {0}, open = n_fds;
    start(r);
    while (open) {
        for (int i = 0; i < n_fds; i++) {
            if (ended[i])
                continue;
            long n = receive_call(s, fds[i], flags, r, &ended[i]);
            if (n >= 0) {
                r->datagrams += (uint64_t)n;
                if (live) {
                    live = 0;
                    start(r);
                } else
                    r->measured += (uint64_t)n;
            }
            if (ended[i])
                open--;
        }
    }
    stop(r);
}

static void recv_main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: ceiling recv SIZE SLOTS sleep|spin [SOCKETS]\n");
        exit(2);
    }
    struct slots *s = memory(sizeof *s);
    s->size = (int)number(argv[0], 1, PAYLOAD, "size");
    s->n = (int)number(argv[1], 1, MAX_SLOTS, "slots");
    int flags = strcmp(argv[2], "spin") ? MSG_WAITFORONE : MSG_DONTWAIT;
    int n_fds = argc == 4 ? (int)number(argv[3], 1, MAX_PORTS, "sockets") : 1;
    int fds[MAX_PORTS], ports[MAX_PORTS] = {0};
    for (int i = 0; i < s->n; i++) {
        s->iov[i] = (struct iovec){memory(SLOT), SLOT};
        s->messages[i].msg_hdr = (struct msghdr){.msg_name = &s->from[i], .msg_iov = &s->iov[i],
                                                 .msg_iovlen = 1, .msg_control = &s->control[i]};
    }
    for (int i = 0; i < n_fds; i++)
        fds[i] = open_receiver(&ports[i]);
    if (n_fds == 1)
        printf("{\"ports\": [%d]}\n", ports[0]);
    else
        printf("{\"ports\": [%d, %d]}\n", ports[0], ports[1]);
    fflush(stdout);
    char line[64];
    while (alarm(IDLE_LIMIT_S), fgets(line, sizeof line, stdin)) {
        struct result r = {0};
        int ignored = 0;
        alarm(LIMIT_S);
        if (!strncmp(line, "flush", 5)) {
            for (int i = 0; i < n_fds; i++)
                while (receive_call(s, fds[i], MSG_DONTWAIT, &r, &ignored) >= 0)
                    ;
        } else
            receive(s, fds, n_fds, flags, !strncmp(line, "live", 4), &r);
        print(&r);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "send"))
        send_main(argc - 2, argv + 2);
    else if (argc > 1 && !strcmp(argv[1], "recv"))
        recv_main(argc - 2, argv + 2);
    else {
        fprintf(stderr, "usage: ceiling send|recv ..., see the top of ceiling.c\n");
        return 2;
    }
    return 0;
}

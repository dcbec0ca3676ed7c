/* The two peers of a relay, and the ceiling of relaying: the bare system calls, and the checks.
 *
 *   relay ends SIZE SEGMENTS VNI [PORT PORT]
 *   relay relay VNI PORT PORT
 *   relay forward PORT
 *
 * Each prints {"ports": [...]}, and ends with its parent.
 *
 * ends: two sockets, of which the first sends and the second receives, by way of the relay.
 * Trains are of SEGMENTS datagrams, fewer where 65507 bytes allow no more: a Geneve header, a
 * serial number, and a pattern, SIZE bytes of payload in all.  It answers each line on stdin
 * with one line of JSON, in which "datagrams" were sent and "measured" were received:
 *
 *   run PORT SECONDS WINDOW    send to the relay's PORT, with WINDOW trains on the way at most
 *   fill PORT TRAINS           send, and receive nothing
 *   collect                    receive what fill has sent
 *   check PORT TRAINS          run for so many trains, and look at every byte
 *
 * What has not come after 1 s in which nothing came is lost.  Every datagram's header, length
 * and serial number is looked at; "wrong" counts what was not sent so, or came twice or late.
 *
 * relay: what comes from one peer by VNI goes to the other, if every datagram of a train
 * carries a header that is right.  forward: what comes goes to PORT, out of another socket.
 */
#include "child.h"
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    SLOTS = 16,
    HEADER = 8,
    SERIAL = 8,
    RECEIVE_BUFFER = 32 << 20, /* of the receiving end; that of a relay is 7 MiB, as all have it */
    RELAY_BUFFER = 7 << 20,
    RUN_LIMIT_S = 60,    /* for one command */
    FLOWS = 1024         /* a power of two */
};

static struct sockaddr_in loopback(long port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int open_socket(long *port, int buffer)
{
    int one = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = loopback(*port);
    socklen_t length = sizeof a;
    if (fd < 0 || setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one))
        die("UDP_GRO");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &length))
        die("bind");
    *port = ntohs(a.sin_port);
    return fd;
}

static void say_ports(long one, long other)
{
    if (other)
        printf("{\"ports\": [%ld, %ld]}\n", one, other);
    else
        printf("{\"ports\": [%ld]}\n", one);
    fflush(stdout);
}

/* ---- the two peers ---- */

struct ends {
    int in, out, size, segments; /* size of a datagram, header and all */
    unsigned char header[HEADER], *train;
    struct slots *slots;
    uint64_t next, expected; /* serial numbers: to be sent, to come */
    uint64_t sent, received, wrong;
};

static void send_train(struct ends *e, struct sockaddr_in *to)
{
    union control control;
    struct iovec iov = {e->train, (size_t)e->size * (size_t)e->segments};
    struct msghdr m = {.msg_name = to, .msg_namelen = sizeof *to, .msg_iov = &iov, .msg_iovlen = 1};
    if (e->segments > 1) /* never on a single datagram: some kernels refuse it */
        set_segment(&m, &control, e->size);
    for (int i = 0; i < e->segments; i++, e->next++)
        memcpy(e->train + (size_t)i * (size_t)e->size + HEADER, &e->next, SERIAL);
    while (sendmsg(e->out, &m, 0) < 0)
        if (errno != EINTR)
            die("sendmsg");
    e->sent += (uint64_t)e->segments;
}

static void look_at(struct ends *e, const unsigned char *data, int length, int whole)
{
    uint64_t serial;
    if (length != e->size || memcmp(data, e->header, HEADER)) {
        e->wrong++;
        return;
    }
    memcpy(&serial, data + HEADER, SERIAL);
    const unsigned char *model = e->train + serial % (uint64_t)e->segments * (uint64_t)e->size;
    if (serial < e->expected || serial >= e->next
        || (whole && memcmp(data + HEADER + SERIAL, model + HEADER + SERIAL,
                            (size_t)length - HEADER - SERIAL)))
        e->wrong++;
    e->expected = serial + 1;
    e->received++;
}

/* Return whether anything came. */
static int take(struct ends *e, int whole)
{
    int got = fill_slots(e->slots, e->in, MSG_DONTWAIT);
    for (int i = 0; i < got; i++) {
        int length = (int)e->slots->messages[i].msg_len, segment = segment_of(e->slots, i);
        const unsigned char *data = e->slots->iov[i].iov_base;
        for (int at = 0; at < length; at += segment)
            look_at(e, data + at, length - at < segment ? length - at : segment, whole);
    }
    return got > 0;
}

static void run(struct ends *e, struct sockaddr_in *to, double seconds, uint64_t trains, uint64_t window,
                int whole)
{
    double start = now(CLOCK_MONOTONIC), end = start + seconds, heard = start, at = start;
    uint64_t last = e->next + trains * (uint64_t)e->segments;
    for (unsigned turn = 1;; turn++) {
        int sending = seconds > 0 ? at < end : e->next < last;
        if (sending && e->next - e->expected <= (window - 1) * (uint64_t)e->segments)
            send_train(e, to);
        int came = take(e, whole);
        if (came || turn % 16 == 0)
            at = now(CLOCK_MONOTONIC);
        if (came)
            heard = at;
        else if (at > heard + 1)
            e->expected = e->next; /* lost */
        if (!sending && e->expected == e->next)
            break;
    }
}

static void ends_main(int argc, char **argv)
{
    if (argc != 3 && argc != 5)
        die("ends");
    struct ends e = {.size = (int)number(argv[0], SERIAL, PAYLOAD - HEADER, "size") + HEADER};
    long vni = number(argv[2], 0, 0xFFFFFF, "VNI"), ports[2] = {0, 0};
    int most = (int)number(argv[1], 1, 128, "segments");
    e.segments = PAYLOAD / e.size < most ? PAYLOAD / e.size : most;
    for (int i = 0; argc == 5 && i < 2; i++)
        ports[i] = number(argv[3 + i], 0, 65535, "port");
    e.out = open_socket(&ports[0], RELAY_BUFFER);
    e.in = open_socket(&ports[1], RECEIVE_BUFFER);
    e.slots = slots_of(SLOTS);
    memcpy(e.header, (unsigned char[]){0, 0, 0x7A, 0x12, vni >> 16 & 255, vni >> 8 & 255, vni & 255, 0}, HEADER);
    e.train = memory((size_t)e.size * (size_t)e.segments);
    for (int i = 0; i < e.segments; i++)
        for (int j = 0; j < e.size; j++)
            e.train[i * e.size + j] = j < HEADER ? e.header[j] : (unsigned char)(7 * i + 13 * j + (j >> 8));
    say_ports(ports[0], ports[1]);
    char line[64];
    while (alarm(IDLE_LIMIT_S), fgets(line, sizeof line, stdin)) {
        long port = 1, trains = 0;
        double seconds = 0, start = now(CLOCK_MONOTONIC);
        unsigned window = 1;
        alarm(RUN_LIMIT_S);
        e.sent = e.received = e.wrong = 0;
        if (sscanf(line, "run %ld %lf %u", &port, &seconds, &window) == 3 && seconds > 0 && seconds <= 60) {
            struct sockaddr_in to = loopback(port);
            run(&e, &to, seconds, 0, window, 0);
        } else if (sscanf(line, "check %ld %ld", &port, &trains) == 2) {
            struct sockaddr_in to = loopback(port);
            run(&e, &to, 0, (uint64_t)trains, 2, 1);
        } else if (sscanf(line, "fill %ld %ld", &port, &trains) == 2) {
            struct sockaddr_in to = loopback(port);
            for (long i = 0; i < trains; i++)
                send_train(&e, &to);
        } else if (!strncmp(line, "collect", 7))
            run(&e, NULL, 0, 0, 1, 0);
        else
            die(line);
        printf("{\"datagrams\": %llu, \"calls\": 0, \"measured\": %llu, \"wrong\": %llu, \"seconds\": %.9f,"
               " \"cpu\": 0}\n", (unsigned long long)e.sent, (unsigned long long)e.received,
               (unsigned long long)e.wrong, now(CLOCK_MONOTONIC) - start);
        fflush(stdout);
    }
}

/* ---- the ceilings ---- */

struct flow {
    int is_bound;
    unsigned char vni[3];
    struct sockaddr_in peers[2];
};

static struct flow flows[FLOWS];

static struct flow *flow_of(const unsigned char *vni)
{
    unsigned place = (vni[0] * 65599u + vni[1] * 257u + vni[2]) % FLOWS;
    while (flows[place].is_bound && memcmp(flows[place].vni, vni, 3))
        place = (place + 1) % FLOWS;
    return &flows[place];
}

/* Return where a message goes, NULL: nowhere.  Every datagram's header is checked. */
static struct sockaddr_in *way_of(const unsigned char *data, int length, int segment,
                                  const struct sockaddr_in *from)
{
    uint64_t first, header;
    if (length < HEADER || segment < HEADER || (length % segment && length % segment < HEADER))
        return NULL;
    memcpy(&first, data, HEADER);
    for (int at = segment; at < length; at += segment) {
        memcpy(&header, data + at, HEADER);
        if (header != first)
            return NULL;
    }
    struct flow *flow = flow_of(data + 4);
    if (data[0] || data[1] & 0x80 || !flow->is_bound)
        return NULL;
    for (int i = 0; i < 2; i++)
        if (from->sin_port == flow->peers[i].sin_port
            && from->sin_addr.s_addr == flow->peers[i].sin_addr.s_addr)
            return &flow->peers[1 - i];
    return NULL;
}

static void forward(int in, int out, struct sockaddr_in *fixed)
{
    struct slots *s = slots_of(SLOTS);
    struct mmsghdr passing[SLOTS];
    for (;;) {
        int got = fill_slots(s, in, MSG_WAITFORONE), n = 0;
        for (int i = 0; i < got; i++) {
            struct msghdr *m = &s->messages[i].msg_hdr;
            int length = (int)s->messages[i].msg_len, segment = segment_of(s, i);
            struct sockaddr_in *from = (struct sockaddr_in *)&s->from[i];
            struct sockaddr_in *to = fixed ? fixed : way_of(s->iov[i].iov_base, length, segment, from);
            if (!to)
                continue;
            *from = *to;
            s->iov[i].iov_len = (size_t)length;
            m->msg_controllen = 0;
            if (segment < length)
                set_segment(m, &s->control[i], segment);
            passing[n++].msg_hdr = *m;
        }
        for (int done = 0, sent; done < n; done += sent)
            if ((sent = sendmmsg(out, passing + done, (unsigned)(n - done), 0)) < 0) {
                if (errno != EINTR)
                    die("sendmmsg");
                sent = 0;
            }
        for (int i = 0; i < got; i++)
            s->iov[i].iov_len = SLOT;
    }
}

int main(int argc, char **argv)
{
    long port = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc > 1 && !strcmp(argv[1], "ends")) {
        ends_main(argc - 2, argv + 2);
        return 0;
    }
    if (argc == 5 && !strcmp(argv[1], "relay")) {
        long vni = number(argv[2], 0, 0xFFFFFF, "VNI");
        unsigned char key[3] = {vni >> 16 & 255, vni >> 8 & 255, vni & 255};
        struct flow *flow = flow_of(key);
        *flow = (struct flow){1, {key[0], key[1], key[2]},
                              {loopback(number(argv[3], 1, 65535, "port")), loopback(number(argv[4], 1, 65535, "port"))}};
        int fd = open_socket(&port, RELAY_BUFFER);
        say_ports(port, 0);
        forward(fd, fd, NULL);
    } else if (argc == 3 && !strcmp(argv[1], "forward")) {
        struct sockaddr_in to = loopback(number(argv[2], 1, 65535, "port"));
        int in = open_socket(&port, RELAY_BUFFER), out = socket(AF_INET, SOCK_DGRAM, 0);
        say_ports(port, 0);
        forward(in, out, &to);
    }
    errno = 0;
    die("ends|relay|forward ..., see the top of relay.c");
}

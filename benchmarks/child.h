/* What the programs in C share: the protocol of benchmarks/peers/README.md, and slots to receive
 * into.  ceiling.c sends and receives, passing.c echoes, forwards and pings, relay.c relays.
 */
#ifndef CHILD_H
#define CHILD_H
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

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
    MAX_SLOTS = 64,
    MAX_SIZES = 64,           /* of a mixture */
    SLOT = 65536,             /* no UDP message, merged or not, is longer than 65535 */
    PAYLOAD = 65507,          /* 65535 - 20 - 8: IPv4 total length less its and UDP's header */
    LONGEST_MARK = 1,         /* bytes: a datagram of so many, or of none, is the mark of the end */
    BEFORE_MARK_NS = 2000000, /* behind all that may still be merged on its way, to be passed by none */
    LIMIT_S = 120,            /* for one command, which runs for half of that at most */
    IDLE_LIMIT_S = 900        /* waiting for a command */
};

struct result {
    uint64_t datagrams, calls, measured, wrong;
    double seconds, cpu;
};

double now(clockid_t clock);
void start(struct result *r); /* the clocks */
void stop(struct result *r);
void print(const struct result *r);
int next_command(char *line, int length); /* 0: stdin has ended */

_Noreturn void die(const char *what);
long number(const char *text, long low, long high, const char *what);
void *memory(size_t bytes);

/* SIZE, or a list that is cycled through, separated by commas. */
struct sizes {
    int n, each[MAX_SIZES], longest;
};
struct sizes sizes_of(const char *text);

void fill(uint8_t *data, uint64_t i, int size);
int differs(const uint8_t *data, uint64_t i, int size);

struct sockaddr_in destination(const char *text); /* PORT of 127.0.0.1, or HOST:PORT */
int open_sender(void);
int open_receiver(int *port); /* at BENCH_HOST; with UDP_GRO */

union control {
    struct cmsghdr head;
    char space[64];
};
void set_segment(struct msghdr *m, union control *control, int size);

struct slots {
    struct mmsghdr messages[MAX_SLOTS];
    struct iovec iov[MAX_SLOTS];
    struct sockaddr_storage from[MAX_SLOTS];
    union control control[MAX_SLOTS];
    int n;
};
struct slots *slots_of(int n);
int fill_slots(struct slots *s, int fd, int flags); /* messages received; -1: nothing there */
int segment_of(struct slots *s, int i);             /* bytes of each datagram of a message */

void send_main(int argc, char **argv);
void recv_main(int argc, char **argv);
void echo_main(int argc, char **argv);
void forward_main(int argc, char **argv);
void ping_main(int argc, char **argv);
#endif

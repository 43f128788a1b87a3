/* The upstream of the benchmark: much faster than what is measured, and the same for all.
 *
 *     upstream PORT BIG     on 127.0.0.1; BIG: bytes of base64 in a big answer
 *
 * Reads a request's body whole (Content-Length or chunked), keeps none of it, and answers a small JSON with one url; a
 * generation whose body has "@big" in it gets a big b64_json. GET /stats: requests answered and body bytes read so far.
 * One thread, epoll, level-triggered. Clients that pipeline are not served.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum state { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, LAST_LINE };

struct connection {
    int fd;
    enum state state;
    int generation, big, waits;   /* waits: for the socket to take more */
    size_t left;                  /* of the body, or of the chunk */
    size_t held;                  /* of the head */
    char head[16384];
    char stats[256];
    const char *out;
    size_t out_left;
};

static int poller;
static unsigned long long answered, body_bytes;
static char *small_answer, *big_answer;
static size_t small_size, big_size;
static char buffer[1 << 18];

static char *compose(const char *before, size_t filler, const char *after, size_t *size) {
    size_t body = strlen(before) + filler + strlen(after);
    char *text = malloc(body + 256);
    int at = sprintf(text, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     body, before);
    memset(text + at, 'A', filler);
    strcpy(text + at + filler, after);
    *size = at + filler + strlen(after);
    return text;
}

static void drop(struct connection *c) {
    close(c->fd);
    free(c);
}

/* 0: everything is written, or waits; -1: the other side has gone. */
static int write_out(struct connection *c) {
    while (c->out_left) {
        ssize_t n = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return -1;
        if (n < 0) break;
        c->out += n;
        c->out_left -= n;
    }
    if (c->waits != (c->out_left > 0)) {
        c->waits = c->out_left > 0;
        struct epoll_event event = {.events = EPOLLIN | (c->waits ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    }
    return 0;
}

static int answer(struct connection *c) {
    answered++;
    c->out = c->big ? big_answer : small_answer;
    c->out_left = c->big ? big_size : small_size;
    c->state = HEAD;
    c->held = 0;
    return write_out(c);
}

static int answer_stats(struct connection *c) {
    char body[128];
    int size = sprintf(body, "{\"requests\":%llu,\"body_bytes\":%llu}", answered, body_bytes);
    c->out = c->stats;
    c->out_left = sprintf(c->stats, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, body);
    c->held = 0;
    return write_out(c);
}

/* The head is complete, with a 0 behind it. */
static int begin(struct connection *c) {
    if (!strncmp(c->head, "GET ", 4)) return answer_stats(c);
    char *line_end = strstr(c->head, "\r\n"), *at;
    c->generation = (at = strstr(c->head, "/generations")) && at < line_end;
    c->big = 0;
    c->left = 0;
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) {
        c->state = CHUNK_SIZE;
        return 0;
    }
    if ((at = strcasestr(c->head, "\r\ncontent-length:"))) c->left = strtoull(at + 17, NULL, 10);
    c->state = BODY;
    return c->left ? 0 : answer(c);
}

static int take(struct connection *c, char *p, size_t n) {
    while (n) {
        size_t used = 1;
        int failed = 0;
        switch (c->state) {
        case HEAD: {
            size_t room = sizeof c->head - 1 - c->held, before = c->held;
            used = n < room ? n : room;
            if (!used) return -1;
            memcpy(c->head + before, p, used);
            c->held += used;
            char *end = memmem(c->head, c->held, "\r\n\r\n", 4);
            if (end) {
                used = end + 4 - c->head - before;
                end[4] = 0;
                failed = begin(c);
            }
            break;
        }
        case BODY:
        case CHUNK_DATA:
            used = n < c->left ? n : c->left;
            if (c->generation && memmem(p, used, "@big", 4)) c->big = 1;
            body_bytes += used;
            c->left -= used;
            if (!c->left && c->state == BODY) failed = answer(c);
            else if (!c->left) c->state = CHUNK_END;
            break;
        case CHUNK_SIZE:
            if (*p == '\n') c->state = c->left ? CHUNK_DATA : LAST_LINE;
            else if (*p >= '0' && *p <= '9') c->left = c->left * 16 + *p - '0';
            else if ((*p | 32) >= 'a' && (*p | 32) <= 'f') c->left = c->left * 16 + (*p | 32) - 'a' + 10;
            break;
        case CHUNK_END:
            if (*p == '\n') c->state = CHUNK_SIZE;
            break;
        case LAST_LINE:
            if (*p == '\n') failed = answer(c);
            break;
        }
        if (failed) return -1;
        p += used;
        n -= used;
    }
    return 0;
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    small_answer = compose("{\"created\":1763800000,\"data\":[{\"url\":\"https://images.example.com/", 200,
                           ".png\"}]}", &small_size);
    big_answer = compose("{\"created\":1763800000,\"data\":[{\"b64_json\":\"", strtoull(argv[2], NULL, 10),
                         "\"}]}", &big_size);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if ((events[i].events & EPOLLOUT) && write_out(c)) {
                drop(c);
                continue;
            }
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
            if (n < 0 && errno == EAGAIN) continue;
            if (n <= 0 || take(c, buffer, n)) drop(c);
        }
    }
}

// Senders and a primary that are fast enough for a million messages, each with a ledger in shared memory.
//
//   load source ADDRESS PORT LEDGER [key=value…]      load sink PORT LEDGER
//
// A ledger is a file of one 8-byte entry per message; readers may map it at any time.
// What the source writes: state (0 nothing, 1 sent, 2 promised, code << 8 | 3 refused) and microseconds to the 250.
// What the sink writes:   arrivals (bits 0…7), 0x100 content changed, 0x200 put off once, 0x400 refused; bytes.
//
// Message N begins with `X-Load: N HASH`; HASH is FNV-1a of all behind that line, so the sink needs no copy.
// Recipients `bounce…` get a 550, `defer…` get a 451 the first time.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { INPUT = 65536, LINE = 2048, BLOCK = 1 << 21, LARGE_MIN = 300 << 10, LARGE_MAX = 1 << 20, SESSIONS = 65536 };

typedef struct { uint32_t state, value; } Entry;
static Entry *ledger;
static long entries;

static void die(const char *what) { perror(what); exit(1); }

static uint64_t micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static uint64_t mixed(uint64_t x) {  // splitmix64: a message is a function of its number
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static const uint64_t FNV = 0xcbf29ce484222325;
static uint64_t fnv(uint64_t hash, const char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3;
    return hash;
}

static void open_ledger(const char *path) {
    int file = open(path, O_RDWR);
    struct stat facts;
    if (file < 0 || fstat(file, &facts)) die(path);
    entries = facts.st_size / sizeof(Entry);
    ledger = mmap(NULL, facts.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (ledger == MAP_FAILED) die("mmap");
    close(file);
}

// One connection of either kind

typedef struct Peer {
    int socket, serial, phase, replies, is_writing;
    char input[LINE * 4];
    size_t have;
    char *output;
    size_t length, sent, capacity;
    // source
    long message, left;
    uint64_t began;
    int uses_chunks;
    // sink
    int offers_chunks, dots, is_null, recipients, is_ready;
    long chunk;
    int is_last;
    uint64_t hash, announced;
    char head[64];
    size_t head_length;
    long taken;
} Peer;

static int poller;

static void watch(Peer *peer, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(poller, operation, peer->socket, &event)) die("epoll_ctl");
}

static void put(Peer *peer, const char *bytes, size_t count) {
    if (peer->length + count > peer->capacity) {
        peer->capacity = (peer->length + count) * 2;
        peer->output = realloc(peer->output, peer->capacity);
        if (!peer->output) die("realloc");
    }
    memcpy(peer->output + peer->length, bytes, count);
    peer->length += count;
}

__attribute__((format(printf, 2, 3))) static void say(Peer *peer, const char *format, ...) {
    char line[LINE];
    va_list list;
    va_start(list, format);
    int count = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    put(peer, line, count);
}

// False when the connection is broken.
static int flush(Peer *peer) {
    while (peer->sent < peer->length) {
        ssize_t count = send(peer->socket, peer->output + peer->sent, peer->length - peer->sent, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return 0;
            if (!peer->is_writing) watch(peer, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            peer->is_writing = 1;
            return 1;
        }
        peer->sent += count;
    }
    if (peer->capacity > 65536) {
        free(peer->output);
        peer->output = NULL;
        peer->capacity = 0;
    }
    peer->sent = peer->length = 0;
    if (peer->is_writing) watch(peer, EPOLL_CTL_MOD, EPOLLIN);
    peer->is_writing = 0;
    return 1;
}

// The source

static struct {
    const char *address, *domain, *sender_domain;
    int port, connections, domains, bind_from, bounces, defers, large, size_min, size_max, sources;
    long first, count, per_connection;
    double rate;
} plan = {.domain = "d%d.test", .sender_domain = "sender.test", .connections = 50, .domains = 20, .bind_from = 0,
          .size_min = 300, .size_max = 6000, .per_connection = 200, .sources = 1};

static long next_message, finished;
static uint64_t began_at;
static Peer **idle;
static int idle_count;
static char *block;
enum { GREETING, HELLO, READY, ENVELOPE, CONTENT, CHUNKS, BYE };

static void connect_again(Peer *peer) {
    if (peer->socket >= 0) close(peer->socket);
    peer->have = peer->length = peer->sent = peer->is_writing = 0;
    peer->phase = GREETING;
    peer->replies = 1;
    peer->left = 1 + mixed(peer->serial * 7919 + next_message) % plan.per_connection;
    peer->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->socket < 0) die("socket");
    int one = 1;
    setsockopt(peer->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(plan.port)};
    if (plan.bind_from) {  // 127.N.0.1, 127.N.1.1, …: networks of their own
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(127u << 24 | plan.bind_from << 16 | (peer->serial % plan.sources) << 8 | 1);
        setsockopt(peer->socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(peer->socket, (struct sockaddr *)&from, sizeof from)) die("bind");
    }
    inet_pton(AF_INET, plan.address, &to.sin_addr);
    if (connect(peer->socket, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    watch(peer, EPOLL_CTL_ADD, EPOLLIN);
}

static void begin_message(Peer *peer) {
    long number = next_message++;
    uint64_t luck = mixed(number);
    peer->message = number;
    peer->began = micros();
    long size = plan.size_min + luck % (plan.size_max - plan.size_min + 1);
    if ((long)(luck >> 20) % 100000 < plan.large) size = LARGE_MIN + (luck >> 8) % (LARGE_MAX - LARGE_MIN);
    int kind = (luck >> 40) % 100000;
    const char *user = kind < plan.bounces ? "bounce" : kind < plan.bounces + plan.defers ? "defer" : "user";
    char domain[128], head[512];
    snprintf(domain, sizeof domain, plan.domain, (int)(number % plan.domains));
    int recipients = (luck >> 52) % 20 == 0 && *user == 'u' ? 3 : 1;
    int length = snprintf(head, sizeof head,
        "Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nFrom: <from@%s>\r\nTo: <%s@%s>\r\n"
        "Message-ID: <%ld@load.test>\r\nSubject: load\r\n\r\n", plan.sender_domain, user, domain, number);
    const char *body = block + 78 * ((luck >> 30) % ((BLOCK - size) / 78));
    size = size / 78 * 78 + 78;  // whole lines
    uint64_t hash = fnv(fnv(FNV, head, length), body, size);
    char first[64];
    int first_length = snprintf(first, sizeof first, "X-Load: %ld %016lx\r\n", number, (unsigned long)hash);
    say(peer, "MAIL FROM:<from@%s>\r\n", plan.sender_domain);
    for (int i = 0; i < recipients; i++) say(peer, "RCPT TO:<%s%d-%ld@%s>\r\n", user, i, number, domain);
    peer->replies = 1 + recipients + 1;
    ledger[number].state = 1;
    if (peer->uses_chunks) {
        peer->phase = CHUNKS;
        say(peer, "BDAT %ld LAST\r\n", first_length + length + size);
    } else {
        peer->phase = ENVELOPE;
        say(peer, "DATA\r\n");
        if (!flush(peer)) return;
    }
    // With DATA it waits here for the 354: `sent` stays where it is.
    if (peer->uses_chunks) {
        put(peer, first, first_length);
        put(peer, head, length);
        put(peer, body, size);
    }
    if (!peer->uses_chunks) {
        peer->head_length = 0;
        peer->taken = size;
        peer->announced = body - block;
        peer->hash = hash;
    }
}

static void send_content(Peer *peer) {
    long number = peer->message;
    uint64_t luck = mixed(number);
    int kind = (luck >> 40) % 100000;
    const char *user = kind < plan.bounces ? "bounce" : kind < plan.bounces + plan.defers ? "defer" : "user";
    char domain[128];
    snprintf(domain, sizeof domain, plan.domain, (int)(number % plan.domains));
    say(peer, "X-Load: %ld %016lx\r\n", number, (unsigned long)peer->hash);
    say(peer, "Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nFrom: <from@%s>\r\nTo: <%s@%s>\r\n"
        "Message-ID: <%ld@load.test>\r\nSubject: load\r\n\r\n", plan.sender_domain, user, domain, number);
    put(peer, block + peer->announced, peer->taken);
    put(peer, ".\r\n", 3);  // no line of the block begins with a dot
    peer->phase = CONTENT;
    peer->replies = 1;
}

// False: the connection has to be made anew.
static int source_reply(Peer *peer, const char *line) {
    int code = atoi(line);
    int is_last = --peer->replies == 0;
    switch (peer->phase) {
    case GREETING:
        if (code != 220) return 0;
        say(peer, "EHLO load.test\r\n");
        peer->phase = HELLO;
        peer->replies = 1;
        return 1;
    case HELLO:
        if (code != 250) return 0;
        peer->phase = READY;
        idle[idle_count++] = peer;
        return 1;
    case ENVELOPE: case CHUNKS: case CONTENT:
        if (code != (peer->phase == ENVELOPE && is_last ? 354 : 250)) {
            ledger[peer->message].state = code << 8 | 3;
            fprintf(stderr, "%ld: %s\n", peer->message, line);
            return 0;
        }
        if (!is_last) return 1;
        if (peer->phase == ENVELOPE) { send_content(peer); return 1; }
        ledger[peer->message].value = micros() - peer->began;
        __atomic_store_n(&ledger[peer->message].state, 2, __ATOMIC_RELEASE);
        finished++;
        if (--peer->left <= 0) {
            say(peer, "QUIT\r\n");
            peer->phase = BYE;
            peer->replies = 1;
        } else {
            peer->phase = READY;
            idle[idle_count++] = peer;
        }
        return 1;
    default: return 0;
    }
}

static int take_replies(Peer *peer) {
    for (;;) {
        ssize_t count = recv(peer->socket, peer->input + peer->have, sizeof peer->input - 1 - peer->have, 0);
        if (count < 0) return errno == EAGAIN || errno == EINTR;
        if (count == 0) return 0;
        peer->have += count;
        peer->input[peer->have] = 0;
        char *line = peer->input, *end;
        while ((end = strstr(line, "\r\n"))) {
            *end = 0;
            if (line[3] != '-' && !source_reply(peer, line)) return 0;
            line = end + 2;
        }
        peer->have -= line - peer->input;
        memmove(peer->input, line, peer->have);
        if (peer->have > LINE) return 0;
        if (!flush(peer)) return 0;
    }
}

static void broken(Peer *peer) {
    for (int i = 0; i < idle_count; i++) if (idle[i] == peer) idle[i--] = idle[--idle_count];
    if (peer->phase == ENVELOPE || peer->phase == CHUNKS || peer->phase == CONTENT) finished++;
    connect_again(peer);
}

static void source(void) {
    block = malloc(BLOCK + 256);
    for (long i = 0; i < BLOCK + 256; i++)
        block[i] = i % 78 == 76 ? '\r' : i % 78 == 77 ? '\n' : "abcdefghijklmnopqrstuvwxyz0123456789 ,;"[mixed(i) % 39];
    long last = plan.count > 0 ? plan.first + plan.count : entries;
    if (last > entries) last = entries;
    next_message = plan.first;
    finished = plan.first;
    idle = calloc(plan.connections, sizeof *idle);
    Peer *peers = calloc(plan.connections, sizeof *peers);
    for (int i = 0; i < plan.connections; i++) {
        peers[i].serial = i;
        peers[i].socket = -1;
        peers[i].uses_chunks = i % 3 == 0;
        connect_again(&peers[i]);
    }
    began_at = micros();
    struct epoll_event events[512];
    while (finished < last) {
        uint64_t now = micros();
        while (idle_count && next_message < last &&
               (plan.rate <= 0 || next_message - plan.first < (now - began_at) * plan.rate / 1e6)) {
            Peer *peer = idle[--idle_count];
            begin_message(peer);
            if (!flush(peer)) broken(peer);
        }
        int count = epoll_wait(poller, events, 512, plan.rate > 0 ? 1 : 100);
        for (int i = 0; i < count; i++) {
            Peer *peer = events[i].data.ptr;
            if ((events[i].events & EPOLLOUT && !flush(peer)) ||
                (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !take_replies(peer)))
                broken(peer);
        }
    }
    printf("%ld messages in %.2f s\n", last - plan.first, (micros() - began_at) / 1e6);
}

// The sink

static long sessions, nulls, unknown;

static void content(Peer *peer, const char *bytes, size_t count) {
    // The gateway's trace fields come first: each line is looked at until X-Load has been found.
    while (count && !peer->announced) {
        const char *end = memchr(bytes, '\n', count);
        size_t part = end ? (size_t)(end - bytes) + 1 : count;
        size_t room = sizeof peer->head - 1 - peer->head_length;
        memcpy(peer->head + peer->head_length, bytes, part < room ? part : room);
        peer->head_length += part < room ? part : room;
        bytes += part;
        count -= part;
        if (!end) break;
        peer->head[peer->head_length] = 0;
        long number;
        unsigned long hash;
        if (sscanf(peer->head, "X-Load: %ld %lx", &number, &hash) == 2) {
            peer->message = number;
            peer->announced = hash;
            peer->hash = FNV;
        }
        peer->head_length = 0;
    }
    peer->hash = fnv(peer->hash, bytes, count);
    peer->taken += count;
}

static void reset(Peer *peer) {
    peer->recipients = peer->is_null = 0;
    peer->announced = 0;
    peer->message = -1;
    peer->head_length = 0;
    peer->taken = 0;
    peer->dots = 0;
}

static void took(Peer *peer) {
    if (peer->is_null) __atomic_add_fetch(&nulls, 1, __ATOMIC_RELAXED);
    else if (peer->message >= 0 && peer->message < entries) {
        Entry *entry = &ledger[peer->message];
        if (peer->hash != peer->announced) entry->state |= 0x100;
        entry->value = peer->taken;
        if ((entry->state & 0xff) < 0xff) entry->state++;
    } else unknown++;
    reset(peer);
    say(peer, "250 2.0.0 taken\r\n");
}

static long number_of(const char *line) {  // of `RCPT TO:<user0-17@…`
    const char *dash = strchr(line, '-');
    long number = dash ? atol(dash + 1) : -1;
    return number >= 0 && number < entries ? number : -1;
}

static int command(Peer *peer, char *line) {
    switch (toupper(line[0]) << 8 | toupper(line[1])) {
    case 'E' << 8 | 'H':
        say(peer, "250-sink.test\r\n250-PIPELINING\r\n%s250-8BITMIME\r\n250 SIZE 100000000\r\n",
            peer->offers_chunks ? "250-CHUNKING\r\n" : "");
        return 1;
    case 'M' << 8 | 'A':
        reset(peer);
        peer->is_null = strstr(line, ":<>") != NULL;
        say(peer, "250 2.1.0 ok\r\n");
        return 1;
    case 'R' << 8 | 'C': {
        long number = number_of(line);
        if (strstr(line, "<bounce")) {
            if (number >= 0) ledger[number].state |= 0x400;
            say(peer, "550 5.1.1 nobody\r\n");
        } else if (strstr(line, "<defer") && number >= 0 && !(ledger[number].state & 0x200)) {
            ledger[number].state |= 0x200;
            say(peer, "451 4.3.0 later\r\n");
        } else {
            peer->recipients++;
            say(peer, "250 2.1.5 ok\r\n");
        }
        return 1;
    }
    case 'D' << 8 | 'A':
        if (!peer->recipients) { say(peer, "554 5.5.1 no valid recipients\r\n"); return 1; }
        peer->dots = 1;
        say(peer, "354 go on\r\n");
        return 1;
    case 'B' << 8 | 'D': {
        char last[8] = "";
        sscanf(line + 4, "%ld %7s", &peer->chunk, last);
        peer->is_last = last[0] != 0;
        if (peer->chunk == 0) peer->chunk = -2;  // an empty one is answered at once
        return 1;
    }
    case 'R' << 8 | 'S': reset(peer); say(peer, "250 2.0.0 ok\r\n"); return 1;
    case 'N' << 8 | 'O': say(peer, "250 2.0.0 ok\r\n"); return 1;
    case 'Q' << 8 | 'U': say(peer, "221 2.0.0 bye\r\n"); flush(peer); return 0;
    default: say(peer, "502 5.5.1 no\r\n"); return 1;
    }
}

static void chunk_done(Peer *peer) {
    peer->chunk = -1;
    if (!peer->recipients) say(peer, "554 5.5.1 no valid recipients\r\n");
    else if (peer->is_last) took(peer);
    else say(peer, "250 2.0.0 chunk\r\n");
}

// Bytes of DATA: `dots` is 1 at a line's start, 2 behind a dot there, 3 behind its CR, 4 in a line.
static size_t dotted(Peer *peer, const char *bytes, size_t count) {
    size_t at = 0;
    while (at < count) {
        switch (peer->dots) {
        case 1: if (bytes[at] == '.') { at++; peer->dots = 2; } else peer->dots = 4; break;
        case 2: if (bytes[at] == '\r') { at++; peer->dots = 3; } else peer->dots = 4; break;
        case 3:
            at++;
            peer->dots = 0;
            took(peer);
            return at;
        default: {
            const char *end = memchr(bytes + at, '\n', count - at);
            size_t part = end ? (size_t)(end - bytes) + 1 - at : count - at;
            content(peer, bytes + at, part);
            at += part;
            if (end) peer->dots = 1;
        }
        }
    }
    return at;
}

static int serve(Peer *peer) {
    static char input[INPUT];
    for (;;) {
        memcpy(input, peer->input, peer->have);
        ssize_t count = recv(peer->socket, input + peer->have, sizeof input - peer->have, 0);
        if (count < 0) return errno == EAGAIN || errno == EINTR;
        if (count == 0) return 0;
        size_t length = peer->have + count, at = 0;
        while (at < length) {
            if (peer->chunk >= 0) {
                size_t part = length - at < (size_t)peer->chunk ? length - at : (size_t)peer->chunk;
                content(peer, input + at, part);
                at += part;
                peer->chunk -= part;
                if (peer->chunk == 0) chunk_done(peer);
                continue;
            }
            if (peer->dots) { at += dotted(peer, input + at, length - at); continue; }
            char *end = memmem(input + at, length - at, "\r\n", 2);
            if (!end) break;
            *end = 0;
            if (!command(peer, input + at)) return 0;
            at = end + 2 - input;
            if (peer->chunk == -2) chunk_done(peer);
        }
        peer->have = length - at;
        if (peer->have > LINE) return 0;
        memcpy(peer->input, input + at, peer->have);
        if (!flush(peer)) return 0;
    }
}

static void report(int number) {
    char text[128];
    int count = snprintf(text, sizeof text, "sessions %ld nulls %ld unknown %ld\n", sessions, nulls, unknown);
    if (write(1, text, count) < 0 || number == SIGTERM) _exit(0);
}

static void sink(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) die("listen");
    signal(SIGTERM, report);
    signal(SIGUSR1, report);
    struct epoll_event events[512], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poller, events, 512, -1);
        for (int i = 0; i < count; i++) {
            Peer *peer = events[i].data.ptr;
            if (!peer) {
                int socket;
                while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    peer = calloc(1, sizeof *peer);
                    peer->socket = socket;
                    peer->chunk = -1;
                    peer->offers_chunks = ++sessions % 2;
                    reset(peer);
                    watch(peer, EPOLL_CTL_ADD, EPOLLIN);
                    say(peer, "220 sink.test ESMTP\r\n");
                    flush(peer);
                }
                continue;
            }
            if ((events[i].events & EPOLLOUT && !flush(peer)) ||
                (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !serve(peer))) {
                close(peer->socket);
                free(peer->output);
                free(peer);
            }
        }
    }
}

int main(int count, char **words) {
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (count == 4 && !strcmp(words[1], "sink")) {
        open_ledger(words[3]);
        sink(atoi(words[2]));
    }
    if (count < 5 || strcmp(words[1], "source")) {
        fputs("load source ADDRESS PORT LEDGER [key=value…] | load sink PORT LEDGER\n", stderr);
        return 64;
    }
    plan.address = words[2];
    plan.port = atoi(words[3]);
    open_ledger(words[4]);
    for (int i = 5; i < count; i++) {
        char *value = strchr(words[i], '=');
        if (!value) return 64;
        *value++ = 0;
        const char *key = words[i];
        struct { const char *key; int *number; } numbers[] = {
            {"connections", &plan.connections}, {"domains", &plan.domains}, {"bind", &plan.bind_from},
            {"sources", &plan.sources}, {"bounces", &plan.bounces}, {"defers", &plan.defers}, {"large", &plan.large},
            {"min", &plan.size_min}, {"max", &plan.size_max}};
        int known = 1;
        if (!strcmp(key, "first")) plan.first = atol(value);
        else if (!strcmp(key, "count")) plan.count = atol(value);
        else if (!strcmp(key, "session")) plan.per_connection = atol(value);
        else if (!strcmp(key, "rate")) plan.rate = atof(value);
        else if (!strcmp(key, "domain")) plan.domain = value;
        else if (!strcmp(key, "sender")) plan.sender_domain = value;
        else known = 0;
        for (size_t j = 0; !known && j < sizeof numbers / sizeof *numbers; j++)
            if (!strcmp(key, numbers[j].key)) { *numbers[j].number = atoi(value); known = 1; }
        if (!known) { fprintf(stderr, "unknown key %s\n", key); return 64; }
    }
    source();
    return 0;
}

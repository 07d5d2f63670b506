#define _GNU_SOURCE
#include "CReactor.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/openat2.h>
#include <nmmintrin.h>

int cr_pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

int cr_allowed_cpus(int *cpus, int capacity) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
    int count = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && count < capacity; cpu++)
        if (CPU_ISSET(cpu, &set)) cpus[count++] = cpu;
    return count;
}

// The reflected Castagnoli polynomial, for processors without SSE 4.2.
static uint32_t crc32c_table[256];
static int crc32c_has_sse;

__attribute__((constructor)) static void crc32c_fill(void) {
    __builtin_cpu_init();
    crc32c_has_sse = __builtin_cpu_supports("sse4.2") ? 1 : 0;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        crc32c_table[i] = c;
    }
}

static uint32_t crc32c_portable(uint32_t crc, const unsigned char *p, size_t n) {
    while (n--) crc = crc >> 8 ^ crc32c_table[(crc ^ *p++) & 0xff];
    return crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse(uint32_t crc, const unsigned char *p, size_t n) {
    uint64_t c = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
    }
    uint32_t low = (uint32_t)c;
    while (n--) low = _mm_crc32_u8(low, *p++);
    return low;
}

uint32_t cr_crc32c(uint32_t crc, const void *bytes, size_t length) {
    crc = ~crc;
    crc = crc32c_has_sse ? crc32c_sse(crc, bytes, length) : crc32c_portable(crc, bytes, length);
    return ~crc;
}

static int result(int fd) { return fd < 0 ? -errno : fd; }

int cr_open_beneath(int directory, const char *path, int flags, mode_t mode) {
    struct open_how how = {
        .flags = (uint64_t)flags,
        .mode = flags & (O_CREAT | O_TMPFILE) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    return result((int)syscall(SYS_openat2, directory, path, &how, sizeof how));
}

int cr_open(const char *path, int flags, mode_t mode) { return result(open(path, flags, mode)); }

int cr_openat(int directory, const char *path, int flags, mode_t mode) {
    return result(openat(directory, path, flags, mode));
}

int cr_accept(int listener, int flags) { return result(accept4(listener, NULL, NULL, flags)); }

int cr_open_direct(int file) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return result(open(path, O_WRONLY | O_DIRECT | O_CLOEXEC));
}

int cr_syncfs(int directory) { return result(syncfs(directory)); }

void cr_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

void cr_die_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

void cr_wake_politely(void) {
    struct sched_param none = {0};
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
}

void cr_block_signals(void) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

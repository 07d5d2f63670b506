#define _GNU_SOURCE
#include "CBench.h"
#include <errno.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

int cb_count_tracepoint(uint64_t tracepoint, pid_t thread) {
    struct perf_event_attr event = {
        .type = PERF_TYPE_TRACEPOINT,
        .size = sizeof event,
        .config = tracepoint,
        .inherit = 1,
    };
    int descriptor = (int)syscall(SYS_perf_event_open, &event, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return descriptor < 0 ? -errno : descriptor;
}

int64_t cb_counted(int descriptor) {
    int64_t value;
    return read(descriptor, &value, sizeof value) == sizeof value ? value : -1;
}

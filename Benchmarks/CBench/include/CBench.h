// perf_event_open(2) has no function in the C library. No logic.
#pragma once
#include <stdint.h>
#include <sys/types.h>

/// Counts a tracepoint for one thread and all that it starts from now on; a descriptor or -errno.
int cb_count_tracepoint(uint64_t tracepoint, pid_t thread);
/// What it has counted so far; -1 when it can't be read.
int64_t cb_counted(int descriptor);

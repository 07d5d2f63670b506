// The allocator's calls, counted, and a function that tools can tell from all others. No logic.
#pragma once
#include <stdint.h>

/// Calls of malloc, calloc, realloc and the aligned ones by this thread within `cm_measured`, and the bytes that were asked for.
typedef struct {
    uint64_t allocations;
    uint64_t bytes;
} cm_counts;

/// Runs `body` and says what it allocated. callgrind collects in here and nowhere else: `--toggle-collect=cm_measured`.
cm_counts cm_measured(void (*body)(void *), void *context);
/// Does nothing, in a way that no optimiser knows: what is handed over has to exist.
void cm_keep(const void *pointer);

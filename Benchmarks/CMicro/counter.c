// An executable's own malloc takes the place of the C library's, for all libraries too; the work is still done there.
#include "CMicro.h"
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *memory);

// Without initialisers, so that reading them allocates nothing itself.
static __thread bool isCounting;
static __thread cm_counts counts;

static inline void count(size_t size) {
    if (isCounting) {
        counts.allocations += 1;
        counts.bytes += size;
    }
}

void *malloc(size_t size) {
    count(size);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(number * size);
    return __libc_calloc(number, size);
}

void *realloc(void *old, size_t size) {
    count(size);
    return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size) {
    count(size);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
    void *memory = memalign(alignment, size);
    if (memory == NULL) return ENOMEM;
    *result = memory;
    return 0;
}

void free(void *memory) { __libc_free(memory); }

__attribute__((noinline)) cm_counts cm_measured(void (*body)(void *), void *context) {
    counts = (cm_counts){0, 0};
    isCounting = true;
    body(context);
    isCounting = false;
    return counts;
}

__attribute__((noinline)) void cm_keep(const void *pointer) { __asm__ volatile("" : : "r"(pointer) : "memory"); }

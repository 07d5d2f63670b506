// What Swift's importer cannot take from the C headers as they are: macros that are functions, flags built from
// enums, and functions behind _GNU_SOURCE. No logic.
#pragma once
#include <ares.h>
#include <liburing.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include "tls_shim.h"

static const unsigned cr_IOSQE_IO_LINK = IOSQE_IO_LINK;
static const unsigned cr_IOSQE_BUFFER_SELECT = IOSQE_BUFFER_SELECT;
static const unsigned cr_IOSQE_CQE_SKIP_SUCCESS = IOSQE_CQE_SKIP_SUCCESS;

/// Pins the calling thread; 0 or an errno.
int cr_pin(int cpu);
/// The CPUs that the process may use, into `cpus`; their count.
int cr_allowed_cpus(int *cpus, int capacity);
/// CRC32C (Castagnoli) of `length` bytes, continuing from `crc` (0 at the start).
uint32_t cr_crc32c(uint32_t crc, const void *bytes, size_t length);
/// openat2(2) beneath `directory` (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS); a descriptor or -errno.
int cr_open_beneath(int directory, const char *path, int flags, mode_t mode);
/// open(2), with its variable arguments; a descriptor or -errno.
int cr_open(const char *path, int flags, mode_t mode);
int cr_openat(int directory, const char *path, int flags, mode_t mode);
/// accept4(2) without the peer's address; a descriptor or -errno.
int cr_accept(int listener, int flags);
/// An open file once more, for writing past the page cache (O_DIRECT); a descriptor or -errno.
int cr_open_direct(int file);
/// syncfs(2); 0 or -errno.
int cr_syncfs(int directory);
/// Names the calling thread (at most 15 bytes).
void cr_name_thread(const char *name);
/// The calling process is killed when the thread that made it ends (PR_SET_PDEATHSIG).
void cr_die_with_parent(void);
/// The calling thread does not push others off their processor when it wakes (SCHED_BATCH).
void cr_wake_politely(void);
/// Blocks all signals for the calling thread.
void cr_block_signals(void);

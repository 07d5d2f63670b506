// Fails chosen file calls of a program that is started with LD_PRELOAD=failing.so, for paths beneath one folder.
//
// FAILING_FOLDER  the folder
// FAILING_CONTROL a file with `struct control`, shared with who arms it: anew for each failure, while the program runs
//
// Calls go straight to the kernel; nothing of the C library is looked up, but readdir.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// The order is also failing.py's.
enum kind { NONE, CREATE, OPEN, WRITE, READ, SYNC_FILE, SYNC_DISK, CLOSE, RENAME, UNLINK, MAKE_FOLDER, LIST, SEND };

// Whose file it is.
enum class { SPOOL = 1, DATABASE = 2 };

struct control {
    uint32_t kind, class;
    uint32_t from, until;   // fails the calls from..until-1 of this kind, counted from 1 at each arming
    int32_t fault;          // an errno; 0: half of what should be written is
    uint32_t calls, failed; // since the arming
};

static struct control *control;
static char folder[PATH_MAX];
static size_t folder_length;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAILING_FOLDER"), *shared = getenv("FAILING_CONTROL");
    if (!path || !shared || strlen(path) >= sizeof folder) return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, shared, O_RDWR | O_CLOEXEC, 0);
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (memory == MAP_FAILED) return;
    strcpy(folder, path);
    folder_length = strlen(folder);
    control = memory;
}

static int is_armed(enum kind kind) {
    return control && __atomic_load_n(&control->kind, __ATOMIC_ACQUIRE) == (uint32_t)kind;
}

// Whether this call is one to fail. The path is absolute.
static int fails_path(enum kind kind, const char *path) {
    if (strncmp(path, folder, folder_length) != 0 || (path[folder_length] && path[folder_length] != '/')) return 0;
    uint32_t class = strstr(path + folder_length, "/postern.db") ? DATABASE : SPOOL;
    if (class != control->class || !is_armed(kind)) return 0;
    uint32_t number = __atomic_add_fetch(&control->calls, 1, __ATOMIC_ACQ_REL);
    if (number < control->from || number >= control->until) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_ACQ_REL);
    return 1;
}

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static int fails(enum kind kind, int file) {
    char path[PATH_MAX];
    if (!is_armed(kind)) return 0;
    int saved = errno;
    int result = path_of(file, path) && fails_path(kind, path);
    errno = saved;
    return result;
}

static int fails_name(enum kind kind, int directory, const char *name) {
    char path[2 * PATH_MAX];
    if (!is_armed(kind)) return 0;
    if (name[0] == '/') return fails_path(kind, name);
    if (directory == AT_FDCWD) {
        if (syscall(SYS_getcwd, path, PATH_MAX) <= 0) return 0;
    } else if (!path_of(directory, path)) {
        return 0;
    }
    size_t length = strlen(path);
    if (strcmp(name, ".") != 0) snprintf(path + length, PATH_MAX, "/%s", name);
    return fails_path(kind, path);
}

static int refuse(void) {
    errno = control->fault ? control->fault : EIO;
    return -1;
}

static int open_at(int directory, const char *path, int flags, mode_t mode) {
    if (fails_name(flags & O_CREAT ? CREATE : OPEN, directory, path)) return refuse();
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }

// Half of it when it should be short; else what the kernel says, or the fault.
static ssize_t shortened(int file, size_t length, size_t *allowed) {
    *allowed = length;
    if (!fails(WRITE, file)) return 0;
    if (control->fault || length < 2) return refuse();
    *allowed = length / 2;
    return 0;
}

ssize_t write(int file, const void *bytes, size_t length) {
    size_t allowed;
    if (shortened(file, length, &allowed) < 0) return -1;
    return syscall(SYS_write, file, bytes, allowed);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    size_t allowed;
    if (shortened(file, length, &allowed) < 0) return -1;
    return syscall(SYS_pwrite64, file, bytes, allowed, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) {
    return pwrite(file, bytes, length, offset);
}

ssize_t writev(int file, const struct iovec *vectors, int count) {
    size_t length = 0, allowed;
    for (int at = 0; at < count; at++) length += vectors[at].iov_len;
    if (shortened(file, length, &allowed) < 0) return -1;
    if (allowed == length) return syscall(SYS_writev, file, vectors, count);
    // From the first vectors, up to the middle of one.
    ssize_t done = 0;
    for (int at = 0; at < count && (size_t)done < allowed; at++) {
        size_t part = vectors[at].iov_len < allowed - done ? vectors[at].iov_len : allowed - done;
        ssize_t written = part ? syscall(SYS_write, file, vectors[at].iov_base, part) : 0;
        if (written < 0) return done ? done : -1;
        done += written;
    }
    return done;
}

ssize_t read(int file, void *bytes, size_t length) {
    if (fails(READ, file)) return refuse();
    return syscall(SYS_read, file, bytes, length);
}

ssize_t pread(int file, void *bytes, size_t length, off_t offset) {
    if (fails(READ, file)) return refuse();
    return syscall(SYS_pread64, file, bytes, length, offset);
}

ssize_t pread64(int file, void *bytes, size_t length, off64_t offset) { return pread(file, bytes, length, offset); }

ssize_t pwritev(int file, const struct iovec *vectors, int count, off_t offset) {
    size_t length = 0, allowed;
    for (int at = 0; at < count; at++) length += vectors[at].iov_len;
    if (shortened(file, length, &allowed) < 0) return -1;
    if (allowed == length) return syscall(SYS_pwritev, file, vectors, count, offset, 0);
    size_t part = allowed < vectors[0].iov_len ? allowed : vectors[0].iov_len;
    return syscall(SYS_pwrite64, file, vectors[0].iov_base, part, offset);
}

ssize_t pwritev64(int file, const struct iovec *vectors, int count, off64_t offset) {
    return pwritev(file, vectors, count, offset);
}

int fsync(int file) {
    if (fails(SYNC_FILE, file)) return refuse();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    if (fails(SYNC_FILE, file)) return refuse();
    return (int)syscall(SYS_fdatasync, file);
}

int syncfs(int file) {
    if (fails(SYNC_DISK, file)) return refuse();
    return (int)syscall(SYS_syncfs, file);
}

// A close that fails has closed all the same.
int close(int file) {
    int failed = fails(CLOSE, file);
    int result = (int)syscall(SYS_close, file);
    return failed ? refuse() : result;
}

int renameat(int from, const char *old, int to, const char *name) {
    if (fails_name(RENAME, to, name)) return refuse();
    return (int)syscall(SYS_renameat, from, old, to, name);
}

int rename(const char *old, const char *name) { return renameat(AT_FDCWD, old, AT_FDCWD, name); }

int unlinkat(int directory, const char *name, int flags) {
    if (fails_name(UNLINK, directory, name)) return refuse();
    return (int)syscall(SYS_unlinkat, directory, name, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int mkdir(const char *path, mode_t mode) {
    if (fails_name(MAKE_FOLDER, AT_FDCWD, path)) return refuse();
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

struct dirent *readdir(DIR *stream) {
    static struct dirent *(*next)(DIR *);
    if (!next) next = (struct dirent * (*)(DIR *)) dlsym(RTLD_NEXT, "readdir");
    if (fails(LIST, dirfd(stream))) {
        refuse();
        return NULL;
    }
    return next(stream);
}

ssize_t sendfile(int socket, int file, off_t *offset, size_t count) {
    if (fails(SEND, file)) return refuse();
    return syscall(SYS_sendfile, socket, file, offset, count);
}

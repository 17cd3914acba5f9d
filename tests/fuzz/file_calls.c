/* Counts the calls that change files below a folder, and lets the n-th one kill the process or fail.
 *
 * Preloaded, it sees the calls of Python, pyarrow, safetensors and SQLite alike. A call counts if it creates, writes,
 * syncs, renames or removes something below the folder. A failing write writes half of its bytes first, as a disk that
 * fills does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = -1 };

static char root[PATH_MAX];
static size_t root_length;
static long fatal, last;
static int fault;
static atomic_long count;

/* The fault (KILL or an errno) strikes the calls from `from` to `to`, counted from 1; 0: none. */
void fuzz_arm(const char *folder, long from, long to, int kind) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    fatal = from, last = to, fault = kind;
    atomic_store(&count, 0);
}

long fuzz_count(void) { return atomic_load(&count); }

/* Whether this call must fail; does not return if it must kill. */
static int strikes(void) {
    long number = atomic_fetch_add(&count, 1) + 1;
    if (!fatal || number < fatal || number > last) return 0;
    if (fault == KILL) kill(getpid(), SIGKILL);
    errno = fault;
    return 1;
}

static int is_below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int of_descriptor(int file) {
    char link[64], path[PATH_MAX];
    if (!root_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int of_path(int folder, const char *path) {
    char whole[PATH_MAX];
    if (!root_length || !path) return 0;
    if (path[0] == '/') return is_below(path);
    if (folder != AT_FDCWD) return of_descriptor(folder);
    return getcwd(whole, sizeof whole) && is_below(whole);
}

#define REAL(type, name, ...)                                        \
    static type (*real)(__VA_ARGS__);                                \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);

#define OPEN(name, folder, whole, ...)                               \
    int given = 0;                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                             \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        given = va_arg(rest, int);                                   \
        va_end(rest);                                                \
    }                                                                \
    if ((flags & O_CREAT) && of_path(folder, whole) && strikes()) return -1; \
    return real(__VA_ARGS__, flags, given);

int open(const char *path, int flags, ...) { REAL(int, open, const char *, int, ...) OPEN(open, AT_FDCWD, path, path) }
int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...) OPEN(open64, AT_FDCWD, path, path)
}
int openat(int at, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...) OPEN(openat, at, path, at, path)
}
int openat64(int at, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...) OPEN(openat64, at, path, at, path)
}

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t)
    if (of_descriptor(file) && strikes()) {
        int kind = errno;
        if (real(file, data, size / 2) < 0) return -1;
        errno = kind;
        return -1;
    }
    return real(file, data, size);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
    return of_descriptor(file) && strikes() ? -1 : real(file, data, size, place);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
    return of_descriptor(file) && strikes() ? -1 : real(file, data, size, place);
}
ssize_t writev(int file, const struct iovec *pieces, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int)
    return of_descriptor(file) && strikes() ? -1 : real(file, pieces, n);
}

#define BY_DESCRIPTOR(name)                                          \
    int name(int file) {                                             \
        REAL(int, name, int)                                         \
        return of_descriptor(file) && strikes() ? -1 : real(file);   \
    }
BY_DESCRIPTOR(fsync)
BY_DESCRIPTOR(fdatasync)

int ftruncate(int file, off_t size) {
    REAL(int, ftruncate, int, off_t)
    return of_descriptor(file) && strikes() ? -1 : real(file, size);
}
int ftruncate64(int file, off64_t size) {
    REAL(int, ftruncate64, int, off64_t)
    return of_descriptor(file) && strikes() ? -1 : real(file, size);
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *)
    return of_path(AT_FDCWD, to) && strikes() ? -1 : real(from, to);
}
int renameat(int at, const char *from, int there, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *)
    return of_path(there, to) && strikes() ? -1 : real(at, from, there, to);
}
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *)
    return of_path(AT_FDCWD, to) && strikes() ? -1 : real(from, to);
}
int linkat(int at, const char *from, int there, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int)
    return of_path(there, to) && strikes() ? -1 : real(at, from, there, to, flags);
}
int unlink(const char *path) {
    REAL(int, unlink, const char *)
    return of_path(AT_FDCWD, path) && strikes() ? -1 : real(path);
}
int unlinkat(int at, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int)
    return of_path(at, path) && strikes() ? -1 : real(at, path, flags);
}
int rmdir(const char *path) {
    REAL(int, rmdir, const char *)
    return of_path(AT_FDCWD, path) && strikes() ? -1 : real(path);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t)
    return of_path(AT_FDCWD, path) && strikes() ? -1 : real(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t)
    return of_path(at, path) && strikes() ? -1 : real(at, path, mode);
}

/* Preloaded into a process: writes down, in order, all that it does to the files in one directory.

   RECORDED_DIRECTORY names it, RECORD the file for the record: per call one header of four 64-bit numbers (what was
   done, length of the path, offset or size, length of the data), the path, the data. Of the flushes there every
   FAILED_SYNC-th fails, if that is given; they are counted from FIRST_SYNC. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE = 2, SYNC = 3, UNLINK = 4, FAILED_SYNC = 5 };

static void record(int64_t what, const char *path, int64_t at, const void *data, int64_t size) {
    const char *directory = getenv("RECORDED_DIRECTORY");
    if (directory == NULL || strncmp(path, directory, strlen(directory)) != 0) return;
    static int out = -1;
    if (out < 0) out = syscall(SYS_openat, AT_FDCWD, getenv("RECORD"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    int64_t header[4] = {what, (int64_t)strlen(path), at, size};
    struct iovec parts[3] = {{header, sizeof header}, {(void *)path, strlen(path)}, {(void *)data, (size_t)size}};
    if (syscall(SYS_writev, out, parts, 3) != (long)(sizeof header + strlen(path) + size)) abort();
}

static void record_fd(int64_t what, int fd, int64_t at, const void *data, int64_t size) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    record(what, path, at, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    record_fd(WRITE, fd, at, data, size);
    return syscall(SYS_pwrite64, fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t write(int fd, const void *data, size_t size) {
    record_fd(WRITE, fd, lseek(fd, 0, SEEK_CUR), data, size);
    return syscall(SYS_write, fd, data, size);
}

int ftruncate64(int fd, off64_t size) {
    record_fd(TRUNCATE, fd, size, "", 0);
    return syscall(SYS_ftruncate, fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int is_recorded(int fd) {
    const char *directory = getenv("RECORDED_DIRECTORY");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return directory && length >= (ssize_t)strlen(directory) && !strncmp(path, directory, strlen(directory));
}

static int flush(int number, int fd) {
    static int num_flushes = -1;
    const char *every = getenv("FAILED_SYNC"), *first = getenv("FIRST_SYNC");
    if (every && is_recorded(fd)) {
        if (num_flushes < 0) num_flushes = first ? atoi(first) : 0;
        if (++num_flushes % atoi(every) == 0) {
            record_fd(FAILED_SYNC, fd, 0, "", 0);
            errno = EIO;
            return -1;
        }
    }
    int failed = syscall(number, fd);
    if (!failed) record_fd(SYNC, fd, 0, "", 0);
    return failed;
}

int fsync(int fd) { return flush(SYS_fsync, fd); }

int fdatasync(int fd) { return flush(SYS_fdatasync, fd); }

int unlink(const char *path) {
    record(UNLINK, path, 0, "", 0);
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

/* A disk that refuses, for LD_PRELOAD: every call that reaches files under FAULTY_DISK_ROOT is counted, and those with
 * certain numbers fail with an error, or kill the process; a write that is killed has written half.
 *
 * What to count and what to do is in the file FAULTY_DISK_CONTROL, which all processes share and the test may change.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, FLUSH = 4, REMOVE = 8, READ = 16 };
enum { GO_ON = 0, DIE = -1 }; /* what a call is to do; any other number is an errno */

struct control {
    int64_t classes;            /* of calls that count */
    int64_t first, last;        /* numbers of calls at which something happens */
    int64_t action;             /* DIE or an errno */
    _Atomic int64_t num_calls;
};

static struct control *control;
static const char *root;
static size_t root_length;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTY_DISK_CONTROL");
    root = getenv("FAULTY_DISK_ROOT");
    if (!path || !root) return;
    root_length = strlen(root);
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED) control = shared;
}

static int decide(int class, const char *path) {
    if (!control || !(control->classes & class)) return GO_ON;
    if (strncmp(path, root, root_length) != 0 || (path[root_length] != '/' && path[root_length] != 0)) return GO_ON;
    int64_t number = atomic_fetch_add(&control->num_calls, 1) + 1;
    return number < control->first || number > control->last ? GO_ON : (int)control->action;
}

static int of_fd(int class, int fd) {
    char link[64], path[PATH_MAX];
    if (!control || !(control->classes & class)) return GO_ON;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return GO_ON;
    path[length] = 0;
    return decide(class, path);
}

static int of_path(int class, int dirfd, const char *name) {
    char link[64], path[2 * PATH_MAX];
    if (!control || !(control->classes & class) || !name) return GO_ON;
    if (name[0] == '/') return decide(class, name);
    if (dirfd == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return GO_ON;
    snprintf(path + length, sizeof path - length, "/%s", name);
    return decide(class, path);
}

static int refuse(int action) { /* does not come back if the process is to die */
    if (action == DIE) for (;;) kill(getpid(), SIGKILL);
    errno = action;
    return -1;
}

#define GUARD(action)                                 \
    do {                                              \
        int action_ = (action);                       \
        if (action_ != GO_ON) return refuse(action_); \
    } while (0)

#define OPEN(name, ...)                                            \
    mode_t mode = 0;                                               \
    if (flags & (O_CREAT | __O_TMPFILE)) {                         \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                              \
    }                                                              \
    GUARD(of_path(flags & O_CREAT ? CREATE : READ, __VA_ARGS__))

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD, path); return REAL(open)(path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD, path); return REAL(open64)(path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { OPEN(openat, fd, path); return REAL(openat)(fd, path, flags, mode); }
int openat64(int fd, const char *path, int flags, ...) { OPEN(openat64, fd, path); return REAL(openat64)(fd, path, flags, mode); }

ssize_t write(int fd, const void *from, size_t size) {
    int action = of_fd(WRITE, fd);
    if (action == DIE) REAL(write)(fd, from, size / 2);
    GUARD(action);
    return REAL(write)(fd, from, size);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    int action = of_fd(WRITE, fd);
    if (action == DIE) REAL(pwrite64)(fd, from, size / 2, at);
    GUARD(action);
    return REAL(pwrite64)(fd, from, size, at);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) { return pwrite64(fd, from, size, at); }
ssize_t writev(int fd, const struct iovec *from, int count) { GUARD(of_fd(WRITE, fd)); return REAL(writev)(fd, from, count); }
ssize_t sendfile64(int to, int fd, off64_t *at, size_t size) { GUARD(of_fd(WRITE, to)); ssize_t (*f)(int, int, off64_t *, size_t) = real("sendfile64"); return f(to, fd, at, size); }
ssize_t sendfile(int to, int fd, off_t *at, size_t size) { return sendfile64(to, fd, at, size); }
ssize_t copy_file_range(int fd, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) { GUARD(of_fd(WRITE, to)); return REAL(copy_file_range)(fd, at, to, there, size, flags); }
int ftruncate64(int fd, off64_t size) { GUARD(of_fd(WRITE, fd)); return REAL(ftruncate64)(fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { int action = of_fd(WRITE, fd); if (action != GO_ON) { refuse(action); return action; } return REAL(posix_fallocate64)(fd, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }

int fsync(int fd) { GUARD(of_fd(FLUSH, fd)); return REAL(fsync)(fd); }
int fdatasync(int fd) { GUARD(of_fd(FLUSH, fd)); return REAL(fdatasync)(fd); }

int rename(const char *from, const char *to) { GUARD(of_path(CREATE, AT_FDCWD, to)); return REAL(rename)(from, to); }
int renameat(int fd, const char *from, int tofd, const char *to) { GUARD(of_path(CREATE, tofd, to)); return REAL(renameat)(fd, from, tofd, to); }
int mkdir(const char *path, mode_t mode) { GUARD(of_path(CREATE, AT_FDCWD, path)); int (*f)(const char *, mode_t) = real("mkdir"); return f(path, mode); }
int mkdirat(int fd, const char *path, mode_t mode) { GUARD(of_path(CREATE, fd, path)); int (*f)(int, const char *, mode_t) = real("mkdirat"); return f(fd, path, mode); }
int link(const char *from, const char *to) { GUARD(of_path(CREATE, AT_FDCWD, to)); return REAL(link)(from, to); }
int linkat(int fd, const char *from, int tofd, const char *to, int flags) { GUARD(of_path(CREATE, tofd, to)); return REAL(linkat)(fd, from, tofd, to, flags); }

int unlink(const char *path) { GUARD(of_path(REMOVE, AT_FDCWD, path)); return REAL(unlink)(path); }
int unlinkat(int fd, const char *path, int flags) { GUARD(of_path(REMOVE, fd, path)); return REAL(unlinkat)(fd, path, flags); }
int rmdir(const char *path) { GUARD(of_path(REMOVE, AT_FDCWD, path)); return REAL(rmdir)(path); }

ssize_t read(int fd, void *to, size_t size) { GUARD(of_fd(READ, fd)); return REAL(read)(fd, to, size); }
ssize_t pread64(int fd, void *to, size_t size, off64_t at) { GUARD(of_fd(READ, fd)); return REAL(pread64)(fd, to, size, at); }
ssize_t pread(int fd, void *to, size_t size, off_t at) { return pread64(fd, to, size, at); }

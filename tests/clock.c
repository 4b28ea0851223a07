/* A clock that a test can set: preloaded into a program, it reads the time of day so many seconds ahead as the file says that
 * CLOCK_AHEAD names (a long). Nothing but system calls, since allocators ask for the time before libc is there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *ahead;

__attribute__((constructor)) static void open_file(void)
{
    const char *name = getenv("CLOCK_AHEAD");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *there = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (there == MAP_FAILED)
        abort();
    ahead = there;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    (void)zone;
    struct timespec there;
    int failed = clock_gettime(CLOCK_REALTIME, &there);
    now->tv_sec = there.tv_sec;
    now->tv_usec = there.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *into)
{
    struct timespec there;
    clock_gettime(CLOCK_REALTIME, &there);
    if (into)
        *into = there.tv_sec;
    return there.tv_sec;
}

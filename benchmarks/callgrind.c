/* Tells callgrind what to count, and stops the process's clock before: callgrind makes everything some 50
 * times slower, so that what goes by the clock (timers, the housekeeper, ages) would run 50 times too often.
 * Loaded with LD_PRELOAD: clock_gettime is the only clock of CPython and libev.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
/* Then only the clock is of use. */
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS
#define CALLGRIND_STOP_INSTRUMENTATION
#endif

#define NANOSECONDS_OF_A_LOOK 1000
#define BILLION 1000000000L

static struct timespec stopped[CLOCK_BOOTTIME + 1];
static long looks;
static int is_stopped;

int clock_gettime(clockid_t clock, struct timespec *time)
{
    long nanoseconds;

    if (!is_stopped || clock < 0 || clock > CLOCK_BOOTTIME)
        return syscall(SYS_clock_gettime, clock, time);
    nanoseconds = stopped[clock].tv_nsec + ++looks * NANOSECONDS_OF_A_LOOK;
    time->tv_sec = stopped[clock].tv_sec + nanoseconds / BILLION;
    time->tv_nsec = nanoseconds % BILLION;
    return 0;
}

void stop_clock(void)
{
    clockid_t clock;

    for (clock = 0; clock <= CLOCK_BOOTTIME; clock++)
        syscall(SYS_clock_gettime, clock, &stopped[clock]);
    is_stopped = 1;
}

void start_counting(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void stop_counting(void)
{
    CALLGRIND_DUMP_STATS;
    CALLGRIND_STOP_INSTRUMENTATION;
}

/* Monotonic time. Every deadline in the program is a point on this clock. */
#ifndef RB_CORE_CLOCK_H
#define RB_CORE_CLOCK_H

#include <stdint.h>

int64_t rb_now_ns(void); /* CLOCK_MONOTONIC, the same in all processes of one machine */
/* When the kernel started this process, to 10 ms; now, where /proc does not tell. */
int64_t rb_process_start_ns(void);
void rb_sleep_ns(int64_t ns);    /* sleeps the whole time, through signals; returns at once for ns <= 0 */
void rb_sleep_until(int64_t ns); /* a point on rb_now_ns's clock; returns at once when it has passed */

#define RB_MS  1000000LL
#define RB_SEC 1000000000LL

#endif

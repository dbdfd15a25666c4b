/* One thread inside each call of oneDNN, whoever calls it. */
#ifndef RB_DEVICE_CPU_SGEMM_H
#define RB_DEVICE_CPU_SGEMM_H

enum { RB_SPAWN_PRODUCTS = 1 << 18 /* multiplications below which a team costs more than it gives */ };

#ifdef _OPENMP
#include <omp.h>
/* For use inside a parallel region: a team's task owns its own thread count, others' are untouched. */
static inline void rb_sgemm_one_thread(void) {
    omp_set_num_threads(1);
}
#else
/* Without OpenMP here the library still brings its own runtime, if it was built with one. */
extern void omp_set_num_threads(int n) __attribute__((weak));
static inline void rb_sgemm_one_thread(void) {
    if (omp_set_num_threads) omp_set_num_threads(1);
}
#endif

#endif

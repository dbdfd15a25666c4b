#include "run/guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void rb_guard_learn(rb_guard *g, double size) {
    double sorted[RB_GUARD_KEEP];
    if (!(size > 0) || !isfinite(size)) return;
    g->kept[g->seen++ % RB_GUARD_KEEP] = size;
    if (g->seen < RB_GUARD_LEAST) return;
    size_t n = (size_t)(g->seen < RB_GUARD_KEEP ? g->seen : RB_GUARD_KEEP);
    memcpy(sorted, g->kept, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    g->median = sorted[n / 2];
}

double rb_guard_ratio(const rb_guard *g, double size) {
    return g->median > 0 ? size / g->median : 0;
}

#include "run/usual.h"

#include <stdlib.h>
#include <string.h>

void rb_usual_note(rb_usual *u, int64_t ns) {
    u->ns[u->noted++ % RB_USUAL_KEPT] = ns;
    if (u->noted == 2 * RB_USUAL_KEPT) u->noted = RB_USUAL_KEPT; /* a ring that is full stays so */
}

int rb_usual_known(const rb_usual *u) {
    return u->noted < RB_USUAL_KEPT ? u->noted : RB_USUAL_KEPT;
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t rb_usual_median(const rb_usual *u, int64_t *deviation_ns) {
    int64_t v[RB_USUAL_KEPT];
    int n = rb_usual_known(u);
    *deviation_ns = 0;
    if (!n) return 0;
    memcpy(v, u->ns, (size_t)n * sizeof *v);
    qsort(v, (size_t)n, sizeof *v, by_size);
    int64_t median = v[n / 2];
    for (int i = 0; i < n; i++) v[i] = llabs(v[i] - median);
    qsort(v, (size_t)n, sizeof *v, by_size);
    *deviation_ns = v[n / 2];
    return median;
}
